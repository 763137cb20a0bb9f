"""ingest → [journal: the database file] → drain. Opens SQLite the one way that keeps its promises.

The only module that knows aiosqlite. Every call is one function run whole on the connection's own thread, so a
cancelled caller never leaves half a transaction. Maps SQLite's errors to ours. Never decides what is written.
"""

import errno
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite
import structlog

from agent.core.errors import Held, JournalDamaged, NightsafeError, Transient
from agent.runtime.files import sync_directory

log = structlog.get_logger()
T = TypeVar("T")

FILE_NAME: Final = "journal.sqlite"
PAGE_BYTES: Final = 2048
"""Small pages: one event a commit rewrites little, and flash cards wear less."""
CHECKPOINT_BYTES: Final = 8 * 1024 * 1024
"""Size of the write-ahead log at which it is copied into the database file, unless the settings say otherwise."""
RENEW_BYTES: Final = 1024 * 1024
"""How much of the write-ahead log start-up writes again in one call."""
BUSY_TIMEOUT_MS: Final = 5000
CORRUPT: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")
"""SQLite's errors that mean a damaged file, and neither a failing disk nor a full one."""
SQLITE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What a query raises: the second where SQLite's words quote a damaged schema, which Python cannot read."""
CHECKPOINT_TRIES: Final = 6
"""How often start-up waits out a reader (each BUSY_TIMEOUT_MS) until it gives up with words."""


def named_statements() -> dict[str, str]:
    """The SQL of statements.sql by name."""
    text = resources.files(__package__).joinpath("statements.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    names = parts[::2]
    assert len(set(names)) == len(names), "two statements share a name"
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}


SQL: Final = named_statements()


class Database:
    """One SQLite connection on a thread of its own. Transactions are written out by the functions that run on it."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    @classmethod
    async def open_writer(
        cls,
        directory: Path,
        cache_bytes: int,
        bytes_max: int,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        create: bool = True,
    ) -> "Database":
        """The write connection. What a crashed process left in the log is made durable before this returns.

        Raises JournalDamaged where the file is no sound database or cannot be opened, or is not there and must not be
        made (`create`); Transient where the disk is full, Held for a schema newer than this program.
        """
        path = directory / FILE_NAME
        try:
            if not path.exists():
                if not create:
                    raise gone(directory)
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
                sync_directory(directory)
            _renew(path.with_name(f"{FILE_NAME}-wal"))
        except OSError as error:
            raise file_failed(path, error) from error
        opened = cls(await _connect(path))
        try:
            await opened.run(lambda connection: _prepare(connection, cache_bytes, bytes_max, checkpoint_bytes))
        except BaseException:
            await opened.close()
            raise
        return opened

    @classmethod
    async def open_reader(cls, directory: Path, cache_bytes: int) -> "Database":
        """A connection that can only read, and never checkpoints."""
        path = directory / FILE_NAME
        if not path.exists():  # connecting would make an empty one
            raise gone(directory)
        # one that may write would end a broken log when it closes
        opened = cls(await _connect(path, read_only=True))
        try:
            await opened.run(lambda connection: _read_only(connection, cache_bytes))
        except BaseException:
            await opened.close()
            raise
        return opened

    async def run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `call`, run whole on the connection's thread. SQLite's errors arrive as ours."""
        try:
            # One hop for a whole call: aiosqlite's public calls hop for each statement.
            result: T = await self._connection._execute(call, self._connection._conn)  # type: ignore[no-untyped-call]
        except SQLITE_ERRORS as error:
            raise named(error) from error
        return result

    def interrupt(self) -> None:
        """Cut short the statement that runs, if one does."""
        with suppress(sqlite3.Error, ValueError):
            self._connection._conn.interrupt()

    async def close(self) -> None:
        """Close after every call before it has run."""
        await self._connection.close()


def gone(directory: Path) -> JournalDamaged:
    """There was a journal, and there is none: more likely its disk is away than that somebody has deleted it."""
    hint = "Look whether the disk of the state directory is still mounted there."
    return JournalDamaged("journal_gone", f"The journal has gone from {directory}.", hint)


async def _connect(path: Path, read_only: bool = False) -> aiosqlite.Connection:
    os.umask(os.umask(0o077) | 0o077)
    try:
        connection = await aiosqlite.connect(
            place_of(path, read_only), uri=read_only, isolation_level=None, cached_statements=256
        )
    except sqlite3.Error as error:
        raise named(error) from error
    connection.text_factory = text_or_bytes
    return connection


def place_of(path: Path, read_only: bool) -> str:
    """What SQLite opens: a path, or for reading only a URI."""
    return f"{Path(os.path.abspath(path)).as_uri()}?mode=ro" if read_only else str(path)


def text_or_bytes(value: bytes) -> str | bytes:
    """Text of a row; bytes where damage has left none, so that a whole query does not fail on one row."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _renew(wal: Path) -> None:
    """Write the bytes of the write-ahead log over themselves and sync them: see docs/decisions/0004.

    A failed sync leaves bytes that the kernel shows and never writes: a checkpoint of them, cut off, is a mixture.
    """
    if not wal.exists():
        return
    descriptor = os.open(wal, os.O_RDWR | os.O_CLOEXEC)
    try:
        at = 0
        while data := os.pread(descriptor, RENEW_BYTES, at):
            at += os.pwrite(descriptor, data, at)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _prepare(connection: sqlite3.Connection, cache_bytes: int, bytes_max: int, checkpoint_bytes: int) -> None:
    run = connection.execute
    run(f"pragma page_size = {PAGE_BYTES}")
    run(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
    run("pragma journal_mode = wal")
    run("pragma synchronous = full")
    _checkpoint(connection)
    for pragma in ("foreign_keys = off", "trusted_schema = off", "secure_delete = on", "temp_store = memory"):
        run(f"pragma {pragma}")
    run(f"pragma wal_autocheckpoint = {checkpoint_bytes // PAGE_BYTES}")
    run(f"pragma journal_size_limit = {checkpoint_bytes * 2}")
    run(f"pragma cache_size = {-(cache_bytes // 1024)}")
    run(f"pragma max_page_count = {bytes_max // PAGE_BYTES}")
    for pragma, wanted in (("synchronous", 2), ("journal_mode", "wal")):
        found = run(f"pragma {pragma}").fetchone()[0]
        if found != wanted:
            raise JournalDamaged(
                "journal_pragma",
                f"SQLite answers {pragma} = {found!r} where {wanted!r} is needed, so nothing can be promised.",
                "Put the state directory on a local disk with a file system that supports shared memory.",
            )
    _migrate(connection)


def _checkpoint(connection: sqlite3.Connection) -> None:
    """Make durable what an earlier process left in the log, before anything is acknowledged: see docs/decisions/0004.

    Raises Held when another program keeps it from happening.
    """
    for _ in range(CHECKPOINT_TRIES):
        busy, _, _ = connection.execute("pragma wal_checkpoint(truncate)").fetchone()
        if not busy:
            return
        log.warning("journal_checkpoint_waits", reason="another program reads the journal")
    raise Held(
        "journal_read",
        "Another program reads the journal, so what an earlier run left in its log cannot be made durable.",
        "End the other program (`nightsafe verify` or `queue export`, or a database tool), then start again.",
    )


def _read_only(connection: sqlite3.Connection, cache_bytes: int) -> None:
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "query_only = on",
        "wal_autocheckpoint = 0",
        f"cache_size = {-(cache_bytes // 1024)}",
    ):
        connection.execute(f"pragma {pragma}")


def migrations() -> list[tuple[int, str]]:
    """The migrations by number, ascending, 1, 2, 3 …"""
    folder = resources.files(__package__).joinpath("migrations")
    found = [
        (int(entry.name[:4]), entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".sql")
    ]
    return sorted(found)


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema forward, one transaction for each step; never backwards."""
    steps = migrations()
    version = connection.execute("pragma user_version").fetchone()[0]
    if version > steps[-1][0]:
        raise Held(
            "journal_newer",
            f"The journal has schema {version}; this program knows up to {steps[-1][0]}.",
            "Install the newer nightsafe again; it wrote this journal.",
        )
    for number, text in steps:
        if number > version:
            connection.executescript(f"begin immediate;\n{text}\npragma user_version = {number};\ncommit;")
            if version:
                log.info("journal_migrated", schema=number)


def named(error: sqlite3.Error | UnicodeDecodeError) -> NightsafeError:
    """SQLite's error as ours: a full disk passes, everything else means that nothing may be acknowledged."""
    if isinstance(error, UnicodeDecodeError):
        return corrupt("its own description cannot be read")
    code = getattr(error, "sqlite_errorname", "") or type(error).__name__
    if code == "SQLITE_FULL":
        return disk_full()
    if code in ("SQLITE_BUSY", "SQLITE_LOCKED"):
        return Transient(
            "journal_busy", "Another program holds the journal.", "End the program that has the journal open."
        )
    if code.startswith(CORRUPT):
        return corrupt(f"{code}: {error}")
    return JournalDamaged(
        "journal_corrupt" if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) else "journal_io",
        f"The journal failed: {code}: {error}",
        "Run `nightsafe verify`; look at the disk.",
    )


def disk_full() -> Transient:
    """Nothing more fits: on the disk, or into the journal's own bound."""
    return Transient(
        "disk_full",
        "The disk is full: nothing more can be stored.",
        "Free space on the disk of the state directory.",
    )


def file_failed(path: Path, error: OSError) -> NightsafeError:
    """An error of the file system as ours, like SQLite's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full()
    hint = "Look at the disk and at the owner of the state directory."
    return JournalDamaged("journal_io", f"The journal {path} cannot be opened: {error.strerror or error}.", hint)


def corrupt(what: str) -> JournalDamaged:
    """The database file itself is damaged; every record that still proves itself is saved at the next start."""
    return JournalDamaged(
        "journal_corrupt",
        f"The journal's database is damaged: {what}",
        "It is built anew from every record that proves itself, by itself; replace the disk or card soon.",
    )
