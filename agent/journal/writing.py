"""[journal: the connection that writes] → writer, uploads, mending, retention. Transactions on one thread, or none.

After an error that is no full disk this connection is never trusted again: the journal *limps*, storing nothing, until
it has been opened anew, through the same opening as every start. Nothing is told before the commit has returned. Never
decides what is written.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from agent.core.errors import JournalDamaged, NightsafeError, RecordDamaged, Transient
from agent.core.instants import to_text
from agent.core.lived import Lived, lived
from agent.journal import retention, salvage, tables
from agent.journal.book import Book, EpochBook
from agent.journal.database import CHECKPOINT_BYTES, SQL, SQLITE_ERRORS, Database, corrupt, file_failed, gone, named
from agent.journal.fold import EPOCHS_MAX, Fold, Stamp
from agent.journal.mark import Mark, Point
from agent.journal.names import NamesFile
from agent.journal.opening import Opening
from agent.journal.repair import Place
from agent.journal.repaired import Repaired

log = structlog.get_logger()
T = TypeVar("T")

MARK_SYNC_S: Final = 60.0
"""How often the mark beside the database is synced."""
LIVED_WRITE_S: Final = 600.0
"""How often it is written down how long the box has run."""
PROOF_BYTES: Final = 524_288
"""Room for so much must be in the journal before a written mark counts as proof that records can be stored again."""


class Clock(Protocol):
    """What the journal asks the machine, once for each commit."""

    def wall_ms(self) -> int: ...
    def uptime_ms(self) -> int: ...
    def boot_id(self) -> str: ...
    def synced(self) -> bool: ...


class Limits(msgspec.Struct, frozen=True):
    """The journal's bounds, from the settings of the same names."""

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
    epochs_max: int = EPOCHS_MAX


class Writing:
    """The journal's files as they are written, their figures, and whether anything can be written now."""

    def __init__(self, directory: Path, venue: str, epoch: str, clock: Clock, limits: Limits) -> None:
        self.book = Book()
        """The figures, for reading on the loop between commits."""
        self.due: set[EpochBook] = set()
        """Countings whose receipts have changed since they were last told."""
        self.failure: NightsafeError | None = None
        """Why the journal limps: nothing is stored until it has been opened anew."""
        self.full: NightsafeError | None = None
        """Why the last commit failed, where the journal does not limp of it."""
        self.writable = True
        """False since a commit failed, until one succeeds."""
        self.generations_count = 0
        """How often the journal has been opened anew."""
        self.venue = venue
        self._directory = directory
        self._epoch = epoch
        self._clock = clock
        self._limits = limits
        self._database: Database | None = None
        self._mark: Mark | None = None
        self._names: NamesFile | None = None
        self._was_open = False
        self._failures_count = 0
        """Failures in a row, without a commit between them."""
        self._mark_synced_s = 0.0
        self._repaired: list[Repaired] = []
        self._on_repaired: list[Callable[[Repaired], None]] = []
        self._on_change: list[Callable[[], None]] = []
        self._on_reopen: list[Callable[[], None]] = []
        self._kept_out: list[Callable[[], AbstractAsyncContextManager[None]]] = []
        self._spare: Callable[[bool], bool] = lambda sure: False

    # Opening and closing --------------------------------------------------------------------------------------------

    async def open(self, busy: Callable[[], None] = lambda: None) -> None:
        """Open or create the journal. Damage is mended or named first; where there was a journal before, an empty
        folder is no new venue but a disk that is not there. `busy` is called again and again while it is rebuilt.

        Raises Held for another venue's journal, JournalDamaged where the disk itself fails, Transient where it is full.
        """
        if self._was_open and _is_bare(self._directory):
            raise gone(self._directory)
        try:
            opened = await Opening(
                self._directory, self.venue, self._epoch, self._clock, self._limits, busy, create=not self._was_open
            ).run()
            self._database, self.book = opened.database, opened.book
            self._mark, self._names = Mark(self._directory), NamesFile(self._directory, self.venue)
            await opened.database.run(self._note)
        except BaseException as error:
            await self.close()
            if isinstance(error, OSError):
                raise file_failed(self._directory, error) from error
            raise
        self._was_open = True
        self._mark_synced_s = self.lived().total_s
        self.due = set(self.book.epochs.values())
        for done in opened.repaired:
            self.repaired(done)

    async def close(self) -> None:
        """Close the database; what runs is ended first."""
        database, self._database = self._database, None
        mark, self._mark = self._mark, None
        if database is not None:
            await database.close()
        if mark is not None:
            mark.close()

    # Transactions ---------------------------------------------------------------------------------------------------

    async def transact(self, work: Callable[[sqlite3.Connection], tuple[T, set[EpochBook]]], must: bool = False) -> T:
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

    async def change(self, work: Callable[[sqlite3.Connection], T], must: bool = False) -> T:
        """Run `work` as one transaction that changes no device's figures."""
        return await self.transact(lambda connection: (work(connection), set()), must)

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
                    self.book = _read_back(connection, self.book)
                raise
            self.book.settle()
            for counting in changed:
                counting.settle()
            self._note(connection)
            return result, changed

        try:
            result, changed = await self.run(call)
        except BaseException as error:
            if isinstance(error, JournalDamaged) and error.code == "journal_corrupt":
                self.demand_rebuild(error.text)
            self.receipts_all_due()
            raise
        self.due |= changed
        return result

    async def run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `call` on the connection's thread. Raises JournalDamaged while the journal limps."""
        database = self._database
        if database is None or self.failure is not None:
            raise JournalDamaged("journal_limps", "The journal is being opened anew.", "It is tried again by itself.")
        try:
            try:
                return await database.run(call)
            except OSError as error:  # of a file beside the database
                raise file_failed(self._directory, error) from error
        except RecordDamaged:
            raise
        except JournalDamaged as error:
            if database is self._database and self.failure is None:
                self.fail(error)
            raise

    def stamp(self, connection: sqlite3.Connection) -> Stamp:
        """This instant, as the records of one commit carry it."""
        boot = self.book.boot(connection, self._clock.boot_id())
        wall_ms = self._clock.wall_ms()
        return Stamp(
            wall_ms, self._clock.uptime_ms(), boot, int(self._clock.synced()), to_text(wall_ms), self.lived().total_s
        )

    def fold(self, connection: sqlite3.Connection) -> Fold:
        """Records of this instant, to be appended in the transaction that runs."""
        return Fold(connection, self.book, self.venue, self.stamp(connection), self._limits.epochs_max)

    def place(self, connection: sqlite3.Connection) -> Place:
        """Where and when something is repaired."""
        return Place(self._directory, self.venue, self.stamp(connection), self._limits.damaged_bytes_max)

    def _note(self, connection: sqlite3.Connection) -> None:
        """After a commit: how far the journal is, and who is in it, beside the database."""
        book = self.book
        if self._mark is not None:
            stream = book.lineage.present
            self._mark.note(
                Point(book.position, book.cursor, book.safe, stream.base, book.head, stream.origin, stream.epoch,
                      self.venue)
            )  # fmt: skip
        if self._names is not None:
            self._names.note(connection, book, self._clock.uptime_ms())

    # Failing and limping --------------------------------------------------------------------------------------------

    def note_writable(self, error: NightsafeError | None) -> None:
        """A group of events was stored, or was not."""
        if error is not None and self.writable:
            log.warning("journal_refused", code=error.code, reason=error.text, hint=error.hint)
        if error is None:
            if not self.writable:
                log.info("journal_recovered")
            self._failures_count = 0
        self.full = error
        self.writable = error is None

    def fail(self, error: NightsafeError) -> None:
        """What this connection says is not believed any more: nothing is stored and no receipt is told until the
        journal has been opened anew, which makes durable what is left of it, or finds what is not."""
        self._failures_count += 1
        tell = log.error if self.failure is None and self._failures_count == 1 else log.debug
        tell("journal_failed", code=error.code, reason=error.text, hint=error.hint, times=self._failures_count)
        self.failure = error
        self.writable = False
        self.due = set()
        self.tell()

    async def reopen(self) -> None:
        """Close the connection and open the journal anew, with back-off, until it can be written to."""
        while self.failure is not None:
            with suppress(NightsafeError, sqlite3.Error):
                await self.close()
            await asyncio.sleep(self._reopen_pause_s())
            try:
                async with AsyncExitStack() as stack:
                    for closed in self._kept_out:
                        await stack.enter_async_context(closed())
                    await self.open()
                    self._open_again()
            except NightsafeError as error:
                self.fail(error)
                if error.code != "rebuild_no_room":  # the reserve would not be enough
                    self._spare(error.code == "disk_full")
                continue
            await self.note_lived()
            log.info("journal_reopened", epoch=self.book.epoch, last=self.book.sequence, writable=self.writable)

    def _reopen_pause_s(self) -> float:
        first_s, longest_s = self._limits.reopen_first_s, self._limits.reopen_max_s
        return min(longest_s, first_s * 2.0 ** min(self._failures_count - 1, 30))

    def _open_again(self) -> None:
        self.failure = None
        self.generations_count += 1
        for call in self._on_reopen:
            call()
        self.tell()

    def demand_rebuild(self, why: str, now: bool = False) -> None:
        """The database itself is damaged: it is built anew when it is opened next; with `now`, at once.

        Meanwhile nothing is acknowledged, and a device that is not answered keeps its events.
        """
        if self._was_open:
            try:
                salvage.demand(self._directory, why)
            except OSError as failed:
                log.error("rebuild_not_noted", reason=failed.strerror)
        if now:
            self.fail(corrupt(why))

    # How long the box has run ---------------------------------------------------------------------------------------

    def lived(self) -> Lived:
        """Seconds that this box has run since the journal was made, over all restarts and boots; no clock steers it."""
        return lived(self.book.lived, self._clock.boot_id(), self._clock.uptime_ms() / 1000)

    async def note_lived(self) -> None:
        """Write down how long the box has run: after a failure, the proof that records can be stored again. A disk
        that fails puts it off."""
        now = self.lived()

        def write(connection: sqlite3.Connection) -> int:
            connection.execute(SQL["write_lived"], now)
            self.book.lived = now
            return retention.pages(connection).left_bytes

        try:
            left_bytes = await self.change(write)
        except (Transient, JournalDamaged) as error:
            log.debug("lived_put_off", code=error.code)
            self.full = self.full or error
            return
        if not self.writable and left_bytes >= PROOF_BYTES:
            self.note_writable(None)
            self.tell()

    async def look_after(self) -> None:
        """Now and then: sync the mark, write down how long the box has run. A commit that is due waits for it."""
        now_s = self.lived().total_s
        if self._mark is not None and now_s - self._mark_synced_s >= MARK_SYNC_S:
            self._mark_synced_s = now_s
            await asyncio.to_thread(self._mark.sync)
        if now_s - self.book.lived.total_s >= LIVED_WRITE_S:
            await self.note_lived()

    # Who is told ----------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Something may have changed: look now."""
        for call in self._on_change:
            call()

    def receipts_all_due(self) -> None:
        """Tell everything again: the broker has forgotten what it retained."""
        if self.failure is None:
            self.due = set(self.book.epochs.values())

    def on_change(self, call: Callable[[], None]) -> None:
        """Call `call` after each commit, and when the journal begins to limp or is open again."""
        self._on_change.append(call)

    def on_reopen(self, call: Callable[[], None]) -> None:
        """Call `call` when the journal has been opened anew: what was read before may not be there any more."""
        self._on_reopen.append(call)

    def on_repaired(self, call: Callable[[Repaired], None]) -> None:
        """Call `call` with everything that was mended or lost, start-up's first."""
        for done in self._repaired:
            call(done)
        self._on_repaired.append(call)

    def repaired(self, done: Repaired) -> None:
        """Tell that something was mended or lost."""
        if not self._on_repaired:
            self._repaired.append(done)
        for call in self._on_repaired:
            call(done)

    def keep_out(self, closed: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        """Hold `closed()` while the journal is opened anew: no other connection of this process may be open then."""
        self._kept_out.append(closed)

    def spare(self, give: Callable[[bool], bool]) -> None:
        """Call `give` when a write that must go through finds the disk full (True), or may have failed of it (False);
        it returns whether there is room now, so that it is tried once more."""
        self._spare = give


def _read_back(connection: sqlite3.Connection, former: Book) -> Book:
    """What the disk has after a failed write. Without it the figures in memory are wrong: only a new start helps."""
    try:
        book = counted_whole(tables.load(connection))
        book.keep_boots(former)
        return book
    except SQLITE_ERRORS as error:
        raise JournalDamaged(
            "journal_unreadable",
            f"After a failed write the journal could not be read: {error}.",
            "It is opened anew by itself; if this comes back, run `nightsafe verify` and look at the disk.",
        ) from error


def counted_whole(book: Book) -> Book:
    """The book. Raises JournalDamaged where damaged records are counted nowhere in it: what it calls never stored may
    stand in the log, and only the opening mends or names all of them in one step."""
    if not book.suspects:
        return book
    raise JournalDamaged(
        "journal_suspects",
        f"Records have changed on the disk since the figures were written, the first at position {book.suspects[0]}.",
        "The journal is opened anew by itself, which mends them or names the loss.",
    )


def _is_bare(directory: Path) -> bool:
    """Whether nothing in the folder speaks of a journal."""
    return not any(directory.glob("journal.*"))
