"""device → gate → ingest → [journal: the one writer] → drain. Commits what waits in groups, and tells after the fsync.

Everything that arrived while the last commit ran is the next one. Nothing is told before its commit has returned, and
a caller that goes away changes nothing. While the journal limps, whoever waits is told at once that nothing is stored.
Never judges an event's bytes, never reads a clock.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from agent.core.arrivals import Item, Loss, OpenGap, Outcome, Own, Receipt, Settle
from agent.core.errors import JournalDamaged, NightsafeError, Rejected, Transient
from agent.core.events import Event, Refusal
from agent.core.facts import JournalFacts
from agent.core.pressure import TELEMETRY, Level
from agent.journal import book as books
from agent.journal import tables, told
from agent.journal.attentions import Attentions
from agent.journal.book import Book, EpochBook
from agent.journal.database import SQL
from agent.journal.figures import journal_facts
from agent.journal.keeping import Keeping
from agent.journal.mending import Mending
from agent.journal.retention import Pages
from agent.journal.uploads import Uploads
from agent.journal.writing import Clock, Limits, Writing

log = structlog.get_logger()

BEAT_S: Final = 1.0
"""How often an idle writer shows that it lives."""


class Journal:
    """The journal's write side: what is taken in here, and the parts that change it for others. `submit` never blocks;
    `has_room` tells when to read on from devices."""

    name = "writer"

    def __init__(self, directory: Path, venue: str, epoch: str, clock: Clock, limits: Limits) -> None:
        self.writing = Writing(directory, venue, epoch, clock, limits)
        """Its connection, and how it fares."""
        self.mending = Mending(self.writing)
        """Damage."""
        self.keeping = Keeping(self.writing, self._write_figures)
        """Retention."""
        self.attentions = Attentions(self.writing)
        """What has happened and waits for a person."""
        self.uploads = Uploads(self.writing, self.attentions)
        """The drain's side."""
        self._clock = clock
        self._limits = limits
        self._waiting: list[tuple[Item, Settle]] = []
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self.writing.on_change(self._wake.set)
        self._on_room: list[Callable[[], None]] = []
        self._committing = False
        self._commits_count = 0
        self._on_reused: Callable[[Event], None] = lambda event: None
        self._reused: list[Event] = []
        self._on_uncounted: Callable[[str], None] = lambda device: None
        self._uncounted: set[str] = set()
        self._beat: Callable[[], None] = lambda: None
        self._reopening: asyncio.Task[None] | None = None
        self._level = Level.NORMAL
        self._shed_count = 0

    @classmethod
    async def open(cls, directory: Path, venue: str, epoch: str, clock: Clock, limits: Limits) -> "Journal":
        """Open or create the journal of `venue`; `epoch` is taken for a new one only. Damage is mended or named first.

        Raises Held for another venue's journal, JournalDamaged where the disk itself fails.
        """
        journal = cls(directory, venue, epoch, clock, limits)
        await journal.writing.open()
        return journal

    @classmethod
    async def start(
        cls,
        directory: Path,
        venue: str,
        epoch: str,
        clock: Clock,
        limits: Limits,
        busy: Callable[[], None] = lambda: None,
    ) -> "Journal":
        """As `open`, but where it cannot be opened now the journal limps until `run` has opened it. `busy` is called
        again and again, on some thread, while a damaged one is rebuilt. Raises Held."""
        journal = cls(directory, venue, epoch, clock, limits)
        try:
            await journal.writing.open(busy)
        except (JournalDamaged, Transient) as error:
            journal.writing.fail(error)
        return journal

    async def close(self) -> None:
        """Close the database; what was submitted and not yet committed is not acknowledged."""
        await self.writing.close()

    # Taking in ------------------------------------------------------------------------------------------------------

    def submit(self, item: Item, settle: Settle) -> None:
        """Queue one item; `settle` hears its outcome after the commit, on the loop."""
        self._waiting.append((item, settle))
        self._waiting_bytes += _size(item)
        self._wake.set()

    async def record(self, kind: str, data: dict[str, Any]) -> None:
        """Record an event of the box's own; returns when it is durable. Raises Transient if it could not be stored, or
        is left out because room is short."""
        if self._level >= Level.SHED and kind in TELEMETRY:
            self._shed_count += 1
            raise Transient("disk_shed", f"The record {kind} is left out while room is short.")
        if not await self.store(Own(kind, data)):
            raise Transient(
                "unstored", f"The record {kind} could not be stored.", "See what the page says of the journal."
            )

    async def store(self, item: Item) -> bool:
        """Submit one item and wait for its commit; False when nothing is on disk."""
        told = asyncio.get_running_loop().create_future()

        def settle(_: Item, outcome: Outcome) -> None:
            if not told.done():
                told.set_result(outcome)

        self.submit(item, settle)
        return await told is not Outcome.UNSTORED

    @property
    def has_room(self) -> bool:
        """False while so much waits that devices should be read from more slowly."""
        return len(self._waiting) < self._limits.queue_events_max and self._waiting_bytes < self._limits.queue_bytes_max

    def on_room(self, call: Callable[[], None]) -> None:
        """Call `call` after each commit that leaves room."""
        self._on_room.append(call)

    def on_reused(self, call: Callable[[Event], None]) -> None:
        """Call `call` with each event that was stored under a sequence its device had used before."""
        self._on_reused = call

    def on_uncounted(self, call: Callable[[str], None]) -> None:
        """Call `call` with each device whose events were stored uncounted, because it has begun too many epochs."""
        self._on_uncounted = call

    def press(self, level: Level) -> None:
        """How short room is. At `refuse` nothing of devices is taken; the drain and the deletions still write."""
        if level is not self._level:
            self._level = level
            self.writing.tell()

    def heed(self, beat: Callable[[], None]) -> None:
        """Beat with every turn of the loop."""
        self._beat = beat

    # The loop -------------------------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Commit groups until `stop` is set and nothing waits any more."""
        ready()
        async with asyncio.TaskGroup() as group:
            waking = group.create_task(self._wake_on(stop), name="writer-stop")
            keeping = group.create_task(self.attentions.run(), name="writer-attentions")
            while self._waiting or not stop.is_set():
                self._beat()
                if self.limps:
                    await self._limp(group)
                    continue
                await self.writing.look_after()
                if self.book.ending and not self._waiting and self.writable:
                    await self._lose_some()
                    continue
                if not self._waiting:
                    self._wake.clear()  # first: what arrives while the mark is written must not wait for a beat
                    if not self.writing.writable:
                        await self.writing.note_lived()
                    await _wait(self._wake, BEAT_S)
                    continue
                await self._commit_waiting()
                if self.book.unprojected >= self._limits.project_events:
                    await self._write_figures()
            waking.cancel()
            keeping.cancel()
            if self._reopening is not None:
                self._reopening.cancel()
        await self.attentions.write()
        await self.writing.note_lived()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _write_figures(self) -> None:
        """Bring the figures up to the log. A disk that fails puts it off: the log has them all."""
        try:
            await self.writing.transact(self._project, must=True)
        except (Transient, JournalDamaged) as error:
            log.debug("figures_put_off", code=error.code)

    async def _lose_some(self) -> None:
        """A step of what newer epochs have ended, where nothing waits to be stored. A start goes on with it."""

        def work(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            fold = self.writing.fold(connection)
            fold.lose_some()
            return None, fold.write()

        try:
            await self.writing.transact(work)
        except (Transient, JournalDamaged) as error:
            self.writing.note_writable(error)
        self.writing.tell()

    async def _commit_waiting(self) -> None:
        group = self._take_waiting()
        if not group:
            return
        own = all(type(item) is Own for item, _ in group)
        self._committing = True
        try:
            outcomes = await self.writing.transact(lambda connection: self._append(connection, group), must=own)
            self.writing.note_writable(None)
        except NightsafeError as error:
            outcomes = [Outcome.UNSTORED] * len(group)
            self.writing.note_writable(error)
        finally:
            self._committing = False
        self._commits_count += 1
        for (item, settle), outcome in zip(group, outcomes, strict=True):
            settle(item, outcome)
        if not self.writing.writable:
            self._turn_away()
        reused, self._reused = self._reused, []
        for event in reused:
            self._on_reused(event)
        uncounted, self._uncounted = self._uncounted, set()
        for device in sorted(uncounted):
            self._on_uncounted(device)
        if self.has_room:
            for call in self._on_room:
                call()
        self.writing.tell()

    def _take_waiting(self) -> list[tuple[Item, Settle]]:
        """The next group. Where nothing of devices is taken, only the box's own records are in it."""
        if self._level is Level.REFUSE:
            self._turn_away()
        group = self._waiting[: self._limits.commit_events_max]
        self._waiting = self._waiting[len(group) :]
        self._waiting_bytes = sum(_size(item) for item, _ in self._waiting) if self._waiting else 0
        return group

    def _turn_away(self) -> None:
        """Whatever of devices waits is told that it is not stored. Also after a group that failed: what a device sent
        behind it must not be stored before it."""
        waiting = self._waiting
        self._waiting = [one for one in waiting if type(one[0]) is Own]
        self._waiting_bytes = sum(_size(item) for item, _ in self._waiting)
        for item, settle in waiting:
            if type(item) is not Own:
                settle(item, Outcome.UNSTORED)

    # Limping ----------------------------------------------------------------------------------------------------------

    async def _limp(self, group: asyncio.TaskGroup) -> None:
        """One turn while the journal is opened anew beside it: whoever waits is told at once that nothing is stored."""
        if self._reopening is None or self._reopening.done():
            self._reopening = group.create_task(self.writing.reopen(), name="writer-reopen")
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for item, settle in waiting:
            settle(item, Outcome.UNSTORED)
        for call in self._on_room:
            call()
        self._wake.clear()
        if self.limps:
            await _wait(self._wake, BEAT_S)

    # The transactions ---------------------------------------------------------------------------------------

    def _append(
        self, connection: sqlite3.Connection, group: list[tuple[Item, Settle]]
    ) -> tuple[list[Outcome], set[EpochBook]]:
        fold = self.writing.fold(connection)
        fold.find_known([item for item, _ in group if type(item) is Event])
        outcomes = [fold.take(item) for item, _ in group]
        fold.lose_some()
        for said in {event.device: told.reused(event) for event in fold.reused}.values():
            told.put(fold, said)
        for device in sorted(fold.uncounted):
            told.put(fold, told.uncounted(device))
        touched = fold.write()
        self._reused, self._uncounted = fold.reused, fold.uncounted
        return outcomes, touched

    def _project(self, connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
        book = self.book
        tables.write_figures(connection, book)
        book.watermark = book.position
        for counting in book.touched:
            counting.device.recent = {}
        book.touched = set()
        return None, set()

    async def quarantined(self, number: int) -> tuple[str, bytes | None, str, str] | None:
        """(device, payload, reason, state) of one refused event."""
        return await self.writing.run(
            lambda connection: connection.execute(SQL["read_quarantined"], (number,)).fetchone()
        )

    async def settle_quarantined(self, number: int, state: str, actor: str, note: str) -> None:
        """Note what a person decided about a refused event."""

        def work(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            settled = connection.execute(SQL["settle_quarantine"], (state, actor, note, number)).rowcount
            if not settled:
                raise Rejected("quarantine_none", f"Entry {number} was handled by somebody else meanwhile.")
            self.book.quarantined_count = connection.execute(SQL["count_quarantined"]).fetchone()[0]
            return None, tables.read_refused(connection, self.book)

        await self.writing.transact(work, must=True)
        self.writing.tell()

    # What is known ----------------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """False since a commit failed, until one succeeds, and while the disk is too full to take anything."""
        return not self.limps and self.writing.writable and self._level is not Level.REFUSE

    @property
    def failure(self) -> NightsafeError | None:
        """Why records cannot be stored right now, as far as it is known; a full disk shows as Transient."""
        return self.writing.failure or self.writing.full

    @property
    def limps(self) -> bool:
        """Whether nothing can be read or written here until the journal has been opened anew."""
        return self.writing.failure is not None

    @property
    def generation(self) -> int:
        """How often the journal has been opened anew."""
        return self.writing.generations_count

    @property
    def shed_count(self) -> int:
        """Records of the box's own that were left out because room was short."""
        return self._shed_count

    async def pages(self) -> Pages | None:
        """How full the database is; None while the journal limps."""
        return await self.keeping.pages()

    @property
    def book(self) -> Book:
        """The figures, for reading on the loop between commits."""
        return self.writing.book

    def receipts_due(self) -> list[Receipt]:
        """What changed since the last call, as it may be told: all of it is durable."""
        if self.limps:
            return []
        due, self.writing.due = self.writing.due, set()
        return [
            counting.receipt
            for counting in sorted(due, key=lambda counting: counting.id)
            if counting.receipt is not None and counting.device.name != books.AGENT
        ]

    def open_gaps(self) -> list[OpenGap]:
        """The holes to be asked for, as of the last commit."""
        return [gap for counting in list(self.book.epochs.values()) for gap in counting.open_gaps]

    def losses(self) -> list[Loss]:
        """What was declared lost and has not come since, as of the last commit: one for each epoch that lacks some."""
        return [counting.loss for counting in list(self.book.epochs.values()) if counting.loss is not None]

    def highest(self, device: str, epoch: str) -> int:
        """The highest sequence of a device's epoch that is known of, 0 without any."""
        known = self.book.devices.get(device)
        counting = known.epochs.get(epoch) if known is not None else None
        return counting.tally.highest if counting is not None else 0

    def lived_s(self) -> float:
        """Seconds that this box has run since the journal was made, over all restarts and boots; no clock steers it."""
        return self.writing.lived().total_s

    def clock_offset_ms(self) -> int | None:
        """What wall time minus uptime truly is in this boot, where its clock was ever synchronised."""
        row = self.book.boots.get(self._clock.boot_id())
        return self.book.offsets_ms.get(row) if row is not None else None

    def receipts_all_due(self) -> None:
        """Tell everything again: the broker has forgotten what it retained."""
        self.writing.receipts_all_due()

    def facts(self) -> JournalFacts:
        """The journal at this instant."""
        return journal_facts(self.book, self._committing, self.writable, self._commits_count)


async def _wait(event: asyncio.Event, at_most_s: float) -> None:
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        return


def _size(item: Item) -> int:
    if type(item) is Event:
        return len(item.body)
    return item.size if type(item) is Refusal else 256  # the box's own are small
