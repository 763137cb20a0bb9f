"""journal → [journal: what the drain writes] → cloud. The cursor, and the streams where histories have parted.

Everything here goes through even when the disk is full, as far as the reserve lasts: without it nothing could ever be
deleted again. Never reads records to be sent; that is the reader's.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog

from agent.core.arrivals import Own
from agent.core.errors import Rejected
from agent.core.lineage import Parent
from agent.journal import streams, tables
from agent.journal.attentions import Attentions
from agent.journal.book import EpochBook
from agent.journal.database import SQL
from agent.journal.fold import Fold, Refusable, quarantine_record
from agent.journal.writing import Writing

log = structlog.get_logger()


class Uploaded(NamedTuple):
    """One record that the cloud has: its counting's row, the device's sequence (None without one) and its bytes."""

    device_epoch: int
    sequence: int | None
    size: int


SetAside = tuple[Refusable, str]
"""A record that the cloud keeps apart, and what it said."""


class Uploads:
    """The journal as the drain changes it. What is to be on record is written in the transaction that makes it so."""

    def __init__(self, writing: Writing, attentions: Attentions) -> None:
        self._writing = writing
        self._attentions = attentions

    async def advance(
        self, cursor: int, safe: int, uploaded: list[Uploaded], set_aside: Sequence[SetAside] = ()
    ) -> None:
        """Move the drain's cursor after the cloud's answer; positions. `uploaded` are the records it covers,
        `set_aside` those of them that it keeps apart: they wait in quarantine for a person. What the answer had people
        told goes with it."""

        def work(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            moved = self._advance(connection, cursor, safe, uploaded)
            for record, detail in set_aside:
                moved |= quarantine_record(connection, self._writing.book, record, detail)
            return None, moved

        await self._attentions.along(work, must=True)
        if set_aside:
            self._writing.tell()

    def _advance(
        self, connection: sqlite3.Connection, cursor: int, safe: int, uploaded: list[Uploaded]
    ) -> set[EpochBook]:
        book = self._writing.book
        if uploaded and (cursor, safe) == (book.cursor, book.safe):
            return set()  # the commit that raised has landed
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
            tables.write_uploaded(connection, counting)
        for device in {counting.device.id: counting.device for counting in moved.values()}.values():
            connection.execute(SQL["write_device_uploaded"], (device.uploaded_count, device.uploaded_bytes, device.id))
        connection.execute(SQL["write_cursor"], (cursor, safe))
        book.cursor, book.safe = cursor, safe
        book.oldest = tables.read_oldest(connection, cursor)
        return set(moved.values())

    async def quarantine_record(self, record: Refusable, detail: str) -> None:
        """Put a record that the cloud cannot take where a person finds it; it stays in the log."""
        writing = self._writing
        await writing.transact(
            lambda connection: (None, quarantine_record(connection, writing.book, record, detail)), must=True
        )
        writing.tell()

    async def begin_stream(self, epoch: str, base: int, parent: Parent | None, reason: str, why: str) -> None:
        """Begin a new stream behind position `base`, for the cause `why`; `seal_on` ends it."""
        writing = self._writing
        await writing.change(
            lambda connection: streams.begin(connection, writing.book, epoch, base, parent, reason, why), must=True
        )
        log.warning("stream_begun", epoch=epoch, base=base, reason=reason)

    async def seal_on(self) -> bool:
        """Seal some records for the new stream; True when it is the present one, which is on record then, and told.
        Raises RecordDamaged."""
        done = await self._attentions.along(self._seal_on, must=True)
        if done:
            self._writing.tell()
        return done

    def _seal_on(self, connection: sqlite3.Connection) -> tuple[bool, set[EpochBook]]:
        book = self._writing.book
        if book.lineage.forming is None:
            return True, set()  # the commit that raised has landed
        why = book.doubt
        done = streams.seal_on(connection, book)
        if done is None:
            return False, set()
        parent = done.parent and {"epoch": done.parent.epoch, "sequence": str(done.parent.sequence)}
        data = {"condition": "forked", "epoch": done.epoch, "parent": parent, "reason": done.reason, "why": why}
        return True, self._write_own(connection, "nightsafe.condition.raised", data)

    def _write_own(self, connection: sqlite3.Connection, kind: str, data: dict[str, Any]) -> set[EpochBook]:
        """A record of the box's own, in the transaction that runs."""
        writing = self._writing
        fold = Fold(connection, writing.book, writing.venue, writing.stamp(connection))
        fold.take(Own(kind, data))
        return fold.write()

    async def fence(self, epoch: str) -> None:
        """Another process writes this epoch at the cloud: never open it again, not after a restart either."""
        await self._writing.change(lambda connection: streams.fence(connection, self._writing.book, epoch), must=True)

    async def adopt(self, actor: str, reason: str) -> None:
        """A person says that this box goes on although another one took its epoch: under a new one, then.

        Raises Rejected when nobody did. Who and why are recorded.
        """
        book = self._writing.book
        if not book.lineage.present.fenced:
            raise Rejected(
                "adopt_none",
                "Nobody else uploads under this box's identity, so there is nothing to adopt.",
                "See `nightsafe status` for what holds the upload, if anything does.",
            )
        data = {"condition": "fenced", "epoch": book.epoch, "actor": actor, "reason": reason}

        def work(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            streams.doubt(connection, self._writing.book, "adopted")
            return None, self._write_own(connection, "nightsafe.condition.cleared", data)

        await self._writing.transact(work, must=True)
        self._writing.tell()
