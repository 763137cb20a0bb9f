"""drain, sweep → [journal: mending] → journal. Records that do not prove themselves: mended with proof, or named.

Deciding what their originals were takes its time and runs beside the writer; putting them right is one transaction. A
database that is damaged itself is built anew by the next opening.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence

from agent.core.errors import JournalDamaged, Transient
from agent.core.mend import Mended, mend_each
from agent.journal import repair
from agent.journal.book import EpochBook
from agent.journal.repair import Case, examine
from agent.journal.repaired import Repaired
from agent.journal.writing import Writing, counted_whole


class Mending:
    """Repairs, one transaction at a time."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._one = asyncio.Lock()

    async def repair(self, position: int) -> bool:
        """Mend the record at `position`, or set it aside and name the loss. True when there was something to do.

        Raises JournalDamaged where the database itself is damaged (then it is built anew) or the disk fails, Transient
        where it is full.
        """
        return await self.repair_all((position,))

    async def repair_all(self, positions: Sequence[int]) -> bool:
        """As `repair`, several records in one step: what must be counted anew is counted once."""
        try:
            async with self._one:
                done = await self._examine_and_repair(positions)
        except JournalDamaged as damaged:
            if damaged.code == "journal_corrupt":
                self.demand_rebuild(damaged.text, now=True)
            raise
        if done is None:
            return False
        self._writing.receipts_all_due()
        self._writing.repaired(done)
        self._writing.tell()
        return True

    async def _examine_and_repair(self, positions: Sequence[int]) -> Repaired | None:
        cases = await self._writing.run(lambda connection: self._cases(connection, positions))
        if not cases:
            return None
        originals = await asyncio.to_thread(mend_each, cases)
        return await self._writing.transact(lambda connection: self._repair(connection, cases, originals), must=True)

    def _cases(self, connection: sqlite3.Connection, positions: Sequence[int]) -> list[Case]:
        found = [examine(connection, self._writing.book, position) for position in positions]
        return [case for case in found if case is not None]

    def _repair(
        self, connection: sqlite3.Connection, cases: list[Case], originals: list[Mended | None]
    ) -> tuple[Repaired | None, set[EpochBook]]:
        writing = self._writing
        now = {case.row.position: case.row for case in self._cases(connection, [case.row.position for case in cases])}
        if not now:
            return None, set()  # the commit that raised has landed
        if any(now.get(case.row.position) != case.row for case in cases):
            raise Transient("record_changed", "A record changed while it was looked at.", "It is looked at again.")
        both = list(zip(cases, originals, strict=True))
        book, done = repair.apply(connection, writing.place(connection), writing.book, both)
        writing.book = counted_whole(book)
        return done, set(book.epochs.values())

    def on_repaired(self, call: Callable[[Repaired], None]) -> None:
        """Call `call` with everything that was mended or lost, start-up's first."""
        self._writing.on_repaired(call)

    def demand_rebuild(self, why: str, now: bool = False) -> None:
        """The database itself is damaged: it is built anew when it is opened next; with `now`, at once."""
        self._writing.demand_rebuild(why, now)
