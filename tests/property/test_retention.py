"""Records are deleted only when the cloud has called them safe, in this process, and their days are over; never sooner.

The real journal on real files; the clock is one that the test moves.
"""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent.core.arrivals import Outcome
from agent.journal.database import FILE_NAME
from agent.journal.inspect import verify
from agent.journal.retention import MARK_INTERVAL_S
from tests.property.journal_model import an_event, as_item
from tests.property.journal_rig import QUICK, Rig, Ticking

DAY_S = 86_400.0
KEEP_S = 30 * DAY_S
ROWS = 1000


class Moved(Ticking):
    """A clock that is moved by hand; the wall clock apart from the boottime."""

    def __init__(self) -> None:
        super().__init__()
        self.ran_s = 100.0

    def wall_ms(self) -> int:
        return self.now_ms

    def uptime_ms(self) -> int:
        return round(self.ran_s * 1000)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    with TemporaryDirectory(prefix="ns-journal-", dir=QUICK) as folder:
        made = await Rig(Path(folder), Moved()).open()
        yield made
        await made.close()


async def sell(rig: Rig, first: int, last: int) -> None:
    items = [as_item(an_event("till-1", f"e1-{n}", "e1", n, f'{{"n":{n}}}')) for n in range(first, last + 1)]
    for at in range(0, len(items), 4):
        assert set(await rig.append(items[at : at + 4])) <= {Outcome.STORED, Outcome.DUPLICATE}


def kept(rig: Rig) -> list[int]:
    connection = sqlite3.connect(f"file:{rig.folder / FILE_NAME}?mode=ro", uri=True)
    try:
        return [position for (position,) in connection.execute("select position from records order by position")]
    finally:
        connection.close()


def ran(rig: Rig, seconds: float) -> None:
    assert isinstance(rig.clock, Moved)
    rig.clock.ran_s += seconds


async def uploaded(rig: Rig, to: int) -> None:
    await rig.advance(to)
    rig.journal.keeping.confirm(to)
    await rig.journal.keeping.mark_safe()


async def test_a_record_goes_when_it_was_safe_for_its_days_and_not_a_second_sooner(rig: Rig) -> None:
    await sell(rig, 1, 20)
    await uploaded(rig, 10)
    ran(rig, KEEP_S - 1)
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 0
    ran(rig, 1)
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 9
    assert kept(rig) == list(range(10, 21))
    report = verify(rig.folder)
    assert (report.faults, report.records) == ([], 11)


async def test_no_wall_clock_deletes_anything(rig: Rig) -> None:
    await sell(rig, 1, 20)
    await uploaded(rig, 20)
    for years in (50, -80, 1):
        rig.clock.now_ms += round(years * 365 * DAY_S * 1000)
        assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 0


async def test_the_last_record_and_the_one_at_the_cursor_stay_for_ever(rig: Rig) -> None:
    await sell(rig, 1, 20)
    await uploaded(rig, 20)
    ran(rig, 2 * KEEP_S)
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 19
    assert kept(rig) == [20]
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 0


async def test_what_the_disk_alone_calls_safe_is_not_deleted(rig: Rig) -> None:
    """A bit of the stored `safe` may have turned; the cloud's own word in this process's life is asked for."""
    await sell(rig, 1, 20)
    await rig.advance(20)
    rig.journal.keeping.confirm(5)
    await rig.journal.keeping.mark_safe()
    ran(rig, 2 * KEEP_S)
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 5
    again = await reopened(rig)
    assert await again.journal.keeping.delete_kept(KEEP_S, ROWS) == 0
    again.journal.keeping.confirm(20)
    assert await again.journal.keeping.delete_kept(KEEP_S, ROWS) == 0, "5 to 20 were marked as safe by nobody"
    await again.close()


async def test_a_lower_word_of_the_cloud_holds_at_once_and_the_days_begin_anew_above_it(rig: Rig) -> None:
    """A cloud that was restored from a backup lacks what it had called safe; this box may have the only copy."""
    await sell(rig, 1, 100)
    await uploaded(rig, 90)
    ran(rig, 2 * KEEP_S)
    rig.journal.keeping.confirm(20)
    assert await rig.journal.keeping.delete_kept(KEEP_S, 5) == 5
    rig.journal.keeping.confirm(90)
    await rig.journal.keeping.mark_safe()
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 15, "21 to 90 are safe since this moment only"
    ran(rig, KEEP_S)
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 69
    assert kept(rig)[0] == 90


async def test_a_lower_word_between_two_looks_is_not_forgotten(rig: Rig) -> None:
    await sell(rig, 1, 100)
    await uploaded(rig, 90)
    ran(rig, 2 * KEEP_S)
    rig.journal.keeping.confirm(20)
    rig.journal.keeping.confirm(90)
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 20


async def test_a_lower_word_after_a_restart_holds_over_the_marks_on_the_disk(rig: Rig) -> None:
    await sell(rig, 1, 100)
    await uploaded(rig, 90)
    ran(rig, 2 * KEEP_S)
    again = await reopened(rig)
    again.journal.keeping.lower(40)
    again.journal.keeping.confirm(20)
    await again.journal.keeping.mark_safe()
    again.journal.keeping.confirm(90)
    assert await again.journal.keeping.delete_kept(KEEP_S, ROWS) == 20
    await again.close()


async def test_a_bound_never_makes_more_safe(rig: Rig) -> None:
    await sell(rig, 1, 100)
    await uploaded(rig, 30)
    await rig.advance(90)
    rig.journal.keeping.lower(80)
    ran(rig, 2 * KEEP_S)
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 29


async def reopened(rig: Rig) -> Rig:
    await rig.close()
    return await Rig(rig.folder, rig.clock).open()


async def test_the_days_go_on_counting_over_restarts_and_boots(rig: Rig) -> None:
    await sell(rig, 1, 20)
    await uploaded(rig, 20)
    ran(rig, KEEP_S / 2)
    again = await reopened(rig)
    again.journal.keeping.confirm(20)
    ran(again, KEEP_S / 2 - 10)
    assert await again.journal.keeping.delete_kept(KEEP_S, ROWS) == 0
    ran(again, 10)
    assert await again.journal.keeping.delete_kept(KEEP_S, ROWS) == 19
    await again.close()


async def test_a_step_deletes_no_more_than_it_was_asked_to(rig: Rig) -> None:
    await sell(rig, 1, 50)
    await uploaded(rig, 50)
    ran(rig, KEEP_S)
    steps = [await rig.journal.keeping.delete_kept(KEEP_S, 20) for _ in range(4)]
    assert steps == [20, 20, 9, 0]


async def test_marks_are_ten_minutes_apart_and_old_ones_go(rig: Rig) -> None:
    for number in range(1, 41):
        await sell(rig, number * 2 - 1, number * 2)
        await uploaded(rig, number * 2)
        ran(rig, MARK_INTERVAL_S / 2)
    assert len(marks(rig)) == 20
    ran(rig, KEEP_S)
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) > 60
    assert len(marks(rig)) == 1


def marks(rig: Rig) -> list[tuple[int, float]]:
    connection = sqlite3.connect(f"file:{rig.folder / FILE_NAME}?mode=ro", uri=True)
    try:
        return connection.execute("select position, boottime_s from safe_marks order by position").fetchall()
    finally:
        connection.close()


async def test_a_damaged_mark_counts_as_no_older_than_the_marks_below_it(rig: Rig) -> None:
    await sell(rig, 1, 30)
    for to in (10, 20, 30):
        await uploaded(rig, to)
        ran(rig, MARK_INTERVAL_S)
    before = marks(rig)
    await change(rig, "update safe_marks set boottime_s = boottime_s / 1024 where position = 20")
    ran(rig, KEEP_S - 3 * MARK_INTERVAL_S)
    assert before[0][1] + KEEP_S <= rig.journal.lived_s() < before[1][1] + KEEP_S
    deleted = await rig.journal.keeping.delete_kept(KEEP_S, ROWS)
    assert deleted <= 20, "the mark of 30 counts for nothing before its time"
    assert 30 in kept(rig)


async def change(rig: Rig, sql: str) -> None:
    def work(connection: sqlite3.Connection) -> tuple[None, set[object]]:
        connection.execute(sql)
        return None, set()

    await rig.journal.writing.transact(work)  # type: ignore[arg-type]


async def test_ids_outlive_their_records_and_are_still_no_second_event(rig: Rig) -> None:
    await sell(rig, 1, 20)
    await uploaded(rig, 20)
    ran(rig, KEEP_S)
    assert await rig.journal.keeping.delete_kept(KEEP_S, ROWS) == 19
    again = await reopened(rig)
    items = [as_item(an_event("till-1", f"e1-{n}", "e1", n, f'{{"n":{n}}}')) for n in (1, 7, 20)]
    assert await again.append(items) == [Outcome.DUPLICATE] * 3
    [other] = await again.append([as_item(an_event("till-1", "e1-7", "e1", 7, '{"n":"other"}'))])
    assert other is Outcome.CONFLICT
    facts = next(one for one in again.journal.facts().devices if one.device == "till-1")
    assert (facts.stored, facts.stored_count, facts.pending_count) == (20, 20, 0)
    await again.close()


async def test_freed_pages_are_used_again_and_the_file_does_not_grow(rig: Rig) -> None:
    sizes = []
    for turn in range(4):
        await sell(rig, turn * 100 + 1, turn * 100 + 100)
        await uploaded(rig, turn * 100 + 100)
        ran(rig, KEEP_S)
        while await rig.journal.keeping.delete_kept(KEEP_S, 200):
            pass
        pages = await rig.journal.keeping.pages()
        assert pages is not None
        sizes.append(pages.total)
    assert sizes[3] - sizes[1] < sizes[0] - 10, sizes
