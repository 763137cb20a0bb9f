"""agent → [a folder that writes everything down]. Puts the recorder under a folder, and takes it away again.

Needs /dev/fuse, fusermount3 and mfusepy. A machine without /dev/fuse cannot run this, and says so; a package that is
missing where CI runs is a fault of the installation, and fails.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.crash.power import tape
from tests.crash.power.recorder import FAULT
from tests.crash.power.tape import Op
from tests.integration.machine import until

SYNC_MS = 2
"""How long a sync takes at least: a fast SSD's."""


def needs_fuse() -> None:
    """Skips the test where the machine has no FUSE; fails where only a package is missing and CI should have it."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"POWER CUTS ARE NOT TRIED HERE: /dev/fuse cannot be opened ({error.strerror})")
    missing = [] if shutil.which("fusermount3") else ["fuse3 (apt)"]
    missing += [] if find_spec("mfusepy") else ["mfusepy"]
    if not missing:
        return
    words = f"missing: {', '.join(missing)}; scripts/setup --dev installs it"
    pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)


class Mount:
    """`folder` is what the agent works in; `live` is what lies below it."""

    def __init__(self, folder: Path, live: Path, record: Path) -> None:
        self.folder = folder
        self.live = live
        self._record = record

    def tape(self) -> list[Op]:
        """All that happened so far."""
        return list(tape.read(self._record))

    def fail(self, call: str, error: str, of: str, times: int = 1, kill: bool = False) -> None:
        """Let the next `times` calls (0: all) on paths that end in `of` fail; `kill` who calls, before it hears."""
        order = {"call": call, "error": error, "of": of, "times": times, "kill": kill}
        (self.folder / FAULT.lstrip("/")).write_text(json.dumps(order))

    def mend(self) -> None:
        """No call fails any more."""
        self.fail("", "EIO", "")


@contextmanager
def mounted(folder: Path, beside: Path) -> Iterator[Mount]:
    """The recorder under `folder`; its files lie in `beside`. Unmounts at the end, whatever happened."""
    needs_fuse()
    live, record, words = beside / "live", beside / "tape", beside / "recorder.log"
    for made in (folder, live):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    arguments = [str(live), str(folder), str(record), str(SYNC_MS)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with words.open("wb") as said:
        recorder = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.power.recorder", *arguments],
            stdout=said, stderr=said, env=environment,
        )  # fmt: skip
    try:
        until(lambda: folder.is_mount() or recorder.poll() is not None, "the recorder is mounted")
        if recorder.poll() is not None:
            _could_not(words.read_text(errors="replace"))
        yield Mount(folder, live, record)
    finally:
        if folder.is_mount():
            subprocess.run(["fusermount3", "-u", "-z", str(folder)], check=False)
        if recorder.poll() is None:
            try:
                recorder.wait(10)
            except subprocess.TimeoutExpired:
                recorder.kill()
                recorder.wait()


def _could_not(words: str) -> None:
    """A container may show /dev/fuse and yet forbid to mount."""
    if "not permitted" in words or "mount failed" in words.lower():
        pytest.skip(f"POWER CUTS ARE NOT TRIED HERE: this system lets nobody mount a file system: {words.strip()}")
    pytest.fail(f"the recorder did not start: {words}")
