"""[journal: a damaged database] → salvage. Whatever can still be read of it: by SQLite where that works, else by pages.

Opened for reading only, so that the kept files stay as they were found. Proves nothing; salvage checks each record.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agent.core.mend import Row
from agent.journal.database import BUSY_TIMEOUT_MS, FILE_NAME, SQL, SQLITE_ERRORS, place_of, text_or_bytes
from agent.journal.pages import Cell, Remains

CHUNK_RECORDS: Final = 512
"""Positions read by one statement; where that fails, ever smaller parts are tried."""
FAILED_MAX: Final = 2000
"""Statements that may fail; then nothing more is asked of SQLite, and what is left is found in the pages."""
EMPTY_CHUNKS_MAX: Final = 20_000
"""Statements in a row that find nothing, each CHUNK_RECORDS on; then the last position is taken for a wrong number."""

_INTEGERS: Final = (1, 2, 3, 4, 5, 6, 8, 9)
_KINDS: Final[dict[str, Callable[[int], bool]]] = {
    "INTEGER": lambda serial: serial in _INTEGERS,
    "REAL": lambda serial: serial == 7 or serial in _INTEGERS,
    "TEXT": lambda serial: serial >= 13 and serial % 2 == 1,
    "BLOB": lambda serial: serial >= 12 and serial % 2 == 0,
}
"""What a column of each type may hold, by its serial type in the file."""
SINCE: Final = {
    "attentions": 3, "letters": 5, "kept_facts": 5, "downlink": 6, "commands": 6, "requests": 7, "reservations": 7,
    "payment_fates": 8, "payment_dismissals": 8, "orders": 9, "order_facts": 9,
}  # fmt: skip
"""Tables that an older schema did not have: the first one that did."""
OLDER_COLUMNS: Final = {"streams": 8, "gaps": 5, "journal": 10}
"""Rows that an older schema wrote, and that nothing has rewritten since, have so few columns."""
RECORD_COLUMNS: Final = (10, 11)


class Shape:
    """How a row of one table looks, as the present schema has it: by this it is known in any page."""

    def __init__(self, schema: sqlite3.Connection, table: str) -> None:
        columns = schema.execute(f"pragma table_info({table})").fetchall()
        (text,) = schema.execute("select sql from sqlite_schema where name = ?", (table,)).fetchone()
        self.names = [name for _, name, *_ in columns]
        self._rowid = "without rowid" not in text
        self._kinds = [(_KINDS[kind], not notnull and not key) for _, _, kind, notnull, _, key in columns]
        self._least = OLDER_COLUMNS.get(table, len(columns))

    def fits(self, rowid: int | None, serials: tuple[int, ...]) -> bool:
        """Whether a row of any page may be one of this table's."""
        if (rowid is not None) != self._rowid or not self._least <= len(serials) <= len(self._kinds):
            return False
        if self._rowid and serials[0] != 0:
            return False
        pairs = list(zip(self._kinds, serials, strict=False))[self._rowid :]
        return all((serial == 0 and nullable) or fits(serial) for (fits, nullable), serial in pairs)


class Old:
    """The database in `folder`, as far as it can be read."""

    def __init__(self, folder: Path, busy: Callable[[], None] = lambda: None) -> None:
        """`busy` is called again and again while something is read."""
        self._path = folder / FILE_NAME
        self._busy = busy
        self.remains = Remains(self._path, folder / f"{FILE_NAME}-wal", busy)
        self._failed_count = 0
        self._connection: sqlite3.Connection | None = None
        with suppress(*SQLITE_ERRORS):
            self._connection = open_read_only(self._path)

    def close(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()

    def table(self, name: str, take: Callable[[list[str], tuple[Any, ...]], None]) -> bool:
        """Hand over each row of a table that SQLite reads, with its columns' names; False where it cannot read all."""
        if self._connection is None:
            return False
        try:
            cursor = self._connection.execute(f"select * from {name}")
            columns = [one[0] for one in cursor.description]
            for row in cursor:
                take(columns, row)
        except SQLITE_ERRORS:
            return self._is_before(name)
        return True

    def _is_before(self, name: str) -> bool:
        """Whether the database is of a schema that did not have this table."""
        with suppress(*SQLITE_ERRORS):
            if self._connection is not None:
                version: int = self._connection.execute("pragma user_version").fetchone()[0]
                return version < SINCE.get(name, 0)
        return False

    def carved(self, shape: Shape) -> list[tuple[Any, ...]]:
        """Rows of pages that have a table's shape, the newest of each key last."""
        return [_whole(cell) for cell in self.remains.cells(shape.fits)]

    def span(self) -> tuple[int, int] | None:
        """The first and the last position that SQLite finds, None where it finds none."""
        with suppress(*SQLITE_ERRORS):
            if self._connection is not None:
                first = self._connection.execute(SQL["read_records"], (-(1 << 62), 1)).fetchone()
                last = self._connection.execute(SQL["read_head"]).fetchone()
                if first is not None and last is not None:
                    return first[0], last[0]
        return None

    def records(self, first: int, last: int) -> Iterator[Row]:
        """Records from `first` to `last` that SQLite can read, in order, whether they are sound or not."""
        empty = 0
        for at in range(first, last + 1, CHUNK_RECORDS):
            empty += 1
            for row in self._part(at, min(at + CHUNK_RECORDS - 1, last)):
                empty = 0
                yield row
            if empty > EMPTY_CHUNKS_MAX or self._failed_count > FAILED_MAX:
                return

    def _part(self, first: int, last: int) -> Iterator[Row]:
        if self._connection is None or self._failed_count > FAILED_MAX:
            return
        self._busy()
        try:
            cursor = self._connection.execute(SQL["read_records_between"], (first, last))
            for row in cursor:
                yield Row(*row)
                first = row[0] + 1 if first <= row[0] <= last else first
        except SQLITE_ERRORS:
            self._failed_count += 1
            if first < last:
                middle = (first + last) // 2
                yield from self._part(first, middle)
                yield from self._part(middle + 1, last)

    def carved_records(self) -> Iterator[Row]:
        """Rows that look like records, from every version of every page."""

        def want(number: int | None, serials: tuple[int, ...]) -> bool:
            return number is not None and len(serials) in RECORD_COLUMNS and serials[7:9] == (76, 76)

        for cell in self.remains.cells(want):
            position, *values = _whole(cell)
            yield Row._make((position, *values, *([None] if len(values) == RECORD_COLUMNS[0] - 1 else [])))


def _whole(cell: Cell) -> tuple[Any, ...]:
    """The columns with the key, which a table with rowids keeps outside."""
    return cell.values if cell.rowid is None else (cell.rowid, *cell.values[1:])


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing in the file, nor in its log."""
    connection = sqlite3.connect(
        place_of(path, read_only=True), uri=True, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = text_or_bytes
    connection.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("pragma query_only = on")
    return connection
