"""Cards on trust: whatever devices ask at once, and whenever the box is killed, no limit of the venue is ever passed.

The real journal on real files, and the stage as the agent joins it.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core import policy
from agent.core.commands import Command
from agent.core.errors import NightsafeError
from agent.core.policy import Ask, CardPayment, Reservation
from agent.core.requests import Reply, Request
from agent.core.takings import Standing, why_not
from agent.journal.requests import Requests
from agent.services import cards as stage
from agent.services.cards import Cards, Terms
from tests.property.journal_rig import Rig, Ticking


class Limits(msgspec.Struct, frozen=True):
    """Small enough to be met."""

    floor_limit: int = 50
    card_limit: int = 90
    device_limit: int = 120
    venue_limit: int = 200
    queued_age_max_s: float = 1e9
    declines_per_day_max: int = 1_000


LIMITS = Limits()


class Quiet:
    """Nobody is told anything."""

    def hold(self, *_: object) -> None: ...
    def happened(self, *_: object) -> None: ...
    def lift(self, *_: object) -> None: ...


asks = st.builds(
    Ask,
    st.sampled_from(["till-1", "till-2", "till-3"]),
    st.sampled_from([f"p{number}" for number in range(12)]),
    st.sampled_from(["tok-1", "tok-2", "tok-3"]),
    st.integers(1, 60),
    st.just("GBP"),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.lists(asks, min_size=1, max_size=6)),
        st.tuples(st.just("fate"), st.sampled_from([f"p{number}" for number in range(12)])),
        st.tuples(st.just("cancel"), st.lists(asks, min_size=1, max_size=4)),
        st.just(("kill", None)),
    ),
    min_size=1,
    max_size=12,
)


class House:
    """The journal and the stage over it, closed in order and opened again; `promised` is all that was ever said to be
    taken and has no fate yet."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, Ticking())
        self.promised: dict[tuple[str, str], Ask] = {}
        self.number = 0
        self.keep_s = 1e9
        self.cards: Cards

    async def open(self) -> None:
        await self.rig.open()
        kept = Requests(self.rig.journal.writing)
        self.cards = Cards(
            kept, Quiet(), lambda device: Terms(True, False, LIMITS, ()), lambda: "2026-11-22", lambda: self.keep_s
        )

    async def ask(self, one: Ask) -> Reply | None:
        self.number += 1
        args = {
            "payment_id": one.payment_id,
            "amount": {"amount": one.amount, "currency": one.currency},
            "card": {"token": one.token},
        }
        request = Request(one.device, "card.authorize", f"r{self.number}", args, "digest")
        with suppress(NightsafeError, asyncio.CancelledError):
            reply = await self.cards.offline(request)
            if reply.status == "ok":
                self.promised[one.device, one.payment_id] = one
            return reply
        return None

    def check(self, path: Path) -> None:
        """By the file alone: nothing that was promised is missing, and no sum is above its limit."""
        limits_kept(path, {key: (one.token, one.amount) for key, one in self.promised.items()}, LIMITS)


def limits_kept(path: Path, promised: Mapping[tuple[str, str], tuple[str, int]], limits: Limits) -> None:
    """By the journal's file alone: each promise, by device and payment, stands with its token and amount, and no sum is
    above its limit."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        query = "select device, payment_id, token, amount from reservations where ended is null"
        rows = connection.execute(query).fetchall()
    kept = {(device, payment): (token, amount) for device, payment, token, amount in rows}
    for key, one in promised.items():
        assert kept.get(key) == one, "promised and not reserved"
    assert all(amount <= limits.floor_limit for *_, amount in rows)
    assert sum(amount for *_, amount in rows) <= limits.venue_limit
    for column, limit in ((0, limits.device_limit), (2, limits.card_limit)):
        for name in {row[column] for row in rows}:
            assert sum(row[3] for row in rows if row[column] == name) <= limit


@asynccontextmanager
async def house() -> AsyncIterator[tuple[House, Path]]:
    with TemporaryDirectory(prefix="ns-cards-") as folder:
        made = House(Path(folder))
        await made.open()
        try:
            yield made, Path(folder) / "journal.sqlite"
        finally:
            await made.rig.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_A4_2_no_limit_is_ever_passed_by_devices_that_ask_at_once_through_crashes(
    story: list[tuple[str, object]],
) -> None:
    async def play() -> None:
        async with house() as (made, path):
            for what, how in story:
                if what == "ask":
                    assert isinstance(how, list)
                    await asyncio.gather(*(made.ask(one) for one in how))
                elif what == "cancel":
                    assert isinstance(how, list)
                    tasks = [asyncio.ensure_future(made.ask(one)) for one in how]
                    await asyncio.sleep(0)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                elif what == "fate":
                    made.cards.command(Command("payment.posted", str(how), "{}"))
                    async with made.cards._one:
                        await made.cards._load()
                        await made.cards._settle()
                    made.promised = {key: one for key, one in made.promised.items() if key[1] != how}
                else:
                    await made.rig.close()
                    await made.open()
                made.check(path)

    asyncio.run(play())


def test_every_limit_is_named_when_it_is_the_one_that_is_passed() -> None:
    def reason(wanted: Ask, *open_: Reservation, **changes: float) -> str | None:
        limits = msgspec.structs.replace(LIMITS, **changes)
        return policy.decide(wanted, open_, limits, 100.0, 0)

    ask = Ask("till-1", "p", "tok", 10, "GBP")
    other = Reservation("till-2", "q", "tok-2", 40, "GBP", 0.0)
    assert reason(ask) is None
    assert reason(ask._replace(amount=51)) == "floor_limit"
    assert reason(ask, other._replace(token="tok", amount=81)) == "card_limit"
    assert reason(ask, other._replace(device="till-1", amount=111)) == "device_limit"
    assert reason(ask, other._replace(amount=191)) == "venue_limit"
    assert reason(ask, other, queued_age_max_s=99) == "queued_age"
    assert reason(ask._replace(currency="EUR"), other) == "other_currency"
    assert policy.decide(ask, [], msgspec.structs.replace(LIMITS, declines_per_day_max=2), 0.0, 2) == "declines"


def test_A3_2_a_device_whose_payments_are_held_takes_no_card_offline() -> None:
    async def play() -> None:
        async with house() as (made, _):
            made.cards._terms = lambda device: Terms(True, device == "till-1", LIMITS, ())
            held = await made.ask(Ask("till-1", "p1", "tok", 10, "GBP"))
            free = await made.ask(Ask("till-2", "p2", "tok", 10, "GBP"))
            assert held is not None
            assert free is not None
            assert (held.reason, free.status) == ("payments_held", "ok")

    asyncio.run(play())


def test_a_capture_that_was_taken_offline_unasked_counts_once_and_is_told() -> None:
    async def play() -> None:
        async with house() as (made, _):
            for _ in range(2):
                made.cards.paid(CardPayment("till-1", "p1", "tok", 195, "GBP", True))
                async with made.cards._one:
                    await made.cards._load()
                    await made.cards._settle()
            assert made.cards.exposure == 195
            refused = await made.ask(Ask("till-2", "p2", "tok-2", 10, "GBP"))
            assert refused is not None
            assert refused.reason == "venue_limit"

    asyncio.run(play())


EVENT = """insert into payment_events (position, payment_id, kind, device, event_id, amount, currency, tender,
card_token, offline, training, recorded_ms, uptime_ms, boot)
values (?, ?, 'captured', ?, ?, ?, 'GBP', 'card', ?, ?, 0, 0, 0, 1)"""


async def settle(made: House) -> None:
    async with made.cards._one:
        await made.cards._load()
        await made.cards._settle()


async def indexed(made: House, position: int, payment: CardPayment) -> None:
    """The index has its event."""
    values = (position, payment.payment_id, payment.device, f"e{position}", payment.amount, payment.token)
    offline = int(payment.offline)
    await made.rig.journal.writing.change(lambda connection: connection.execute(EVENT, (*values, offline)))


def test_A4_2_what_was_stored_right_before_a_kill_counts_after_it() -> None:
    """An approved payment is known to be stored, and one against the policy is counted, whoever heard of them."""

    async def play() -> None:
        async with house() as (made, _):
            assert (await made.ask(Ask("till-1", "p1", "tok", 10, "GBP"))) is not None
            await indexed(made, 1, CardPayment("till-1", "p1", "tok", 10, "GBP", True))
            await indexed(made, 2, CardPayment("till-1", "p2", "tok", 40, "GBP", True))
            await indexed(made, 3, CardPayment("till-1", "p3", "tok", 7, "GBP", False))
            for _ in range(2):
                await made.rig.close()
                await made.open()
                await settle(made)
                assert {one.payment_id: one.stored for one in made.cards._open.values()} == {"p1": True, "p2": True}
                assert made.cards.exposure == 50

    asyncio.run(play())


def test_a_capture_above_what_was_approved_counts_whole_also_after_a_kill() -> None:
    async def play() -> None:
        async with house() as (made, _):
            await made.ask(Ask("till-1", "p1", "tok", 10, "GBP"))
            made.cards.paid(CardPayment("till-1", "p1", "tok", 195, "GBP", True))
            await settle(made)
            assert made.cards.exposure == 195
            await made.rig.close()
            await made.open()
            await settle(made)
            assert made.cards.exposure == 195

    asyncio.run(play())


def test_a_payment_that_was_approved_and_does_not_come_is_named_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with house() as (made, _):
            assert made.cards.unseen() is None, "nobody has looked yet"
            for name in ("came", "never"):
                await made.ask(Ask("till-1", name, "tok", 10, "GBP"))
            made.cards.paid(CardPayment("till-1", "came", "tok", 10, "GBP", True))
            await settle(made)
            assert made.cards.unseen() == ()
            monkeypatch.setattr(stage, "AWAITED_S", 0.0)
            assert made.cards.unseen() == ("never",)

    asyncio.run(play())
    named = why_not((), Standing(unseen=("never",)))
    assert len(named) == 1
    assert "1 card payment allowed offline has not come: never." in named[0]


def test_what_has_ended_is_forgotten_when_it_is_old_and_its_records_are_gone_and_nothing_open_ever_is() -> None:
    async def play() -> None:
        async with house() as (made, path):
            for name in ("open", "ended", "kept"):
                assert (await made.ask(Ask("till-1", name, "tok", 10, "GBP"))) is not None
            row = "insert into payment_events (position, payment_id, kind, device, event_id, amount, currency, tender,"
            row += " offline, training, recorded_ms, uptime_ms, boot) values (9, 'kept', 'captured', 'till-1', 'e', 10,"
            row += " 'GBP', 'card', 1, 0, 0, 0, 1)"
            await made.rig.journal.writing.change(lambda connection: connection.execute(row))
            for name in ("ended", "kept"):
                await made.cards.release(name, "Ann", "looked at")

            async def left() -> set[str]:
                async with made.cards._one:
                    await made.cards._tidy()
                with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                    return {name for (name,) in connection.execute("select payment_id from reservations")}

            assert await left() == {"open", "ended", "kept"}
            made.keep_s, made.cards._tidied_s = -1.0, float("-inf")
            assert await left() == {"open", "kept"}

    asyncio.run(play())


def test_a_payment_that_has_waited_for_too_long_is_named_until_somebody_releases_it() -> None:
    class Heard(Quiet):
        def __init__(self) -> None:
            self.held: dict[str, str] = {}

        def hold(self, *words: object) -> None:
            self.held[str(words[0])] = str(words[3])

        def lift(self, *words: object) -> None:
            self.held.pop(str(words[0]), None)

    async def play() -> None:
        async with house() as (made, _):
            telling = Heard()
            made.cards._telling = telling
            await made.ask(Ask("till-1", "p1", "tok", 10, "GBP"))
            made.cards._tell()
            assert telling.held == {}
            strict = msgspec.structs.replace(LIMITS, queued_age_max_s=-1.0)
            made.cards._terms = lambda device: Terms(True, False, strict, ())
            made.cards._tell()
            assert "p1 (till-1)" in telling.held["offline_payments_old"]
            refused = await made.ask(Ask("till-2", "p2", "tok", 10, "GBP"))
            assert refused is not None
            assert refused.reason == "queued_age"
            await made.cards.release("p1", "Ann", "posted by hand")
            made.cards._tell()
            assert telling.held == {}

    asyncio.run(play())


def test_captures_without_a_token_and_after_a_release_count_too() -> None:
    async def play() -> None:
        async with house() as (made, _):
            await made.ask(Ask("till-1", "p1", "tok", 10, "GBP"))
            await made.cards.release("p1", "Ann", "the till is dead")
            assert made.cards.exposure == 0
            made.cards.paid(CardPayment("till-1", "p1", "tok", 10, "GBP", True))
            made.cards.paid(CardPayment("till-1", "p2", None, 30, "GBP", True))
            await settle(made)
            assert made.cards.exposure == 40

    asyncio.run(play())


def test_a_payment_that_another_device_sends_counts_once() -> None:
    async def play() -> None:
        async with house() as (made, _):
            await made.ask(Ask("handheld-1", "p1", "tok", 10, "GBP"))
            made.cards.paid(CardPayment("till-1", "p1", "tok", 10, "GBP", True))
            await settle(made)
            assert [one.stored for one in made.cards._open.values()] == [True]
            assert made.cards.exposure == 10

    asyncio.run(play())


def test_an_id_whose_fate_is_known_is_never_approved_again() -> None:
    async def play() -> None:
        async with house() as (made, _):
            fate = "insert into payment_fates (payment_id, fate, at, cursor, committed) values (?, ?, ?, ?, ?)"
            values = ("p1", "declined", "2026-11-22T10:00:00Z", 0, 0)
            await made.rig.journal.writing.change(lambda connection: connection.execute(fate, values))
            found = await made.ask(Ask("till-1", "p1", "tok", 10, "GBP"))
            assert found is not None
            assert (found.status, found.reason) == ("declined", "payment_id_used")

    asyncio.run(play())


@pytest.mark.parametrize("args", [{}, {"payment_id": "p", "amount": {"amount": True, "currency": "GBP"}, "card": {}}])
def test_arguments_that_cannot_be_read_are_said_to_be_so(args: dict[str, object]) -> None:
    with pytest.raises(policy.Malformed):
        policy.ask("till-1", args)
