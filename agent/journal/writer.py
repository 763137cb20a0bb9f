"""device → gate → ingest → [journal: the one writer] → drain. Commits what waits in groups, and tells after the fsync.

Everything that arrived while the last commit ran is the next one. Nothing is told before its commit has returned, and
a caller that goes away changes nothing. After an error that is no full disk the connection is never trusted again: the
journal limps, storing nothing, until it has been opened anew. Never judges an event's bytes, never reads a clock.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
import structlog

from agent.core.arrivals import Item, Loss, OpenGap, Outcome, Own, Receipt, Settle
from agent.core.errors import JournalDamaged, NightsafeError, RecordDamaged, Rejected, Transient
from agent.core.events import Event, Refusal
from agent.core.facts import JournalFacts
from agent.core.instants import to_text
from agent.core.lineage import Parent
from agent.core.lived import Lived, lived
from agent.core.mend import Mended, mend
from agent.core.pressure import TELEMETRY, Level
from agent.journal import book as books
from agent.journal import repair as repairs
from agent.journal import retention, salvage, streams
from agent.journal.book import Book, EpochBook
from agent.journal.database import CHECKPOINT_BYTES, SQL, Database, corrupt, file_failed, named
from agent.journal.figures import journal_facts
from agent.journal.fold import Fold, Refusable, Stamp, quarantine_record
from agent.journal.mark import Mark, Point
from agent.journal.names import NamesFile
from agent.journal.opening import Opening
from agent.journal.repair import Case, Repaired, examine
from agent.journal.repair import Place as RepairPlace
from agent.journal.retention import Pages

log = structlog.get_logger()
T = TypeVar("T")

BEAT_S = 1.0
"""How often an idle writer shows that it lives."""
MARK_SYNC_S = 60.0
"""How often the mark beside the database is synced."""
LIVED_WRITE_S = 600.0
"""How often it is written down how long the box has run."""
PROOF_BYTES: Final = 524_288
"""Room for so much must be in the journal before a written mark counts as proof that records can be stored again."""


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
    checkpoint_bytes: int = CHECKPOINT_BYTES
    reopen_first_s: float = 1.0
    reopen_max_s: float = 30.0
    damaged_bytes_max: int = 67_108_864


class Uploaded(NamedTuple):
    """One record that the cloud has: its counting's row, the device's sequence (None without one) and its bytes."""

    device_epoch: int
    sequence: int | None
    size: int


class Journal:
    """The journal's write side. `submit` never blocks; `room` tells when to read on from devices."""

    name = "writer"

    def __init__(self, database: Database | None, book: Book, venue: str, clock: Clock, limits: Limits) -> None:
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
        self._repairing = asyncio.Lock()
        self._again: Callable[[], Awaitable[Journal]]
        self._failure: NightsafeError | None = None
        """Why the journal limps: nothing is stored until it has been opened anew."""
        self._failures_count = 0
        """Failures in a row, without a commit between them."""
        self._full: NightsafeError | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._generations_count = 0
        self._on_reopen: list[Callable[[], None]] = []
        self._kept_out: list[Callable[[], AbstractAsyncContextManager[None]]] = []
        self._spare: Callable[[bool], bool] = lambda sure: False
        self._level = Level.NORMAL
        self._shed_count = 0
        self._confirmed = 0

    @classmethod
    async def start(cls, directory: Path, venue: str, epoch: str, clock: Clock, limits: Limits) -> "Journal":
        """As `open`, but where it cannot be opened now the journal limps until `run` has opened it. Raises Held."""
        try:
            return await cls._try(directory, venue, epoch, clock, limits)
        except (JournalDamaged, Transient) as error:
            limping = cls(None, Book(), venue, clock, limits)
            limping._again = partial(cls._try, directory, venue, epoch, clock, limits)
            limping._fail(error)
            return limping

    @classmethod
    async def open(cls, directory: Path, venue: str, epoch: str, clock: Clock, limits: Limits) -> "Journal":
        """Open or create the journal of `venue`; `epoch` is taken for a new one only. Damage is mended or named first.

        Raises Held for another venue's journal, JournalDamaged where the disk itself fails.
        """
        opened = await Opening(directory, venue, epoch, clock, limits).run()
        journal = cls(opened.database, opened.book, venue, clock, limits)
        journal._again = partial(cls._open_again, directory, venue, epoch, clock, limits)
        journal._directory = directory
        journal._repaired = list(opened.repaired)
        journal._mark = Mark(directory)
        journal._names = NamesFile(directory, venue)
        try:
            await opened.database.run(journal._note)
        except BaseException:
            await journal.close()
            raise
        return journal

    @classmethod
    async def _open_again(cls, directory: Path, venue: str, epoch: str, clock: Clock, limits: Limits) -> "Journal":
        """As `open`, where there was a journal before: an empty folder is no new venue but a disk that is not there."""
        if _is_bare(directory):
            raise JournalDamaged(
                "journal_gone",
                f"The journal has gone from {directory}.",
                "Look whether the disk of the state directory is still mounted there.",
            )
        return await cls._try(directory, venue, epoch, clock, limits)

    @classmethod
    async def _try(cls, directory: Path, venue: str, epoch: str, clock: Clock, limits: Limits) -> "Journal":
        """As `open`; errors of the file system arrive as ours."""
        try:
            return await cls.open(directory, venue, epoch, clock, limits)
        except OSError as error:
            raise file_failed(directory, error) from error

    async def close(self) -> None:
        """Close the database; what was submitted and not yet committed is not acknowledged."""
        database, self._database = self._database, None
        mark, self._mark = self._mark, None
        if database is not None:
            await database.close()
        if mark is not None:
            mark.close()

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

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call `call` after each commit that stored something: look now."""
        self._on_commit.append(call)

    def on_reused(self, call: Callable[[Event], None]) -> None:
        """Call `call` with each event that was stored under a sequence its device had used before."""
        self._on_reused = call

    def on_reopen(self, call: Callable[[], None]) -> None:
        """Call `call` when the journal has been opened anew: what was read before may not be there any more."""
        self._on_reopen.append(call)

    def keep_out(self, closed: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        """Hold `closed()` while the journal is opened anew: no other connection of this process may be open then."""
        self._kept_out.append(closed)

    def spare(self, give: Callable[[bool], bool]) -> None:
        """Call `give` when a write that must go through finds the disk full (True), or may have failed of it (False);
        it returns whether there is room now, so that it is tried once more."""
        self._spare = give

    def press(self, level: Level) -> None:
        """How short room is. At `refuse` nothing of devices is taken; the drain and the deletions still write."""
        if level is not self._level:
            self._level = level
            self._tell_commit()

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
                if self._failure is not None:
                    await self._limp(group)
                    continue
                await self._sync_mark()
                if self._lived().total_s - self._book.lived.total_s >= LIVED_WRITE_S:
                    await self._note_lived()
                if not self._waiting:
                    self._wake.clear()  # first: what arrives while the mark is written must not wait for a beat
                    if not self._writable:
                        await self._note_lived()
                    await _wait(self._wake, BEAT_S)
                    continue
                await self._commit_waiting()
                if self._book.unprojected >= self._limits.project_events:
                    await self._write_figures()
            waking.cancel()
            if self._reopening is not None:
                self._reopening.cancel()
        await self._note_lived()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _write_figures(self) -> None:
        """Bring the figures up to the log. A disk that fails puts it off: the log has them all."""
        try:
            await self._transact(self._project, must=True)
        except (Transient, JournalDamaged) as error:
            log.debug("figures_put_off", code=error.code)

    def lived_s(self) -> float:
        """Seconds that this box has run since the journal was made, over all restarts and boots; no clock steers it."""
        return self._lived().total_s

    def _lived(self) -> Lived:
        return lived(self._book.lived, self._clock.boot_id(), self._clock.uptime_ms() / 1000)

    async def _note_lived(self) -> None:
        """Write down how long the box has run: after a failure, the proof that records can be stored again. A disk
        that fails puts it off."""
        now = self._lived()

        def write(connection: sqlite3.Connection) -> tuple[int, set[EpochBook]]:
            connection.execute(SQL["write_lived"], now)
            self._book.lived = now
            return retention.pages(connection).left_bytes, set()

        try:
            left_bytes = await self._transact(write)
        except (Transient, JournalDamaged) as error:
            log.debug("lived_put_off", code=error.code)
            self._full = self._full or error
            return
        if not self._writable and left_bytes >= PROOF_BYTES:
            self._note_writable(None)
            self._tell_commit()

    async def _sync_mark(self) -> None:
        """Once a minute; a commit that is due waits for it."""
        now_s = self._lived().total_s
        if self._mark is not None and now_s - self._mark_synced_s >= MARK_SYNC_S:
            self._mark_synced_s = now_s
            await asyncio.to_thread(self._mark.sync)

    async def _commit_waiting(self) -> None:
        group = self._take_waiting()
        if not group:
            return
        own = all(type(item) is Own for item, _ in group)
        self._committing = True
        try:
            outcomes = await self._transact(lambda connection: self._append(connection, group), must=own)
            self._note_writable(None)
        except NightsafeError as error:
            outcomes = [Outcome.UNSTORED] * len(group)
            self._note_writable(error)
        finally:
            self._committing = False
        self._commits_count += 1
        for (item, settle), outcome in zip(group, outcomes, strict=True):
            settle(item, outcome)
        if not self._writable:
            self._turn_away()
        reused, self._reused = self._reused, []
        for event in reused:
            self._on_reused(event)
        if self.has_room:
            for call in self._on_room:
                call()
        self._tell_commit()

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

    def _tell_commit(self) -> None:
        for call in self._on_commit:
            call()

    def _note_writable(self, error: NightsafeError | None) -> None:
        if error is not None and self._writable:
            log.warning("journal_refused", code=error.code, reason=error.text, hint=error.hint)
        if error is None:
            if not self._writable:
                log.info("journal_recovered")
            self._failures_count = 0
        self._full = error
        self._writable = error is None

    # Limping ----------------------------------------------------------------------------------------------------------

    def _fail(self, error: NightsafeError) -> None:
        """What this connection says is not believed any more: nothing is stored and no receipt is told until the
        journal has been opened anew, which makes durable what is left of it, or finds what is not."""
        self._failures_count += 1
        tell = log.error if self._failure is None and self._failures_count == 1 else log.debug
        tell("journal_failed", code=error.code, reason=error.text, hint=error.hint, times=self._failures_count)
        self._failure = error
        self._writable = False
        self._receipts_due = set()
        self._wake.set()
        self._tell_commit()

    async def _limp(self, group: asyncio.TaskGroup) -> None:
        """One turn while the journal is opened anew beside it: whoever waits is told at once that nothing is stored."""
        if self._reopening is None or self._reopening.done():
            self._reopening = group.create_task(self._reopen(), name="writer-reopen")
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for item, settle in waiting:
            settle(item, Outcome.UNSTORED)
        for call in self._on_room:
            call()
        self._wake.clear()
        if self._failure is not None:
            await _wait(self._wake, BEAT_S)

    async def _reopen(self) -> None:
        """Close the connection and open the journal anew, with back-off, until it can be written to."""
        while self._failure is not None:
            with suppress(NightsafeError, sqlite3.Error):
                await self.close()
            await asyncio.sleep(self._reopen_pause_s())
            try:
                async with AsyncExitStack() as stack:
                    for closed in self._kept_out:
                        await stack.enter_async_context(closed())
                    self._adopt(await self._again())
            except NightsafeError as error:
                self._fail(error)
                self._spare(error.code == "disk_full")
                continue
            await self._note_lived()
            log.info("journal_reopened", epoch=self._book.epoch, last=self._book.sequence, writable=self._writable)

    def _reopen_pause_s(self) -> float:
        first_s, longest_s = self._limits.reopen_first_s, self._limits.reopen_max_s
        return min(longest_s, first_s * 2.0 ** min(self._failures_count - 1, 30))

    def _adopt(self, opened: "Journal") -> None:
        """Go on with what another one has opened."""
        self._database, self._book, self._again = opened._database, opened._book, opened._again
        self._directory, self._mark, self._names = opened._directory, opened._mark, opened._names
        for done in opened._repaired:
            self._on_repaired(done)
        self._failure = None
        self._confirmed = 0
        self._generations_count += 1
        self.receipts_all_due()
        for call in self._on_reopen:
            call()
        self._tell_commit()
        self._wake.set()

    # On the connection's thread ---------------------------------------------------------------------------------------

    async def _transact(self, work: Callable[[sqlite3.Connection], tuple[T, set[EpochBook]]], must: bool = False) -> T:
        """Run `work` as one transaction; it returns its result and the countings that it changed.

        When it fails, nothing counts but what the disk has: a commit that raised may have landed. With `must`, the
        reserve is given for it when the disk is full, and it is tried once more. Raises Transient where it may be tried
        again, JournalDamaged where the journal limps from now on.
        """
        try:
            return await self._transact_once(work)
        except Transient as error:
            if not must or error.code != "disk_full" or not self._spare(True):
                raise
        return await self._transact_once(work)

    async def _transact_once(self, work: Callable[[sqlite3.Connection], tuple[T, set[EpochBook]]]) -> T:

        def call(connection: sqlite3.Connection) -> tuple[T, set[EpochBook]]:
            try:
                connection.execute("begin immediate")
                result, changed = work(connection)
                connection.execute("commit")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("rollback")
                if not (isinstance(error, sqlite3.Error) and isinstance(named(error), JournalDamaged)):
                    self._book = _read_back(connection)
                raise
            self._book.settle()
            for counting in changed:
                counting.settle()
            self._note(connection)
            return result, changed

        try:
            result, changed = await self._run(call)
        except BaseException as error:
            if isinstance(error, JournalDamaged) and error.code == "journal_corrupt":
                self.demand_rebuild(error.text)
            if self._failure is None:
                self.receipts_all_due()
            raise
        self._receipts_due |= changed
        return result

    async def _run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `call` on the writer's thread. Raises JournalDamaged while the journal limps."""
        database = self._database
        if database is None or self._failure is not None:
            raise JournalDamaged("journal_limps", "The journal is being opened anew.", "It is tried again by itself.")
        try:
            return await database.run(call)
        except RecordDamaged:
            raise
        except JournalDamaged as error:
            if database is self._database and self._failure is None:
                self._fail(error)
            raise

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
        if book.oldest is None and fold.values:
            book.oldest = fold.moment
        self._reused = fold.reused
        return outcomes, fold.touched

    def _stamp(self, connection: sqlite3.Connection) -> Stamp:
        boot = self._book.boot(connection, self._clock.boot_id())
        wall_ms = self._clock.wall_ms()
        return Stamp(
            wall_ms, self._clock.uptime_ms(), boot, int(self._clock.synced()), to_text(wall_ms), self.lived_s()
        )

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
        await self._transact(lambda connection: self._advance(connection, cursor, safe, uploaded), must=True)

    def _advance(
        self, connection: sqlite3.Connection, cursor: int, safe: int, uploaded: list[Uploaded]
    ) -> tuple[None, set[EpochBook]]:
        book = self._book
        if uploaded and (cursor, safe) == (book.cursor, book.safe):
            return None, set()  # the commit that raised has landed
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
        book.cursor, book.safe = cursor, safe
        book.oldest = books.read_oldest(connection, cursor)
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

    # Damage ---------------------------------------------------------------------------------------------------------

    async def repair(self, position: int) -> bool:
        """Mend the record at `position`, or set it aside and name the loss. True when there was something to do.

        Raises JournalDamaged where the database itself is damaged: then it is built anew.
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
        case = await self._run(lambda connection: examine(connection, self._book, position))
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
        """The database itself is damaged: it is built anew when it is opened next; with `now`, at once.

        Meanwhile nothing is acknowledged, and a device that is not answered keeps its events.
        """
        if self._directory is not None:
            try:
                salvage.demand(self._directory, why)
            except OSError as failed:
                log.error("rebuild_not_noted", reason=failed.strerror)
        if now:
            self._fail(corrupt(why))
            self._wake.set()

    async def quarantined(self, number: int) -> tuple[str, bytes | None, str, str] | None:
        """(device, payload, reason, state) of one refused event."""
        return await self._run(lambda connection: connection.execute(SQL["read_quarantined"], (number,)).fetchone())

    async def settle_quarantined(self, number: int, state: str, actor: str, note: str) -> None:
        """Note what a person decided about a refused event."""

        def work(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            settled = connection.execute(SQL["settle_quarantine"], (state, actor, note, number)).rowcount
            if not settled:
                raise Rejected("quarantine_none", f"Entry {number} was handled by somebody else meanwhile.")
            self._book.quarantined_count = connection.execute(SQL["count_quarantined"]).fetchone()[0]
            return None, books.read_refused(connection, self._book)

        await self._transact(work, must=True)
        self._tell_commit()

    # Retention --------------------------------------------------------------------------------------------------------

    def confirm(self, safe: int) -> None:
        """The cloud has said, to this process, that everything up to this position may be deleted."""
        self._confirmed = max(self._confirmed, safe)

    async def mark_safe(self) -> None:
        """Write down how far the cloud calls everything safe, and how long the box has run by now."""
        safe, lived_s = self._deletable, self.lived_s()

        def write(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            retention.mark(connection, safe, lived_s)
            return None, set()

        if safe:
            await self._transact(write, must=True)

    async def delete_kept(self, keep_s: float, rows_max: int) -> int:
        """Delete the oldest records that the cloud has called safe for `keep_s` seconds of this box's running, at most
        `rows_max`; returns how many. Their ids, what was refused, and the holes stay known."""
        if self._deletable > self._book.watermark:
            await self._write_figures()
        horizon_s = self.lived_s() - keep_s

        def delete(connection: sqlite3.Connection) -> tuple[int, set[EpochBook]]:
            highest = min(self._deletable, self._book.watermark)
            return retention.delete(connection, highest, horizon_s, rows_max), set()

        return await self._transact(delete, must=True)

    @property
    def _deletable(self) -> int:
        """No record above this is deleted: not the last one, nor the one that proves where the drain goes on, and
        nothing on the strength of what the disk alone says."""
        book = self._book
        return max(0, min(self._confirmed, book.safe, book.cursor - 1, book.committed - 1))

    async def pages(self) -> Pages | None:
        """How full the database is; None while the journal limps."""
        try:
            return await self._run(retention.pages)
        except NightsafeError:
            return None

    # What is known ----------------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """False since a commit failed, until one succeeds, and while the disk is too full to take anything."""
        return self._failure is None and self._writable and self._level is not Level.REFUSE

    @property
    def failure(self) -> NightsafeError | None:
        """Why records cannot be stored right now, as far as it is known; a full disk shows as Transient."""
        return self._failure or self._full

    @property
    def limps(self) -> bool:
        """Whether nothing can be read or written here until the journal has been opened anew."""
        return self._failure is not None

    @property
    def generation(self) -> int:
        """How often the journal has been opened anew."""
        return self._generations_count

    @property
    def shed_count(self) -> int:
        """Records of the box's own that were left out because room was short."""
        return self._shed_count

    @property
    def book(self) -> Book:
        """The figures, for reading on the loop between commits."""
        return self._book

    def receipts_due(self) -> list[Receipt]:
        """What changed since the last call, as it may be told: all of it is durable."""
        if self._failure is not None:
            return []
        due, self._receipts_due = self._receipts_due, set()
        return [
            counting.receipt
            for counting in sorted(due, key=lambda counting: counting.id)
            if counting.receipt is not None and counting.device.name != books.AGENT
        ]

    def open_gaps(self) -> list[OpenGap]:
        """The holes to be asked for, as of the last commit."""
        return [gap for counting in list(self._book.epochs.values()) for gap in counting.open_gaps]

    def losses(self) -> list[Loss]:
        """What was declared lost and has not come since, as of the last commit: one for each epoch that lacks some."""
        return [counting.loss for counting in list(self._book.epochs.values()) if counting.loss is not None]

    def highest(self, device: str, epoch: str) -> int:
        """The highest sequence of a device's epoch that is known of, 0 without any."""
        known = self._book.devices.get(device)
        counting = known.epochs.get(epoch) if known is not None else None
        return counting.tally.highest if counting is not None else 0

    def clock_offset_ms(self) -> int | None:
        """What wall time minus uptime truly is in this boot, where its clock was ever synchronised."""
        row = self._book.boots.get(self._clock.boot_id())
        return self._book.offsets_ms.get(row) if row is not None else None

    def receipts_all_due(self) -> None:
        """Tell everything again: the broker has forgotten what it retained."""
        if self._failure is None:
            self._receipts_due = set(self._book.epochs.values())

    def facts(self) -> JournalFacts:
        """The journal at this instant."""
        return journal_facts(self._book, self._committing, self.writable, self._commits_count)


def _read_back(connection: sqlite3.Connection) -> Book:
    """What the disk has after a failed write. Without it the figures in memory are wrong: only a new start helps."""
    try:
        return books.load(connection)
    except sqlite3.Error as error:
        raise JournalDamaged(
            "journal_unreadable",
            f"After a failed write the journal could not be read: {error}.",
            "It is opened anew by itself; if this comes back, run `nightsafe verify` and look at the disk.",
        ) from error


def _is_bare(directory: Path) -> bool:
    """Whether nothing in the folder speaks of a journal."""
    return not any(directory.glob("journal.*"))


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
