"""[floor] What this disk and this SQLite can do at best, with nothing of ours above them. In the same run, same bytes.

The rows have the shape of the journal's log and nothing else: no index, no figures, no checks, no network.
"""

import os
import sqlite3
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

from agent.bench.facts import Floor

CHECKPOINT_BYTES: Final = 8 * 1024 * 1024
"""Size of the write-ahead log at which it is copied back, as the journal has it."""
SYNC_BYTES: Final = 4096
SYNC_FILE_BYTES: Final = 8 * 1024 * 1024
_HASH: Final = bytes(range(32))

_TABLE: Final = """create table records (
  position integer primary key, device_epoch integer not null, device_sequence integer, boot integer not null,
  recorded_ms integer not null, uptime_ms integer not null, synced integer not null, prevhash blob not null,
  rechash blob not null, event blob not null) strict"""
_ROW: Final = "insert into records values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def page_bytes(database: Path) -> int:
    """The page size in the header of an SQLite file (fileformat2.html, 1.3.2)."""
    with database.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:])
    return 65_536 if size == 1 else size


def group_commits(directory: Path, page: int, group: int, events: Sequence[bytes], seconds: float) -> Floor:
    """Commit groups of rows in WAL mode with synchronous=FULL for `seconds`, in a fresh database."""
    path = directory / "floor.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        run = connection.execute
        run(f"pragma page_size = {page}")
        run("pragma journal_mode = wal")
        run("pragma synchronous = full")
        run(f"pragma wal_autocheckpoint = {CHECKPOINT_BYTES // page}")
        run(_TABLE)
        return _commit(connection, group, events, seconds)
    finally:
        connection.close()
        path.unlink()


def _commit(connection: sqlite3.Connection, group: int, events: Sequence[bytes], seconds: float) -> Floor:
    supply = cycle(events)
    commits = position = 0
    began_s = now_s = time.perf_counter()
    while now_s - began_s < seconds:
        rows: list[tuple[Any, ...]] = [
            (number, 1, number, 1, 1_795_342_500_000, number, 1, _HASH, _HASH, event)
            for number, event in enumerate(islice(supply, group), position + 1)
        ]
        position += group
        connection.execute("begin immediate")
        connection.executemany(_ROW, rows)
        connection.execute("commit")
        commits += 1
        now_s = time.perf_counter()
    return Floor(group, position / (now_s - began_s), commits / (now_s - began_s))


def syncs_per_s(directory: Path, seconds: float) -> float:
    """How often 4 KiB of a file that has its size already can be overwritten and fdatasynced."""
    path = directory / "floor.bin"
    block = os.urandom(SYNC_BYTES)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.write(descriptor, bytes(SYNC_FILE_BYTES))
        os.fsync(descriptor)
        count = 0
        began_s = now_s = time.perf_counter()
        while now_s - began_s < seconds:
            os.pwrite(descriptor, block, count * SYNC_BYTES % SYNC_FILE_BYTES)
            os.fdatasync(descriptor)
            count += 1
            now_s = time.perf_counter()
        return count / (now_s - began_s)
    finally:
        os.close(descriptor)
        path.unlink()
