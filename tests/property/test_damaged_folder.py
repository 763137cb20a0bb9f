"""A folder `damaged` that takes no file keeps no journal from opening: what is damaged is kept beside it, and told."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent.core.errors import Transient
from agent.journal import aside, salvage
from agent.journal.database import FILE_NAME
from tests.property.journal_model import as_item
from tests.property.journal_rig import QUICK
from tests.property.test_attention_seams import Joined, spoil, terms
from tests.property.test_attentions import House
from tests.property.test_limp import event

WAYS = ("file", "dangling", "foreign", "other disk")


@pytest.fixture
async def house() -> AsyncIterator[House]:
    with TemporaryDirectory(prefix="ns-aside-", dir=QUICK) as folder:
        state = Path(folder) / "state"
        state.mkdir()
        made = await Joined(state).open()
        await made.rig.append([as_item(event(number)) for number in range(1, 6)])
        yield made
        await made.rig.close()


def unusable(folder: Path, way: str, elsewhere: Path) -> None:
    """The folder `damaged` cannot be used."""
    path = folder / aside.FOLDER_NAME
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if way == "file":
        path.write_text("somebody's own")
    elif way == "dangling":
        path.symlink_to(folder / "nowhere" / "at all")
    elif way == "other disk":
        if elsewhere.stat().st_dev == folder.stat().st_dev:
            pytest.skip("there is only one disk here")
        path.symlink_to(elsewhere)
    else:
        path.mkdir()
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        os.chown(path, 12345, -1)


def kept_rows(folder: Path) -> list[str]:
    return [str(path.parent.relative_to(folder)) for path in folder.glob("damaged*/row-*.json")]


def kept_databases(folder: Path) -> list[str]:
    return [path.parent.parent.name for path in folder.glob(f"damaged*/*/{FILE_NAME}")]


@pytest.mark.parametrize("way", WAYS[:3])
async def test_the_opening_sets_a_record_aside_beside_a_folder_that_takes_nothing(
    house: House, way: str, tmp_path: Path
) -> None:
    await house.rig.close()
    spoil(house.rig.folder, 3)
    unusable(house.rig.folder, way, tmp_path)
    await house.open()
    assert kept_rows(house.rig.folder) == ["damaged-1"]
    assert "damaged-1" in house.told()["damaged_folder"].text
    assert "journal_lost" in house.told()
    await house.rig.append([as_item(event(6))])
    await house.again()
    assert "damaged_folder" in house.told()


@pytest.mark.parametrize("way", WAYS[:3])
async def test_a_repair_while_the_box_runs_goes_on_beside_a_folder_that_takes_nothing(
    house: House, way: str, tmp_path: Path
) -> None:
    spoil(house.rig.folder, 2)
    spoil(house.rig.folder, 4)
    unusable(house.rig.folder, way, tmp_path)
    assert await house.rig.journal.mending.repair_all((2, 4))
    assert kept_rows(house.rig.folder) == ["damaged-1"] * 2
    assert "damaged-1" in house.told()["damaged_folder"].text


@pytest.mark.parametrize("way", WAYS)
async def test_a_rebuild_keeps_the_damaged_database_beside_a_folder_that_takes_nothing(
    house: House, way: str, tmp_path: Path
) -> None:
    await house.rig.close()
    unusable(house.rig.folder, way, tmp_path)
    salvage.demand(house.rig.folder, "a test asks for it")
    await house.open()
    assert kept_databases(house.rig.folder) == ["damaged-1"]
    assert "damaged-1" in house.told()["damaged_folder"].text
    assert "Nothing of it is lost" in house.told()["journal_mended"].text
    assert len(house.rig.journal.book.epochs) == 2


async def test_a_rebuild_that_was_cut_off_before_it_moved_anything_takes_another_folder(
    house: House, tmp_path: Path
) -> None:
    await house.rig.close()
    plan = salvage._plan(house.rig.folder, 1_795_342_500_000, "a test asks for it")
    assert plan.folder.startswith("damaged/")
    unusable(house.rig.folder, "file", tmp_path)
    await house.open()
    assert kept_databases(house.rig.folder) == ["damaged-1"]


async def test_a_folder_that_can_be_used_again_is_used_again(house: House, tmp_path: Path) -> None:
    """And the bound counts what is kept in all of them."""
    unusable(house.rig.folder, "file", tmp_path)
    spoil(house.rig.folder, 2)
    assert await house.rig.journal.mending.repair(2)
    (house.rig.folder / "damaged").unlink()
    spoil(house.rig.folder, 3)
    assert await house.rig.journal.mending.repair(3)
    assert sorted(kept_rows(house.rig.folder)) == ["damaged", "damaged-1"]
    size = sum(path.stat().st_size for path in house.rig.folder.glob("damaged*/row-*.json"))
    assert aside.keep_row(house.rig.folder, (9,) * 11, 1, size) is None


async def test_a_damaged_database_that_can_be_kept_nowhere_is_left_where_it_is(house: House) -> None:
    await house.rig.close()
    for name in aside.FOLDERS:
        (house.rig.folder / name).write_text("somebody's own")
    before = (house.rig.folder / FILE_NAME).read_bytes()
    with pytest.raises(Transient, match="cannot be kept"):
        salvage.run(house.rig.folder, terms(house), "a test asks for it")
    assert (house.rig.folder / FILE_NAME).read_bytes() == before
    for name in aside.FOLDERS:
        (house.rig.folder / name).unlink()
    await house.open()
    assert house.rig.journal.book.position == 5
