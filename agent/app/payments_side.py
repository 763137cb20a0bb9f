"""[app: payments] Joins the index of payments to the journal, and those who ask to the index."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from agent.app.joints import Live, Telling
from agent.core.business_day import cut_off
from agent.core.commands import Command
from agent.core.facts import PresenceFacts
from agent.journal.payments import PaymentTables
from agent.journal.repaired import Repaired
from agent.journal.writer import Journal
from agent.payments.day import Calendar, Days, DeviceNow, Now
from agent.payments.index import Index
from agent.payments.inquiry import Inquiry
from agent.payments.shown import Showing
from agent.payments.suspects import Suspicions
from agent.runtime.clock import Clock
from agent.settings.venue import VenueSettings

TEXT_MAX: Final = 500
"""Characters of a reason that are kept."""
CACHE_BYTES: Final = 1024 * 1024
"""SQLite's page cache of the connection that the index reads by."""


class Payments(NamedTuple):
    """The stage, and who answers from it."""

    stage: Index
    inquiry: Inquiry
    suspicions: Suspicions
    days: Days
    fate: Callable[[sqlite3.Connection, Command], None]
    """Writes the cloud's word on a payment in the transaction that runs."""


class PaymentsJournal:
    """The journal as the index needs it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def committed(self) -> int:
        """The last position that is durable."""
        return self._journal.book.committed

    @property
    def cursor(self) -> int:
        """The last position that the cloud has."""
        return self._journal.book.cursor

    async def repair(self, positions: Sequence[int]) -> bool:
        """Mend records, or set them aside."""
        return await self._journal.mending.repair_all(positions)


class BoxNow:
    """How the box and its devices stand, for a business day."""

    def __init__(
        self,
        journal: Journal,
        tables: PaymentTables,
        telling: Telling,
        clock: Clock,
        presence: Callable[[], Mapping[str, PresenceFacts]],
    ) -> None:
        self._journal = journal
        self._tables = tables
        self._telling = telling
        self._clock = clock
        self._presence = presence

    async def look(self) -> Now:
        """As of now."""
        book, oldest_kept_ms = self._journal.book, await self._tables.oldest_kept_ms()
        oldest = book.oldest if book.committed > book.cursor else None
        return Now(
            self._now_ms(),
            book.committed,
            book.cursor,
            not self._journal.writable,
            book.instant_ms(oldest) if oldest is not None else None,
            oldest_kept_ms,
            self._devices(),
        )

    def _devices(self) -> tuple[DeviceNow, ...]:
        presence, lost = self._presence(), self._lost()
        facts = {one.device: one for one in self._journal.facts().devices}
        found = []
        for name in facts.keys() | presence.keys():
            one, said = facts.get(name), presence.get(name)
            unsent = said.unsent if said is not None else None
            waiting, gaps, refused = (one.pending_count, one.gaps, one.refused_count) if one is not None else (0, (), 0)
            found.append(DeviceNow(name, waiting, gaps, refused, unsent or 0, tuple(lost.get(name, ()))))
        return tuple(sorted(found))

    def _lost(self) -> dict[str, list[tuple[int, int]]]:
        """What devices have lost and nobody has acknowledged: how many events, and when that was declared."""
        lived_s, found = self._journal.lived_s(), dict[str, list[tuple[int, int]]]()
        for loss in self._journal.losses():
            ended_s = self._telling.ended_s(f"gap_lost:{loss.device}")
            if ended_s is None or loss.at_s > ended_s:
                at_ms = self._now_ms() - int((lived_s - loss.at_s) * 1000)
                found.setdefault(loss.device, []).append((loss.events_count, at_ms))
        return found

    def _now_ms(self) -> int:
        return self._clock.wall_ms_at(self._clock.boottime_s())


def make_payments(
    directory: Path,
    stack: AsyncExitStack,
    journal: Journal,
    telling: Telling,
    live: Live,
    clock: Clock,
    presence: Callable[[], Mapping[str, PresenceFacts]],
) -> Payments:
    """The parts, joined; `stack` closes what is open."""
    tables = PaymentTables(
        directory, CACHE_BYTES, journal.writing, lambda: journal.book.lineage, lambda: journal.generation
    )
    stack.push_async_callback(tables.close)
    journal.writing.keep_out(tables.closed)
    side = PaymentsJournal(journal)
    index = Index(tables, side, lambda: live.settings.payments)
    journal.mending.on_repaired(_repaired(index))
    journal.writing.on_reopen(index.reopened)
    now = BoxNow(journal, tables, telling, clock, presence)
    days = Days(tables, index, now.look, lambda: _calendar(live.settings.venue))
    showing = Showing(tables, side)

    def fate(connection: sqlite3.Connection, command: Command) -> None:
        kind, _, how = command.event.partition(".")
        if kind == "payment":
            said = msgspec.json.decode(command.data)
            at, reason = said.get("at"), said.get("reason")
            tables.note_end(
                connection,
                command.business,
                how,
                at if isinstance(at, str) else "",
                reason[:TEXT_MAX] if isinstance(reason, str) else None,
            )

    return Payments(index, Inquiry(tables, index, showing), Suspicions(tables, index, showing, telling), days, fate)


def _calendar(venue: VenueSettings) -> Calendar:
    return Calendar(ZoneInfo(venue.timezone), venue.timezone, cut_off(venue.day_starts_at))


def _repaired(index: Index) -> Callable[[Repaired], None]:
    def take(done: Repaired) -> None:
        index.repaired([position for position, _ in done.mended], bool(done.positions))

    return take
