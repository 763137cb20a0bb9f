"""A device begins a new epoch: what its older ones lack is lost in bounded steps, that a kill only puts off."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.property.journal_model import AGENT, LOST_STEP, an_event, as_item, own_of
from tests.property.journal_rig import Rig, Ticking, copy_files, read_rows, straight

HOLES = [(number, number) for number in range(1, 14, 2)]


def sale(epoch: str, sequence: int, device: str = "till-1") -> Any:
    return as_item(an_event(device, f"{epoch}-{sequence}", epoch, sequence, "{}"))


def lost(folder: Path) -> list[tuple[int, int]]:
    """Every range that a record calls lost, in the order of the log."""
    own = [own_of(row.event) for row in read_rows(folder) if row.device == AGENT]
    named = [data for kind, data in own if kind == "nightsafe.gap.lost"]
    ranges = [data.get("ranges", [[data["from"], data["to"]]]) for data in named]
    return [(int(first), int(last)) for one in ranges for first, last in one]


async def test_A3_7_a_kill_at_any_commit_of_the_steps_leaves_what_the_next_start_finishes(tmp_path: Path) -> None:
    copies: list[Path] = []

    def copying(_: sqlite3.Connection, sql: str, run: Callable[[], Any]) -> Any:
        done = run()
        if sql == "commit":
            copies.append(tmp_path / f"killed-{len(copies)}")
            copy_files(tmp_path / "box", copies[-1])
        return done

    (tmp_path / "box").mkdir()
    rig = await Rig(tmp_path / "box", Ticking()).open()
    await rig.append([sale("e1", last + 1) for _, last in HOLES])
    rig.through(copying)
    await rig.append([sale("e2", 1)])
    assert lost(rig.folder) == HOLES
    await rig.close()
    between = [folder for folder in copies if 0 < len(lost(folder)) < len(HOLES)]
    assert len(between) >= len(HOLES) // LOST_STEP
    for folder in copies:
        rig = await Rig(folder, Ticking()).open()
        await rig.settled()
        assert lost(folder) == HOLES
        assert rig.journal.open_gaps() == []
        assert [(loss.epoch, loss.events_count) for loss in rig.journal.losses()] == [("e1", len(HOLES))]
        await rig.close()
        connection = sqlite3.connect(folder / "journal.sqlite")
        assert connection.execute("select count(*) from gaps where first = 0 or state = 'open'").fetchone() == (0,)
        connection.close()


async def test_what_comes_late_between_the_steps_is_not_lost_and_a_later_hole_is_asked_for(tmp_path: Path) -> None:
    rig = await Rig(tmp_path, Ticking()).open()
    await rig.append([sale("e1", last + 1) for _, last in HOLES])
    await rig.append([sale("e2", 1), sale("e1", 13), sale("e1", 20)])
    assert lost(rig.folder) == HOLES[:-1]
    assert [(gap.first, gap.last) for gap in rig.journal.open_gaps()] == [(15, 19)]
    await rig.close()


@pytest.mark.parametrize("holes", [60, 240])
async def test_A3_7_no_commit_grows_with_the_holes_that_a_new_epoch_ends(tmp_path: Path, holes: int) -> None:
    """Statements and records of the longest transaction: the same for 60 holes and for 240."""
    longest = statements = 0

    def counting(_: sqlite3.Connection, sql: str, run: Callable[[], Any]) -> Any:
        nonlocal longest, statements
        statements = 0 if sql.startswith("begin") else statements + 1
        longest = max(longest, statements)
        return run()

    rig = await Rig(tmp_path, Ticking()).open()
    await rig.append([sale("e1", 2 * number) for number in range(1, holes + 1)])
    before = len(read_rows(tmp_path))
    rig.through(counting)
    await rig.append([sale("e2", 1)])
    rig.through(straight)
    assert longest < 20
    assert len(lost(tmp_path)) == holes
    assert len(read_rows(tmp_path)) - before == 1 + holes // LOST_STEP
    await rig.close()


async def test_a_new_epoch_looks_only_at_those_with_open_holes(tmp_path: Path) -> None:
    rig = await Rig(tmp_path, Ticking()).open()
    for number in range(40):
        await rig.append([sale(f"e{number}", 1)])
    await rig.append([sale("e40", 2)])
    device = rig.journal.book.devices["till-1"]
    assert [counting.epoch for counting in device.holed] == ["e40"]
    await rig.append([sale("e41", 1)])
    assert not device.holed
    assert lost(tmp_path) == [(1, 1)]
    await rig.close()


async def test_A3_7_a_hole_that_came_in_many_parts_is_lost_in_steps_too(tmp_path: Path) -> None:
    rig = await Rig(tmp_path, Ticking()).open()
    await rig.append([sale("e1", 20), *(sale("e1", number) for number in (3, 6, 9, 12, 15))])
    await rig.append([sale("e2", 1)])
    assert lost(tmp_path) == [(1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 19)]
    assert rig.journal.open_gaps() == []
    await rig.close()
