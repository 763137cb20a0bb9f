"""[runtime] What the service manager is told, and what it hands over: readiness, watchdog, listening sockets.

Speaks to systemd or to nobody: without `$NOTIFY_SOCKET` every call is a quiet no. Never fails a caller.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from agent.runtime.stages import Pulse

try:
    from systemd import daemon
except ImportError:
    daemon = None

log = structlog.get_logger()

FIRST_FD: Final = 3
"""The number of the first socket that systemd passes."""

LOOK_INTERVAL_S: Final = 5.0
"""How often heartbeats are looked at when no watchdog asks for more, in seconds."""
PATIENCE_S: Final = 600
"""For so long may a start say nothing after its last sign of life: the longest sync of what a rebuild has written."""
PATIENCE_ASKED_EVERY_S: Final = 5.0
"""How often the manager is told that a long start goes on."""


def ready(status: str) -> bool:
    """Start-up is done; `status` is shown by `systemctl status`. True if the manager was told, here and below."""
    return notify(f"READY=1\nSTATUS={_one_line(status)}")


def stopping() -> bool:
    """The stop has begun."""
    return notify("STOPPING=1")


def status(text: str) -> bool:
    """A new line for `systemctl status`."""
    return notify(f"STATUS={_one_line(text)}")


class Patience:
    """Asks for more time to start, as often as it is called but no oftener than is of use; may be called on any thread.

    Not once the stop has begun: what is asked for then would put off the stop.
    """

    def __init__(self, text: str, stop: asyncio.Event, now_s: Callable[[], float] = time.monotonic) -> None:
        self._text = _one_line(text)
        self._stop = stop
        self._now_s = now_s
        self._next_s = float("-inf")

    def __call__(self) -> None:
        """Something that takes long goes on."""
        now_s = self._now_s()
        if now_s >= self._next_s and not self._stop.is_set():
            self._next_s = now_s + PATIENCE_ASKED_EVERY_S
            notify(f"EXTEND_TIMEOUT_USEC={PATIENCE_S * 1_000_000}\nSTATUS={self._text}")


def notify(state: str) -> bool:
    """Send `state` as in sd_notify(3)."""
    if daemon is not None:
        with suppress(OSError):
            return bool(daemon.notify(state))
        return False
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
        way.connect(address)
        way.sendall(state.encode())
        return True
    return False


def watchdog_s() -> float | None:
    """How often systemd wants to hear WATCHDOG=1 from this process, in seconds; None when it does not."""
    wanted, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not wanted.isdecimal() or int(wanted) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(wanted) / 1_000_000


def passed_sockets() -> dict[str, tuple[socket.socket, ...]]:
    """Listening sockets handed over by systemd, by their names; taken once, children do not inherit them."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, tuple[socket.socket, ...]] = {}
    for index in range(int(count)):
        name = names[index] if index < len(names) and names[index] else "unknown"
        passed = socket.socket(fileno=FIRST_FD + index)
        passed.set_inheritable(False)
        found[name] = (*found.get(name, ()), passed)
    return found


class Watchdog:
    """An ancillary stage that feeds systemd's watchdog, only while every vital stage beats; never asks the network."""

    name = "watchdog"

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Look at the heartbeats twice in each watchdog interval."""
        interval_s = watchdog_s()
        look_s = interval_s / 2 if interval_s else LOOK_INTERVAL_S
        missed: tuple[str, ...] = ()
        ready()
        while not stop.is_set():
            stale = self._pulse.stale()
            if stale != missed:
                tell, event = (log.error, "heartbeat_missed") if stale else (log.info, "heartbeat_back")
                tell(event, stages=",".join(stale or missed))
            missed = stale
            if interval_s and not stale:
                notify("WATCHDOG=1")
            with suppress(TimeoutError):
                async with asyncio.timeout(look_s):
                    await stop.wait()


def _one_line(text: str) -> str:
    return " ".join(text.split())
