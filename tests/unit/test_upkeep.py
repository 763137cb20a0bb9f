"""The stages that keep the box fit: what they tell, when they give and make the reserve, and how they delete."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from agent.core.errors import Transient
from agent.core.pressure import Level
from agent.journal.reserve import RESERVE_NAME, Reserve
from agent.settings.box import JournalSettings
from agent.upkeep.disk import Disk
from agent.upkeep.retention import DAY_S, Retention
from agent.upkeep.wear import Wear

MIB = 1_048_576
LIMITS = JournalSettings(
    reserve_bytes=MIB, refuse_free_bytes=10 * MIB, shed_free_bytes=20 * MIB, checkpoint_bytes=MIB, bytes_max=1000 * MIB
)


class Pages(NamedTuple):
    used_bytes: int
    free_bytes: int
    left_bytes: int


class Journal:
    """A journal that is as full as the test says."""

    shed_count = 0

    def __init__(self) -> None:
        self.is_full: Pages | None = Pages(MIB, 0, 900 * MIB)

    async def pages(self) -> Pages | None:
        return self.is_full

    def lived_s(self) -> float:
        return 0.0


class Told:
    """What people are told, by name."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, str, str]] = {}

    def hold(self, id: str, severity: str, title: str, text: str, hint: str) -> None:
        self.held[id] = (severity, text, hint)

    def lift(self, id: str) -> None:
        self.held.pop(id, None)


class Box:
    """The stage with everything around it; the file system has `free_bytes` and `files` left."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.journal, self.told, self.levels = Journal(), Told(), list[Level]()
        self.free_bytes, self.files, self.now_s = 100 * MIB, 1000, 0.0
        self.reserve = Reserve(folder, LIMITS.reserve_bytes)
        self.stage = Disk(
            folder,
            self.journal,
            self.reserve,
            Wear(folder, folder),
            self.levels.append,
            self.told,
            lambda: self.now_s,
            lambda: LIMITS,
        )
        patch.setattr(os, "statvfs", lambda _: self.file_system())

    def file_system(self) -> Any:
        return SimpleNamespace(f_bavail=self.free_bytes, f_frsize=1, f_files=10_000, f_favail=self.files)

    async def look(self) -> None:
        """One look, as the stage begins with."""
        stop = asyncio.Event()
        stop.set()
        await self.stage.run(lambda: None, stop)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(tmp_path, monkeypatch)


async def test_people_are_told_of_each_level_and_when_it_is_over(box: Box) -> None:
    await box.look()
    assert (box.levels, box.told.held, box.stage.facts().level) == ([], {}, "normal")
    box.free_bytes = 19 * MIB
    await box.look()
    assert [(name, words[0]) for name, words in box.told.held.items()] == [("disk_shed", "warning")]
    box.free_bytes = 9 * MIB
    await box.look()
    assert [(name, words[0]) for name, words in box.told.held.items()] == [("disk_full", "critical")]
    assert "not Nightsafe's" in box.told.held["disk_full"][2]
    box.free_bytes = 100 * MIB
    await box.look()
    assert (box.levels, box.told.held) == ([Level.SHED, Level.REFUSE, Level.NORMAL], {})


async def test_the_journals_own_bound_has_its_own_words(box: Box) -> None:
    box.journal.is_full = Pages(995 * MIB, 0, 5 * MIB)
    await box.look()
    assert "bytes_max" in box.told.held["disk_full"][2]


async def test_the_reserve_is_made_really_and_made_again_when_there_is_room(box: Box, tmp_path: Path) -> None:
    await box.look()
    assert (tmp_path / RESERVE_NAME).stat().st_blocks * 512 >= LIMITS.reserve_bytes
    assert box.stage.give(sure=True)
    assert not (tmp_path / RESERVE_NAME).exists()
    assert (box.levels, box.stage.facts().reserve_kept) == ([Level.REFUSE], False)
    assert not box.stage.give(sure=True), "there is nothing left to give"
    box.free_bytes = 11 * MIB
    await box.look()
    assert not box.reserve.kept, "there is not room enough for it"
    box.free_bytes = 100 * MIB
    await box.look()
    assert (box.reserve.kept, box.levels[-1]) == (True, Level.NORMAL)


async def test_a_failure_that_may_have_been_the_disks_takes_the_reserve_only_if_the_disk_is_full(box: Box) -> None:
    await box.look()
    assert not box.stage.give(sure=False)
    assert box.reserve.kept
    box.free_bytes = 1000
    assert box.stage.give(sure=False)


async def test_too_many_files_are_told_and_stop_nothing(box: Box) -> None:
    box.files = 3
    await box.look()
    assert (list(box.told.held), box.levels) == (["disk_files"], [])


async def test_A5_4_a_disk_that_will_soon_be_full_is_told_in_hours(box: Box) -> None:
    for minute in range(61):
        box.now_s = minute * 60.0
        box.journal.is_full = Pages((100 + minute) * MIB, 0, 900 * MIB)
        await box.look()
    assert box.stage.facts().hours_until_full == 1.5
    assert "about 2 hours" in box.told.held["disk_filling"][1]


async def test_while_the_journal_limps_the_last_figures_hold(box: Box) -> None:
    await box.look()
    box.journal.is_full = None
    await box.look()
    assert box.stage.facts().journal_bytes == MIB


def test_a_disk_full_to_the_brim_gets_the_reserve_before_anything_is_opened(box: Box) -> None:
    box.reserve.make()
    box.reserve.ease(MIB)
    assert box.reserve.kept
    box.free_bytes = MIB - 1
    box.reserve.ease(MIB)
    assert not box.reserve.kept


class Deleting:
    """A journal that has so many records to delete."""

    def __init__(self, records: int) -> None:
        self.records = records
        self.asked: list[float] = []
        self.marked = 0
        self.fails = False
        self.through: Callable[[], None] = lambda: None

    async def mark_safe(self) -> None:
        self.marked += 1

    async def delete_kept(self, keep_s: float, rows_max: int) -> int:
        self.asked.append(keep_s)
        if self.fails:
            self.fails = False
            raise Transient("disk_full", "The disk is full.")
        deleted = min(rows_max, self.records)
        self.records -= deleted
        if not self.records:
            self.through()
        return deleted


async def test_retention_deletes_in_small_steps_until_it_is_through(box: Box) -> None:
    limits = JournalSettings(keep_days=3, delete_interval_s=0.01, delete_records_max=200, delete_pause_s=0.01)
    journal, stop = Deleting(500), asyncio.Event()
    journal.fails = True
    journal.through = stop.set
    async with asyncio.timeout(5):
        await Retention(journal, lambda: limits).run(lambda: None, stop)
    assert journal.asked == [3 * DAY_S] * 4
    assert journal.marked == 2
