"""ledger → [one SQLite file] → disk. What the writing and the reading side share: the thread, the SQL, the checks.

Knows nothing of streams. SQLite's errors come out of here as ours.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from agent.core.errors import JournalDamaged, SettingsInvalid, Transient

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x4E53434C
"""Marks the file as a ledger of this project (`NSCL`)."""
SEQUENCE_BITS: Final = 40
"""Room for a sequence in a position; the rest is the stream's number."""
BUSY_MAX_S: Final = 5.0
"""How long a statement waits for another connection, in seconds."""

P = ParamSpec("P")
T = TypeVar("T")


def _statements() -> dict[str, str]:
    text = files("agent.receiver.ledger").joinpath("sqlite.sql").read_text(encoding="utf-8")
    parts = (part.partition("\n") for part in text.split("-- :")[1:])
    return {head.split()[0]: body.strip() for head, _, body in parts}


SQL: Final = _statements()
"""Every statement by its name."""


def position_of(number: int, sequence: int) -> int:
    """Where a record stands in the file: streams one after another, each in its order."""
    return number << SEQUENCE_BITS | sequence


def sequence_of(position: int) -> int:
    """The sequence that a position stands for."""
    return position & ((1 << SEQUENCE_BITS) - 1)


class LedgerThread:
    """The one thread that owns a connection. What has begun in it runs to its end, whoever stops waiting."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `call` there. Raises Transient when the file cannot be used now, JournalDamaged when it is broken."""
        try:
            return await asyncio.wrap_future(self._pool.submit(call, *args, **kwargs))
        except sqlite3.OperationalError as error:
            text = f"The ledger cannot be used: {error}."
            raise Transient("ledger_unavailable", text, "Look at its disk: room, rights, faults.") from error
        except sqlite3.DatabaseError as error:
            hint = "Stop the server and restore the file from a backup."
            raise JournalDamaged("ledger_damaged", f"The ledger is damaged: {error}.", hint) from error

    def end(self) -> None:
        """Take no more calls; those under way end first."""
        self._pool.shutdown(wait=True)


def check_version(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the file holds a ledger; False when it is empty. Raises SettingsInvalid for anything else."""
    (version,) = db.execute("pragma user_version").fetchone()
    (mark,) = db.execute("pragma application_id").fetchone()
    (tables,) = db.execute("select count(*) from sqlite_master").fetchone()
    if (version or tables) and mark != APPLICATION_ID:
        raise SettingsInvalid("ledger_foreign", f"{path} is another program's database.", "Name another file.")
    if version > SCHEMA_VERSION:
        text = f"The ledger {path} has schema {version}; this version knows {SCHEMA_VERSION}."
        raise SettingsInvalid("ledger_newer", text, "Use the version of nightsafe that wrote it.")
    return bool(version)


def locked(path: Path) -> int:
    """The lock file's descriptor. A lock on the database itself would be lost when any descriptor of it closes."""
    lock = os.open(path.with_name(path.name + "-serve.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise SettingsInvalid("ledger_in_use", f"Another server writes {path}.", "Stop it first.") from error
    return lock


def sync_folder(folder: Path) -> None:
    """Make the names in this folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
