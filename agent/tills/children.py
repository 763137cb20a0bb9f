"""[children] One program started, watched and ended by its own pid; and the ports that programs listen on.

What a service manager does in a venue, in small, for the demo: a child that must live is started again when it dies.
Never touches a process that it did not start.
"""

import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, NamedTuple

from agent.core.errors import NightsafeError

STOP_MAX_S: Final = 15.0
"""How long a child may take to end after SIGTERM; after it SIGKILL."""
RESTART_FIRST_S: Final = 0.25
RESTART_MAX_S: Final = 4.0
"""Pause before a dead child is started again, doubled after each quick death, in seconds."""
QUICK_DEATH_S: Final = 3.0
"""A child that died sooner than this after its start died quickly."""
QUICK_DEATHS_MAX: Final = 4
"""Quick deaths in a row after which it is not tried again."""
LOG_LINES_SHOWN: Final = 12
"""Last lines of its log that a failed child is reported with."""


class ChildFailed(NightsafeError):
    """A child cannot be started or does not stay alive. The text ends with the last lines of its log."""


class Child:
    """One program. With `restarts`, whoever calls `look` now and then keeps it alive between `start` and `stop`."""

    def __init__(self, name: str, command: list[str], log: Path, *, restarts: bool) -> None:
        """`log` gets what the program prints, appended."""
        self.name = name
        self.starts = 0
        self._command = command
        self._log = log
        self._restarts = restarts
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._started_at_s = 0.0
        self._again_at_s: float | None = None
        self._quick_deaths = 0

    @property
    def pid(self) -> int | None:
        """The pid while it lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def alive(self) -> bool:
        return self.pid is not None

    def start(self) -> None:
        """Start it if it does not run."""
        self._wanted = True
        if not self.alive:
            self._spawn()

    def look(self) -> None:
        """Start it again if it died unasked. ChildFailed when it keeps dying, or died and is not to be restarted."""
        if not self._wanted or self.alive:
            return
        now_s = time.monotonic()
        if self._again_at_s is None:
            self._note_death(now_s)
        elif now_s >= self._again_at_s:
            self._spawn()

    def kill(self) -> None:
        """SIGKILL, as a power cut for one process. `look` starts it again."""
        if self._process is not None and self.alive:
            self._process.kill()
            self._process.wait()

    def stop(self, limit_s: float = STOP_MAX_S) -> None:
        """SIGTERM, and SIGKILL after `limit_s`. Returns when it has ended."""
        self._wanted = False
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def failure(self, text: str) -> ChildFailed:
        """An error about this child that carries the end of its log."""
        tail = self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:] if self._log.exists() else []
        shown = "".join(f"\n    {line}" for line in tail)
        return ChildFailed("child_failed", f"{self.name} {text}.", f"The end of {self._log}:{shown}")

    def _note_death(self, now_s: float) -> None:
        quick = now_s - self._started_at_s < QUICK_DEATH_S
        self._quick_deaths = self._quick_deaths + 1 if quick else 0
        code = self._process.returncode if self._process is not None else None
        if not self._restarts or self._quick_deaths > QUICK_DEATHS_MAX:
            self._wanted = False
            raise self.failure(f"ended with {code}")
        self._again_at_s = now_s + min(RESTART_MAX_S, RESTART_FIRST_S * 2 ** max(0, self._quick_deaths - 1))

    def _spawn(self) -> None:
        self._again_at_s = None
        self._started_at_s = time.monotonic()
        self.starts += 1
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*_dies_with_us(), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us alone: we end the children in order
            )


def _dies_with_us() -> list[str]:
    """A prefix that asks the kernel to end the child when this program is killed outright."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


class Port(NamedTuple):
    """A port to listen on; `note` says why it is not the usual one."""

    number: int
    note: str | None


def choose_port(usual: int, purpose: str, taken: frozenset[int] = frozenset()) -> Port:
    """The usual port on loopback if it is free, else a free one and a note: who holds the usual one, what frees it."""
    if usual not in taken and _is_free(usual):
        return Port(usual, None)
    number = any_free(taken)
    holder, remedy = _holder(usual)
    return Port(number, f"Port {usual} ({purpose}) is taken{holder}; {number} is used instead. {remedy}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def any_free(taken: frozenset[int] = frozenset()) -> int:
    """A port on loopback that nobody listens on right now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port


def _holder(port: int) -> tuple[str, str]:
    """Who listens there, in words, and what would free the port."""
    text = ""
    if shutil.which("ss"):
        listing = subprocess.run(["ss", "-ltnpH", f"sport = :{port}"], capture_output=True, text=True, check=False)
        text = listing.stdout
    found = re.search(r'\(\("([^"]+)",pid=(\d+)', text)
    if found is None:
        return "", f"To see by whom: ss -ltnp 'sport = :{port}'."
    name, pid = found.groups()
    if name == "mosquitto":
        return f" by mosquitto (process {pid})", "To free it: systemctl disable --now mosquitto, or end that process."
    return f" by {name} (process {pid})", f"To free it: kill {pid}."
