"""Thousands of connections at once, half of them silent and half talking rubbish, and a till that sends without rest.

Whoever sells beside them is acknowledged within seconds, the agent's memory stays bounded, and everything is counted.
"""

import asyncio
import resource
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median, quantiles

import pytest

from tests.crash.beside import Beside
from tests.crash.conftest import Story
from tests.crash.disks import MIB
from tests.crash.test_disk_full import is_sound
from tests.integration import mqtt
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted
from tests.tools import cannot_run

FLOODS = {512: 3_000, 4_096: 10_000}
"""How many connections at once, by how many of them the box lets in: most are turned away in both."""
CONNECT_TIMEOUT_S = 4.0
RUSH_PER_S = 1_000
RUSH_AT_ONCE = 20
WAIT_MAX_S = 3.0
"""The longest that a till waits for an acknowledgement."""
LET_IN_MAX_S = 3.0
"""Until another till is let in: with every place taken those that say nothing make room for it."""
GROWN_MAX_BYTES = 48 * MIB
"""How much memory the agent may take more at its worst than before the flood."""
RUBBISH = (
    b"GET / HTTP/1.1\r\nHost: box\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    bytes(range(256)) * 4,
    b"\x10\xff\xff\xff\xff\x7f",
    b"\x10\xff\xff\xff\x7f" + b"x" * 500,
    mqtt.connect("till-9", name=b"MQTX"),
    mqtt.connect("till-9", level=7),
    mqtt.connect("agent", username="agent"),
    mqtt.connect("\0\0", flags=1),
    b"\x30\x05\x00\x01x12",
)
"""No CONNECT, half a CONNECT, and CONNECTs that nobody may be let in with."""


class Flood:
    """`count` connections from a loop beside the test, each kept until the box ends it. The silent ones come first."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._count = count
        self.opened_count = 0
        self._beside = Beside("flood")
        self._all = asyncio.run_coroutine_threadsafe(self._run(), self._beside.loop)

    @property
    def over(self) -> bool:
        """Whether the box has ended all of them. Raises what went wrong."""
        if self._all.done():
            self._all.result()
        return self._all.done()

    def close(self) -> None:
        self._beside.end()

    async def _run(self) -> None:
        await asyncio.gather(*(self._one(number) for number in range(self._count)))

    async def _one(self, number: int) -> None:
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            self.opened_count += 1
            try:
                if number >= self._count // 2:
                    writer.write(RUBBISH[number % len(RUBBISH)])
                while await reader.read(4096):
                    pass
            finally:
                writer.transport.abort()


class Rush(threading.Thread):
    """A till that sends a thousand events a second until it is told to stop; `told` are those acknowledged."""

    def __init__(self, port: int) -> None:
        super().__init__(name="rush", daemon=True)
        self._port = port
        self.going_on = True
        self.told_count = 0
        self.worst_s = 0.0
        self.took_s = 0.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with Device(self._port, "till-rush") as device:
                self._rush(device)
        except BaseException as error:
            self.failure = error

    def _rush(self, device: Device) -> None:
        began_s = time.monotonic()
        while self.going_on:
            numbers = range(self.told_count + 1, self.told_count + RUSH_AT_ONCE + 1)
            ids = [number % 65_535 + 1 for number in numbers]
            frames = [device.frame(counted("e1", at), packet_id=id) for at, id in zip(numbers, ids, strict=True)]
            sent_s = time.monotonic()
            device.send(*frames)
            assert [got.packet_id for got in device.packets(RUSH_AT_ONCE)] == ids
            self.worst_s = max(self.worst_s, time.monotonic() - sent_s)
            self.told_count += RUSH_AT_ONCE
            time.sleep(max(0.0, began_s + self.told_count / RUSH_PER_S - time.monotonic()))
        self.took_s = time.monotonic() - began_s


class Newcomer(threading.Thread):
    """A till that comes in the middle of it, and tries until it has sold one event."""

    def __init__(self, port: int) -> None:
        super().__init__(name="newcomer", daemon=True)
        self._port = port
        self.turned_away_count = 0
        self.took_s = float("inf")

    def run(self) -> None:
        began_s = time.monotonic()
        while self.took_s == float("inf"):
            try:
                with Device(self._port, "till-new") as device:
                    device.tell(counted("e1", 1))
                    self.took_s = time.monotonic() - began_s
            except (OSError, mqtt.Gone):
                self.turned_away_count += 1
                time.sleep(0.1)


def enough_descriptors(wanted: int) -> None:
    """Raise this process's own limit; a test that cannot is skipped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        cannot_run(f"{hard} open files are allowed here, the flood needs {wanted}")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def peak_bytes(box: Box) -> int:
    words = Path(f"/proc/{box.pid}/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) * 1024


@pytest.mark.parametrize(
    "connections_max",
    [pytest.param(512, id="3,000 at 512 places"), pytest.param(4_096, id="10,000 at 4,096", marks=pytest.mark.long)],
)
def test_A2_2_thousands_of_connections_and_a_till_without_rest_keep_nobody_from_selling(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], story: Story, connections_max: int
) -> None:
    count = FLOODS[connections_max]
    enough_descriptors(count + 1_024)
    cloud = new_cloud().start()
    box = new_box(cloud.url, gate={"connections_max": connections_max, "connect_timeout_s": CONNECT_TIMEOUT_S}).start()
    with ExitStack() as stack:
        till = stack.enter_context(Device(box.port, "till-1"))
        till.tell(counted("e1", 1))
        rush = Rush(box.port)
        rush.start()
        until(lambda: rush.told_count > RUSH_PER_S // 2, "the till without rest sends")
        before, peak_before = box.counts(), peak_bytes(box)

        flood = Flood(box.port, count)
        stack.callback(flood.close)
        began_s, sold, waits_s = time.monotonic(), 1, list[float]()
        newcomer = Newcomer(box.port)
        while not flood.over or newcomer.is_alive():
            assert time.monotonic() < began_s + 40, f"{flood.opened_count} of the flood were opened"
            if newcomer.ident is None and flood.opened_count == count:
                newcomer.start()
            sold += 1
            asked_s = time.monotonic()
            till.tell(counted("e1", sold))
            waits_s.append(time.monotonic() - asked_s)
            time.sleep(0.01)
        took_s = time.monotonic() - began_s
        rush.going_on = False
        rush.join(20)
        grown = peak_bytes(box) - peak_before
        story.tell(
            f"{flood.opened_count} connections, over in {took_s:.1f} s;"
            f" the till waited {median(waits_s) * 1000:.1f} ms, "
            f"{quantiles(waits_s, n=100)[98] * 1000:.0f} ms for one in a hundred, {max(waits_s):.2f} s at worst;"
            f" a newcomer waited {newcomer.took_s:.1f} s, turned away {newcomer.turned_away_count} times;"
            f" {rush.told_count / rush.took_s:.0f} events/s from one till, {rush.worst_s:.2f} s at worst;"
            f" {grown / MIB:.1f} MiB more"
        )
        assert rush.failure is None, rush.failure
        assert max(waits_s) < WAIT_MAX_S
        assert rush.worst_s < WAIT_MAX_S
        assert newcomer.took_s < LET_IN_MAX_S
        assert grown < GROWN_MAX_BYTES
        everything_is_counted(box, before, count + newcomer.turned_away_count)
        until(box.uploaded, "the cloud has everything", 30)
        told = {"till-1": sold, "till-rush": rush.told_count, "till-new": 1}
        for device, many in told.items():
            assert [int(record.event["sequence"]) for record in cloud.records(device)] == list(range(1, many + 1))
    assert "Traceback" not in box.text
    is_sound(box)


def everything_is_counted(box: Box, before: dict[str, int], ended: int) -> None:
    """Each connection that the box has ended stands under a reason why it ends one; who is crowded out while it is
    being refused, under both."""
    until(lambda: box.counts()["connections"] == 1, "nobody but the till is left")
    now = box.counts()
    new = {name: now[name] - before[name] for name in now}
    reasons = ("connections_over_limit", "connect_timeouts", "malformed", "connects_refused")
    assert ended <= sum(new[name] for name in reasons) <= ended + new["connections_crowded_out"], new
    assert new["connections_total"] == ended + 1
    assert new["connections_crowded_out"]
    assert new["connections_over_limit"]
