"""The mark and the names beside the database: whole or not there, and never what they were not."""

import os
from pathlib import Path

import pytest

from agent.journal import mark, names
from agent.journal.mark import SLOT_BYTES, Mark, Point

EPOCH = "0199c0de-0000-7000-8000-000000000001"


def at(position: int) -> Point:
    return Point(position, position // 2, position // 3, 0, bytes([position % 256]) * 32, bytes(32), EPOCH, "demo")


def marked(directory: Path, *positions: int) -> None:
    kept = Mark(directory)
    for position in positions:
        kept.note(at(position))
    kept.close()


def test_there_is_no_mark_before_the_first(tmp_path: Path) -> None:
    assert mark.read(tmp_path) is None
    marked(tmp_path)
    assert mark.read(tmp_path) is None


def test_the_last_point_is_read_back_also_after_another_start(tmp_path: Path) -> None:
    marked(tmp_path, 1, 2, 3)
    assert mark.read(tmp_path) == at(3)
    marked(tmp_path, 4)
    assert mark.read(tmp_path) == at(4)
    assert (tmp_path / mark.FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("positions", [(5,), (5, 6), (5, 6, 7)])
def test_a_torn_slot_leaves_the_one_before(tmp_path: Path, positions: tuple[int, ...]) -> None:
    """Whichever slot was written last: half of it over what stood there."""
    marked(tmp_path, *positions)
    path = tmp_path / mark.FILE_NAME
    before = path.read_bytes()
    marked(tmp_path, 99)
    after = path.read_bytes()
    changed = next(slot for slot in (0, SLOT_BYTES) if before[slot : slot + 200] != after[slot : slot + 200])
    torn = bytearray(after)
    torn[changed + 60 : changed + 200] = before[changed + 60 : changed + 200]
    path.write_bytes(torn)
    assert mark.read(tmp_path) == at(positions[-1])


def test_every_flipped_bit_of_a_slot_is_noticed() -> None:
    slot = mark.encode(7, at(1234))
    assert mark.decode(slot) == (7, at(1234))
    for bit in range(len(slot) * 8):
        flipped = bytearray(slot)
        flipped[bit // 8] ^= 1 << bit % 8
        assert mark.decode(bytes(flipped)) is None, bit


def test_a_file_that_is_cut_or_foreign_is_no_mark(tmp_path: Path) -> None:
    path = tmp_path / mark.FILE_NAME
    for content in (b"", b"hello", os.urandom(8192), bytes(8192)):
        path.write_bytes(content)
        assert mark.read(tmp_path) is None


def test_names_whose_seal_does_not_hold_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / names.FILE_NAME
    assert names.read(tmp_path) is None
    for content in (b"", b"{}", b"0" * 64 + b"\n{}"):
        path.write_bytes(content)
        assert names.read(tmp_path) is None
