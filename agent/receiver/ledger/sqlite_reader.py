"""SQLite ledger → [its reader] → export. Reads the file page by page, beside a server that writes it or without one.

Opens for reading only, in any process; never writes, never checkpoints.
"""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from agent.core.errors import SettingsInvalid
from agent.receiver.ledger import EpochHole, Hole, Rejected
from agent.receiver.ledger.sqlite_file import (
    BUSY_MAX_S,
    SQL,
    LedgerThread,
    check_version,
    position_of,
    sequence_of,
)

PAGE_ROWS_MAX: Final = 1000
"""Rows that are read at once."""

_NAME_IT: Final = "Name the file that cloud serve writes."


class SqliteReader:
    """The reading side (`LedgerReader`). Made by `open_reader`. Short reads, so that the writer's log can shrink."""

    def __init__(self, path: Path, thread: LedgerThread) -> None:
        self._path = path
        self._thread = thread

    def _start(self) -> None:
        if not self._path.is_file():
            raise SettingsInvalid("ledger_missing", f"There is no ledger {self._path}.", _NAME_IT)
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        self._db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_MAX_S)
        if not check_version(self._db, self._path):
            raise SettingsInvalid("ledger_empty", f"{self._path} holds no ledger.", _NAME_IT)

    async def records(self, venue: str) -> AsyncIterator[list[bytes]]:
        async for _, rows in self._pages("page_records", venue):
            yield [text for _, text in rows]

    async def streams(self) -> list[tuple[str, str]]:
        return [(venue, epoch) for venue, epoch in await self._thread.run(self._fetch, "streams", ())]

    async def records_after(self, venue: str, epoch: str, after: int) -> AsyncIterator[list[tuple[int, bytes]]]:
        for number, name in await self._thread.run(self._fetch, "venue_streams", (venue,)):
            if name == epoch:
                bounds = {
                    "after": position_of(number, after),
                    "end": position_of(number + 1, 0),
                    "limit": PAGE_ROWS_MAX,
                }
                while rows := await self._thread.run(self._fetch, "page_records", bounds):
                    yield [(sequence_of(position), text) for position, text in rows]
                    bounds["after"] = rows[-1][0]

    async def rejected(self, venue: str) -> AsyncIterator[list[Rejected]]:
        async for epoch, rows in self._pages("page_rejected", venue):
            yield [Rejected(epoch, sequence_of(position), kind, detail, text) for position, kind, detail, text in rows]

    async def holes(self, venue: str) -> AsyncIterator[list[EpochHole]]:
        async for epoch, rows in self._pages("page_holes", venue):
            yield [EpochHole(epoch, Hole(first, sequence_of(position), *rest)) for position, first, *rest in rows]

    async def health(self, venue: str) -> bytes | None:
        row = await self._thread.run(lambda: self._db.execute(SQL["health"], (venue,)).fetchone())
        return None if row is None else bytes(row[0])

    async def close(self) -> None:
        await self._thread.run(lambda: self._db.close())
        self._thread.end()

    async def _pages(self, statement: str, venue: str) -> AsyncIterator[tuple[str, list[Any]]]:
        """Pages of rows with their epoch, each begun after the last position of the one before."""
        for number, epoch in await self._thread.run(self._fetch, "venue_streams", (venue,)):
            bounds = {"after": position_of(number, 0), "end": position_of(number + 1, 0), "limit": PAGE_ROWS_MAX}
            while rows := await self._thread.run(self._fetch, statement, bounds):
                yield epoch, rows
                bounds["after"] = rows[-1][0]

    def _fetch(self, statement: str, values: Any) -> list[Any]:
        return self._db.execute(SQL[statement], values).fetchall()


async def open_reader(path: Path) -> SqliteReader:
    """Open the ledger in this file for reading. Raises core.errors with words."""
    thread = LedgerThread("ledger-reader")
    reader = SqliteReader(path, thread)
    try:
        await thread.run(reader._start)
    except BaseException:
        thread.end()
        raise
    return reader
