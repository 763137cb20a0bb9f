"""[journal: connections that read] → reader, survey. A read-only connection that follows the journal.

When the journal has been opened anew its file may be another one, put there by a rename: then this connection is opened
anew, too, with the next call. So it is after an error. Never writes, never checkpoints, and never is open while the
writer's opening looks at the files: a process that closes any file of a database drops all its locks on it.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from agent.core.errors import JournalDamaged, RecordDamaged
from agent.journal.database import Database

T = TypeVar("T")


class Reading:
    """Opens nothing before the first call; `generation` changes when the journal has been opened anew, and `forget` is
    called each time this has."""

    def __init__(
        self,
        directory: Path,
        cache_bytes: int,
        generation: Callable[[], int],
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._cache_bytes = cache_bytes
        self._generation = generation
        self._forget = forget
        self._database: Database | None = None
        self._opened_at = 0
        self._opening = asyncio.Lock()

    async def open(self) -> Database:
        """The connection to the journal as it is now. Raises JournalDamaged, and tries again with each call."""
        async with self._opening:
            wanted = self._generation()
            if self._database is None or self._opened_at != wanted:
                await self.close()
                self._forget()
                self._database = await Database.open_reader(self._directory, self._cache_bytes)
                self._opened_at = wanted
            return self._database

    async def run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `call` on the connection's own thread. Raises JournalDamaged."""
        database = self._database
        if database is None or self._opened_at != self._generation():
            database = await self.open()
        try:
            return await database.run(call)
        except RecordDamaged:
            raise
        except JournalDamaged:
            self._opened_at = -1  # the next call opens it anew
            raise

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """While the block lasts there is no connection: what runs is cut short, and the next call waits."""
        async with self._opening:
            if self._database is not None:
                self._database.interrupt()
            await self.close()
            yield

    async def close(self) -> None:
        """Close the connection."""
        database, self._database = self._database, None
        if database is not None:
            await database.close()
