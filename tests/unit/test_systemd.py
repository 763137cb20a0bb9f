"""What the service manager hears and hands over, over a real datagram socket and real descriptors."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime import systemd
from agent.runtime.stages import Pulse


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of $NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@nightsafe-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name.replace("@", "\0"))
        end.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield end


def test_readiness_and_the_stop_are_told(manager: socket.socket) -> None:
    assert systemd.ready("gate on 127.0.0.1:1883\nREADY=0")
    assert manager.recv(1024) == b"READY=1\nSTATUS=gate on 127.0.0.1:1883 READY=0"
    assert systemd.status("37 waiting")
    assert manager.recv(1024) == b"STATUS=37 waiting"
    assert systemd.stopping()
    assert manager.recv(1024) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/no/such/socket"])
def test_without_a_manager_nothing_fails(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert systemd.ready("x") is False


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [(None, None, None), ("0", None, None), ("x", None, None), ("30000000", None, 30.0), ("500000", "1", None)],
)
def test_the_watchdogs_wish_is_read(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, interval_s: float | None
) -> None:
    for name, value in {"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog_s() == interval_s


async def test_the_watchdog_is_fed_only_while_every_vital_stage_beats(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    now_s = 0.0
    pulse = Pulse(1.0, lambda: now_s)
    beat = pulse.of("drain")
    stop = asyncio.Event()
    manager.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(systemd.Watchdog(pulse).run(lambda: None, stop))
        assert await loop.sock_recv(manager, 64) == b"WATCHDOG=1"
        now_s = 2.0
        await asyncio.sleep(0.05)
        while _waiting(manager):
            pass
        await asyncio.sleep(0.05)
        assert not _waiting(manager)
        beat()
        assert await loop.sock_recv(manager, 64) == b"WATCHDOG=1"
        stop.set()


def _waiting(end: socket.socket) -> bool:
    try:
        return bool(end.recv(64))
    except BlockingIOError:
        return False


CHILD = """
import os, socket
os.environ["LISTEN_PID"] = str(os.getpid())
from agent.runtime import systemd
passed = systemd.passed_sockets()
print({name: [one.getsockname()[1] for one in sockets] for name, sockets in passed.items()})
print(systemd.passed_sockets(), "LISTEN_FDS" in os.environ)
"""


def test_listening_sockets_are_taken_over_by_name_and_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [first.getsockname()[1], second.getsockname()[1]]

        def as_systemd_does() -> None:
            spare = os.dup(second.fileno())
            os.dup2(first.fileno(), systemd.FIRST_FD)
            os.dup2(spare, systemd.FIRST_FD + 1)

        answer = subprocess.run(
            [sys.executable, "-c", CHILD],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "gate:gate"},
            preexec_fn=as_systemd_does,
            close_fds=False,
            capture_output=True,
            text=True,
            check=True,
        )
    assert answer.stdout.splitlines() == [str({"gate": ports}), "{} False"]


def test_sockets_meant_for_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.passed_sockets() == {}


def test_a_long_start_asks_for_more_time_now_and_then_and_never_once_the_stop_has_begun(manager: socket.socket) -> None:
    manager.setblocking(False)
    times_s, stop = iter((0.0, 0.1, 4.9, 5.0, 60.0)), asyncio.Event()
    patience = systemd.Patience("built\nanew", stop, lambda: next(times_s))
    for _ in range(4):
        patience()
    asked = b"EXTEND_TIMEOUT_USEC=%d\nSTATUS=built anew" % (systemd.PATIENCE_S * 1_000_000)
    assert (manager.recv(1024), manager.recv(1024)) == (asked, asked)
    stop.set()
    patience()
    assert not _waiting(manager)
