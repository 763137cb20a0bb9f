"""[journal: how far it was] → start-up. A high-water mark kept apart from the database, written after each commit.

Two small slots are overwritten in turn, each with its own checksum: a torn one leaves the other. It is not synced with
each commit, so after a power cut it may stand lower than the database, and never higher. What it says is compared at
start-up only; it is no source of records.
"""

import os
from collections.abc import Callable
from pathlib import Path
from struct import Struct, error
from typing import Final, NamedTuple
from zlib import crc32

import structlog

from agent.runtime.files import FILE_MODE

log = structlog.get_logger()

FILE_NAME: Final = "journal.mark"
SLOT_BYTES: Final = 4096
"""Each slot has a block of its own, so that one torn block harms one slot."""
_SLOT: Final = Struct("<8sQqqqq32s32s36s64s")
_MAGIC: Final = b"NSMARK1\n"
_CRC: Final = Struct("<I")


class Point(NamedTuple):
    """The journal after one commit; positions, but for `head` (rechash at `position`) and the present stream's
    `epoch`, `base` and `origin`."""

    position: int
    cursor: int
    safe: int
    base: int
    head: bytes
    origin: bytes
    epoch: str
    venue: str


def encode(turn: int, point: Point) -> bytes:
    """One slot."""
    epoch, venue = point.epoch.encode(), point.venue.encode()
    slot = _SLOT.pack(_MAGIC, turn, *point[:4], point.head, point.origin, epoch, venue)
    return slot + _CRC.pack(crc32(slot))


def decode(slot: bytes) -> tuple[int, Point] | None:
    """(turn, point) of one slot, None where it is not whole."""
    body = slot[: _SLOT.size]
    try:
        magic, turn, position, cursor, safe, base, head, origin, epoch, venue = _SLOT.unpack(body)
        (seal,) = _CRC.unpack(slot[_SLOT.size : _SLOT.size + _CRC.size])
        if magic != _MAGIC or crc32(body) != seal:
            return None
        names = [text.rstrip(b"\0").decode() for text in (epoch, venue)]
        return turn, Point(position, cursor, safe, base, head, origin, names[0], names[1])
    except (error, UnicodeDecodeError):
        return None


def read(directory: Path) -> Point | None:
    """The mark of the journal in `directory`; None where there is none that is whole."""
    found = _read(directory / FILE_NAME)
    return found[1] if found is not None else None


def _read(path: Path) -> tuple[int, Point] | None:
    try:
        content = path.read_bytes()[: 2 * SLOT_BYTES]
    except OSError:
        return None
    slots = [decode(content[at : at + SLOT_BYTES]) for at in (0, SLOT_BYTES)]
    return max((slot for slot in slots if slot is not None), default=None)


class Mark:
    """The open file of a running journal. A disk that refuses is logged once and keeps nothing from being stored."""

    def __init__(self, directory: Path) -> None:
        path = directory / FILE_NAME
        found = _read(path)
        self._turn = found[0] if found is not None else 0
        self._last = found[1] if found is not None else None
        self._failed = False
        self._file = -1
        self._guarded(lambda: self._open(path))

    def _open(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        if os.fstat(self._file).st_size < 2 * SLOT_BYTES:
            os.pwrite(self._file, b"\0" * SLOT_BYTES, SLOT_BYTES)

    def note(self, point: Point) -> None:
        """The journal is here now. Called after the commit, on the writer's thread; costs a few microseconds."""
        if point == self._last or self._file < 0:
            return
        self._turn += 1
        self._last = point
        slot = encode(self._turn, point)
        try:
            os.pwrite(self._file, slot, self._turn % 2 * SLOT_BYTES)
        except OSError as failed:
            self._complain(failed)

    def sync(self) -> None:
        """Make it survive a power cut."""
        if self._file >= 0:
            self._guarded(lambda: os.fsync(self._file))

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as failed:
            self._complain(failed)

    def _complain(self, failed: OSError) -> None:
        if not self._failed:
            log.warning("mark_not_written", reason=failed.strerror)
        self._failed = True
