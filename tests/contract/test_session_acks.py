"""The agent's own MQTT session over the real library and Mosquitto: nothing is acknowledged before its outcome.

An event on this session is a device's will. What was not settled comes again when the session opens again; what was
settled does not.
"""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core.arrivals import Item, Outcome, Own
from agent.lan.broker import Broker, Limits
from agent.lan.session import Session
from tests.integration.mqtt import connect, publish
from tests.tools import needs

ITEM = Own("nightsafe.test", {})
TOPIC = "pos/v1/till-1/events"
QUIET_S = 0.7
"""How long nothing must come: Mosquitto sends what it owes within milliseconds of the session's opening."""


class Listener:
    """Hears events as ingest does, and keeps how each is settled."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[bytes, Callable[[Item, Outcome], None]]] = asyncio.Queue()

    def will_event(self, device: str, payload: bytes, settle: Callable[[Item, Outcome], None]) -> None:
        assert device == "till-1"
        self.events.put_nowait((payload, settle))

    def state(self, device: str, payload: bytes) -> None:
        raise AssertionError("nobody has published a state")

    async def next(self) -> tuple[bytes, Callable[[Item, Outcome], None]]:
        async with asyncio.timeout(5):
            return await self.events.get()

    async def nothing_comes(self) -> bool:
        await asyncio.sleep(QUIET_S)
        return self.events.empty()


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """A running Mosquitto. Its folder's path is short, for its Unix socket."""
    needs("mosquitto")
    with tempfile.TemporaryDirectory(prefix="ns-") as folder:
        limits = Limits("mosquitto", 50_000_000, 1000, 64, 400_000, 268_435_456, 0.1, 1.0)
        made = Broker(Path(folder), True, limits)
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(made.run(ready.set, stop))
        async with asyncio.timeout(15):
            await ready.wait()
        yield made
        stop.set()
        async with asyncio.timeout(15):
            await running


@asynccontextmanager
async def session(broker: Broker) -> AsyncIterator[Listener]:
    """The agent's session, open; leaving closes it as a stopping agent does."""
    listener, stop, ready = Listener(), asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(Session(broker.socket, broker.password, listener).run(ready.set, stop))
    async with asyncio.timeout(10):
        await ready.wait()
    yield listener
    stop.set()
    async with asyncio.timeout(10):
        await running


def say(broker: Broker, payload: bytes, qos: int = 1, topic: str = TOPIC) -> None:
    """A device's word that goes past the gate; returns when Mosquitto has taken it."""
    with socket.socket(socket.AF_UNIX) as device:
        device.settimeout(5)
        device.connect(str(broker.socket))
        device.sendall(connect("till-1", username="till-1"))
        assert device.recv(4)[:2] == b"\x20\x02"
        device.sendall(publish(topic, payload, qos=qos))
        if qos:
            assert device.recv(4)[0] >> 4 == 4
        device.sendall(b"\xe0\x00")


async def test_what_was_not_settled_comes_again_and_what_was_settled_does_not(broker: Broker) -> None:
    async with session(broker) as first:
        say(broker, b"one")
        say(broker, b"two")
        payload, _ = await first.next()
        other, settle = await first.next()
        assert (payload, other) == (b"one", b"two")
        settle(ITEM, Outcome.STORED)
        await asyncio.sleep(0.1)  # the acknowledgement is on its way
    async with session(broker) as second:
        payload, settle = await second.next()
        assert payload == b"one"
        assert await second.nothing_comes()
        settle(ITEM, Outcome.DUPLICATE)
        await asyncio.sleep(0.1)
    async with session(broker) as third:
        assert await third.nothing_comes()


@pytest.mark.parametrize("outcome", [Outcome.STORED, Outcome.DUPLICATE, Outcome.CONFLICT, Outcome.REFUSED])
async def test_every_outcome_on_disk_is_acknowledged(broker: Broker, outcome: Outcome) -> None:
    async with session(broker) as first:
        say(broker, b"one")
        _, settle = await first.next()
        settle(ITEM, outcome)
        await asyncio.sleep(0.1)
    async with session(broker) as second:
        assert await second.nothing_comes()


async def test_what_could_not_be_stored_is_not_acknowledged(broker: Broker) -> None:
    async with session(broker) as first:
        say(broker, b"one")
        _, settle = await first.next()
        settle(ITEM, Outcome.UNSTORED)
        await asyncio.sleep(0.1)
    async with session(broker) as second:
        payload, _ = await second.next()
        assert payload == b"one"


async def test_an_outcome_that_comes_after_the_session_ended_acknowledges_nothing(broker: Broker) -> None:
    """Ids of messages begin anew with a session: a late acknowledgement could be another message's."""
    async with session(broker) as first:
        say(broker, b"one")
        _, late = await first.next()
    async with session(broker) as second:
        payload, _ = await second.next()
        assert payload == b"one"
        late(ITEM, Outcome.STORED)
        await asyncio.sleep(0.1)
    async with session(broker) as third:
        payload, _ = await third.next()
        assert payload == b"one"


@pytest.mark.parametrize("whose", ["agent", "venue", "nightsafe", "Till_1"])
async def test_what_comes_under_a_name_that_is_no_devices_is_nobodys_word(broker: Broker, whose: str) -> None:
    async with session(broker) as listener:
        say(broker, b"foul", topic=f"pos/v1/{whose}/events")
        say(broker, b"good")
        payload, _ = await listener.next()
        assert payload == b"good"


async def test_what_was_published_while_the_agent_was_away_is_heard_after_it(broker: Broker) -> None:
    async with session(broker):
        pass
    say(broker, b"meanwhile")
    async with session(broker) as back:
        payload, _ = await back.next()
        assert payload == b"meanwhile"


async def test_more_waits_unsettled_than_the_library_would_let_in_flight(broker: Broker) -> None:
    """A commit may take long; what waits for it must not stop the session or lose anything."""
    async with session(broker) as first:
        for number in range(50):
            say(broker, str(number).encode())
        heard = [await first.next() for _ in range(20)]
        assert [payload for payload, _ in heard] == [str(number).encode() for number in range(20)]
        for _, settle in heard:
            settle(ITEM, Outcome.STORED)
        heard = [await first.next() for _ in range(30)]
        assert [payload for payload, _ in heard] == [str(number).encode() for number in range(20, 50)]
        for _, settle in heard:
            settle(ITEM, Outcome.STORED)
        await asyncio.sleep(0.1)
    async with session(broker) as second:
        assert await second.nothing_comes()
