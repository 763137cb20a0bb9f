"""The journal against a plain list: whatever is stored, projected, uploaded, closed, killed and opened again.

Every step is checked on the disk by code that shares nothing with the journal.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.core.arrivals import Item, Outcome
from agent.journal.reader import MEMBERS_BYTES
from tests.property.journal_checks import check_everything
from tests.property.journal_model import (
    LOST_STEP,
    Model,
    Said,
    Sent,
    Step,
    Thing,
    Told,
    a_refused,
    an_event,
    as_item,
    garbage,
)
from tests.property.journal_rig import COMMIT_EVENTS_MAX, QUICK, Rig, Ticking, copy_files, read_rows, straight

DEVICES = ("till-1", "till-2")
EPOCHS = ("e1", "e2", "e3", None)
KINDS = ("new",) * 6 + ("again", "again", "conflict", "refused", "refused_again", "garbage", "own", "said", "given_up")
PLACES = ("next",) * 5 + ("ahead", "ahead", "late", "late", "reused")

wishes = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from(DEVICES),
    st.sampled_from(EPOCHS),
    st.sampled_from(PLACES),
    st.integers(0, 99),
)
groups = st.lists(wishes, min_size=1, max_size=6)
Wish = tuple[str, str, str | None, str, int]


class Border(NamedTuple):
    """The end of a commit: so many things were handed in, and so many records it comes to at the next start."""

    things: int
    records: int


def finished(model: Model) -> Model:
    """What the next start makes of it."""
    model = deepcopy(model)
    while model.ending:
        model.take(Step(LOST_STEP))
    return model


class JournalMachine(RuleBasedStateMachine):
    """`things` is everything that was ever handed in and is still there: the model is made from it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Ticking()
        self.room = tempfile.TemporaryDirectory(prefix="ns-journal-", dir=QUICK)
        self.lives = 0
        self.model = Model()
        self.things: list[Thing] = []
        self.count = 0

    def teardown(self) -> None:
        self.do(self.rig.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.room.cleanup()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def new_folder(self) -> Path:
        self.lives += 1
        return Path(self.room.name) / f"life-{self.lives}"

    @initialize()
    def begin(self) -> None:
        folder = self.new_folder()
        folder.mkdir()
        self.rig = self.do(Rig(folder, self.clock).open())

    # What happens -----------------------------------------------------------------------------------------------------

    @rule(group=groups)
    def append(self, group: list[Wish]) -> None:
        since = len(self.things)
        expected, _ = self.take(group)
        assert self.do(self.rig.append(self.items(since))) == expected

    @rule(share=st.floats(0, 1))
    def advance(self, share: float) -> None:
        pending = len(self.model.records) - self.model.cursor
        to = self.model.cursor + round(pending * share)
        if to > self.model.cursor:
            self.do(self.rig.advance(to))
            self.model.cursor = to

    @rule()
    def reopen_after_a_clean_stop(self) -> None:
        self.do(self.rig.close())
        self.rig = self.do(Rig(self.rig.folder, self.clock).open())

    @rule()
    def reopen_after_a_kill_between_commits(self) -> None:
        self.live_on_in(lambda folder: copy_files(self.rig.folder, folder))

    @rule(group=groups, statement=st.integers(0, 60))
    def reopen_after_a_kill_inside_a_transaction(self, group: list[Wish], statement: int) -> None:
        """What the killed process had told before that instant is there, and else whole commits or nothing. What it
        had begun to lose is lost by the next start."""
        folder, seen, since = self.new_folder(), 0, len(self.things)
        there = Border(since, len(self.model.records))

        def copying(_: sqlite3.Connection, sql: str, run: Callable[[], Any]) -> Any:
            nonlocal seen
            if seen == statement:
                copy_files(self.rig.folder, folder)
            seen += 1
            return run()

        _, borders = self.take(group)
        self.rig.through(copying)
        self.do(self.rig.append(self.items(since)))
        self.rig.through(straight)
        if not folder.exists():
            copy_files(self.rig.folder, folder)
        self.do(self.rig.close())
        self.rig = self.do(Rig(folder, self.clock).open())
        self.do(self.rig.settled())
        left = len(read_rows(folder))
        found = [border for border in (there, *borders) if border.records == left]
        assert found, f"{left} records after a kill; whole commits end at {[there, *borders]}"
        self.rebuild(found[0])

    @rule(after=st.floats(0, 1), records_max=st.integers(1, 9), bytes_max=st.integers(1, 8000))
    def read_a_batch(self, after: float, records_max: int, bytes_max: int) -> None:
        start = round(len(self.model.records) * after)
        batch = self.do(self.rig.reader.batch(start, records_max, bytes_max))
        rows = read_rows(self.rig.folder)[start : start + records_max]
        while len(rows) > 1 and sum(len(row.event) + MEMBERS_BYTES for row in rows) > bytes_max:
            rows.pop()
        assert [(one.position, one.device, one.device_sequence, one.event) for one in batch] == [
            (row.position, row.device, row.sequence, row.event) for row in rows
        ]

    # What must hold ---------------------------------------------------------------------------------------------------

    @invariant()
    def the_journal_is_the_list(self) -> None:
        if hasattr(self, "rig"):
            check_everything(self.rig, self.model)

    # Their parts ------------------------------------------------------------------------------------------------------

    def take(self, group: list[Wish]) -> tuple[list[Outcome], list[Border]]:
        """Hand the wishes to the model, one by one, since each may lean on the one before; with each commit something
        is lost of what newer epochs ended, until nothing is left of it. The outcomes, and where the commits end."""
        outcomes, borders = [], []
        for at, wish in enumerate(group, 1):
            outcomes.append(self.handed(self.made(wish)))
            if at % COMMIT_EVENTS_MAX == 0 or at == len(group):
                self.handed(Step(LOST_STEP))
                borders.append(Border(len(self.things), len(finished(self.model).records)))
        while self.model.ending:
            self.handed(Step(LOST_STEP))
        return outcomes, borders

    def handed(self, thing: Thing) -> Outcome:
        self.things.append(thing)
        return self.model.take(thing)

    def items(self, since: int) -> list[Item]:
        return [as_item(thing) for thing in self.things[since:] if not isinstance(thing, Step)]

    def rebuild(self, border: Border) -> None:
        """The model as of one commit, with all lost that was begun to be."""
        cursor, things = self.model.cursor, self.things[: border.things]
        self.model, self.things = Model(), []
        for thing in things:
            self.handed(thing)
        while self.model.ending:
            self.handed(Step(LOST_STEP))
        assert len(self.model.records) == border.records
        self.model.cursor = cursor

    def live_on_in(self, leave: Callable[[Path], None]) -> None:
        folder = self.new_folder()
        leave(folder)
        self.do(self.rig.close())
        self.rig = self.do(Rig(folder, self.clock).open())

    def made(self, wish: Wish) -> Thing:
        """What the wish comes to as things stand; where there is nothing to repeat, something new."""
        kind, device, epoch, place, chance = wish
        self.count += 1
        name = f"id-{self.count}"
        if kind == "own":
            return Told("nightsafe.settings.changed", {"number": self.count})
        if kind == "garbage":
            return garbage(device, str(chance % 5))
        if kind in ("said", "given_up") and epoch is not None:
            return self.said(device, epoch, chance, lost=kind == "given_up")
        earlier = [thing for thing in self.things if isinstance(thing, Sent)]
        stored = [thing for thing in earlier if thing.content is not None]
        refused = [thing for thing in earlier if thing.content is None]
        if kind == "refused_again" and refused:
            return refused[chance % len(refused)]
        if kind in ("again", "conflict") and stored:
            one = stored[chance % len(stored)]
            assert one.id is not None
            content = f'{{"other":{chance % 3}}}' if kind == "conflict" else one.content
            assert content is not None
            return an_event(one.device, one.id, one.epoch, one.sequence, content, time=f"resent-{chance % 4}")
        sequence = self.placed(device, epoch, place, chance) if epoch is not None else None
        if kind.startswith("refused"):
            return a_refused(device, name, epoch, sequence)
        return an_event(device, name, epoch, sequence, f'{{"number":{self.count}}}')

    def said(self, device: str, epoch: str, chance: int, *, lost: bool) -> Said:
        """A device's word on how far it has counted, or on a hole that is open if there is one."""
        counting = self.model.countings.get(device, {}).get(epoch)
        gaps = counting.open_gaps if counting is not None else []
        if lost and gaps:
            return Said(device, epoch, gaps[chance % len(gaps)][0], lost=True)
        return Said(device, epoch, max(1, (counting.top if counting is not None else 0) + chance % 5 - 1), lost=lost)

    def placed(self, device: str, epoch: str, place: str, chance: int) -> int:
        counting = self.model.countings.get(device, {}).get(epoch)
        accounted = counting.accounted if counting is not None else set()
        top = max(accounted, default=0)
        missing = sorted(set(range(1, top)) - accounted)
        if place == "late" and missing:
            return missing[chance % len(missing)]
        if place == "reused" and accounted:
            return sorted(accounted)[chance % len(accounted)]
        return top + 1 + (1 + chance % 3 if place == "ahead" else 0)


def bounds(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )


class TestTheJournalIsAList(JournalMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = bounds(30, 25)


@pytest.mark.long
class TestTheJournalIsALongList(JournalMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = bounds(400, 60)
