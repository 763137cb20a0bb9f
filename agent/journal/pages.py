"""[journal: rows without SQLite] → salvage. Reads table rows straight from a database file and its write-ahead log.

After the public description of the file format (sqlite.org/fileformat2.html): b-tree leaf and index pages, the record
format, overflow chains, WAL frames. Takes every cell that can be parsed, from any version of any page; it trusts no
checksum and proves nothing: whoever asks checks each row. Reads only.
"""

from collections.abc import Callable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple

from agent.journal.database import PAGE_BYTES

FRAME_HEAD_BYTES: Final = 24
WAL_HEAD_BYTES: Final = 32
HEADER_BYTES: Final = 100
"""The database header, before the first page's own."""
TABLE_LEAF, INDEX_LEAF, INDEX_INTERIOR = 0x0D, 0x0A, 0x02
EVENT_SERIALS: Final = b"\x4c\x4c"
"""Two columns of 32 bytes, one after the other: no other row has them, so a row of `records` is found by them even
where the page around it is destroyed."""
HEADER_OF_ROW_MAX: Final = 64
"""Bytes of a row's header at most: the widest table has 15 columns, of which few take more than one byte there. What
claims more is no row, and is not read through."""
OVERFLOW_PAGES_MAX: Final = 16_384
"""A chain of overflow pages is followed so far."""
_WORDS: Final = Struct(">IIIIII")

Want = Callable[[int | None, tuple[int, ...]], bool]
"""Whether a row is wanted, by its rowid (None in an index) and its columns' serial types."""


class Cell(NamedTuple):
    """One row: `rowid` is None in a table without one."""

    rowid: int | None
    values: tuple[Any, ...]


class _Image:
    """One file in memory, empty where it is missing."""

    def __init__(self, path: Path) -> None:
        self.bytes: mmap | bytes = b""
        try:
            with path.open("rb") as stream:
                self.bytes = mmap(stream.fileno(), 0, access=ACCESS_READ)
        except (OSError, ValueError):
            self.bytes = b""


class Remains:
    """The pages of a database and of its log, every version of each. `busy` is called with every page."""

    def __init__(self, database: Path, wal: Path, busy: Callable[[], None] = lambda: None) -> None:
        self._busy = busy
        self._database = _Image(database).bytes
        self._wal = _Image(wal).bytes
        self.page_bytes = _page_bytes(self._database, self._wal)
        self._frames: dict[int, list[int]] = {}
        for number, at in self._log():
            self._frames.setdefault(number, []).append(at)

    @property
    def bytes_count(self) -> int:
        """The size of both files."""
        return len(self._database) + len(self._wal)

    def cells(self, want: Want) -> Iterator[Cell]:
        """Every wanted row of every page, those of the log last, in its order."""
        for number in range(1, -(-len(self._database) // self.page_bytes) + 1):
            yield from self._page(self._stored(number), number, want)
        frames = sorted((at, number) for number, places in self._frames.items() for at in places)
        for at, number in frames:
            yield from self._page(self._wal[at : at + self.page_bytes], number, want)

    def _log(self) -> Iterator[tuple[int, int]]:
        step = FRAME_HEAD_BYTES + self.page_bytes
        for at in range(WAL_HEAD_BYTES, len(self._wal) - FRAME_HEAD_BYTES + 1, step):
            yield int.from_bytes(self._wal[at : at + 4]), at + FRAME_HEAD_BYTES

    def _stored(self, number: int) -> bytes:
        return self._database[(number - 1) * self.page_bytes : number * self.page_bytes]

    def _page(self, page: bytes, number: int, want: Want) -> Iterator[Cell]:
        self._busy()
        seen: set[int] = set()
        for at, index in (*_pointers(page, number), *((at, False) for at in _strays(page))):
            if at in seen:
                continue
            seen.add(at)
            for newest_first in (True, False):
                cell = self._cell(page, at, index, want, newest_first)
                if cell is not None:
                    yield cell[0]
                if cell is None or not cell[1]:
                    break  # a row within its page reads the same either way

    def _cell(self, page: bytes, at: int, index: bool, want: Want, newest_first: bool) -> tuple[Cell, bool] | None:
        """The row whose cell begins at `at`, and whether it runs over into other pages."""
        try:
            size, at = _varint(page, at)
            rowid = None
            if not index:
                rowid, at = _varint(page, at)
            serials, body_at = _serials(page, at)
            if body_at - at + sum(map(_width, serials)) != size or not want(rowid, serials):
                return None
            local = _local_bytes(size, self.page_bytes, index)
            payload = page[at : at + local]
            if local < size:
                payload += self._overflow(page[at + local : at + local + 4], size - local, newest_first)
            return Cell(rowid, tuple(_values(payload, body_at - at, serials))), local < size
        except (IndexError, ValueError):
            return None

    def _overflow(self, pointer: bytes, size: int, newest_first: bool) -> bytes:
        """The rest of a row. A page may have versions in the log and one in the file: the last or the first is read."""
        found, number = b"", int.from_bytes(pointer)
        for _ in range(OVERFLOW_PAGES_MAX):
            places = self._frames.get(number, [])
            logged = [self._wal[at : at + self.page_bytes] for at in places[-1:]]
            versions = [*logged, self._stored(number)] if newest_first else [self._stored(number), *logged]
            page = next((one for one in versions if len(one) == self.page_bytes), b"")
            found += page[4 : 4 + size - len(found)]
            if len(found) >= size or not page:
                break
            number = int.from_bytes(page[:4])
        if len(found) < size:
            raise ValueError("an overflow chain ends early")
        return found


def _page_bytes(database: mmap | bytes, wal: mmap | bytes) -> int:
    """The page size as either file says it, ours where neither says one."""
    for image, at, width in ((database, 16, 2), (wal, 8, 4)):
        size = int.from_bytes(image[at : at + width])
        size = 65_536 if size == 1 else size
        if 512 <= size <= 65_536 and size.bit_count() == 1 and (width == 4 or image[:6] == b"SQLite"):
            return size
    return PAGE_BYTES


def _pointers(page: bytes, number: int) -> Iterator[tuple[int, bool]]:
    """Where a page's cells begin, and whether they are an index's."""
    head = HEADER_BYTES if number == 1 else 0
    kind = page[head] if len(page) > head else 0
    index = kind in (INDEX_LEAF, INDEX_INTERIOR)
    first = head + (12 if kind == INDEX_INTERIOR else 8)
    count = min(int.from_bytes(page[head + 3 : head + 5]), (len(page) - first) // 2)
    if kind not in (TABLE_LEAF, INDEX_LEAF, INDEX_INTERIOR):
        return
    for at in range(first, first + 2 * count, 2):
        cell = int.from_bytes(page[at : at + 2])
        yield cell + (4 if kind == INDEX_INTERIOR else 0), index


def _strays(page: bytes) -> Iterator[int]:
    """Where rows of `records` begin, found by their header alone."""
    at = page.find(EVENT_SERIALS)
    while at >= 0:
        head = at - 8
        if head > 1 and 11 <= page[head] <= 15 and page[head + 1] == 0:
            start = head - 1
            while start > 0 and page[start - 1] >= 0x80 and head - start < 9:
                start -= 1
            for length in (1, 2, 3):
                if start - length >= 0 and page[start - 1] < 0x80:
                    yield start - length
        at = page.find(EVENT_SERIALS, at + 1)


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer and where it ends."""
    value = 0
    for length in range(8):
        byte = page[at + length]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + length + 1
    return value << 8 | page[at + 8], at + 9


def _serials(page: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """The serial types of a record's columns, and where its body begins."""
    size, begin = _varint(page, at)
    if size > HEADER_OF_ROW_MAX:
        raise ValueError("a header of so many bytes is none of ours")
    end, found = at + size, []
    while begin < end:
        serial, begin = _varint(page, begin)
        found.append(serial)
    if begin != end or not found:
        raise ValueError("a record's header does not end where it says")
    return tuple(found), end


_INT_WIDTHS: Final = (0, 1, 2, 3, 4, 6, 8)


def _width(serial: int) -> int:
    """The bytes that a column takes."""
    if serial >= 12:
        return (serial - 12) // 2
    return _INT_WIDTHS[serial] if serial < 7 else 8 if serial == 7 else 0


def _local_bytes(size: int, page_bytes: int, index: bool) -> int:
    """How much of a payload stands in its own page."""
    most = (page_bytes - 12) * 64 // 255 - 23 if index else page_bytes - 35
    if size <= most:
        return size
    least = (page_bytes - 12) * 32 // 255 - 23
    part = least + (size - least) % (page_bytes - 4)
    return part if part <= most else least


def _values(payload: bytes, at: int, serials: tuple[int, ...]) -> Iterator[Any]:
    for serial in serials:
        width = _width(serial)
        raw = payload[at : at + width]
        if len(raw) < width:
            raise ValueError("a record ends early")
        at += width
        if serial >= 12:
            yield raw.decode("utf-8", "replace") if serial % 2 else raw
        elif serial in (8, 9):
            yield serial - 8
        elif serial == 7:
            yield Struct(">d").unpack(raw)[0]
        else:
            yield int.from_bytes(raw, signed=True) if width else None


def cut_log(wal: Path, valid_count: int) -> bool:
    """Whether a write-ahead log of which SQLite takes the first `valid_count` frames breaks off in the middle.

    It does when two commits stand behind the break: a power cut may leave the frames of one unsynced commit in any
    order, and the next one began only when that was durable.
    """
    image = _Image(wal).bytes
    if len(image) < WAL_HEAD_BYTES + FRAME_HEAD_BYTES:
        return False
    magic, _, page_bytes, _, *salts = _WORDS.unpack(image[:24])
    page_bytes = page_bytes if 512 <= page_bytes <= 65_536 else PAGE_BYTES
    one, two = _checksum(Struct(f"{'>' if magic & 1 else '<'}6I").unpack(image[:24]))
    if (one, two) != Struct(">II").unpack(image[24:32]):
        salts = list(_WORDS.unpack(image[WAL_HEAD_BYTES : WAL_HEAD_BYTES + FRAME_HEAD_BYTES])[2:4])
    step = page_bytes + FRAME_HEAD_BYTES
    commits = 0
    for at in range(WAL_HEAD_BYTES + valid_count * step, len(image) - step + 1, step):
        _, commit, *rest = _WORDS.unpack(image[at : at + FRAME_HEAD_BYTES])
        commits += commit != 0 and rest[:2] == salts
    return commits >= 2


def _checksum(words: tuple[int, ...]) -> tuple[int, int]:
    one = two = 0
    for at in range(0, len(words), 2):
        one = (one + words[at] + two) & 0xFFFFFFFF
        two = (two + words[at + 1] + one) & 0xFFFFFFFF
    return one, two
