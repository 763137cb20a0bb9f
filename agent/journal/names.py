"""[journal: who and which] → start-up. A sealed second copy of what the log's rows refer to, and of the figures.

Written whole, with its own SHA-256, when a device, epoch, boot or stream is new and when the figures are: so a flipped
bit in those tables is found and put right, and records can be checked where the tables are gone. It holds no events.
"""

import sqlite3
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from agent.core.lineage import Lineage, Parent, Stream
from agent.journal.book import Book
from agent.journal.database import SQL
from agent.runtime.files import write_whole

log = structlog.get_logger()

FILE_NAME: Final = "journal.names"
FIGURES_MS: Final = 10_000
"""How old the figures in it may be while the journal goes on."""


class DeviceCopy(msgspec.Struct, frozen=True, array_like=True):
    """One row of `devices`."""

    id: int
    device: str
    stored_count: int
    stored_bytes: int
    uploaded_count: int
    uploaded_bytes: int
    last_ms: int | None
    last_uptime_ms: int | None = None
    last_boot: int | None = None


class CountingCopy(msgspec.Struct, frozen=True, array_like=True):
    """One row of `device_epochs`; the ranges are JSON, as there."""

    id: int
    device: int
    epoch: str
    contiguous: int
    ranges: str
    uploaded: int
    uploaded_ranges: str


class StreamCopy(msgspec.Struct, frozen=True, array_like=True):
    """One row of `streams`; hashes are hex."""

    epoch: str
    base: int
    origin: str
    parent: tuple[str, int, str] | None
    reason: str
    fenced: bool
    sealed: int | None


class Names(msgspec.Struct, frozen=True):
    """All of it, the figures as of `watermark`. What the cloud has (`uploaded`) may be older than in the database."""

    venue: str
    watermark: int
    streams: tuple[StreamCopy, ...]
    boots: dict[str, int]
    devices: tuple[DeviceCopy, ...]
    countings: tuple[CountingCopy, ...]

    def lineage(self) -> Lineage:
        """The streams."""
        return Lineage(
            tuple(
                Stream(
                    one.epoch,
                    one.base,
                    bytes.fromhex(one.origin),
                    Parent(one.parent[0], one.parent[1], bytes.fromhex(one.parent[2])) if one.parent else None,
                    one.reason,
                    one.fenced,
                    one.sealed,
                )
                for one in self.streams
            )
        )


_decode = msgspec.json.Decoder(Names).decode


def read(directory: Path) -> Names | None:
    """The copy in `directory`; None where there is none, or where its seal does not hold."""
    try:
        seal, _, body = (directory / FILE_NAME).read_bytes().partition(b"\n")
        return _decode(body) if sha256(body).hexdigest().encode() == seal else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


class NamesFile:
    """The file of a running journal. A disk that refuses is logged once; the next change tries again.

    What is new in name is written at once; figures alone at most every FIGURES_MS, because each time costs a sync.
    """

    def __init__(self, directory: Path, venue: str) -> None:
        self._path = directory / FILE_NAME
        self._venue = venue
        self._written: tuple[Any, ...] | None = None
        self._watermark = -1
        self._written_ms = 0
        self._failed = False

    def note(self, connection: sqlite3.Connection, book: Book, uptime_ms: int) -> None:
        """Write it if what it holds has changed. Called after the commit, on the writer's thread."""
        now = (len(book.devices), len(book.epochs), len(book.boots), book.lineage)
        if now == self._written and (book.watermark == self._watermark or uptime_ms < self._written_ms + FIGURES_MS):
            return
        self._written, self._watermark, self._written_ms = now, book.watermark, uptime_ms
        try:
            body = msgspec.json.encode(copy_of(connection, self._venue, book))
            write_whole(self._path, sha256(body).hexdigest().encode() + b"\n" + body)
        except (OSError, sqlite3.Error) as failed:
            if not self._failed:
                log.warning("names_not_written", reason=str(failed))
            self._failed = True


def copy_of(connection: sqlite3.Connection, venue: str, book: Book) -> Names:
    """Names as the book has them, figures as they are written."""
    devices = {device.id: device.name for device in book.devices.values()}
    epochs = {row: counting.epoch or "" for row, counting in book.epochs.items()}
    return Names(
        venue,
        book.watermark,
        tuple(_stream(one) for one in book.lineage.all()),
        dict(book.boots),
        tuple(
            DeviceCopy(row, devices.get(row, name), *figures)
            for row, name, *figures in connection.execute(SQL["read_devices"])
        ),
        tuple(
            CountingCopy(row, device, epochs.get(row, epoch), *figures)
            for row, device, epoch, *figures in connection.execute(SQL["read_device_epochs"])
        ),
    )


def _stream(one: Stream) -> StreamCopy:
    parent = (one.parent.epoch, one.parent.sequence, one.parent.rechash.hex()) if one.parent else None
    return StreamCopy(one.epoch, one.base, one.origin.hex(), parent, one.reason, one.fenced, one.sealed)
