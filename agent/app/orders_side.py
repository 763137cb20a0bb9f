"""[app: orders] Joins orders to the journal, the cloud's commands, the devices and the people."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

from agent.app.joints import Lan, Live, Telling
from agent.ingest.intake import Intake
from agent.ingest.presence import Presence
from agent.journal.orders import OrderTables
from agent.journal.repaired import Repaired
from agent.journal.writer import Journal
from agent.lan.session import Session
from agent.orders.courier import Courier
from agent.orders.desk import OrderDesk
from agent.orders.hearing import Hearing
from agent.runtime.clock import Clock

CACHE_BYTES: Final = 512 * 1024
"""SQLite's page cache of the connection that orders are read by."""


class Orders(NamedTuple):
    """The stage, who answers people, and the tables."""

    stage: Courier
    desk: OrderDesk
    tables: OrderTables


class OrdersJournal:
    """The journal as hearing needs it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def committed(self) -> int:
        """The last position that is durable."""
        return self._journal.book.committed

    async def repair(self, positions: Sequence[int]) -> bool:
        """Mend records, or set them aside."""
        return await self._journal.mending.repair_all(positions)


class OrdersClock:
    """The clocks that an order's age is told by."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    def now_ms(self) -> int:
        """Wall time as well as it is known."""
        return self._clock.wall_ms_at(self._clock.boottime_s())

    def lived_s(self) -> float:
        """Seconds that the box has run."""
        return self._journal.lived_s()


def make_orders(
    directory: Path,
    stack: AsyncExitStack,
    journal: Journal,
    intake: Intake,
    heard: Lan,
    presence: Presence,
    session: Session,
    telling: Telling,
    clock: Clock,
    live: Live,
) -> Orders:
    """The parts, joined; `stack` closes what is open."""
    tables = OrderTables(
        directory, CACHE_BYTES, journal.writing, lambda: journal.book.lineage, lambda: journal.generation
    )
    stack.push_async_callback(tables.close)
    journal.writing.keep_out(tables.closed)
    times = OrdersClock(journal, clock)
    hearing = Hearing(tables, OrdersJournal(journal), telling)
    courier = Courier(tables, hearing, presence, session, telling, times, lambda: live.settings.orders)

    def repaired(done: Repaired) -> None:
        hearing.repaired([position for position, _ in done.mended])

    journal.mending.on_repaired(repaired)
    journal.writing.on_reopen(courier.reopened)
    intake.on_order(courier.answered)
    heard.on_state(courier.state)
    session.on_connect(courier.connected)
    return Orders(courier, OrderDesk(tables, hearing, times, lambda: live.settings.orders), tables)
