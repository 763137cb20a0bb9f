"""outbox → [lines] → disk. Append-only files of JSON lines that survive a kill at any instant.

A line is whole or it is not there: what a kill tore off is cut when the file is opened again. Knows nothing of tills.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from agent.core.errors import NightsafeError

READ_BYTES_MAX: Final = 1 << 20
"""How much of a file's end is looked at for a torn last line; a line is far shorter."""

_Line = TypeVar("_Line", bound=msgspec.Struct)


class OutboxDamaged(NightsafeError):
    """A file of the outbox is unreadable before its last line: not what a kill or a power cut does."""


class LineFile:
    """An append-only file of JSON lines. A torn last line is cut off when it is opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        if new:
            sync_directory(path.parent)
        self._size = _cut_torn_line(self._file)

    def append(self, lines: Iterable[msgspec.Struct], *, durable: bool) -> list[tuple[int, int]]:
        """Write whole lines with one call; returns each one's (offset, length). `durable`: fsynced on return."""
        encoded = [msgspec.json.encode(line) + b"\n" for line in lines]
        if any(line.index(b"\n") != len(line) - 1 for line in encoded):
            raise ValueError("An event of a simulated till has no line breaks.")
        _write_all(self._file, b"".join(encoded))
        if durable:
            os.fdatasync(self._file)
        places = []
        for line in encoded:
            places.append((self._size, len(line)))
            self._size += len(line)
        return places

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file, length, offset)

    def lines(self, shape: type[_Line]) -> Iterator[tuple[_Line, int, int]]:
        """Every line with its (offset, length)."""
        offset = 0
        for number, line in enumerate(_read_lines(self._path), start=1):
            yield _decode(line, shape, self._path, number), offset, len(line)
            offset += len(line)

    def close(self) -> None:
        os.close(self._file)


def read_lines(path: Path, shape: type[_Line]) -> Iterator[_Line]:
    """The whole lines of one of the outbox's files, for who judges from outside; a torn last line is passed over."""
    if not path.exists():
        return
    for number, line in enumerate(_read_lines(path), start=1):
        if line.endswith(b"\n"):
            yield _decode(line, shape, path, number)


def _read_lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


def _decode(line: bytes, shape: type[_Line], path: Path, number: int) -> _Line:
    try:
        return msgspec.json.decode(line, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OutboxDamaged(
            "outbox_damaged",
            f"Line {number} of {path} cannot be read: {error}.",
            "Move the folder away and start the till with an empty one.",
        ) from error


def _cut_torn_line(file: int) -> int:
    """Cut what a kill left behind the last line break; returns the file's size. What is cut was never relied on."""
    size = os.fstat(file).st_size
    tail_at = max(0, size - READ_BYTES_MAX)
    tail = os.pread(file, size - tail_at, tail_at)
    whole = tail_at + tail.rfind(b"\n") + 1
    if whole != size:
        os.ftruncate(file, whole)
        os.fsync(file)
    return whole


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def sync_directory(directory: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
