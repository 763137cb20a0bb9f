"""[app: payments] Joins the index of payments to the journal, and those who ask to the index."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

from agent.app.joints import Live, Telling
from agent.journal.payments import PaymentTables
from agent.journal.repaired import Repaired
from agent.journal.writer import Journal
from agent.payments.index import Index
from agent.payments.inquiry import Inquiry

CACHE_BYTES: Final = 1024 * 1024
"""SQLite's page cache of the connection that the index reads by."""


class Payments(NamedTuple):
    """The stage, and who answers from it."""

    stage: Index
    inquiry: Inquiry


class PaymentsJournal:
    """The journal as the index needs it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def committed(self) -> int:
        """The last position that is durable."""
        return self._journal.book.committed

    @property
    def cursor(self) -> int:
        """The last position that the cloud has."""
        return self._journal.book.cursor

    async def repair(self, positions: Sequence[int]) -> bool:
        """Mend records, or set them aside."""
        return await self._journal.mending.repair_all(positions)


def make_payments(directory: Path, stack: AsyncExitStack, journal: Journal, telling: Telling, live: Live) -> Payments:
    """The parts, joined; `stack` closes what is open."""
    tables = PaymentTables(
        directory, CACHE_BYTES, journal.writing, lambda: journal.book.lineage, lambda: journal.generation
    )
    stack.push_async_callback(tables.close)
    journal.writing.keep_out(tables.closed)
    side = PaymentsJournal(journal)
    index = Index(tables, side, lambda: live.settings.payments)
    journal.mending.on_repaired(_repaired(index))
    journal.writing.on_reopen(index.reopened)
    return Payments(index, Inquiry(tables, index, side, telling))


def _repaired(index: Index) -> Callable[[Repaired], None]:
    def take(done: Repaired) -> None:
        index.repaired([position for position, _ in done.mended], bool(done.positions))

    return take
