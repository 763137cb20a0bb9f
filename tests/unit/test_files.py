"""Files are private from the first byte, whole or not there, and one process holds the state directory."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.runtime import files
from agent.runtime.files import StateUnusable, held_lock, private_directory, write_whole


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_A1_3_the_state_directory_is_ours_alone(tmp_path: Path) -> None:
    private_directory(tmp_path / "made")
    assert mode_of(tmp_path / "made") == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    private_directory(tmp_path / "open")
    assert mode_of(tmp_path / "open") == 0o700


def test_a_state_directory_that_cannot_be_is_refused_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateUnusable, match="cannot be used"):
        private_directory(tmp_path / "file")
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(StateUnusable, match="belongs to another user"):
        private_directory(tmp_path)


def test_A1_3_a_written_file_is_whole_and_private(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        write_whole(tmp_path / "key", b"one")
        write_whole(tmp_path / "key", b"two")
    finally:
        os.umask(old_mask)
    assert (tmp_path / "key").read_bytes() == b"two"
    assert mode_of(tmp_path / "key") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "key", b"old")

    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "key", b"new")
    assert (tmp_path / "key").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_content_and_name_are_synced_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_whole(tmp_path / "key", b"x")
    assert steps == ["sync file", "rename", "sync directory"]


def test_a_second_instance_is_refused_with_words(tmp_path: Path) -> None:
    with held_lock(tmp_path):
        with pytest.raises(StateUnusable, match=f"process {os.getpid()}") as raised, held_lock(tmp_path):
            pass
        assert "Stop it first" in raised.value.hint
    with held_lock(tmp_path):
        assert mode_of(tmp_path / files.LOCK_NAME) == 0o600


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from agent.runtime.files import held_lock
with held_lock(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    with held_lock(tmp_path):
        pass
