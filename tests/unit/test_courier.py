"""The courier alone: whom it tells of an order, how often, and what it does while nothing can be sent or written."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.core import orders
from agent.core.commands import Command
from agent.core.errors import Transient
from agent.core.facts import PresenceFacts
from agent.core.order_facts import Order, Placed
from agent.core.orders import Answer, Step
from agent.journal.orders import KeptOrder
from agent.orders import courier as courier_module
from agent.orders.courier import WAITING, Courier
from tests.model.orders_world import AT_MS, CONTENT, ID

DATA = json.dumps(CONTENT.told)
READY = PresenceFacts(state="ready", said="ready", connected=True)


class Venue:
    """Everything around the courier, as small as it can be."""

    def __init__(self) -> None:
        self.known: dict[str, Order] = {}
        self.devices: dict[str, PresenceFacts] = {"till-1": READY}
        self.sent: list[tuple[str, dict[str, Any], int | None]] = []
        self.away = self.full = False
        self.conditions: dict[str, str] = {}
        self.unheard: list[str] = []
        self.now_ms_ = AT_MS
        self.response_timeout_s = 120.0
        self.named: tuple[str, ...] = ()
        self.on_step_: Callable[[Step], None]

    # the journal
    async def take_in(self) -> None: ...
    async def forget_old(self, changed_before_s: float, orders_max: int) -> None: ...
    async def in_hand(self, changed_after_s: float, count_max: int) -> list[KeptOrder]:
        return [KeptOrder(order, DATA, 0.0) for order in self.known.values()]

    async def get(self, order_id: str) -> KeptOrder | None:
        return KeptOrder(self.known[order_id], DATA, 0.0) if order_id in self.known else None

    async def step(self, order_id: str, take: Callable[[Order, int], Step]) -> Step:
        if self.full:
            raise Transient("disk_full", "The disk is full.")
        step = take(self.known[order_id], AT_MS)
        self.known[order_id] = step.order
        return step

    # hearing
    async def catch_up(self) -> None: ...
    def reopened(self) -> None: ...
    def on_step(self, call: Callable[[Step], None]) -> None:
        self.on_step_ = call

    # the devices
    def facts(self) -> dict[str, PresenceFacts]:
        return self.devices

    def mark(self, device: str) -> str:
        return device

    def unanswered(self, device: str, mark: str) -> None:
        self.unheard.append(device)

    async def publish(self, topic: str, payload: bytes, *, expiry_s: int | None = None) -> None:
        if self.away:
            raise Transient("broker_away", "The broker is not connected.")
        self.sent.append((topic.split("/")[2], json.loads(payload), expiry_s))

    # people, time, settings
    def hold(self, id: str, severity: str, title: str, text: str, hint: str) -> None:
        self.conditions[id] = text

    def lift(self, id: str) -> None:
        del self.conditions[id]

    def now_ms(self) -> int:
        return self.now_ms_

    def lived_s(self) -> float:
        return 0.0

    def told(self, device: str = "till-1") -> list[str]:
        return [offer["state"] for name, offer, _ in self.sent if name == device]


@asynccontextmanager
async def courier(venue: Venue) -> AsyncIterator[Courier]:
    class Limits:
        response_timeout_s = venue.response_timeout_s
        devices = venue.named

    made = Courier(venue, venue, venue, venue, venue, venue, Limits)  # type: ignore[arg-type]
    stop = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(made.run(lambda: None, stop))
        yield made
        stop.set()


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PAUSE_S", 0.001), ("LOOK_S", 0.01), ("RETRY_S", 0.01), ("AGAIN_S", 0.3)):
        monkeypatch.setattr(courier_module, name, value)


@pytest.fixture
def venue() -> Venue:
    made = Venue()
    made.known[ID] = orders.placed(Order(ID), Placed(AT_MS), AT_MS).order
    return made


async def test_an_order_is_told_once_while_nothing_changes_and_expires_in_the_broker(venue: Venue) -> None:
    async with courier(venue):
        await until(lambda: venue.sent)
        await asyncio.sleep(0.1)
    assert venue.told() == ["offered"]
    assert venue.sent[0][2] == courier_module.EXPIRY_S
    assert venue.known[ID].offered == ("till-1",), "durable before it went"


async def test_a_device_that_says_ready_all_the_time_is_told_everything_again_but_seldom(venue: Venue) -> None:
    async with courier(venue) as one:
        await until(lambda: venue.sent)
        for _ in range(60):
            one.state("till-1", b"")
            await asyncio.sleep(0.01)
        await until(lambda: len(venue.sent) >= 2)
    assert 2 <= len(venue.sent) <= 4


async def test_who_becomes_ready_is_told_at_once_and_who_sleeps_is_not(venue: Venue) -> None:
    venue.devices["till-2"] = PresenceFacts(state="asleep", said="asleep", connected=True)
    async with courier(venue) as one:
        await until(lambda: venue.sent)
        await asyncio.sleep(0.05)
        assert venue.told("till-2") == []
        venue.devices["till-2"] = READY
        await until(lambda: venue.told("till-2"))
        before = len(venue.sent)
        one.connected()  # the broker was restarted
        await until(lambda: len(venue.sent) == before + 2)


async def test_what_cannot_be_sent_or_written_is_tried_again_and_sent_only_when_it_is_durable(venue: Venue) -> None:
    venue.full = True
    async with courier(venue):
        await asyncio.sleep(0.1)
        assert venue.sent == []
        venue.full, venue.away = False, True
        await until(lambda: venue.known[ID].offered)
        venue.away = False
        await until(lambda: venue.told() == ["offered"])


async def test_what_is_done_to_an_order_is_told_to_all_and_a_refused_answer_is_told_the_truth(venue: Venue) -> None:
    venue.devices["till-2"] = READY
    async with courier(venue) as one:
        await until(lambda: len(venue.sent) == 2)

        def hears(said: Any) -> None:
            step = orders.heard(venue.known[ID], [Answer("till-1", f"e-{said}", said)], AT_MS)
            venue.known[ID] = step.order
            venue.on_step_(step)

        hears("provided")
        await until(lambda: venue.told() == venue.told("till-2") == ["offered", "provided"])
        hears("rejected")
        await until(lambda: venue.told() == ["offered", "provided", "provided"])
        venue.known["A-2"] = orders.placed(Order("A-2"), Placed(AT_MS), AT_MS).order
        one.commanded(Command("order.placed", "A-2", DATA))
        await until(lambda: venue.told("till-2")[-1] == "offered")


async def test_A6_2_who_has_shown_an_order_for_as_long_as_it_may_take_should_have_answered(venue: Venue) -> None:
    venue.response_timeout_s = 0.3
    venue.now_ms_ += 7_200_000
    async with courier(venue):
        await until(lambda: venue.sent)
        await asyncio.sleep(0.1)
        assert venue.unheard == [], "a late order, too, gives its device time"
        await until(lambda: venue.unheard)
        await asyncio.sleep(0.1)
    assert venue.unheard == ["till-1"]


async def test_when_time_is_over_it_is_late_for_all_and_waits_for_a_person(venue: Venue) -> None:
    async with courier(venue):
        await until(lambda: venue.sent)
        venue.now_ms_ += 121_000
        await until(lambda: venue.conditions.get(WAITING))
        await until(lambda: len(venue.sent) == 2)
        assert (venue.sent[-1][1]["late"], venue.sent[-1][1]["ask"]) == (True, "check_whether_already_provided")
        assert venue.unheard == [], "it was shown a moment ago"
        assert venue.known[ID].awaiting_venue is not None
        assert venue.known[ID].rejected is None
        step = orders.acted(venue.known[ID], "accepted", "Ann", AT_MS)
        venue.known[ID] = step.order
        venue.on_step_(step)
        await until(lambda: not venue.conditions)


async def test_of_more_orders_than_it_can_hold_the_latest_are_offered(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "IN_HAND_MAX", 3)
    venue.known.clear()
    async with courier(venue) as one:
        for number in range(5):
            name = f"A-{number}"
            venue.known[name] = orders.placed(Order(name), Placed(AT_MS), AT_MS).order
            one.commanded(Command("order.placed", name, DATA))
        await until(lambda: len({offer["order_id"] for _, offer, _ in venue.sent}) >= 3)
        await asyncio.sleep(0.05)
    assert {offer["order_id"] for _, offer, _ in venue.sent} == {"A-2", "A-3", "A-4"}
