"""Orders in the real journal: whatever tills store, people press, the cloud says, fails, and whenever it is killed.

Judged by the log alone, where everything stands in the order in which it became durable.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core import orders
from agent.core.arrivals import Outcome
from agent.core.commands import Command
from agent.core.errors import Transient
from agent.core.orders import Override, Said
from agent.journal.inbox import Inbox
from agent.journal.orders import OrderTables
from agent.orders.hearing import Hearing
from tests.crash.damage import Life, copy, judged, submit
from tests.property.journal_rig import QUICK, Ticking
from tests.sales import event

IDS = ("A-1", "A-2")
TILLS = ("till-1", "till-2")
SAID: tuple[Said, ...] = ("accepted", "ready", "provided", "rejected")
AGREED = Override("Bea", "the guest sent it back")
COMMANDS = {
    name: json.dumps(
        {
            "placed_at": "2026-11-22T10:15:00.000Z",
            "prepaid": True,
            "lines": [{"product_id": "p", "quantity": 1, "unit_amount": {"amount": 350, "currency": "GBP"}}],
            "line_count": count,
            "total": {"amount": 350, "currency": "GBP"},
            "menu_version": "m1",
            "reason": "guest",
        }
    )
    for name, count in (("order.placed", 1), ("order.incomplete", 2), ("order.cancelled", 1), ("order.refunded", 1))
}

words = st.tuples(st.sampled_from(TILLS), st.sampled_from(IDS), st.sampled_from(SAID))
moves = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.lists(words, min_size=1, max_size=4)),
        st.tuples(st.just("hear"), st.none()),
        st.tuples(st.just("press"), st.tuples(st.sampled_from(IDS), st.sampled_from(SAID), st.booleans())),
        st.tuples(st.just("command"), st.tuples(st.sampled_from(IDS), st.sampled_from(sorted(COMMANDS)))),
        st.tuples(st.just("sell"), st.integers(1, 20)),
        st.tuples(st.just("fail"), st.booleans()),
        st.tuples(st.just("kill"), st.none()),
    ),
    min_size=4,
    max_size=25,
)


class Quiet:
    """Nobody is told anything."""

    def happened(self, *_: object) -> None: ...


class Log:
    """The journal as hearing sees it."""

    def __init__(self, life: Life) -> None:
        self._life = life

    @property
    def committed(self) -> int:
        return self._life.journal.book.committed

    async def repair(self, positions: Sequence[int]) -> bool:
        return await self._life.journal.mending.repair_all(positions)


class Venue:
    """A journal with its orders, one start long."""

    def __init__(self, life: Life) -> None:
        writing = life.journal.writing
        self.life = life
        self.tables = OrderTables(life.folder, 65_536, writing, lambda: life.journal.book.lineage, lambda: 0)
        self.hearing = Hearing(self.tables, Log(life), Quiet())
        self.inbox = Inbox(writing, self.tables.command)
        self._landed: bool | None = None
        """How the next write of orders fails: whether it is on the disk all the same."""

    async def move(self, kind: str, what: Any, number: int) -> None:
        if kind == "fail":
            self._landed = what
        elif self._landed is not None and kind in ("hear", "press", "command"):
            with suppress(Transient), patch.object(self.life.journal.writing, "transact", self._fail):
                await self._move(kind, what, number)
        else:
            await self._move(kind, what, number)

    async def _fail(self, work: Any, must: bool = False) -> Any:
        landed, self._landed = self._landed, None
        if landed is not False:
            result = await type(self.life.journal.writing).transact(self.life.journal.writing, work, must)
            if landed is None:
                return result
        raise Transient("disk_full", "It could not be written.")

    async def _move(self, kind: str, what: Any, number: int) -> None:
        match kind:
            case "say":
                made = [
                    (till, event(id=f"e{number}-{index}", type=f"pos.order.{said}", data={"order_id": order_id}))
                    for index, (till, order_id, said) in enumerate(what)
                ]
                told = await submit(self.life.journal, [judged(*one) for one in made])
                assert set(told) == {Outcome.STORED}
            case "sell":
                await submit(self.life.journal, [judged("till-1", event()) for _ in range(what)])
            case "hear":
                await self.hearing.catch_up()
            case "press":
                order_id, said, agreed = what
                override = AGREED if agreed else None
                await self.hearing.act(order_id, lambda order, at: orders.acted(order, said, "Ann", at, override))
            case "command":
                order_id, name = what
                data = json.dumps({"order_id": order_id} | json.loads(COMMANDS[name]))
                real = name.replace("incomplete", "placed")
                await self.inbox.keep([Command(real, order_id, data)], f"l-{number}")


async def play(steps: Sequence[tuple[str, Any]], base: Path) -> list[dict[str, Any]]:
    """The events of the log at the end; a kill goes on from what the disk had."""
    clock, folder, done = Ticking(), base / "0", 0
    folder.mkdir()
    steps = [*steps, ("kill", None), ("hear", None)]
    while done < len(steps):
        async with Life(folder, clock) as life:
            venue = Venue(life)
            try:
                while done < len(steps):
                    kind, what = steps[done]
                    done += 1
                    if kind == "kill":
                        following = base / str(done)
                        copy(folder, following)
                        break
                    await venue.move(kind, what, done)
                else:
                    return [json.loads(one.event) for one in await life.reader.batch(0, 100_000, 1 << 30)]
            finally:
                await venue.tables.close()
        folder = following
    raise AssertionError("it never ended")


def judge(log: Sequence[dict[str, Any]]) -> None:
    """No refund is requested of what the log by then says to be made, but by two; and each mark stands once."""
    made: set[str] = set()
    marks: set[tuple[str, str]] = set()
    for one in log:
        kind, order_id = one["type"], one["data"].get("order_id")
        if kind.startswith("nightsafe.order."):
            mark = (order_id, kind.rpartition(".")[2])
            assert mark not in marks or mark[1] == "reject_refused", f"{mark} twice"
            marks.add(mark)
            assert mark[1] != "rejected" or one["data"].get("second_actor") or order_id not in made, one
            assert mark[1] != "rejected" or one["data"]["actor"] in (*TILLS, "Ann")
        if kind.rpartition(".")[2] in ("ready", "provided") and "order." in kind:
            made.add(order_id)
    for one in log:
        said = one["type"].rpartition(".")[2]
        if one["type"] == "pos.order.provided":
            assert (one["data"]["order_id"], said) in marks, "what a till provided is recorded in the end"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(moves)
def test_A6_15_no_interleaving_in_the_journal_refunds_what_was_made(steps: list[tuple[str, Any]]) -> None:
    with TemporaryDirectory(dir=QUICK) as base:
        judge(asyncio.run(play(steps, Path(base))))


def test_what_tills_have_stored_is_heard_whole_before_a_person_rejects(tmp_path: Path) -> None:
    """Both lie behind what was looked through, far apart; the reject of the one is older."""
    said = [
        ("command", ("A-1", "order.placed")),
        ("say", [("till-1", "A-1", "rejected")]),
        *[("sell", 20)] * 60,
        ("say", [("till-2", "A-1", "provided")]),
    ]
    for last in (("hear", None), ("press", ("A-1", "rejected", False))):
        base = tmp_path / last[0]
        base.mkdir()
        log = asyncio.run(play([*said, last], base))
        judge(log)
        own = [one["type"] for one in log if one["type"].startswith("nightsafe.order.")]
        assert own[0] == "nightsafe.order.provided"
        assert "nightsafe.order.rejected" not in own
