"""What a till waits for while the cloud is away, against what it waits for while the cloud is there, in one run."""

import os
import signal
import statistics
import time
from collections.abc import Callable

import pytest

from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import event

pytestmark = pytest.mark.needs("mosquitto")

ROUNDS = 8
SALES = 60
"""So many in each half of a round."""
RATIO_MAX = 1.2
"""What venues are promised: of the median and of the 99th percentile."""


def waits(till: Device) -> list[float]:
    found = []
    for _ in range(SALES):
        payload = event()
        began_s = time.perf_counter()
        till.tell(payload)
        found.append(time.perf_counter() - began_s)
    return found


def p99(found: list[float]) -> float:
    return statistics.quantiles(found, n=100)[98]


def test_A1_1_a_sale_waits_no_longer_while_the_cloud_is_away(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    """The cloud takes connections and says nothing, and is back, in turn. Prints the times."""
    cloud = new_cloud().start()
    box = new_box(cloud.url, uplink={"probe_interval_s": 1, "probe_timeout_s": 1, "offline_debounce_s": 1}).start()
    there: list[float] = []
    away: list[float] = []
    with Device(box.port, "till-1") as till:
        waits(till)  # whatever is done only once
        for _ in range(ROUNDS):
            until(lambda: box.status()["state"] == "online", "the cloud is there", 60)
            there += waits(till)
            os.kill(cloud.pid, signal.SIGSTOP)
            try:
                until(lambda: box.status()["state"] == "offline", "the cloud is away", 60)
                away += waits(till)
            finally:
                os.kill(cloud.pid, signal.SIGCONT)
    halves = [(statistics.median(one) * 1000, p99(one) * 1000) for one in (there, away)]
    ratios = [one / other for one, other in zip(halves[1], halves[0], strict=True)]
    told = [
        f"{name} {middle:.2f}, {last:.2f} ms" for name, (middle, last) in zip(("there", "away"), halves, strict=True)
    ]
    print(f"a sale is acknowledged within (p50, p99): {'; '.join(told)}; ratio {ratios[0]:.2f}, {ratios[1]:.2f}")
    assert max(ratios) <= RATIO_MAX
    until(box.uploaded, "all of it is in the cloud", 60)
