"""The search for damage: what it looks at in which order, what it has repaired, and what it says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from agent.core.errors import JournalDamaged
from agent.upkeep.sweep import REPAIR_MAX, Sweep


class Look(NamedTuple):
    """What one look found."""

    last: int | None
    checked: int
    damaged: tuple[int, ...] = ()
    unjoined: tuple[int, ...] = ()
    holes: tuple[tuple[int, int], ...] = ()


class Log:
    """A journal of 100 records, the first 60 of them up, that says what was asked of it."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self.bad: set[int] = set()
        self.unreadable = False
        self.holes: tuple[tuple[int, int], ...] = ()
        self.asked: list[tuple[int, int]] = []
        self.repaired: list[int] = []
        self.steps: list[int] = []
        self.rebuilds: list[tuple[str, bool]] = []
        self.interrupts = 0
        self.now_s = 0.0

    def limps(self) -> bool:
        return False

    async def structure(self) -> list[str]:
        return self.broken

    async def look(self, after: int, count: int) -> Look:
        self.asked.append((after, count))
        if self.unreadable:
            raise JournalDamaged("journal_corrupt", "A page is gone.")
        last = min(after + count, 100)
        found = tuple(sorted(one for one in self.bad if after < one <= last))
        return Look(last if last - after == count else None, last - after, found, (), self.holes)

    def interrupt(self) -> None:
        self.interrupts += 1

    def cursor(self) -> int:
        return 60

    def last(self) -> int:
        return 100

    def lived_s(self) -> float:
        return self.now_s

    async def repair(self, positions: Sequence[int]) -> bool:
        self.repaired += positions
        self.steps.append(len(positions))
        self.bad -= set(positions)
        return True

    def demand_rebuild(self, why: str, now: bool) -> None:
        self.rebuilds.append((why, now))


class Limits:
    """One look takes 50 records."""

    sweep_records_per_s = 100
    sweep_interval_s = 3600.0


class Told:
    """What holds."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def hold(self, id: str, severity: str, title: str, text: str, hint: str) -> None:
        assert hint
        self.held[id] = text

    happened = hold

    def lift(self, id: str) -> None:
        self.held.pop(id, None)


@asynccontextmanager
async def sweeping(log: Log, told: Told) -> AsyncIterator[Sweep]:
    """A sweep that runs until it rests."""
    stop = asyncio.Event()
    sweep = Sweep(log, log, Limits, told)
    running = asyncio.create_task(sweep.run(lambda: None, stop))
    await _until(lambda: sweep.facts().state == "resting" or running.done())
    yield sweep
    stop.set()
    await asyncio.wait_for(running, 5)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def told() -> Told:
    return Told()


async def test_what_the_cloud_lacks_comes_first_and_the_rest_after(log: Log, told: Told) -> None:
    async with sweeping(log, told) as sweep:
        assert log.asked == [(60, 50), (0, 50), (50, 50)]
        facts = sweep.facts()
        assert (facts.structure, facts.rounds_count, facts.damaged_count) == ("sound", 1, 0)
        assert facts.checked_count >= 100
    assert not told.held
    assert log.interrupts == 1


async def test_each_damaged_record_is_repaired_once(log: Log, told: Told) -> None:
    log.bad = {3, 61, 99}
    async with sweeping(log, told) as sweep:
        assert log.repaired == [61, 99, 3]
        assert sweep.facts().damaged_count == 3


async def test_many_damaged_records_are_repaired_in_steps_of_a_few(log: Log, told: Told) -> None:
    log.bad = set(range(61, 61 + REPAIR_MAX + 3))
    async with sweeping(log, told):
        assert log.steps == [REPAIR_MAX, 3]


async def test_a_damaged_structure_is_rebuilt_at_the_next_start_and_told(log: Log, told: Told) -> None:
    log.broken = ["Page 7 is never used"]
    async with sweeping(log, told) as sweep:
        assert sweep.facts().structure == "damaged"
        assert log.rebuilds == [("its structure: Page 7 is never used", False)]
    assert "Page 7" in told.held["journal_structure"]


async def test_a_file_that_cannot_be_read_is_told_and_the_round_ends(log: Log, told: Told) -> None:
    log.unreadable = True
    async with sweeping(log, told):
        assert log.asked == [(60, 50)]
        assert [now for _, now in log.rebuilds] == [False]
    assert "journal_structure" in told.held


@pytest.mark.parametrize(("hole", "at_once"), [((10, 12), False), ((70, 71), True)])
async def test_a_hole_that_nobody_named_is_rebuilt_at_once_where_the_cloud_needs_it(
    log: Log, told: Told, hole: tuple[int, int], at_once: bool
) -> None:
    log.holes = (hole,)
    async with sweeping(log, told):
        assert {now for _, now in log.rebuilds} == {at_once}


async def test_it_rests_in_time_that_the_box_runs(log: Log, told: Told) -> None:
    async with sweeping(log, told) as sweep:
        asked = len(log.asked)
        log.now_s = Limits.sweep_interval_s - 1
        await asyncio.sleep(0)
        assert len(log.asked) == asked
        assert sweep.facts().state == "resting"
