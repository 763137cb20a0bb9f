"""What a power cut takes and leaves, on tapes of a few records: the model that all disks are rebuilt with."""

import os
from pathlib import Path
from random import Random

import pytest

from tests.crash.power import tape
from tests.crash.power.disk import SECTOR_BYTES, Disk, Policy, Way
from tests.crash.power.mount import mounted
from tests.crash.power.tape import Kind, Op

POLICIES: tuple[Policy, ...] = ("drop", "prefix", "subset")


def op(kind: Kind, place: int = 0, data: bytes = b"", path: str = "/a", file: int = 1, new_path: str = "") -> Op:
    return Op(kind, file, place, path, data, new_path)


def after(ops: list[Op], policy: Policy = "drop", strict: bool = False, seed: int = 1) -> dict[str, bytes]:
    disk = Disk(Way(policy, strict), Random(seed))
    for one in ops:
        disk.take(one)
    return disk.after_cut()


CREATED = [op("create"), op("write", 0, b"old"), op("sync", 2)]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_synced_is_there(policy: Policy) -> None:
    assert after(CREATED, policy) == {"/a": b"old"}


def test_what_was_not_synced_is_gone_or_there() -> None:
    ops = [*CREATED, op("write", 0, b"NEW")]
    assert after(ops) == {"/a": b"old"}
    assert {after(ops, "subset", seed=seed)["/a"] for seed in range(20)} == {b"old", b"NEW"}


def test_a_prefix_never_has_the_later_write_without_the_earlier() -> None:
    ops = [*CREATED, op("write", 0, b"N"), op("write", 1, b"E")]
    assert {after(ops, "prefix", seed=seed)["/a"] for seed in range(30)} == {b"old", b"Nld", b"NEd"}


def test_a_sync_covers_only_what_was_written_before_it_began() -> None:
    ops = [*CREATED, op("write", 0, b"N"), op("write", 1, b"E"), op("sync", 4)]
    assert after(ops) == {"/a": b"Nld"}


def test_a_failed_sync_is_never_made_good_by_the_next_one() -> None:
    ops = [*CREATED, op("write", 0, b"N"), op("sync_failed", 4), op("write", 1, b"E"), op("sync", 6)]
    disk = Disk(Way("drop"), Random(1))
    for one in ops:
        disk.take(one)
    assert disk.after_cut() == {"/a": b"oEd"}
    assert disk.seen() == {"/a": b"NEd"}


def test_a_write_is_torn_between_sectors() -> None:
    ops = [op("create"), op("sync", 1), op("write", 0, b"x" * 4 * SECTOR_BYTES)]
    assert {len(after(ops, "subset", seed=seed)["/a"]) for seed in range(60)} == {
        sectors * SECTOR_BYTES for sectors in range(5)
    }


@pytest.mark.parametrize(("strict", "there"), [(False, {"/a", "/b"}), (True, set[str]())])
def test_names_become_durable_with_any_sync_or_only_with_their_folders(strict: bool, there: set[str]) -> None:
    ops = [op("create", path="/a"), op("create", path="/b", file=2), op("sync", 2, path="/b", file=2)]
    assert set(after(ops, strict=strict)) == there
    assert set(after([*ops, op("sync_folder", 3, path="/", file=0)], strict=True)) == {"/a", "/b"}


def test_a_rename_is_whole_or_not_there() -> None:
    ops = [*CREATED, op("create", path="/b", file=2), op("write", 0, b"2", "/b", 2), op("sync", 5, path="/b", file=2)]
    moved = [*ops, op("rename", path="/b", file=2, new_path="/a")]
    assert after(moved) == {"/a": b"old", "/b": b"2"}
    assert after([*moved, op("sync_folder", 7, path="/", file=0)]) == {"/a": b"2"}


def test_what_witnesses_write_is_no_part_of_the_disk() -> None:
    ops = [*CREATED, op("create", path="/b", file=2), op("sync", 4, path="/tills/told.jsonl", file=9)]
    assert set(after(ops)) == {"/a"}


def test_a_tape_that_was_cut_off_is_read_up_to_its_last_whole_record(tmp_path: Path) -> None:
    record = tmp_path / "tape"
    record.write_bytes(b"".join(map(tape.packed, CREATED))[:-1])
    assert list(tape.read(record)) == CREATED[:-1]


def test_the_recorder_writes_down_what_happens_and_fails_what_it_is_told_to(tmp_path: Path) -> None:
    with mounted(tmp_path / "state", tmp_path) as mount:
        file = mount.folder / "a"
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.write(opened, b"hello")
        mount.fail("sync", "EIO", "/a")
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(opened)
        os.fsync(opened)
        mount.fail("write", "ENOSPC", "/a", 0)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                os.write(opened, b"more")
        mount.mend()
        os.ftruncate(opened, 4)
        os.close(opened)
        file.rename(mount.folder / "b")
        (mount.folder / "b").write_bytes(b"new")
        (mount.folder / "b").unlink()
        kinds = [one.kind for one in mount.tape()]
    assert kinds == ["create", "write", "sync_failed", "sync", "truncate", "rename", "truncate", "write", "unlink"]
