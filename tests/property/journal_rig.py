"""The real journal on real files, driven step by step. Every statement of its writer can be watched, or failed."""

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Callable, Coroutine, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

from agent.core.arrivals import Item, Outcome
from agent.core.instants import to_text
from agent.journal import fold
from agent.journal.database import FILE_NAME, Database
from agent.journal.reader import Reader
from agent.journal.uploads import Uploaded
from agent.journal.writer import Journal
from agent.journal.writing import Limits
from tests.property.journal_model import LOST_STEP

T = TypeVar("T")

MEMORY = "/dev/shm"
QUICK = MEMORY if os.path.isdir(MEMORY) else None
"""Where the files lie: what a real disk keeps is not asked here, only what SQLite makes of errors and kills."""
VENUE = "demo"
STREAM = "0199c0de-0000-7000-8000-000000000001"
COMMIT_EVENTS_MAX = 4
PROJECT_EVENTS = 7
LIMITS = Limits(1000, 10_000_000, COMMIT_EVENTS_MAX, PROJECT_EVENTS, 1_048_576, 1_000_000_000, reopen_first_s=0.0)


class Ticking:
    """A clock of its own: each look is a second later."""

    def __init__(self) -> None:
        self.now_ms = 1_795_342_500_000

    def wall_ms(self) -> int:
        self.now_ms += 1000
        return self.now_ms

    def uptime_ms(self) -> int:
        return self.now_ms - 1_795_342_000_000

    def boot_id(self) -> str:
        return "boot-1"

    def synced(self) -> bool:
        return True


Tap = Callable[[sqlite3.Connection, str, Callable[[], sqlite3.Cursor]], sqlite3.Cursor]
"""Sees each statement and what runs it; may run it, or raise, or both."""


def straight(_: sqlite3.Connection, __: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
    return run()


class Tapped:
    """A connection, every statement of which goes through the tap."""

    def __init__(self, connection: sqlite3.Connection, seam: "Seam") -> None:
        self._connection = connection
        self._seam = seam

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._seam.tap(self._connection, sql, lambda: self._connection.execute(sql, parameters))

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> sqlite3.Cursor:
        return self._seam.tap(self._connection, sql, lambda: self._connection.executemany(sql, parameters))

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction


class Seam:
    """A database, seen through the tap."""

    def __init__(self, database: Database, tap: Tap) -> None:
        self._database = database
        self.tap = tap

    async def run(self, call: Callable[[Any], T]) -> T:
        return await self._database.run(lambda connection: call(Tapped(connection, self)))

    async def close(self) -> None:
        await self._database.close()


class Rig:
    """One life of a journal in one folder: `tap` may be exchanged at any time."""

    def __init__(self, folder: Path, clock: Ticking) -> None:
        self.folder = folder
        self.clock = clock
        self.journal: Journal
        self.reader: Reader
        self._seam: Seam
        self._tap: Tap = straight
        self._stop: asyncio.Event
        self._running: asyncio.Task[None]
        self._patched: Any
        self._stepping: Any

    async def open(self, tap: Tap = straight) -> "Rig":
        """Open, and let the writer turn. The tap sees every statement behind the migrations, also when the journal is
        opened anew."""
        self._tap = tap
        self._patched = patch.object(Database, "open_writer", self._tapped(Database.open_writer))
        self._patched.start()
        self._stepping = patch.object(fold, "LOST_STEP", LOST_STEP)
        self._stepping.start()
        try:
            self.journal = await Journal.open(self.folder, VENUE, STREAM, self.clock, LIMITS)
        except BaseException:
            self._patched.stop()
            self._stepping.stop()
            raise
        self.reader = await Reader.open(self.folder, 1_048_576, lambda: self.journal.book.lineage)
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(self.journal.run(lambda: None, self._stop))
        return self

    def _tapped(self, opened: Callable[..., Coroutine[Any, Any, Database]]) -> Callable[..., Any]:
        async def open_writer(*arguments: Any) -> Seam:
            self._seam = Seam(await opened(*arguments), self._tap)
            return self._seam

        return open_writer

    def through(self, tap: Tap) -> None:
        self._tap = self._seam.tap = tap

    @property
    def died(self) -> bool:
        """Whether the writer's loop has ended with an error, as a vital stage's does: then the process ends."""
        return self._running.done()

    async def append(self, items: Sequence[Item]) -> list[Outcome | None]:
        """Submit all at once, and wait for every outcome; None for those that a dying writer never told of."""
        told: list[Outcome | None] = [None] * len(items)
        left = len(items)
        all_told = asyncio.Event()

        def settle_at(index: int) -> Callable[[Item, Outcome], None]:
            def settle(_: Item, outcome: Outcome) -> None:
                nonlocal left
                assert told[index] is None, "an outcome was told twice"
                told[index] = outcome
                left -= 1
                if not left:
                    all_told.set()

            return settle

        for index, item in enumerate(items):
            self.journal.submit(item, settle_at(index))
        waiting = asyncio.create_task(all_told.wait())
        if items:
            await asyncio.wait({waiting, self._running}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await self.settled()
        return told

    async def settled(self) -> None:
        """Wait until the writer has nothing to do: what follows a commit has been done too, and a journal that limped
        is open again."""
        busy = True
        while not self.died and busy:
            await asyncio.sleep(0)
            busy = bool(self.journal._waiting) or self.journal.facts().committing or self.journal.limps
            busy = busy or bool(self.journal.book.ending)
        if self.journal.writing._database is not None:
            await self.journal.writing._database.run(lambda _: None)

    async def advance(self, to: int) -> None:
        """The cloud has everything up to position `to`."""
        records = await self.reader.batch(self.journal.book.cursor, to - self.journal.book.cursor, 10_000_000)
        told = [Uploaded(one.device_epoch, one.device_sequence, len(one.event)) for one in records]
        await self.journal.uploads.advance(to, to, told)

    async def close(self) -> None:
        """End this life. A writer that has died already is let go."""
        self.through(straight)
        self._stop.set()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.reader.close()
        await self.journal.close()
        self._patched.stop()
        self._stepping.stop()


def copy_files(source: Path, target: Path) -> None:
    """The database file and its log as they are at this instant, as a killed process leaves them.

    Another process copies: closing a file in this one would drop SQLite's locks on it.
    """
    target.mkdir()
    files = [str(path) for path in (source / FILE_NAME, source / f"{FILE_NAME}-wal") if path.exists()]
    subprocess.run(["cp", "--", *files, str(target)], check=True)


class Row(NamedTuple):
    """A row of the log, read without any of our code."""

    position: int
    device: str
    epoch: str | None
    sequence: int | None
    recorded_ms: int
    event: bytes


def read_rows(folder: Path) -> list[Row]:
    """The whole log, on a connection of our own; the chain is recomputed here from the contract's words."""
    connection = sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "select r.position, d.device, e.epoch, r.device_sequence, r.recorded_ms, r.event, r.prevhash, r.rechash"
            " from records r join device_epochs e on e.id = r.device_epoch join devices d on d.id = e.device"
            " order by r.position"
        ).fetchall()
    finally:
        connection.close()
    head = bytes(32)
    for at, (position, device, _, _, recorded_ms, event, prevhash, rechash) in enumerate(rows, start=1):
        assert position == at, f"position {position} stands where {at} should"
        assert prevhash == head, f"position {position} does not join on"
        head = sha256(head + f"{position:020d}\n{to_text(recorded_ms)}\n{device}\n".encode() + event).digest()
        assert rechash == head, f"position {position} has a wrong seal"
    return [Row(at, device, epoch or None, sequence, ms, event) for at, device, epoch, sequence, ms, event, *_ in rows]
