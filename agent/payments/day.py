"""people → [business day] → index, core. Whether a business day is complete, and what it took in.

Answers from this box alone. Never closes a day: it says what is known, and why a day is not safe to close.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, time, tzinfo
from typing import Any, NamedTuple, Protocol

from agent.core.business_day import bounds_ms
from agent.core.errors import Rejected
from agent.core.instants import to_text
from agent.core.payment_answers import BusinessDay
from agent.core.payments import PaymentFact, day_text
from agent.core.sentence import natural
from agent.core.takings import DeviceDay, Standing, Takings, day_of, takings, why_not
from agent.payments.index import Index


class Tables(Protocol):
    """The tables of the index. Raises NightsafeError."""

    async def near_day(self, day: str, from_ms: int, to_ms: int) -> list[PaymentFact]: ...
    async def facts_of(self, ids: Collection[str]) -> list[PaymentFact]: ...
    async def check_days(self, checks: Collection[str]) -> Mapping[str, Sequence[str]]: ...
    def true_ms(self, fact: PaymentFact) -> int: ...


class DeviceNow(NamedTuple):
    """How a device stands now; see DeviceDay. `lost` is (count, when) of losses that nobody acknowledged."""

    device: str
    waiting: int
    gaps: tuple[tuple[int, int], ...]
    refused: int
    unsent: int
    lost: tuple[tuple[int, int], ...]


class Now(NamedTuple):
    """How the box stands now. `oldest_waiting_ms`: when the oldest record that the cloud lacks was recorded;
    `oldest_kept_ms`: the first that the log still has, None where none was ever deleted."""

    at_ms: int
    committed: int
    cursor: int
    limps: bool
    oldest_waiting_ms: int | None
    oldest_kept_ms: int | None
    devices: tuple[DeviceNow, ...]


class Calendar(NamedTuple):
    """The venue's time zone, by its name too, and when its business days begin."""

    zone: tzinfo
    name: str
    day_starts: time


class Days:
    """Whoever is asked about business days."""

    def __init__(self, tables: Tables, index: Index, now: Callable[[], Any], calendar: Callable[[], Calendar]) -> None:
        """`now` is awaited and gives `Now`."""
        self._tables = tables
        self._index = index
        self._now = now
        self._calendar = calendar
        self._unseen: Callable[[], tuple[str, ...] | None] = tuple

    def know_unseen(self, call: Callable[[], tuple[str, ...] | None]) -> None:
        """`call` tells which card payments were allowed offline and have not come; None while nobody knows."""
        self._unseen = call

    async def day(self, text: str) -> BusinessDay:
        """The business day of a date, `2026-11-22`. Raises Rejected where it is none."""
        if day_text(text) is None:
            raise Rejected("business_date", f'"{text}" is no date.', "Write it as 2026-11-22.")
        now: Now = await self._now()
        behind = not await self._index.caught_up()
        calendar = self._calendar()
        try:
            begin_ms, end_ms = bounds_ms(date.fromisoformat(text), calendar.zone, calendar.day_starts)
        except (OverflowError, ValueError) as error:
            raise Rejected("business_date", f"{text} is out of range.", "Ask for a day of this box.") from error
        near = await self._tables.near_day(text, begin_ms, end_ms)
        dates = await self._dates(near, calendar)
        of_day = await asyncio.to_thread(lambda: [fact for fact in near if dates[fact.position] == text])
        whole = await self._tables.facts_of({one.payment_id: None for one in of_day})
        dates = await self._dates(whole, calendar)
        totals = await asyncio.to_thread(_takings, whole, text, dates)
        devices = await asyncio.to_thread(_devices, of_day, now, begin_ms)
        unseen = self._unseen()
        standing = Standing(
            behind or unseen is None,
            now.limps,
            now.oldest_waiting_ms is not None and now.oldest_waiting_ms < end_ms,
            now.oldest_kept_ms is not None and now.oldest_kept_ms > begin_ms,
            now.at_ms >= begin_ms,
            unseen or (),
        )
        reasons = why_not(devices, standing)
        return BusinessDay(
            text,
            calendar.name,
            to_text(begin_ms),
            to_text(end_ms),
            not reasons,
            reasons,
            devices,
            totals.sales,
            totals.training,
            await asyncio.to_thread(self._late_count, of_day, end_ms),
        )

    def _late_count(self, of_day: Sequence[PaymentFact], end_ms: int) -> int:
        return sum(self._tables.true_ms(fact) >= end_ms for fact in of_day)

    async def _dates(self, facts: Sequence[PaymentFact], calendar: Calendar) -> dict[int, str]:
        """Each record's business date, by its position; beside the loop, for a day may have tens of thousands."""
        checks = await self._tables.check_days({one.check_id: None for one in facts if one.check_id is not None})

        def date_all() -> dict[int, str]:
            return {one.position: self._date(one, calendar, checks) for one in facts}

        return await asyncio.to_thread(date_all)

    def _date(self, fact: PaymentFact, calendar: Calendar, checks: Mapping[str, Sequence[str]]) -> str:
        days = checks.get(fact.check_id, ()) if fact.check_id is not None else ()
        return day_of(fact, self._tables.true_ms(fact), calendar.zone, calendar.day_starts, days)


def _takings(facts: Sequence[PaymentFact], day: str, dates: Mapping[int, str]) -> Takings:
    payments: dict[str, list[PaymentFact]] = {}
    for fact in facts:
        payments.setdefault(fact.payment_id, []).append(fact)
    return takings(payments.values(), day, lambda fact: dates[fact.position])


def _devices(of_day: Sequence[PaymentFact], now: Now, begin_ms: int) -> tuple[DeviceDay, ...]:
    """Every device that has something of the day, or stands in its way."""
    received: dict[str, list[int]] = {}
    for fact in of_day:
        received.setdefault(fact.device, []).append(fact.position)
    known = {one.device: one for one in now.devices}
    nobody = DeviceNow("", 0, (), 0, 0, ())
    found = []
    for name in sorted(received.keys() | known.keys(), key=natural):
        one, positions = known.get(name, nobody), received.get(name, [])
        found.append(
            DeviceDay(
                name,
                len(positions),
                sum(position <= now.cursor for position in positions),
                one.waiting,
                tuple((str(first), str(last)) for first, last in one.gaps),
                one.refused,
                sum(count for count, at_ms in one.lost if at_ms >= begin_ms),
                one.unsent,
            )
        )
    return tuple(found)
