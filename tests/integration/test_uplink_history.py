"""What is remembered of the uplink, and how much of the line the drain takes, over the running agent."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

pytestmark = pytest.mark.needs("mosquitto")

RATE = 10_000
EVENTS = 30


def changes(box: Box) -> list[tuple[str, str, str]]:
    found: list[dict[str, Any]] = box.get("/api/v1/uplink/history")["changes"]
    assert all(one["at"].endswith("Z") for one in found)
    return [(one["state"], one["cause"], one["finding"]) for one in found]


def test_A1_10_every_change_of_the_uplink_is_remembered_over_a_restart(
    new_box: Callable[..., Box], new_cloud: Callable[..., CloudServer]
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, uplink={"probe_interval_s": 1, "offline_debounce_s": 0}).start()
    began, online, gone = ("offline", "none", ""), ("online", "none", ""), ("offline", "cloud", "refused")
    until(lambda: changes(box)[-1:] == [online], "the cloud was reached", 20)
    cloud.stop()
    until(lambda: changes(box)[-1:] == [gone], "the cloud has gone", 20)
    before = changes(box)
    assert before[0] == began
    box.restart()
    until(lambda: changes(box)[: len(before)] == before, "what was before", 20)
    until(lambda: changes(box)[len(before) : len(before) + 1] == [began], "where the new start begins", 20)


def test_the_drain_takes_no_more_of_the_line_than_it_may(
    new_box: Callable[..., Box], new_cloud: Callable[..., CloudServer]
) -> None:
    cloud = new_cloud().start()
    drain = {"bytes_per_s_max": RATE, "gzip": False, "batch_records_first": 5, "batch_target_s": 1}
    box = new_box(cloud.url, drain=drain).start()
    until(lambda: box.status()["state"] == "online", "online", 20)
    began_s = time.monotonic()
    with Device(box.port, "till-1") as device:
        for sequence in range(1, EVENTS + 1):
            device.tell(counted("e1", sequence))
    until(box.uploaded, "everything is in the cloud", 60)
    took_s = time.monotonic() - began_s
    sizes = [len(record.line) for record in cloud.records("till-1")]
    assert len(sizes) == EVENTS
    assert took_s > sum(sizes[:-10]) / RATE, "the last batch is not waited for"
