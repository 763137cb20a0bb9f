"""Devices that go without a word: the kernel notices them for the gate, whatever keep-alive they asked for.

The network is a namespace of one thread's own, whose loopback is taken down under the connection: no FIN, no RST, no
answer. The broker is a stand-in that lets everybody in; gate and sockets are real.
"""

import asyncio
import ctypes
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core.arrivals import Item, Outcome, Settle
from agent.lan.connection import DeviceConnection
from agent.lan.gate import Door, Gate, Limits
from tests.integration import mqtt

IDLE_S, INTERVAL_S, PROBES = 1, 1, 2
NOTICED_S = 15.0
CLONE_NEWNET = 0x40000000
OPTIONS = {
    "TCP_KEEPIDLE": IDLE_S,
    "TCP_KEEPINTVL": INTERVAL_S,
    "TCP_KEEPCNT": PROBES,
    "TCP_USER_TIMEOUT": 2_500,
}
LIMITS = Limits(
    connections_max=10,
    connect_timeout_s=10.0,
    event_bytes_max=262_144,
    inflight_max=64,
    preconnack_bytes_max=65_536,
    partial_bytes_max=1 << 26,
    stranger_bytes_max=1 << 20,
    refuse_delay_s=5.0,
    linger_s=5.0,
    keepalive_idle_s=IDLE_S,
    keepalive_interval_s=INTERVAL_S,
    keepalive_probes_max=PROBES,
)


class Nobody:
    """An intake without events, and ears that hear nothing."""

    def offer(self, device: str, payload: bytes, settle: Settle) -> bool:
        raise AssertionError

    def on_room(self, call: Callable[[], None]) -> None:
        pass

    def spoofed(self, device: str, topic: str) -> None:
        raise AssertionError

    def answer(self, device: str, topic: str, correlation: bytes | None, item: Item, outcome: Outcome) -> None:
        raise AssertionError


class WatchedGate(Gate):
    """The gate, which keeps the last connection it accepted and tells when one is gone."""

    def __init__(self, broker: Path) -> None:
        super().__init__((Door("127.0.0.1", 0),), broker, True, LIMITS, Nobody(), Nobody())
        self.last: DeviceConnection | None = None
        self.gone = asyncio.Event()

    def joined(self, connection: DeviceConnection) -> None:
        super().joined(connection)
        self.last = connection

    def left(self, connection: DeviceConnection) -> None:
        super().left(connection)
        self.gone.set()


@asynccontextmanager
async def running() -> AsyncIterator[WatchedGate]:
    """A gate that listens, with a broker that lets everybody in and then keeps silent."""

    async def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"MQTT")
        writer.write(b"\x20\x02\0\0")
        await reader.read()
        writer.close()

    with tempfile.TemporaryDirectory(prefix="ns-") as folder:
        path = Path(folder) / "broker"
        async with await asyncio.start_unix_server(let_in, path), asyncio.TaskGroup() as group:
            gate, ready, stop = WatchedGate(path), asyncio.Event(), asyncio.Event()
            group.create_task(gate.run(ready.set, stop))
            await ready.wait()
            yield gate
            stop.set()


async def let_in(gate: WatchedGate) -> socket.socket:
    """A device without keep-alive that has been let in and says nothing more."""
    device = socket.create_connection(gate.addresses[0], timeout=5)
    device.sendall(mqtt.connect("till-1", username="till-1", keep_alive_s=0))
    assert await asyncio.to_thread(device.recv, 4) == b"\x20\x02\0\0"
    return device


async def test_every_device_socket_has_the_kernel_ask_whether_the_device_is_there() -> None:
    async with running() as gate:
        with await let_in(gate):
            assert gate.last is not None
            accepted = gate.last._transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            found = {name: accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in OPTIONS}
    assert found == OPTIONS


def in_a_network_of_its_own(work: Callable[[], None]) -> None:
    """Run `work` in a thread whose network namespace has nothing but a loopback; raises what it raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
            loopback("up")
            work()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure


def loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True, timeout=10)


@pytest.mark.needs("ip")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a network namespace")
@pytest.mark.parametrize("spoken_to", [False, True], ids=["silence", "an unacknowledged packet"])
def test_a_device_without_keep_alive_whose_network_is_gone_is_noticed(spoken_to: bool) -> None:
    async def cut() -> None:
        async with running() as gate:
            with await let_in(gate):
                assert gate.last is not None
                loopback("down")
                if spoken_to:
                    gate.last.from_upstream(mqtt.PING)
                async with asyncio.timeout(NOTICED_S):
                    await gate.gone.wait()
            assert gate.counts()["connections"] == 0

    in_a_network_of_its_own(lambda: asyncio.run(cut()))
