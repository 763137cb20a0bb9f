"""drain → [journal: a new stream] → journal. What happens to the log when its epoch cannot be continued.

The records behind the last common one are sealed anew for the new stream, in steps between which events are stored as
ever; only the last step makes the new stream the present one. Runs on the writer's thread; never commits.
"""

import sqlite3
from typing import Any, Final

from agent.core import chain
from agent.core.errors import RecordDamaged
from agent.core.instants import to_text
from agent.core.lineage import Parent, Stream
from agent.journal.book import Book
from agent.journal.database import SQL
from agent.journal.tables import read_lineage

STEP_RECORDS: Final = 1000
"""Records sealed anew in one transaction: a few tens of milliseconds in which no event is stored."""


def begin(
    connection: sqlite3.Connection, book: Book, epoch: str, base: int, parent: Parent | None, reason: str, why: str
) -> None:
    """Make the new stream, once however often it is tried; until its last record is sealed, new events still belong to
    the one before, which stays in doubt: `why` says the process that ends it what people are to be told."""
    if book.lineage.named(epoch) is not None:
        return
    doubt(connection, book, why)
    origin = parent.rechash if parent is not None else chain.ORIGIN
    connection.execute(SQL["open_stream"], (epoch, base, origin, *(parent or (None, None, None)), reason, base))
    book.lineage = read_lineage(connection)


def seal_on(connection: sqlite3.Connection, book: Book) -> Stream | None:
    """Seal the next records for the forming stream; returns it when all are. Raises RecordDamaged."""
    lineage = book.lineage
    forming = lineage.forming
    if forming is None:
        return lineage.present  # the commit that raised has landed
    assert forming.sealed is not None
    devices = dict(connection.execute(SQL["read_epoch_devices"]).fetchall())
    at, head = forming.sealed, _head(connection, forming)
    sealed: list[tuple[Any, ...]] = []
    rows = connection.execute(SQL["read_records"], (at, STEP_RECORDS)).fetchall()
    for position, epoch_row, _, _, recorded_ms, _, _, prevhash, rechash, event, _ in rows:
        device, recordedtime, old = devices[epoch_row], to_text(recorded_ms), lineage.of(position)
        if chain.rechash(prevhash, position - old.base, recordedtime, device, event) != rechash:
            raise RecordDamaged(position)
        if position != at + 1:
            head = prevhash  # what stood between is gone: its old seal stands for it in the new chain too
        previous, head = head, chain.rechash(head, position - forming.base, recordedtime, device, event)
        sealed.append((previous, head, position))
        at = position
    connection.executemany(SQL["seal_record"], sealed)
    done = at == book.position
    connection.execute(SQL["write_sealed"], (None if done else at, forming.epoch))
    if done:
        connection.execute(SQL["clear_doubt"])
        book.doubt = None
        book.head = head
    book.lineage = read_lineage(connection)
    return book.lineage.present if done else None


def _head(connection: sqlite3.Connection, forming: Stream) -> bytes:
    if forming.sealed == forming.base:
        return forming.origin
    row = connection.execute(SQL["read_rechash"], (forming.sealed,)).fetchone()
    assert row is not None
    head: bytes = row[0]
    return head


def fence(connection: sqlite3.Connection, book: Book, epoch: str) -> None:
    """Another process writes this epoch at the cloud: never open it again."""
    connection.execute(SQL["write_fenced"], (epoch,))
    book.lineage = read_lineage(connection)


def doubt(connection: sqlite3.Connection, book: Book, why: str) -> None:
    """The present epoch must not be continued; the next exchange with the cloud opens another one."""
    connection.execute(SQL["write_doubt"], (why,))
    book.doubt = book.doubt or why
