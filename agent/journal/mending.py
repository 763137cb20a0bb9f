"""drain, sweep → [journal: mending] → journal. One record that does not prove itself: mended with proof, or named.

Deciding what its original was takes its time and runs beside the writer; putting it right is one transaction. A
database that is damaged itself is built anew by the next opening.
"""

import asyncio
import sqlite3
from collections.abc import Callable

from agent.core.errors import JournalDamaged
from agent.core.mend import Mended, mend
from agent.journal import repair
from agent.journal.book import EpochBook
from agent.journal.repair import Case, Repaired, examine
from agent.journal.writing import Writing


class Mending:
    """Repairs, one at a time."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._one = asyncio.Lock()

    async def repair(self, position: int) -> bool:
        """Mend the record at `position`, or set it aside and name the loss. True when there was something to do.

        Raises JournalDamaged where the database itself is damaged: then it is built anew.
        """
        try:
            async with self._one:
                done = await self._examine_and_repair(position)
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

    async def _examine_and_repair(self, position: int) -> Repaired | None:
        case = await self._writing.run(lambda connection: examine(connection, self._writing.book, position))
        if case is None:
            return None
        original = await asyncio.to_thread(mend, case.row, case.around)
        return await self._writing.transact(lambda connection: self._repair(connection, case, original))

    def _repair(
        self, connection: sqlite3.Connection, case: Case, original: Mended | None
    ) -> tuple[Repaired, set[EpochBook]]:
        writing = self._writing
        writing.book, done = repair.apply(connection, writing.place(connection), writing.book, [(case, original)])
        return done, set(writing.book.epochs.values())

    def on_repaired(self, call: Callable[[Repaired], None]) -> None:
        """Call `call` with everything that was mended or lost, start-up's first."""
        self._writing.on_repaired(call)

    def demand_rebuild(self, why: str, now: bool = False) -> None:
        """The database itself is damaged: it is built anew when it is opened next; with `now`, at once."""
        self._writing.demand_rebuild(why, now)
