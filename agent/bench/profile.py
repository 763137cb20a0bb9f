"""[profile] py-spy beside a measurement: where the agent's time goes. Its samples slow the agent down a little."""

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final, Self

from agent.bench.facts import Line
from agent.bench.programs import BenchFailed

RATE_PER_S: Final = 100
"""Samples a second."""
LINES_SHOWN: Final = 15
_LINE: Final = re.compile(r":\d+\)$")
WRITE_MAX_S: Final = 30.0
"""How long py-spy may take to write its file."""


def find() -> str:
    """The py-spy program, beside this Python or on the PATH. BenchFailed when there is none."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise BenchFailed("no_profiler", "py-spy is not installed.", "pip install py-spy, or leave --profile out.")
    return found


class Profile:
    """Stacks of `pid` that held the interpreter while the context lasted, in `path`: one a line, and how often."""

    def __init__(self, pid: int, path: Path) -> None:
        self._path = path
        self._command = [
            find(), "record", "--pid", str(pid), "--format", "raw", "--output", str(path), "--threads", "--gil",
            "--nonblocking", "--rate", str(RATE_PER_S), "--duration", "unlimited",
        ]  # fmt: skip

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(WRITE_MAX_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def lines(self) -> tuple[Line, ...]:
        """Where the samples ended most often. BenchFailed when py-spy could not look into the agent."""
        if not self._path.exists():
            text = "py-spy wrote no profile: it may not look into other processes."
            raise BenchFailed("profile_missing", text, "Run as root, or leave --profile out.")
        return top(self._path.read_text(encoding="utf-8"))


def top(raw: str) -> tuple[Line, ...]:
    """The functions on top of the stacks, the most frequent first, from py-spy's raw format."""
    seen: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if not frames:
            continue  # seen before its first frame
        last = frames[-1]
        name = "loop" if thread.endswith(": MainThread") else "worker"
        seen[f"{name}: {_LINE.sub(')', last)}"] += int(count)
    total = sum(seen.values())
    return tuple(Line(round(count / total, 4), where) for where, count in seen.most_common(LINES_SHOWN))
