"""The index of payments leaves the machine to those who sell, whatever the cloud tells meanwhile."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from agent.payments.index import BUSY_PAUSE_S, Index


class Tables:
    """An index over a log of a million records."""

    def __init__(self) -> None:
        self.slices = 0

    async def place(self) -> int:
        return 0

    async def slice(self, after: int, upto: int, records_max: int) -> Any:
        await asyncio.sleep(0)
        self.slices += 1
        return SimpleNamespace(upto=min(upto, after + records_max), facts=(), days=())

    async def write(self, found: Any, place: int, window_ms: int) -> None: ...
    async def mark_uploaded(self) -> None: ...
    async def forget_lost(self) -> None: ...
    async def drop_old(self, rows_max: int) -> bool:
        return False


class Journal:
    """A log that grows by ten thousand records at each look."""

    cursor = 0

    def __init__(self) -> None:
        self._committed = 1_000_000

    @property
    def committed(self) -> int:
        self._committed += 10_000
        return self._committed

    async def repair(self, positions: Sequence[int]) -> bool:
        return True


async def slices(for_s: float, asked: bool) -> int:
    """Bites in so long, while there is news a hundred times a second; or somebody who asks."""
    tables = Tables()
    index = Index(tables, Journal(), lambda: SimpleNamespace(duplicate_window_s=600.0))
    stop = asyncio.Event()
    running = asyncio.create_task(index.run(lambda: None, stop))
    question = asyncio.create_task(index.reached(10**9, for_s)) if asked else None
    loop = asyncio.get_running_loop()
    end_s = loop.time() + for_s
    while loop.time() < end_s:
        index.news()
        await asyncio.sleep(0.01)
    if question is not None:
        await question
    stop.set()
    await running
    return tables.slices


def test_news_of_fates_shortens_no_pause_while_the_tills_sell_much() -> None:
    assert asyncio.run(slices(BUSY_PAUSE_S / 2, asked=False)) <= 2


def test_a_question_does() -> None:
    assert asyncio.run(slices(0.3, asked=True)) > 20
