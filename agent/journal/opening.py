"""[journal: opening] → writer. From the files on the disk to a sound database and its figures.

One way for every start: look from outside, rebuild if it must be, open, compare with the mark, mend or set aside what
does not prove itself. May be called any number of times in one process. Acknowledges nothing.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import structlog

from agent.core import chain
from agent.core.errors import Held, JournalDamaged
from agent.core.instants import to_text
from agent.core.mend import Mended, mend_each
from agent.journal import history, repair, salvage, tables
from agent.journal import mark as marks
from agent.journal import names as copies
from agent.journal.book import Book
from agent.journal.database import SQL, Database, corrupt
from agent.journal.fold import Stamp
from agent.journal.history import History
from agent.journal.mark import Point
from agent.journal.names import Names
from agent.journal.rebuild import Terms
from agent.journal.repair import Case, Place
from agent.journal.repaired import Loss, Repaired

log = structlog.get_logger()
T = TypeVar("T")

UNREADABLE = (TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError, OverflowError)
"""What tables that hold other things than were written lead to."""
CODES_OF_TABLES = ("SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH")
"""SQLite's errors at start-up that mean the same: a table is gone, or a row stands where none can."""


class Clock(Protocol):
    """What the machine says, once for each repair."""

    def wall_ms(self) -> int: ...
    def uptime_ms(self) -> int: ...
    def boot_id(self) -> str: ...
    def synced(self) -> bool: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def cache_bytes(self) -> int: ...
    @property
    def bytes_max(self) -> int: ...
    @property
    def checkpoint_bytes(self) -> int: ...
    @property
    def damaged_bytes_max(self) -> int: ...


class Opened(NamedTuple):
    """A database that nothing is wrong with any more, its figures, and what had to be done."""

    database: Database
    book: Book
    repaired: tuple[Repaired, ...]


class Opening:
    """One opening of the journal in `directory`."""

    def __init__(
        self,
        directory: Path,
        venue: str,
        epoch: str,
        clock: Clock,
        limits: Limits,
        busy: Callable[[], None] = lambda: None,
        create: bool = True,
    ) -> None:
        """`busy` is called again and again, on some thread, while a rebuild goes on. `create`: a journal may begin."""
        self._busy = busy
        self._create = create
        self._directory = directory
        self._venue = venue
        self._epoch = epoch
        self._clock = clock
        self._limits = limits

    async def run(self) -> Opened:
        """Open it. Raises Held for another venue's journal, JournalDamaged where the disk itself fails."""
        repaired: list[Repaired] = []
        why = await asyncio.to_thread(salvage.reason, self._directory, self._venue)
        if why is not None:
            repaired.append(await self._salvage(why))
        try:
            opened = await self._open()
        except JournalDamaged as damaged:
            if damaged.code != "journal_corrupt":
                raise
            repaired.append(await self._salvage(damaged.text))
            opened = await self._open()
        return opened._replace(repaired=(*repaired, *opened.repaired))

    async def _salvage(self, why: str) -> Repaired:
        clock = self._clock
        terms = Terms(
            self._venue, self._epoch, clock.wall_ms(), clock.uptime_ms(), clock.boot_id(), clock.synced(),
            self._limits.damaged_bytes_max,
        )  # fmt: skip
        return await asyncio.to_thread(salvage.run, self._directory, terms, why, self._busy)

    async def _open(self) -> Opened:
        limits = self._limits
        database = await Database.open_writer(
            self._directory, limits.cache_bytes, limits.bytes_max, limits.checkpoint_bytes, self._create
        )
        mark, names = marks.read(self._directory), copies.read(self._directory)
        mark = mark if mark is not None and mark.venue == self._venue else None
        try:
            return await self._sound(database, mark, names)
        except BaseException:
            await database.close()
            raise

    async def _sound(self, database: Database, mark: Point | None, names: Names | None) -> Opened:
        past, wrong = await self._on(database, lambda connection: self._begin(connection, mark, names))
        book = await self._on(database, tables.load)
        if mark is not None and past == "same" and mark.position == book.position and mark.epoch == book.epoch:
            book.head = mark.head  # the last record's own may be what has changed
        cases = await self._on(database, lambda connection: _cases(connection, book))
        originals = list(zip(cases, await asyncio.to_thread(mend_each, cases), strict=True))
        if not cases and not wrong and past in ("same", "unknown"):
            return Opened(database, book, ())
        done: list[Repaired] = []

        def put_right(connection: sqlite3.Connection) -> Book:
            if not connection.in_transaction:
                connection.execute("begin immediate")
            fresh, repaired = self._put_right(connection, book, past, mark, names, originals, wrong)
            connection.execute("commit")
            done.append(repaired)
            return fresh

        fresh = await self._on(database, put_right)
        fresh.settle()
        return Opened(database, fresh, tuple(done))

    async def _on(self, database: Database, call: Callable[[sqlite3.Connection], T]) -> T:
        """`call` on the connection's thread; what it cannot make sense of is damage."""

        def guarded(connection: sqlite3.Connection) -> T:
            try:
                return call(connection)
            except sqlite3.Error as error:
                _roll_back(connection)
                code = getattr(error, "sqlite_errorname", "") or ""
                raise corrupt(f"{code}: {error}") if code.startswith(CODES_OF_TABLES) else error from error
            except UNREADABLE as error:
                _roll_back(connection)
                raise corrupt(f"its tables cannot be read ({type(error).__name__}: {error})") from error

        return await database.run(guarded)

    def _begin(
        self, connection: sqlite3.Connection, mark: Point | None, names: Names | None
    ) -> tuple[History, list[str]]:
        """A new journal's first rows; or whose this one is, whether it goes on where it was left, and what of its
        names was wrong."""
        row = connection.execute(SQL["read_journal"]).fetchone()
        if row is None:
            if mark is not None or connection.execute(SQL["read_head"]).fetchone() is not None:
                raise corrupt("its own row is gone")
            _create(connection, self._venue, self._epoch, self._clock.wall_ms())
            return "unknown", []
        if row[0] != self._venue:
            raise Held(
                "journal_foreign",
                f'The journal in the state directory belongs to the venue "{row[0]}", '
                f'the settings say "{self._venue}".',
                "Put the right venue id into the settings, or point [state] directory elsewhere.",
            )
        past = history.compare(connection, mark)
        if past != "same" or names is None:
            return past, []
        connection.execute("begin immediate")
        wrong = history.put_right(connection, names)
        if not wrong:
            connection.execute("rollback")
        return past, wrong  # the transaction that has put something right is ended by the one that tells of it

    def _put_right(
        self,
        connection: sqlite3.Connection,
        book: Book,
        past: History,
        mark: Point | None,
        names: Names | None,
        originals: list[tuple[Case, Mended | None]],
        wrong: list[str],
    ) -> tuple[Book, Repaired]:
        clock = self._clock
        wall_ms = clock.wall_ms()
        boot = book.boot(connection, clock.boot_id())
        stamp = Stamp(wall_ms, clock.uptime_ms(), boot, int(clock.synced()), to_text(wall_ms), book.lived.total_s)
        place = Place(self._directory, self._venue, stamp, self._limits.damaged_bytes_max)
        start = Repaired(repair.REASON, notes=tuple(wrong))
        if past in ("same", "unknown") or mark is None:
            return repair.apply(connection, place, book, originals, start)
        connection.execute(SQL["write_doubt"], ("restored",))
        gone = ((book.position + 1, mark.position),) if mark.position > book.position else ()
        why = "the end of the journal is gone, or an older copy was put in its place"
        had = max(book.position, mark.cursor)
        known = names is not None and book.lineage.named(names.lineage().present.epoch) is not None
        unseen = max(0, mark.position - max(had, names.watermark if names is not None else 0))
        bare = history.numberless(connection, names, book.cursor) if known and names is not None and gone else []
        start = start._replace(
            reason=why,
            positions=gone,
            lost=tuple(Loss(one, None, None, None) for one in bare),
            unnamed=max(0, mark.position - had - unseen - len(bare)),
            unseen=unseen,
        )

        def expected(fresh: Book) -> None:
            fresh.doubt = fresh.doubt or "restored"
            if known and names is not None:
                history.expect(connection, fresh, names, mark)

        return repair.apply(connection, place, book, originals, start, expected)


def _cases(connection: sqlite3.Connection, book: Book) -> list[Case]:
    found = [repair.examine(connection, book, position) for position in book.suspects]
    return [case for case in found if case is not None]


def _create(connection: sqlite3.Connection, venue: str, epoch: str, wall_ms: int) -> None:
    connection.execute("begin immediate")
    connection.execute(SQL["create_journal"], (venue, wall_ms))
    connection.execute(SQL["open_stream"], (epoch, 0, chain.ORIGIN, None, None, None, "created", None))
    connection.execute("commit")
    log.info("journal_created", venue=venue, epoch=epoch)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("rollback")
