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

from agent.core import chain
from agent.core.arrivals import Item, Outcome, Own, Receipt, Settle
from agent.core.errors import Held, JournalDamaged, NightsafeError, Rejected, Transient
from agent.core.events import Event, Refusal
from agent.core.facts import JournalFacts
from agent.core.instants import to_text
from agent.core.lineage import Parent
from agent.core.lived import Lived, lived
from agent.journal import book as books
from agent.journal import streams
from agent.journal.book import Book, EpochBook
from agent.journal.database import SQL, Database
from agent.journal.figures import journal_facts
from agent.journal.fold import Fold, Refusable, Stamp, quarantine_record

log = structlog.get_logger()
T = TypeVar("T")

BEAT_S = 1.0
"""How often an idle writer shows that it lives."""
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

    @classmethod
    async def open(cls, directory: Path, venue: str, epoch: str, clock: Clock, limits: Limits) -> "Journal":
        """Open or create the journal of `venue`; `epoch` is taken for a new one only.

        Raises Held for another venue's journal, JournalDamaged for an unsound one.
        """
        database = await Database.open_writer(directory, limits.cache_bytes, limits.bytes_max)
        try:
            await database.run(lambda connection: _begin(connection, venue, epoch, clock.wall_ms()))
            book = await database.run(books.load)
        except BaseException:
            await database.close()
            raise
        return cls(database, book, venue, clock, limits)

    async def close(self) -> None:
        """Close the database; what was submitted and not yet committed is not acknowledged."""
        await self._database.close()

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
            group += self._take_behind(group)
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

    def _take_behind(self, group: list[tuple[Item, Settle]]) -> list[tuple[Item, Settle]]:
        """What waits of the devices in a group that was not stored: it must not come before that."""
        devices = {_device(item) for item, _ in group} - {None}
        waiting, self._waiting = self._waiting, []
        behind: list[tuple[Item, Settle]] = []
        for one in waiting:
            (behind if _device(one[0]) in devices else self._waiting).append(one)
        self._waiting_bytes = sum(_size(item) for item, _ in self._waiting)
        return behind

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
            return result, changed

        try:
            result, changed = await self._database.run(call)
        except BaseException:
            self.receipts_all_due()
            raise
        self._receipts_due |= changed
        return result

    def _append(
        self, connection: sqlite3.Connection, group: list[tuple[Item, Settle]]
    ) -> tuple[list[Outcome], set[EpochBook]]:
        book = self._book
        boot = book.boot(connection, self._clock.boot_id())
        wall_ms = self._clock.wall_ms()
        stamp = Stamp(wall_ms, self._clock.uptime_ms(), boot, int(self._clock.synced()), to_text(wall_ms))
        fold = Fold(connection, book, self._venue, stamp)
        fold.find_known([item for item, _ in group if type(item) is Event])
        outcomes = [fold.take(item) for item, _ in group]
        books.insert_many(connection, SQL["add_records"], fold.values, 11)
        if book.oldest_ms is None and fold.values:
            book.oldest_ms = wall_ms
        self._reused = fold.reused
        return outcomes, fold.touched

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

    async def quarantine_record(self, record: Refusable, detail: str) -> None:
        """Put a record that the cloud cannot take where a person finds it; it stays in the log."""
        await self._transact(lambda connection: (None, quarantine_record(connection, self._book, record, detail)))
        self._tell_commit()

    # Streams ----------------------------------------------------------------------------------------------------------

    async def begin_stream(self, epoch: str, base: int, parent: Parent | None, reason: str) -> None:
        """Begin a new stream behind position `base`; `seal_on` ends it."""
        await self._change(lambda connection: streams.begin(connection, self._book, epoch, base, parent, reason))
        log.warning("stream_begun", epoch=epoch, base=base, reason=reason)

    async def seal_on(self) -> bool:
        """Seal some records for the new stream; True when it is the present one. Raises RecordDamaged."""
        done = await self._change(lambda connection: streams.seal_on(connection, self._book))
        if done is None:
            return False
        parent = done.parent and {"epoch": done.parent.epoch, "sequence": str(done.parent.sequence)}
        data = {"condition": "forked", "epoch": done.epoch, "parent": parent, "reason": done.reason}
        self.submit(Own("nightsafe.condition.raised", data), lambda item, outcome: None)
        return True

    async def fence(self, epoch: str) -> None:
        """Another process writes this epoch at the cloud: never open it again, not after a restart either."""
        await self._change(lambda connection: streams.fence(connection, self._book, epoch))

    async def adopt(self, actor: str, reason: str) -> None:
        """A person says that this box goes on although another one took its epoch: under a new one, then.

        Raises Rejected when nobody did. Who and why are recorded.
        """
        if not self._book.lineage.present.fenced:
            raise Rejected(
                "adopt_none",
                "Nobody else uploads under this box's identity, so there is nothing to adopt.",
                "See `nightsafe status` for what holds the upload, if anything does.",
            )
        await self._change(lambda connection: streams.doubt(connection, self._book, "adopted"))
        data = {"condition": "fenced", "epoch": self._book.epoch, "actor": actor, "reason": reason}
        await self.record("nightsafe.condition.cleared", data)

    async def _change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` as one transaction that changes no device's figures."""
        return await self._transact(lambda connection: (work(connection), set()))

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
            counting.receipt
            for counting in sorted(due, key=lambda counting: counting.id)
            if counting.receipt is not None and counting.device.name != books.AGENT
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


def _begin(connection: sqlite3.Connection, venue: str, epoch: str, wall_ms: int) -> None:
    """Make a new journal's first rows, or check that an old one is this venue's."""
    row = connection.execute(SQL["read_journal"]).fetchone()
    if row is not None:
        if row[0] != venue:
            raise Held(
                "journal_foreign",
                f'The journal in the state directory belongs to the venue "{row[0]}", the settings say "{venue}".',
                "Put the right venue id into the settings, or point [state] directory elsewhere.",
            )
        return
    connection.execute("begin immediate")
    connection.execute(SQL["create_journal"], (venue, wall_ms))
    connection.execute(SQL["open_stream"], (epoch, 0, chain.ORIGIN, None, None, None, "created", None))
    connection.execute("commit")
    log.info("journal_created", venue=venue, epoch=epoch)


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


def _device(item: Item) -> str | None:
    """Whose it is; None for the box's own."""
    return None if isinstance(item, Own) else item.device
