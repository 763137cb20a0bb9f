"""device → gate → ingest → [journal: the one writer] → drain. Commits what waits in groups, and tells after the fsync.

Everything that arrived while the last commit ran is the next one. Nothing is told before its commit has returned, and
a caller that goes away changes nothing. Never judges an event's bytes, never reads a clock of its own.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import structlog

from agent.core.arrivals import Item, Outcome, Own, Receipt, Settle
from agent.core.errors import JournalDamaged, NightsafeError, Rejected, Transient
from agent.core.events import Event, Refusal
from agent.core.facts import JournalFacts
from agent.core.instants import to_text
from agent.core.lived import Lived, lived
from agent.core.mend import Mended, mend
from agent.journal import book as books
from agent.journal import repair as repairs
from agent.journal import salvage
from agent.journal.book import Book, EpochBook
from agent.journal.database import SQL, Database, corrupt
from agent.journal.figures import journal_facts
from agent.journal.fold import Fold, Stamp
from agent.journal.mark import Mark, Point
from agent.journal.names import NamesFile
from agent.journal.opening import Opening
from agent.journal.repair import Case, Repaired, examine
from agent.journal.repair import Place as RepairPlace

log = structlog.get_logger()
T = TypeVar("T")

BEAT_S = 1.0
"""How often an idle writer shows that it lives."""
MARK_SYNC_S = 60.0
"""How often the mark beside the database is synced."""
LIVED_WRITE_S = 600.0
"""How often it is written down how long the box has run."""


class Clock(Protocol):
    """What the writer asks the machine, once for each commit."""

    def wall_ms(self) -> int: ...
    def uptime_ms(self) -> int: ...
    def boot_id(self) -> str: ...
    def synced(self) -> bool: ...


class Limits(msgspec.Struct, frozen=True):
    """The writer's bounds, from the settings of the same names."""

    queue_events_max: int
    queue_bytes_max: int
    commit_events_max: int
    project_events: int
    cache_bytes: int
    bytes_max: int
    damaged_bytes_max: int = 67_108_864


class Uploaded(NamedTuple):
    """One record that the cloud has: its counting's row, the device's sequence (None without one) and its bytes."""

    device_epoch: int
    sequence: int | None
    size: int


class Journal:
    """The journal's write side. `submit` never blocks; `room` tells when to read on from devices."""

    name = "writer"

    def __init__(self, database: Database, book: Book, venue: str, clock: Clock, limits: Limits) -> None:
        self._database = database
        self._book = book
        self._venue = venue
        self._clock = clock
        self._limits = limits
        self._waiting: list[tuple[Item, Settle]] = []
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._on_room: list[Callable[[], None]] = []
        self._on_commit: list[Callable[[], None]] = []
        self._receipts_due: set[EpochBook] = set(book.epochs.values())
        self._committing = False
        self._writable = True
        self._commits_count = 0
        self._on_reused: Callable[[Event], None] = lambda event: None
        self._reused: list[Event] = []
        self._beat: Callable[[], None] = lambda: None
        self._directory: Path | None = None
        self._mark: Mark | None = None
        self._names: NamesFile | None = None
        self._mark_synced_s = self._lived().total_s
        self._repaired: list[Repaired] = []
        self._on_repaired: Callable[[Repaired], None] = self._repaired.append
        self._ending: JournalDamaged | None = None
        self._repairing = asyncio.Lock()

    @classmethod
    async def open(cls, directory: Path, venue: str, epoch: str, clock: Clock, limits: Limits) -> "Journal":
        """Open or create the journal of `venue`; `epoch` is taken for a new one only. Damage is mended or named first.

        Raises Held for another venue's journal, JournalDamaged where the disk itself fails.
        """
        opened = await Opening(directory, venue, epoch, clock, limits).run()
        journal = cls(opened.database, opened.book, venue, clock, limits)
        journal._directory = directory
        journal._repaired = list(opened.repaired)
        journal._mark = Mark(directory)
        journal._names = NamesFile(directory, venue)
        await opened.database.run(journal._note)
        return journal

    async def close(self) -> None:
        """Close the database; what was submitted and not yet committed is not acknowledged."""
        await self._database.close()
        if self._mark is not None:
            self._mark.close()

    # Taking in ------------------------------------------------------------------------------------------------------

    def submit(self, item: Item, settle: Settle) -> None:
        """Queue one item; `settle` hears its outcome after the commit, on the loop."""
        self._waiting.append((item, settle))
        self._waiting_bytes += _size(item)
        self._wake.set()

    async def record(self, kind: str, data: dict[str, Any]) -> None:
        """Record an event of the box's own; returns when it is durable. Raises Transient if it could not be stored."""
        told = asyncio.get_running_loop().create_future()

        def settle(_: Item, outcome: Outcome) -> None:
            if not told.done():
                told.set_result(outcome)

        self.submit(Own(kind, data), settle)
        if await told is Outcome.UNSTORED:
            raise Transient(
                "disk_full", f"The record {kind} could not be stored.", "Free space on the state directory's disk."
            )

    @property
    def has_room(self) -> bool:
        """False while so much waits that devices should be read from more slowly."""
        return len(self._waiting) < self._limits.queue_events_max and self._waiting_bytes < self._limits.queue_bytes_max

    def on_room(self, call: Callable[[], None]) -> None:
        """Call `call` after each commit that leaves room."""
        self._on_room.append(call)

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call `call` after each commit that stored something: look now."""
        self._on_commit.append(call)

    def on_reused(self, call: Callable[[Event], None]) -> None:
        """Call `call` with each event that was stored under a sequence its device had used before."""
        self._on_reused = call

    def heed(self, beat: Callable[[], None]) -> None:
        """Beat with every turn of the loop."""
        self._beat = beat

    # The loop -------------------------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Commit groups until `stop` is set and nothing waits any more."""
        ready()
        async with asyncio.TaskGroup() as group:
            waking = group.create_task(self._wake_on(stop), name="writer-stop")
            while self._waiting or not stop.is_set():
                self._beat()
                if self._ending is not None:
                    raise self._ending
                await self._sync_mark()
                if self._lived().total_s - self._book.lived.total_s >= LIVED_WRITE_S:
                    await self._note_lived()
                if not self._waiting:
                    self._wake.clear()
                    await _wait(self._wake, BEAT_S)
                    continue
                await self._commit_waiting()
                if self._book.unprojected >= self._limits.project_events:
                    await self._write_figures()
            waking.cancel()
        await self._note_lived()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _write_figures(self) -> None:
        """Bring the figures up to the log. A full disk puts it off: the log has them all."""
        try:
            await self._transact(self._project)
        except Transient as error:
            log.debug("figures_put_off", code=error.code)

    def lived_s(self) -> float:
        """Seconds that this box has run since the journal was made, over all restarts and boots; no clock steers it."""
        return self._lived().total_s

    def _lived(self) -> Lived:
        return lived(self._book.lived, self._clock.boot_id(), self._clock.uptime_ms() / 1000)

    async def _note_lived(self) -> None:
        """Write down how long the box has run. A full disk puts it off."""
        now = self._lived()

        def write(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            connection.execute(SQL["write_lived"], now)
            self._book.lived = now
            return None, set()

        try:
            await self._transact(write)
        except Transient as error:
            log.debug("lived_put_off", code=error.code)

    async def _sync_mark(self) -> None:
        """Once a minute; a commit that is due waits for it."""
        now_s = self._lived().total_s
        if self._mark is not None and now_s - self._mark_synced_s >= MARK_SYNC_S:
            self._mark_synced_s = now_s
            await asyncio.to_thread(self._mark.sync)

    async def _commit_waiting(self) -> None:
        group = self._waiting[: self._limits.commit_events_max]
        self._waiting = self._waiting[len(group) :]
        self._waiting_bytes = sum(_size(item) for item, _ in self._waiting) if self._waiting else 0
        failure: NightsafeError | None = None
        self._committing = True
        try:
            outcomes = await self._transact(lambda connection: self._append(connection, group))
            self._note_writable(None)
        except NightsafeError as error:
            failure, outcomes = error, [Outcome.UNSTORED] * len(group)
            self._note_writable(error)
        finally:
            self._committing = False
        self._commits_count += 1
        for (item, settle), outcome in zip(group, outcomes, strict=True):
            settle(item, outcome)
        if failure is not None and not isinstance(failure, Transient):
            raise failure
        reused, self._reused = self._reused, []
        for event in reused:
            self._on_reused(event)
        if self.has_room:
            for call in self._on_room:
                call()
        self._tell_commit()

    def _tell_commit(self) -> None:
        for call in self._on_commit:
            call()

    def _note_writable(self, error: NightsafeError | None) -> None:
        if error is not None and self._writable:
            log.warning("journal_refused", code=error.code, reason=error.text, hint=error.hint)
        if error is None and not self._writable:
            log.info("journal_recovered")
        self._writable = error is None

    # On the connection's thread ---------------------------------------------------------------------------------------

    async def _transact(self, work: Callable[[sqlite3.Connection], tuple[T, set[EpochBook]]]) -> T:
        """Run `work` as one transaction; it returns its result and the countings that it changed.

        When it fails, nothing counts but what the disk has: a commit that raised may have landed.
        """

        def call(connection: sqlite3.Connection) -> tuple[T, set[EpochBook]]:
            try:
                connection.execute("begin immediate")
                result, changed = work(connection)
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                self._book = _read_back(connection)
                raise
            self._book.settle()
            for counting in changed:
                counting.settle()
            self._note(connection)
            return result, changed

        try:
            result, changed = await self._database.run(call)
        except BaseException as error:
            self.receipts_all_due()
            if isinstance(error, JournalDamaged) and error.code == "journal_corrupt":
                self.demand_rebuild(error.text)
            raise
        self._receipts_due |= changed
        return result

    def _note(self, connection: sqlite3.Connection) -> None:
        """After a commit: how far the journal is, and who is in it, beside the database."""
        book = self._book
        if self._mark is not None:
            stream = book.lineage.present
            self._mark.note(
                Point(book.position, book.cursor, book.safe, stream.base, book.head, stream.origin, stream.epoch,
                      self._venue)
            )  # fmt: skip
        if self._names is not None:
            self._names.note(connection, book, self._clock.uptime_ms())

    def _append(
        self, connection: sqlite3.Connection, group: list[tuple[Item, Settle]]
    ) -> tuple[list[Outcome], set[EpochBook]]:
        book = self._book
        stamp = self._stamp(connection)
        fold = Fold(connection, book, self._venue, stamp)
        fold.find_known([item for item, _ in group if type(item) is Event])
        outcomes = [fold.take(item) for item, _ in group]
        books.insert_many(connection, SQL["add_records"], fold.values, 11)
        if book.oldest_ms is None and fold.values:
            book.oldest_ms = stamp.wall_ms
        self._reused = fold.reused
        return outcomes, fold.touched

    def _stamp(self, connection: sqlite3.Connection) -> Stamp:
        boot = self._book.boot(connection, self._clock.boot_id())
        wall_ms = self._clock.wall_ms()
        return Stamp(wall_ms, self._clock.uptime_ms(), boot, int(self._clock.synced()), to_text(wall_ms))

    def _project(self, connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
        book = self._book
        books.write_figures(connection, book)
        book.watermark = book.position
        for counting in book.touched:
            counting.device.recent = {}
        book.touched = set()
        return None, set()

    # The drain's side -------------------------------------------------------------------------------------------------

    async def advance(self, cursor: int, safe: int, uploaded: list[Uploaded]) -> None:
        """Move the drain's cursor after the cloud's answer; positions. `uploaded` are the records it covers."""
        await self._transact(lambda connection: self._advance(connection, cursor, safe, uploaded))

    def _advance(
        self, connection: sqlite3.Connection, cursor: int, safe: int, uploaded: list[Uploaded]
    ) -> tuple[None, set[EpochBook]]:
        book = self._book
        moved: dict[int, EpochBook] = {}
        for row, sequence, size in uploaded:
            counting = book.epochs[row]
            counting.device.uploaded_count += 1
            counting.device.uploaded_bytes += size
            book.pending_bytes -= size
            if sequence is not None:
                counting.uploaded.add(sequence)
            moved[row] = counting
        for counting in moved.values():
            books.write_uploaded(connection, counting)
        for device in {counting.device.id: counting.device for counting in moved.values()}.values():
            connection.execute(SQL["write_device_uploaded"], (device.uploaded_count, device.uploaded_bytes, device.id))
        connection.execute(SQL["write_cursor"], (cursor, safe))
        oldest = connection.execute(SQL["read_recorded"], (cursor,)).fetchone()
        book.cursor, book.safe = cursor, safe
        book.oldest_ms = oldest[0] if oldest else None
        return None, set(moved.values())

    # Damage ---------------------------------------------------------------------------------------------------------

    async def repair(self, position: int) -> bool:
        """Mend the record at `position`, or set it aside and name the loss. True when there was something to do.

        Raises JournalDamaged where the database itself is damaged: then it is built anew, by a new start.
        """
        try:
            async with self._repairing:
                done = await self._examine_and_repair(position)
        except JournalDamaged as damaged:
            if damaged.code == "journal_corrupt":
                self.demand_rebuild(damaged.text, now=True)
            raise
        if done is None:
            return False
        self.receipts_all_due()
        self._on_repaired(done)
        self._tell_commit()
        return True

    async def _examine_and_repair(self, position: int) -> Repaired | None:
        case = await self._database.run(lambda connection: examine(connection, self._book, position))
        if case is None:
            return None
        original = await asyncio.to_thread(mend, case.row, case.around)
        return await self._transact(lambda connection: self._repair(connection, case, original))

    def _repair(
        self, connection: sqlite3.Connection, case: Case, original: Mended | None
    ) -> tuple[Repaired, set[EpochBook]]:
        assert self._directory is not None
        stamp = self._stamp(connection)
        place = RepairPlace(self._directory, self._venue, stamp, self._limits.damaged_bytes_max)
        self._book, done = repairs.apply(connection, place, self._book, [(case, original)])
        return done, set(self._book.epochs.values())

    def on_repaired(self, call: Callable[[Repaired], None]) -> None:
        """Call `call` with everything that was mended or lost, start-up's first."""
        for done in self._repaired:
            call(done)
        self._repaired = []
        self._on_repaired = call

    def demand_rebuild(self, why: str, now: bool = False) -> None:
        """The database itself is damaged: it is built anew at the next start. `now`: which comes at once.

        What is in it stays readable as far as it is; a device that is not answered keeps its events.
        """
        if self._directory is not None:
            try:
                salvage.demand(self._directory, why)
            except OSError as failed:
                log.error("rebuild_not_noted", reason=failed.strerror)
        if now:
            self._ending = corrupt(why)
            self._wake.set()

    async def quarantined(self, number: int) -> tuple[str, bytes | None, str, str] | None:
        """(device, payload, reason, state) of one refused event."""
        return await self._database.run(
            lambda connection: connection.execute(SQL["read_quarantined"], (number,)).fetchone()
        )

    async def settle_quarantined(self, number: int, state: str, actor: str, note: str) -> None:
        """Note what a person decided about a refused event."""

        def work(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            settled = connection.execute(SQL["settle_quarantine"], (state, actor, note, number)).rowcount
            if not settled:
                raise Rejected("quarantine_none", f"Entry {number} was handled by somebody else meanwhile.")
            self._book.quarantined_count = connection.execute(SQL["count_quarantined"]).fetchone()[0]
            return None, books.read_refused(connection, self._book)

        await self._transact(work)
        self._tell_commit()

    # What is known ----------------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """False since a commit failed, until one succeeds."""
        return self._writable

    @property
    def book(self) -> Book:
        """The figures, for reading on the loop between commits."""
        return self._book

    def receipts_due(self) -> list[Receipt]:
        """What changed since the last call, as it may be told: all of it is durable."""
        due, self._receipts_due = self._receipts_due, set()
        return [
            counting.receipt for counting in due if counting.receipt is not None and counting.device.name != books.AGENT
        ]

    def open_gaps(self) -> list[tuple[str, str, int, int]]:
        """The holes to be asked for, as of the last commit: (device, epoch, first, last)."""
        return [
            (counting.device.name, counting.epoch, first, last)
            for counting in list(self._book.epochs.values())
            if counting.holes and counting.epoch is not None
            for first, last in counting.holes
        ]

    def receipts_all_due(self) -> None:
        """Tell everything again: the broker has forgotten what it retained."""
        self._receipts_due = set(self._book.epochs.values())

    def facts(self) -> JournalFacts:
        """The journal at this instant."""
        return journal_facts(self._book, self._committing, self._writable, self._commits_count)


def _read_back(connection: sqlite3.Connection) -> Book:
    """What the disk has after a failed write. Without it the figures in memory are wrong: only a new start helps."""
    try:
        return books.load(connection)
    except sqlite3.Error as error:
        raise JournalDamaged(
            "journal_unreadable",
            f"After a failed write the journal could not be read: {error}.",
            "The box starts anew by itself; if this comes back, run `nightsafe verify` and look at the disk.",
        ) from error


async def _wait(event: asyncio.Event, at_most_s: float) -> None:
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        return


def _size(item: Item) -> int:
    if type(item) is Event:
        return len(item.body)
    return item.size if type(item) is Refusal else 256
