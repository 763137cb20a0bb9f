"""Small disks for a box: an ext4 in a file behind a loop device, or a piece of memory, mounted where the test says.

Where this user may not mount, or the machine has no loop devices, a test that asks for one is skipped with the reason.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1_048_576
SMALL_JOURNAL = {
    "checkpoint_bytes": 524_288,
    "reserve_bytes": 2 * MIB,
    "refuse_free_bytes": 2 * MIB,
    "shed_free_bytes": 3 * MIB,
}
"""[journal] for a disk of 16 MiB."""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _needs_root() -> None:
    if os.geteuid():
        pytest.skip("only root may mount")


def _try_mount(what: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{what} cannot be mounted here: {done.stderr.strip()}")


@contextmanager
def ext4(at: Path, image: Path, *options: str, mount: str = "loop", size: int = 16 * MIB) -> Iterator[Path]:
    """An ext4 of `size` bytes in the file `image`, mounted at `at`; `options` are for mkfs. Yields `at`."""
    _needs_root()
    if shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("mkfs.ext4 is not installed")
    at.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", *options, str(image))
    _try_mount("a loop device", "mount", "-o", mount, str(image), str(at))
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=False)


@contextmanager
def tmpfs(at: Path, size: int = 16 * MIB) -> Iterator[Path]:
    """`size` bytes of memory, mounted at `at`."""
    _needs_root()
    at.mkdir(parents=True, exist_ok=True)
    _try_mount("a tmpfs", "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at))
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=False)


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """Another program's file that takes all the room but so much; returns it."""
    path = folder / "somebody-elses.log"
    with path.open("ab", buffering=0) as file:
        for size in (262_144, 4_096, 512):
            while free_bytes(folder) - size >= leave_bytes:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
        os.fsync(file.fileno())
    return path


def free_bytes(folder: Path) -> int:
    """What others than root may still use."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
