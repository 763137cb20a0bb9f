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
        self._lowest: int | None = None
        """The lowest that was said since the marks on the disk were last cut down to it."""
        writing.on_reopen(self._forget)

    def _forget(self) -> None:
        self._confirmed = 0

    def confirm(self, safe: int) -> None:
        """The cloud has said, to this process, that everything up to this position may be deleted, and no more: one
        that was restored from a backup says less than before."""
        self._confirmed = safe
        self._note_lowest(safe)

    def lower(self, bound: int) -> None:
        """The cloud has said that nothing above this position may be deleted; of what is below it says nothing."""
        self._confirmed = min(self._confirmed, bound)
        self._note_lowest(bound)

    def _note_lowest(self, safe: int) -> None:
        self._lowest = safe if self._lowest is None else min(self._lowest, safe)

    async def mark_safe(self) -> None:
        """Write down how far the cloud calls everything safe, and how long the box has run by now."""
        safe, lowest, lived_s = self._deletable, self._lowest, self._writing.lived().total_s

        def mark(connection: sqlite3.Connection) -> None:
            self._cut(connection)
            if safe:
                retention.mark(connection, safe, lived_s)

        if not safe and lowest is None:
            return
        await self._writing.change(mark, must=True)
        if self._lowest == lowest:
            self._lowest = None

    def _cut(self, connection: sqlite3.Connection) -> None:
        """No mark stands above what the cloud has said since."""
        if self._lowest is not None:
            retention.lower(connection, self._lowest)

    async def delete_kept(self, keep_s: float, rows_max: int) -> int:
        """Delete the oldest records that the cloud has called safe for `keep_s` seconds of this box's running, at most
        `rows_max`; returns how many. Their ids, what was refused, and the holes stay known."""
        if self._deletable > self._writing.book.watermark:
            await self._write_figures()
        horizon_s = self._writing.lived().total_s - keep_s

        def delete(connection: sqlite3.Connection) -> int:
            self._cut(connection)
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
