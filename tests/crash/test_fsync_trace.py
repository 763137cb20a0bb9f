"""What SIGKILL cannot show: between an event's arrival and its acknowledgement its transaction is on the disk.

Read from the system calls of the running agent. The same reading convicts an agent that syncs nothing, and one that
tells first; otherwise it would prove nothing.
"""

import sys
import time
from collections.abc import Callable

import pytest

from tests.crash.launcher import LAUNCHER
from tests.crash.trace import Answered, calls, from_birth, told_of_what_may_vanish, told_too_early, traced
from tests.integration import mqtt
from tests.integration.machine import Box
from tests.integration.mqtt import V4, V5, Device
from tests.sales import counted

SPACED, BURST = 20, 20
PAUSE_S = 0.02
"""Between two spaced events: each has a commit of its own."""


def sell(device: Device, qos: int) -> list[Answered]:
    """Events one by one, then many at once; each with a mark that stands nowhere else."""
    answered = []
    for number in range(1, SPACED + BURST + 1):
        mark = f"mark-{device.name}-{number:04d}-".encode()
        body = counted("e1", number, id=mark.decode())
        packet_id = 1000 + number
        device.send(device.frame(body, qos=qos, packet_id=packet_id))
        kind = mqtt.PUBACK if qos == 1 else mqtt.PUBREC
        answered.append(Answered(mark, bytes((kind << 4, 2)) + packet_id.to_bytes(2, "big")))
        if number <= SPACED:
            got = device.packet()
            assert (got.kind, got.packet_id) == (kind, packet_id)
            time.sleep(PAUSE_S)
    for got in device.packets(BURST):
        assert got.kind == kind
    return answered


def trial(box: Box, level: int = V4, qos: int = 1) -> tuple[dict[bytes, str], int]:
    """Who was told too early, and how many were told at all."""
    device = Device(box.port, f"till-{level}-{qos}", level=level)
    host, port = device.socket.getsockname()
    with device, traced(box.pid, box.directory) as trace:
        answered = sell(device, qos)
        time.sleep(0.1)
    return told_too_early(calls(trace), f"->{host}:{port}]", answered), len(answered)


def culprit(box: Box, broken: str) -> Box:
    box.command = [sys.executable, str(LAUNCHER), broken]
    return box.start()


@pytest.mark.parametrize(("way", "level", "qos"), [("as it is", V4, 1), ("by the launcher", V5, 2)])
def test_A2_4_every_acknowledgement_follows_a_completed_sync_of_its_event(
    new_box: Callable[..., Box], way: str, level: int, qos: int
) -> None:
    """Started as it is, and in the way in which the culprits are."""
    box = new_box().start() if way == "as it is" else culprit(new_box(), "nothing")
    guilty, told = trial(box, level, qos)
    assert guilty == {}
    assert told == SPACED + BURST


def test_an_agent_that_syncs_nothing_is_convicted(new_box: Callable[..., Box]) -> None:
    guilty, told = trial(culprit(new_box(), "sync"))
    assert set(guilty.values()) == {"its transaction was not synced before the acknowledgement"}
    assert len(guilty) == told


def test_an_agent_that_tells_before_the_commit_is_convicted(new_box: Callable[..., Box]) -> None:
    guilty, told = trial(culprit(new_box(), "order"))
    assert len(guilty) == told
    assert "its frames were not written before the acknowledgement" in guilty.values()


def restarted(box: Box) -> str | None:
    """An event is stored and its box killed; what is wrong when the next one, traced, calls it stored already."""
    sale = counted("e1", 1)
    box.start()
    first = Device(box.port, "till-1")
    first.tell(sale)
    box.kill()
    first.socket.close()
    trace = box.directory / "trace"
    box.command = [*from_birth(trace), *box.command]
    box.start()
    device = Device(box.port, "till-1")
    host, port = device.socket.getsockname()
    with device:
        device.send(device.frame(sale, packet_id=77))
        device.acknowledged(77)
        time.sleep(0.1)
    box.kill()
    return told_of_what_may_vanish(calls(trace), f"->{host}:{port}]", b"\x40\x02\x00\x4d")


def test_A2_4_what_a_killed_box_left_is_on_the_disk_before_it_counts_as_stored(new_box: Callable[..., Box]) -> None:
    """A page that was written and never synced looks stored to the next process, and a power cut takes it away."""
    assert restarted(new_box()) is None


def test_an_agent_that_believes_what_it_finds_is_convicted(new_box: Callable[..., Box]) -> None:
    box = new_box()
    box.command = [sys.executable, str(LAUNCHER), "start"]
    assert restarted(box) == "the log of the killed process was not brought into the database file"
