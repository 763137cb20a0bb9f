"""cloud's word → [journal: what may go] → disk. Which records may be deleted by now, and deleting them.

Nothing goes on the strength of what the disk alone says: the cloud must have told this process that it is safe. The
rows' own rules are in retention.py.
"""

import sqlite3
from collections.abc import Awaitable, Callable

from agent.core.errors import NightsafeError
from agent.journal import retention
from agent.journal.retention import Pages
from agent.journal.writing import Writing


class Keeping:
    """Retention's hold on the journal. `write_figures` brings the tables of figures up to the log."""

    def __init__(self, writing: Writing, write_figures: Callable[[], Awaitable[None]]) -> None:
        self._writing = writing
        self._write_figures = write_figures
        self._confirmed = 0
        writing.on_reopen(self._forget)

    def _forget(self) -> None:
        self._confirmed = 0

    def confirm(self, safe: int) -> None:
        """The cloud has said, to this process, that everything up to this position may be deleted."""
        self._confirmed = max(self._confirmed, safe)

    async def mark_safe(self) -> None:
        """Write down how far the cloud calls everything safe, and how long the box has run by now."""
        safe, lived_s = self._deletable, self._writing.lived().total_s
        if safe:
            await self._writing.change(lambda connection: retention.mark(connection, safe, lived_s), must=True)

    async def delete_kept(self, keep_s: float, rows_max: int) -> int:
        """Delete the oldest records that the cloud has called safe for `keep_s` seconds of this box's running, at most
        `rows_max`; returns how many. Their ids, what was refused, and the holes stay known."""
        if self._deletable > self._writing.book.watermark:
            await self._write_figures()
        horizon_s = self._writing.lived().total_s - keep_s

        def delete(connection: sqlite3.Connection) -> int:
            highest = min(self._deletable, self._writing.book.watermark)
            return retention.delete(connection, highest, horizon_s, rows_max)

        return await self._writing.change(delete, must=True)

    @property
    def _deletable(self) -> int:
        """No record above this is deleted: not the last one, nor the one that proves where the drain goes on, and
        nothing on the strength of what the disk alone says."""
        book = self._writing.book
        return max(0, min(self._confirmed, book.safe, book.cursor - 1, book.committed - 1))

    async def pages(self) -> Pages | None:
        """How full the database is; None while the journal limps."""
        try:
            return await self._writing.run(retention.pages)
        except NightsafeError:
            return None
