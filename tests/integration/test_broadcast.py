"""The retained status reaches whoever subscribes: at once, when it changes, and after the broker was away."""

import asyncio
import json

import pytest

from agent.core.errors import Transient
from agent.core.facts import UplinkFacts
from agent.runtime.clock import Clock
from agent.status import broadcast as stage
from agent.status.broadcast import Broadcast, status_topic
from tests.integration.box import Box, running, until

OFFLINE = UplinkFacts(state="offline", cause="link", since="2026-11-22T10:10:00.000Z")


class Broker:
    """Keeps what is retained, as long as it is there."""

    def __init__(self) -> None:
        self.here = True
        self.hangs = False
        self.retained: dict[str, dict[str, object]] = {}
        self.count = 0

    async def publish(self, topic: str, payload: bytes, *, retain: bool, qos: int) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if not self.here:
            raise Transient("broker_away", "The broker is not connected.")
        assert (retain, qos) == (True, 1)
        self.retained[topic] = json.loads(payload)
        self.count += 1


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "LOOK_INTERVAL_S", 0.01)


async def test_A1_5_the_retained_status_follows_every_change_and_only_changes() -> None:
    box, broker = Box(), Broker()
    async with running(Broadcast([status_topic(box)], broker, Clock())):
        await until(lambda: broker.count == 1)
        assert broker.retained["pos/v1/venue/status"]["state"] == "online"
        await asyncio.sleep(0.1)
        assert broker.count == 1
        box.uplink = OFFLINE
        await until(lambda: broker.count == 2)
        status = broker.retained["pos/v1/venue/status"]
    assert (status["state"], status["cause"], status["since"]) == ("offline", "link", OFFLINE.since)
    assert "devices" not in status


async def test_an_unchanged_status_is_published_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "REPEAT_INTERVAL_S", 0.1)
    broker = Broker()
    async with running(Broadcast([status_topic(Box())], broker, Clock())):
        await until(lambda: broker.count == 3)


async def test_a_broker_that_was_away_gets_the_status_when_it_is_back() -> None:
    box, broker = Box(), Broker()
    broker.here = False
    async with running(Broadcast([status_topic(box)], broker, Clock())):
        await asyncio.sleep(0.05)
        box.uplink = OFFLINE
        broker.here = True
        await until(lambda: broker.count == 1)
    assert broker.retained["pos/v1/venue/status"]["state"] == "offline"


async def test_a_broker_that_forgot_gets_the_status_again() -> None:
    broker = Broker()
    broadcast = Broadcast([status_topic(Box())], broker, Clock())
    async with running(broadcast):
        await until(lambda: broker.count == 1)
        broker.retained.clear()
        broadcast.republish()
        await until(lambda: broker.count == 2)
    assert broker.retained


async def test_a_broker_that_hangs_is_given_up_on_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PUBLISH_S_MAX", 0.05)
    broker = Broker()
    broker.hangs = True
    async with running(Broadcast([status_topic(Box())], broker, Clock())):
        await asyncio.sleep(0.1)
        broker.hangs = False
        await until(lambda: broker.count == 1)
