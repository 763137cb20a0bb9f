"""server → [SQLite ledger] → disk. One file, one writer thread, a transaction for each batch, WAL, synchronous=FULL.

Answers come after the commit, so that all that is there is safe. A second writer is refused; readers are elsewhere.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog
from msgspec.structs import replace

from agent.core.chain import ORIGIN
from agent.core.errors import SettingsInvalid
from agent.receiver.ledger import (
    Appended,
    Closed,
    Conflict,
    Declared,
    Fenced,
    Gap,
    Hole,
    NoParent,
    NoStream,
    Opened,
    Opening,
    Parent,
    Rejection,
    Row,
    Stream,
)
from agent.receiver.ledger.rules import admit, attach, place_hole, rebind
from agent.receiver.ledger.sqlite_file import (
    APPLICATION_ID,
    BUSY_MAX_S,
    SCHEMA_VERSION,
    SQL,
    LedgerThread,
    check_version,
    locked,
    position_of,
    sequence_of,
    sync_folder,
)

log = structlog.get_logger()

CHECKPOINT_PAGES: Final = 1000
"""The write-ahead log is folded into the file when it is this long, in pages of 4 KiB. A longer one only costs room."""

Refused = NoStream | Closed | Fenced | Gap | Conflict


class SqliteLedger:
    """The writing side (`Ledger`). Made by `open_ledger`."""

    def __init__(self, path: Path, thread: LedgerThread) -> None:
        self._path = path
        self._thread = thread

    def _start(self) -> None:
        """In the thread: take the lock, open the file, and bring what a crash left in the log to the disk."""
        if not self._path.parent.is_dir():
            text = f"There is no folder {self._path.parent} for the ledger."
            raise SettingsInvalid("ledger_folder", text, "Make it first.")
        self._lock = locked(self._path)
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_MAX_S)
            self._prepare()
        except BaseException:
            os.close(self._lock)
            raise

    def _prepare(self) -> None:
        db = self._db
        there = check_version(db, self._path)
        (mode,) = db.execute("pragma journal_mode = wal").fetchone()
        for pragma in ("synchronous = full", f"wal_autocheckpoint = {CHECKPOINT_PAGES}", "trusted_schema = off"):
            db.execute(f"pragma {pragma}")
        if mode != "wal" or db.execute("pragma synchronous").fetchone() != (2,):
            raise sqlite3.OperationalError("the file system does not take a write-ahead log")
        if not there:
            with self._transaction():
                for statement in SQL["schema"].split(";\n"):
                    db.execute(statement)
                db.execute(f"pragma application_id = {APPLICATION_ID}")
                db.execute(f"pragma user_version = {SCHEMA_VERSION}")
            sync_folder(self._path.parent)
        (busy, *_) = db.execute("pragma wal_checkpoint(truncate)").fetchone()
        if busy:
            log.warning("ledger_checkpoint_waited", path=str(self._path))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise

    async def open(self, opening: Opening) -> Opened | NoParent | Closed | Conflict:
        return await self._thread.run(self._open, opening)

    async def stream(self, venue: str, epoch: str) -> Stream | None:
        return await self._thread.run(lambda: self._stream(venue, epoch)[1])

    async def hash_at(self, venue: str, epoch: str, sequence: int) -> bytes | None:
        return await self._thread.run(self._hash_at, venue, epoch, sequence)

    async def append(
        self, venue: str, epoch: str, instance: str, first: int, prevhash: bytes, rows: Sequence[Row]
    ) -> Appended | Refused:
        return await self._thread.run(self._append, venue, epoch, instance, first, prevhash, rows)

    async def declare_hole(self, venue: str, epoch: str, instance: str, hole: Hole) -> Declared | Refused:
        return await self._thread.run(self._declare_hole, venue, epoch, instance, hole)

    async def close_stream(self, venue: str, epoch: str, successor: str | None) -> Stream | None:
        return await self._thread.run(self._close_stream, venue, epoch, successor)

    async def keep_health(self, venue: str, received_at: str, body: bytes) -> None:
        await self._thread.run(lambda: self._db.execute(SQL["health_keep"], (venue, received_at, body)).close())

    async def close(self) -> None:
        def _close() -> None:
            self._db.close()
            os.close(self._lock)

        await self._thread.run(_close)
        self._thread.end()

    # In the thread

    def _stream(self, venue: str, epoch: str) -> tuple[int, Stream | None, tuple[str | None, int | None]]:
        """The stream's number, the stream, and its parent's epoch and sequence."""
        row = self._db.execute(SQL["stream"], (venue, epoch)).fetchone()
        if row is None:
            return 0, None, (None, None)
        number, following, head, origin, instance, state, successor, *parent = row
        stream = Stream(venue, epoch, following, head, following - 1, origin, instance, state, successor)
        return number, stream, (parent[0], parent[1])

    def _known(self, number: int, stream: Stream, sequence: int) -> bytes | None:
        """The rechash at `sequence`, if there is one here."""
        if sequence == 0:
            return stream.origin
        if sequence >= stream.next:
            return None
        row = self._db.execute(SQL["hash"], {"position": position_of(number, sequence)}).fetchone()
        return None if row is None else bytes(row[0])

    def _hash_at(self, venue: str, epoch: str, sequence: int) -> bytes | None:
        number, stream, _ = self._stream(venue, epoch)
        return None if stream is None else self._known(number, stream, sequence)

    def _open(self, opening: Opening) -> Opened | NoParent | Closed | Conflict:
        venue, epoch, parent = opening.venue, opening.epoch, opening.parent
        with self._transaction():
            number, there, parent_there = self._stream(venue, epoch)
            if there is not None:
                agrees = parent is not None and (parent.epoch, parent.sequence, parent.rechash) == (
                    *parent_there,
                    there.origin,
                )
                refusal = rebind(there, agrees, opening)
                if refusal is not None:
                    return refusal
                self._db.execute(SQL["bind"], (opening.instance, opening.opened_at, number))
            else:
                wrong = self._parent_fault(venue, parent)
                if wrong is not None:
                    return wrong
                origin = ORIGIN if parent is None else parent.rechash
                lineage = (None, None) if parent is None else (parent.epoch, parent.sequence)
                at = opening.opened_at
                values = (venue, epoch, *lineage, opening.reason, origin, opening.instance, origin, at, at)
                self._db.execute(SQL["open"], values)
        stream = self._stream(venue, epoch)[1]
        assert stream is not None
        return Opened(stream, there is None)

    def _parent_fault(self, venue: str, parent: Parent | None) -> NoParent | Conflict | None:
        """What stands against continuing `parent`: it is unknown here, shorter, or other than the box says."""
        if parent is None:
            return None
        number, stream, _ = self._stream(venue, parent.epoch)
        if stream is None:
            return NoParent(None, f"there is no stream {parent.epoch}: open it first, declare what is gone as a hole")
        if parent.sequence >= stream.next:
            return NoParent(stream, f"the parent ends at {stream.next - 1}: send it up to {parent.sequence} first")
        known = self._known(number, stream, parent.sequence)
        if known is None:
            return NoParent(stream, f"{parent.sequence} lies inside a hole of the parent: name a record outside it")
        if known != parent.rechash:
            return Conflict(stream, parent.sequence, f"the parent's rechash at {parent.sequence} differs")
        return None

    def _append(
        self, venue: str, epoch: str, instance: str, first: int, prevhash: bytes, rows: Sequence[Row]
    ) -> Appended | Refused:
        with self._transaction():
            number, stream, _ = self._stream(venue, epoch)
            refusal = admit(stream, instance, first)
            if refusal is not None:
                return refusal
            assert stream is not None
            detached = attach(stream, first, prevhash, self._known(number, stream, first - 1))
            if detached is not None:
                return detached
            duplicate = min(len(rows), stream.next - first)
            conflict = self._compare(number, stream, first, rows[:duplicate]) if duplicate else None
            if conflict is not None:
                return conflict
            fresh = rows[duplicate:]
            if fresh:
                self._insert(number, stream.next, fresh)
                stream = self._advance(number, stream, stream.next + len(fresh), fresh[-1].rechash)
            rejected = self._rejections(number, first, first + len(rows) - 1)
        return Appended(stream, len(fresh), duplicate, rejected)

    def _compare(self, number: int, stream: Stream, first: int, rows: Sequence[Row]) -> Conflict | None:
        """The first of `rows` that is here with other content. Inside a hole there is nothing to compare with."""
        bounds = {"first": position_of(number, first), "last": position_of(number, first + len(rows) - 1)}
        known = dict(self._db.execute(SQL["hashes"], bounds))
        for position, row in enumerate(rows, position_of(number, first)):
            if known.get(position, row.rechash) != row.rechash:
                sequence = sequence_of(position)
                return Conflict(stream, sequence, f"the cloud has another record at {sequence}")
        return None

    def _insert(self, number: int, first: int, rows: Sequence[Row]) -> None:
        start = position_of(number, first)
        self._db.executemany(SQL["append"], ((start + at, row.rechash, row.text) for at, row in enumerate(rows)))
        refused = [(start + at, *row.rejection) for at, row in enumerate(rows) if row.rejection is not None]
        if refused:
            self._db.executemany(SQL["reject"], refused)

    def _advance(self, number: int, stream: Stream, following: int, head: bytes) -> Stream:
        self._db.execute(SQL["advance"], (following, head, number))
        return replace(stream, next=following, head=head, safe=following - 1)

    def _rejections(self, number: int, first: int, last: int) -> list[tuple[int, Rejection]]:
        bounds = (position_of(number, first), position_of(number, last))
        found = self._db.execute(SQL["rejections"], bounds)
        return [(sequence_of(position), Rejection(kind, detail)) for position, kind, detail in found]

    def _declare_hole(self, venue: str, epoch: str, instance: str, hole: Hole) -> Declared | Refused:
        with self._transaction():
            number, stream, _ = self._stream(venue, epoch)
            refusal = admit(stream, instance, hole.first)
            if refusal is not None:
                return refusal
            assert stream is not None
            placed = place_hole(stream, hole, self._known(number, stream, hole.last))
            if not isinstance(placed, bool):
                return placed
            if placed:
                position = position_of(number, hole.last)
                self._db.execute(SQL["hole"], (position, *hole[:1], *hole[2:]))
                stream = self._advance(number, stream, hole.last + 1, hole.rechash)
        return Declared(stream)

    def _close_stream(self, venue: str, epoch: str, successor: str | None) -> Stream | None:
        with self._transaction():
            self._db.execute(SQL["close"], (successor, venue, epoch))
        return self._stream(venue, epoch)[1]


async def open_ledger(path: Path) -> SqliteLedger:
    """Open or make the ledger in this file, for this process alone. Raises core.errors with words."""
    thread = LedgerThread("ledger")
    ledger = SqliteLedger(path, thread)
    try:
        await thread.run(ledger._start)
    except BaseException:
        thread.end()
        raise
    return ledger
