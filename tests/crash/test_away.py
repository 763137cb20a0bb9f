"""The box is away while every till goes on selling; then all bring what they kept, at once.

How long it was away is of no account to what happens then, only how much was kept, so these tests count events and not
hours; what hours on the clocks do is tried in simulated time, by `tests/sim`. The tills are the project's own, with
their outboxes on disk, and one stock paho client, which keeps its messages by itself.
"""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.tills import audit
from agent.tills.checker import Evidence, Made, check
from agent.tills.till import Till
from agent.tills.words import TillSettings
from tests.crash.conftest import Story
from tests.crash.judge import Disk, chained
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

STOCK = "till-stock"
BESIDE = "till-beside"
TOLD_BEFORE = 20
"""Events that each till has been told about before the box goes."""
STALL_MAX_S = 3.0
"""A connected till that has events to bring hears of one at least this often, whatever the others bring."""
BESIDE_MAX_S = 2.0
"""The longest wait of a till that has kept nothing, while all others bring theirs."""


class StockTill:
    """A paho client as a vendor uses it: what is published while nobody answers stays in its memory, in order."""

    def __init__(self, port: int) -> None:
        self.payloads: list[bytes] = []
        self.told_count = 0
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2, client_id=STOCK, clean_session=False)
        client.username_pw_set(STOCK)
        client.reconnect_delay_set(0.25, 1)  # type: ignore[arg-type]
        client.on_publish = self._on_publish
        client.connect_async("127.0.0.1", port)
        client.loop_start()

    def sell(self, count: int) -> None:
        """Publish so many new events, whether anybody is there or not."""
        for _ in range(count):
            payload = counted("e1", len(self.payloads) + 1, source=f"/devices/{STOCK}")
            self.payloads.append(payload)
            self._client.publish(f"pos/v1/{STOCK}/events", payload, qos=1)

    @property
    def untold_count(self) -> int:
        return len(self.payloads) - self.told_count

    @property
    def connected(self) -> bool:
        return self._client.is_connected()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_publish(self, *_: object) -> None:
        self.told_count += 1


def evidence(device: str, payloads: list[bytes], told_count: int) -> Evidence:
    """What a device made and was told, without ticks: its order is compared by the test itself."""
    made = {json.loads(payload)["id"]: Made(sha256(payload).hexdigest(), None) for payload in payloads}
    return Evidence(device, made, dict.fromkeys(list(made)[:told_count], 1), frozenset())


def a_till(number: int, box: Box, outside: Path, sells: int) -> Till:
    name = f"till-{number}"
    return Till(
        TillSettings(
            device=name,
            host="127.0.0.1",
            port=box.port,
            directory=outside / name,
            protocol="5" if number % 2 else "3.1.1",
            rate_per_s=1_000,
            count=sells,
            window=32,
        )
    )


class Watch:
    """How long any till that is connected and has events to bring has waited to hear of one."""

    def __init__(self, tills: list[Till], stock: StockTill) -> None:
        self._tills = tills
        self._stock = stock
        self._heard: dict[str, tuple[int, float]] = {}
        self.worst_s = 0.0

    @property
    def untold_count(self) -> int:
        return sum(untold for _, untold in self._look().values())

    def note(self) -> None:
        now_s = time.monotonic()
        for name, (connected, untold) in self._look().items():
            before, since_s = self._heard.get(name, (-1, now_s))
            if not connected or not untold or untold != before:
                self._heard[name] = untold, now_s
            else:
                self.worst_s = max(self.worst_s, now_s - since_s)

    def _look(self) -> dict[str, tuple[bool, int]]:
        found = {till.device: (till.figures.connected, till.figures.untold) for till in self._tills}
        return found | {STOCK: (self._stock.connected, self._stock.untold_count)}


def everybody_comes_back(
    box: Box, cloud: CloudServer, outside: Path, story: Story, *, tills: int, kept: int, within_s: float
) -> None:
    """Each of so many tills, and the stock one, keeps at least `kept` events while the box and its broker are dead."""
    cloud.start()
    box.settings["cloud"]["url"] = cloud.url
    box.start()
    with ExitStack() as stack:
        venue = [a_till(number, box, outside, kept + 1_000) for number in range(1, tills + 1)]
        for till in venue:
            stack.callback(till.close)
            till.start()
        stock = StockTill(box.port)
        stack.callback(stock.close)
        until(lambda: stock.connected, "the stock till is connected")  # paho sends out of turn while it connects
        stock.sell(TOLD_BEFORE)
        until(lambda: all(till.figures.told >= TOLD_BEFORE for till in venue), "every till is selling", 30)
        until(lambda: not stock.untold_count, "the stock till is selling", 30)
        box.kill()

        stock.sell(kept)
        until(lambda: all(till.sold_out for till in venue), "every till has sold on", within_s)
        untold = [till.figures.untold for till in venue]
        assert min(untold) >= kept
        story.tell(f"{len(untold)} tills have kept {sum(untold)} events, the stock till {stock.untold_count}")

        watch, began_s = Watch(venue, stock), time.monotonic()
        box.start()
        waits_s: list[float] = []
        sold_beside: list[bytes] = []
        with Device(box.port, BESIDE) as beside:
            while watch.untold_count:
                watch.note()
                asked_s = time.monotonic()
                assert asked_s < began_s + within_s, f"{watch.untold_count} are not told"
                sold_beside.append(counted("e1", len(sold_beside) + 1))
                beside.tell(sold_beside[-1])
                waits_s.append(time.monotonic() - asked_s)
                time.sleep(0.02)
        took_s = time.monotonic() - began_s
        story.tell(f"all told after {took_s:.1f} s; longest stall {watch.worst_s:.2f} s, beside {max(waits_s):.2f} s")
        assert watch.worst_s < STALL_MAX_S
        assert max(waits_s) < BESIDE_MAX_S
        assert len(waits_s) > 20, "nobody sold beside the others"

        until(box.uploaded, "the cloud has everything", within_s)
        counts = {till.device: till.figures.made for till in venue}
    counts |= {STOCK: len(stock.payloads), BESIDE: len(sold_beside)}
    exported = the_cloud_has_each_in_its_order(box, cloud, counts)
    by_hand = [evidence(STOCK, stock.payloads, stock.told_count), evidence(BESIDE, sold_beside, len(sold_beside))]
    verdict = check([*audit.read_evidence(outside), *by_hand], exported)
    assert verdict.clean, "\n".join(audit.findings(verdict))
    assert verdict.told == verdict.in_cloud == sum(counts.values())


def the_cloud_has_each_in_its_order(box: Box, cloud: CloudServer, counts: dict[str, int]) -> list[bytes]:
    """The export: no till ever sent out of turn, so each one's events stand there as 1, 2, 3 … and no hole was seen."""
    disk = Disk(box)
    disk.look()
    exported = cloud.export()
    assert chained(exported) == disk.seals
    own: dict[str, list[int]] = {name: [] for name in counts}
    for row in map(json.loads, exported):
        if row["device"] in own:
            own[row["device"]].append(int(row["data"]["sequence"]))
    assert own == {name: list(range(1, count + 1)) for name, count in counts.items()}
    assert not [line for line in exported if b'"nightsafe.gap.opened"' in line]
    return exported


def test_A2_4_A3_1_tills_that_kept_thousands_of_events_bring_all_of_them_at_once(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], outside: Path, story: Story
) -> None:
    everybody_comes_back(new_box(), new_cloud(), outside, story, tills=3, kept=1_500, within_s=60)


@pytest.mark.long
def test_A2_4_A3_1_tills_that_kept_hundreds_of_thousands_of_events_bring_all_of_them_at_once(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], outside: Path, story: Story
) -> None:
    everybody_comes_back(new_box(), new_cloud(), outside, story, tills=10, kept=20_000, within_s=600)
