"""[sim: disk] A box's journal on real SQLite files, its calls made in line, with a disk below that fails when told to.

Takes the place of aiosqlite at the connection: each call runs whole, in order, a moment after it was handed in, and its
result arrives a moment later, whoever still waits. A commit can fail before or after it has landed, and a process or a
machine can end in it. Never changes what the agent writes, but for a power cut: then the log's end may be torn.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from agent.journal.database import place_of
from tests.sim.loop import Killed, Process, here

FILES = ("journal.sqlite", "journal.sqlite-wal")
"""What survives; the shared-memory file is made anew."""


class Fate(Enum):
    """What happens at a commit."""

    FULL = "the disk is full"
    FULL_LANDED = "the disk is full, but the commit has landed"
    FULL_INSERT = "the disk is full in the middle of a transaction"
    BROKEN = "an I/O error"
    BROKEN_LANDED = "an I/O error, but the commit has landed"
    KILL = "the process is killed before the commit"
    KILL_LANDED = "the process is killed after the commit"
    POWER = "the power fails in the commit"


class Files(NamedTuple):
    """The journal's files as bytes."""

    database: bytes
    log: bytes


Image = dict[str, bytes]
"""All files of a state directory, by name."""


class Disk:
    """One box's state directory. `fate` is asked before each commit; `end` ends the process, or the machine."""

    def __init__(self, directory: Path, chance: Random) -> None:
        self.directory = directory
        self.chance = chance
        self.delay_s = (0.0002, 0.003)
        self.free_bytes = 10**12
        self.fate: Callable[[], Fate | None] = lambda: None
        self.end: Callable[[bool], None] = lambda power: None
        self.landed: Callable[[sqlite3.Connection], None] = lambda connection: None
        self.open: dict[Connection, None] = {}
        self.commits_count = 0

    def read(self) -> Files:
        """The files as they are now."""
        found = [path.read_bytes() if (path := self.directory / name).exists() else b"" for name in FILES]
        return Files(*found)

    def image(self) -> Image:
        """Everything there is, as a copy of the card has it; not the ballast."""
        return {
            path.name: path.read_bytes()
            for path in sorted(self.directory.iterdir())
            if path.is_file() and path.name != "reserve" and not path.name.endswith("-shm")
        }

    def write_image(self, image: Image) -> None:
        """Put a copy back in the place of everything, while nothing runs."""
        self.abandon()
        for path in self.directory.iterdir():
            if path.is_file():
                path.unlink()
        for name, content in image.items():
            (self.directory / name).write_bytes(content)

    def abandon(self, files: Files | None = None) -> None:
        """The process is gone: what it had open is closed, and the files are as it left them, or as given."""
        kept = files or self.read()
        for connection in tuple(self.open):
            connection.shut()
        self.open.clear()
        for path in self.directory.glob("journal.sqlite*"):
            if path.name in (*FILES, "journal.sqlite-shm"):
                path.unlink()
        for name, content in zip(FILES, kept, strict=True):
            if content:
                (self.directory / name).write_bytes(content)

    def torn(self, before: Files, after: Files) -> Files:
        """What a power cut between the two can leave: the log's new end missing, or reaching up to somewhere."""
        if before.database != after.database or len(after.log) < len(before.log):
            return self.chance.choice((before, after))
        first = next((at for at in range(len(before.log)) if before.log[at] != after.log[at]), len(before.log))
        at = self.chance.randint(first, len(after.log))
        return Files(before.database, after.log[:at] + before.log[at:])


class Connection:
    """Has the shape of aiosqlite's connection as far as the journal uses it."""

    def __init__(self, disk: Disk, path: Path, read_only: bool) -> None:
        self._disk = disk
        self._process = here()
        self._real = sqlite3.connect(
            place_of(path, read_only), uri=read_only, isolation_level=None, cached_statements=256
        )
        self._conn: Any = Guarded(disk, self._process, self._real)
        self._free_at_s = 0.0
        self._closed = False
        disk.open[self] = None

    async def _execute(self, call: Callable[..., Any], *args: Any) -> Any:
        if self._closed:
            raise ValueError("no active connection")
        loop = self._process.loop
        future = loop.create_future()
        begins_s = max(loop.time(), self._free_at_s) + self._disk.chance.uniform(*self._disk.delay_s)
        self._free_at_s = begins_s + self._disk.chance.uniform(*self._disk.delay_s)
        context = self._process.context()

        def run() -> None:
            try:
                answer: tuple[Any, BaseException | None] = (call(*args), None)
            except Killed:
                return
            except Exception as error:
                if not self._process.alive:
                    raise  # the world's own mistake: the agent's would not be heard any more
                answer = (None, error)
            loop.call_exactly(self._free_at_s, lambda: context.run(settle, *answer))

        def settle(result: Any, error: BaseException | None) -> None:
            if not self._process.alive or future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        loop.call_exactly(begins_s, lambda: context.run(run) if self._process.alive else None)
        return await future

    async def close(self) -> None:
        """Close after every call before it has run."""
        loop = self._process.loop
        while loop.time() < self._free_at_s:  # noqa: ASYNC110
            await asyncio.sleep(self._free_at_s - loop.time())
        self.shut()

    def shut(self) -> None:
        """Close; an open transaction is rolled back."""
        if not self._closed:
            self._closed = True
            self._real.close()
            self._disk.open.pop(self, None)


class Guarded:
    """A sqlite3 connection whose commits meet their fate."""

    def __init__(self, disk: Disk, process: Process, real: sqlite3.Connection) -> None:
        self._disk = disk
        self._process = process
        self._real = real
        self._fails_next: Fate | None = None

    def __getattr__(self, name: str) -> Any:
        self._check()
        return getattr(self._real, name)

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        self._check()
        if statement == "commit":
            self._commit()
            return self._real.cursor()
        if statement == "begin immediate":
            self._fails_next = self._disk.fate()
        elif self._fails_next is Fate.FULL_INSERT and statement.startswith("insert"):
            self._fails_next = None
            if self._disk.chance.random() < 0.5:
                self._real.execute("rollback")  # SQLite may do so by itself
            raise _error("SQLITE_FULL", "database or disk is full")
        return self._real.execute(statement, values)

    def _check(self) -> None:
        if not self._process.alive:
            raise Killed

    def _commit(self) -> None:
        disk, fate = self._disk, self._fails_next
        self._fails_next = None
        if fate is Fate.FULL:
            raise _error("SQLITE_FULL", "database or disk is full")
        if fate is Fate.BROKEN:
            raise _error("SQLITE_IOERR_FSYNC", "disk I/O error")
        if fate is Fate.KILL:
            disk.end(False)
            raise Killed
        before = disk.read() if fate is Fate.POWER else None
        self._real.execute("commit")
        if before is not None:
            torn = disk.torn(before, disk.read())
            disk.abandon(torn)
            disk.end(True)
            raise Killed
        disk.commits_count += 1
        disk.landed(self._real)
        if fate is Fate.KILL_LANDED:
            disk.end(False)
            raise Killed
        if fate is Fate.FULL_LANDED:
            raise _error("SQLITE_FULL", "database or disk is full")
        if fate is Fate.BROKEN_LANDED:
            raise _error("SQLITE_IOERR_FSYNC", "disk I/O error")


def _error(name: str, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorname = name
    return error
