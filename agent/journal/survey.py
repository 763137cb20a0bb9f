"""[journal: looking for damage] → upkeep. Reads the log and checks each record, its neighbour and the file's structure.

On a connection of its own that can only read, so that intake and drain never wait for it. Says where damage is; others
mend.
"""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from agent.core.lineage import Lineage
from agent.core.mend import Row, sound
from agent.journal.database import SQL
from agent.journal.reading import Reading

FINDINGS_MAX: Final = 100
"""What a look at the structure names at most."""


class Look(NamedTuple):
    """What one look found behind a position: `last` is the last one looked at, None at the end of the log.

    `damaged` do not prove themselves, `unjoined` prove themselves but not that they follow the one before; `holes` are
    positions without a record that nobody has named.
    """

    last: int | None
    checked: int
    damaged: tuple[int, ...] = ()
    unjoined: tuple[int, ...] = ()
    holes: tuple[tuple[int, int], ...] = ()


class Survey:
    """A reader that checks."""

    def __init__(
        self,
        directory: Path,
        cache_bytes: int,
        lineage: Callable[[], Lineage],
        generation: Callable[[], int] = lambda: 0,
    ) -> None:
        """Opens nothing yet: the first call does. `generation` changes when the journal has been opened anew."""
        self._reading = Reading(directory, cache_bytes, generation)
        self._lineage = lineage
        self._connection: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, directory: Path, cache_bytes: int, lineage: Callable[[], Lineage]) -> "Survey":
        """Open a read-only connection to the journal in `directory`."""
        survey = cls(directory, cache_bytes, lineage)
        await survey._reading.open()
        return survey

    async def close(self) -> None:
        """Close the connection; a look that runs is cut short."""
        self.interrupt()
        await self._reading.close()

    def closed(self) -> AbstractAsyncContextManager[None]:
        """While the block lasts there is no connection; what runs is cut short, calls wait."""
        return self._reading.closed()

    def interrupt(self) -> None:
        """Cut short what runs: a look at the structure of a large file takes minutes."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.interrupt()

    async def structure(self) -> tuple[str, ...]:
        """What is wrong with the database file as such, in SQLite's words; empty where it is sound, or interrupted."""

        def call(connection: sqlite3.Connection) -> tuple[str, ...]:
            self._connection = connection
            try:
                found = connection.execute(f"pragma quick_check({FINDINGS_MAX})").fetchall()
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                    return ()
                return (str(error),)
            finally:
                self._connection = None
            return tuple(str(text) for (text,) in found if text != "ok")

        return await self._reading.run(call)

    async def look(self, after: int, count: int) -> Look:
        """Check up to `count` records behind position `after`. Raises JournalDamaged where they cannot be read."""
        return await self._reading.run(lambda connection: self._look(connection, after, count))

    def _look(self, connection: sqlite3.Connection, after: int, count: int) -> Look:
        connection.execute("begin")
        try:
            rows = [Row(*row) for row in connection.execute(SQL["read_records"], (after, count))]
            owners = dict(connection.execute(SQL["read_epoch_devices"]).fetchall())
            missing = connection.execute(SQL["read_missing"]).fetchall()
            safe = connection.execute(SQL["read_journal"]).fetchone()[3]
            before = connection.execute(SQL["read_rechash"], (after,)).fetchone()
        finally:
            connection.execute("commit")
        lineage = self._lineage()
        damaged: list[int] = []
        unjoined: list[int] = []
        holes: list[tuple[int, int]] = []
        next_, head, former = after + 1, before[0] if before else None, lineage.of(after)
        for row in rows:
            stream = lineage.of(row.position)
            head, former = (head if stream is former else None), stream
            if row.position != next_:
                holes += [(next_, row.position - 1)] if not _explained(next_, row.position - 1, missing, safe) else []
                head = None
            if not sound(row, row.position - stream.base, owners.get(row.device_epoch)):
                damaged.append(row.position)
                head = None
            else:
                origin = stream.origin if row.position == stream.base + 1 else head
                if origin is not None and row.prevhash != origin:
                    unjoined.append(row.position)
                head = row.rechash
            next_ = row.position + 1
        last = rows[-1].position if len(rows) == count else None
        return Look(last, len(rows), tuple(damaged), tuple(unjoined), tuple(holes))


def _explained(first: int, last: int, missing: list[tuple[int, int]], safe: int) -> bool:
    """Whether positions without a record were deleted as safe, or named when they were lost."""
    if last <= safe:
        return True
    if last < first:
        return False  # out of order
    return any(start <= max(first, safe + 1) and last <= end for start, end in missing)
