"""What the flash memory says of its own life, on a device tree of our own."""

import os
from pathlib import Path

import pytest

from agent.upkeep.wear import WEAR_NAME, Wear, Worn

DAY_S = 86_400.0


class Card:
    """A device tree in which the disk below `folder` is a partition of a card that says what the test wants."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.device = root / "devices" / "mmc0" / "device"
        disk = root / "devices" / "mmc0" / "block" / "mmcblk0"
        (disk / "mmcblk0p2").mkdir(parents=True)
        self.device.mkdir(parents=True)
        (disk / "device").symlink_to(self.device)
        number = os.stat(folder).st_dev
        place = root / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
        place.parent.mkdir(parents=True)
        place.symlink_to(disk / "mmcblk0p2")
        self.says(life_time="0x01 0x01", pre_eol_info="0x01", cid="abc")

    def says(self, **files: str) -> None:
        for name, text in files.items():
            (self.device / name).write_text(text + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    made.mkdir()
    return made


@pytest.fixture
def card(tmp_path: Path, folder: Path) -> Card:
    return Card(tmp_path / "sys", folder)


@pytest.fixture
def wear(tmp_path: Path, folder: Path, card: Card) -> Wear:
    return Wear(folder, tmp_path / "sys")


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ("0x01 0x01", Worn(10, False)),
        ("0x02 0x05", Worn(50, False)),
        ("0x0a 0x00", Worn(100, False)),
        ("0x0B 0x01", Worn(100, True)),
        ("0x00 0x00", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_the_worse_of_the_two_kinds_of_memory_counts(wear: Wear, card: Card, says: str, found: Worn | None) -> None:
    card.says(life_time=says)
    assert wear.look() == found


def test_spare_blocks_that_run_out_are_told(wear: Wear, card: Card) -> None:
    card.says(pre_eol_info="0x02")
    assert wear.look() == Worn(10, True)


def test_days_are_told_once_it_has_moved_since_it_was_first_seen(wear: Wear, card: Card, folder: Path) -> None:
    assert wear.days_left(Worn(10, False), 0.0) is None
    assert (folder / WEAR_NAME).exists()
    assert wear.days_left(Worn(10, False), 50 * DAY_S) is None
    assert wear.days_left(Worn(20, False), 100 * DAY_S) == 800


def test_another_card_begins_anew(wear: Wear, card: Card) -> None:
    wear.days_left(Worn(10, False), 0.0)
    card.says(cid="def")
    assert wear.days_left(Worn(20, False), 100 * DAY_S) is None


def test_a_file_that_is_garbled_begins_anew(wear: Wear, folder: Path) -> None:
    (folder / WEAR_NAME).write_bytes(b"{")
    assert wear.days_left(Worn(10, False), 0.0) is None
    assert wear.days_left(Worn(20, False), 100 * DAY_S) == 800


def test_a_disk_that_tells_nothing_is_none(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert Wear(folder, empty).look() is None
