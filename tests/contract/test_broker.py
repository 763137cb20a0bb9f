"""What the simulation relies on at the broker: of Mosquitto, as the box runs it, and of its stand-in in memory.

Spoken byte for byte as the gate's devices speak, and through the MQTT library's face as the agent's own session does.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.lan.broker import Broker, Limits
from agent.lan.session import AS_PUBLISHED
from tests.integration.mqtt import (
    CONNACK,
    PING,
    PINGRESP,
    PUBACK,
    PUBLISH,
    SUBACK,
    V4,
    V5,
    Packet,
    connect,
    publish,
    subscribe,
)
from tests.sim.broker import SimBroker
from tests.sim.loop import Process, SimLoop
from tests.sim.network import Link, Network
from tests.sim.session import SimClient
from tests.sim.wire import Gone, Message, Wire

WITHIN_S = 5.0
QUIET_S = 0.5
TOPIC = "pos/v1/till-1/receipt"
STATE = "pos/v1/till-1/state"

Rule = Callable[["Place"], Awaitable[None]]


class Place:
    """A broker to be spoken to: its socket's path, and the library that the agent's session would use."""

    def __init__(self, path: Path, client: Any) -> None:
        self.path = path
        self.client = client

    async def wire(self, name: str, level: int = V4, **given: Any) -> tuple[Wire, Packet]:
        """A client that is let in, and its CONNACK."""
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_unix_connection(lambda: Wire(level), str(self.path))
        wire.send(connect(name, username=name, level=level, **given))
        return wire, await expect(wire, CONNACK)

    def session(self) -> Any:
        """The agent's session, as agent.lan.session opens it."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        made = self.client(
            str(self.path),
            transport="unix",
            username="agent",
            password="secret",
            identifier="agent",
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=properties,
            keepalive=30,
            timeout=WITHIN_S,
        )
        made._client.manual_ack_set(True)
        return made


async def expect(wire: Wire, kind: int) -> Packet:
    """The next packet, which must be of this kind."""
    got = await wire.packet(WITHIN_S)
    assert got is not None, f"no packet of type {kind} came"
    assert got.kind == kind, got
    return got


async def until_gone(wire: Wire) -> None:
    while await wire.packet(WITHIN_S) is not None:
        pass


async def nothing(wire: Wire) -> None:
    got = await wire.packet(QUIET_S)
    assert got is None, got


async def subscribed(wire: Wire, topic: str, qos: int = 1) -> None:
    wire.send(subscribe(topic, packet_id=9, qos=qos, level=wire.level))
    granted = await expect(wire, SUBACK)
    assert granted.body[-1] == qos


async def told(wire: Wire, topic: str, payload: bytes, **given: Any) -> None:
    """Publish with QoS 1 and hear the PUBACK."""
    wire.send(publish(topic, payload, packet_id=7, level=wire.level, **given))
    assert (await expect(wire, PUBACK)).packet_id == 7


async def what_is_published_comes_to_whoever_subscribed(place: Place) -> None:
    for level in (V4, V5):
        one, _ = await place.wire("till-1", level)
        two, _ = await place.wire("till-2", level)
        await subscribed(one, "pos/v1/+/receipt")
        await subscribed(two, "pos/v1/venue/#", qos=0)
        await told(two, TOPIC, b"stored")
        message = Message(await expect(one, PUBLISH), level)
        assert (message.topic, message.payload, message.qos, message.retain) == (TOPIC, b"stored", 1, False)
        one.acknowledge(message)
        await told(one, "pos/v1/venue/status", b"online")
        assert Message(await expect(two, PUBLISH), level).qos == 0
        await nothing(one)
        one.close()
        two.close()


async def a_retained_message_comes_with_the_subscription_until_it_is_cleared(place: Place) -> None:
    one, _ = await place.wire("till-1")
    await told(one, TOPIC, b"first", retain=True)
    await told(one, TOPIC, b"second", retain=True)
    await subscribed(one, TOPIC)
    message = Message(await expect(one, PUBLISH), V4)
    assert (message.payload, message.retain) == (b"second", True)
    one.acknowledge(message)
    two, _ = await place.wire("till-2")
    await told(two, TOPIC, b"", retain=True)
    await subscribed(two, TOPIC)
    await nothing(two)
    one.close()
    two.close()


async def a_will_is_published_when_its_client_vanishes_and_not_when_it_leaves(place: Place) -> None:
    watcher, _ = await place.wire("watcher")
    await subscribed(watcher, STATE)
    one, _ = await place.wire("till-1", will=(STATE, b"offline"))
    one.abort()
    assert Message(await expect(watcher, PUBLISH), V4).payload == b"offline"
    two, _ = await place.wire("till-1", will=(STATE, b"offline"))
    two.send(b"\xe0\x00")
    await nothing(watcher)
    watcher.close()


async def a_second_connection_of_a_name_ends_the_first(place: Place) -> None:
    first, _ = await place.wire("till-1")
    second, _ = await place.wire("till-1")
    with pytest.raises(Gone):
        await until_gone(first)
    second.send(PING)
    await expect(second, PINGRESP)
    second.close()


async def a_clean_client_s_subscriptions_go_with_it_and_a_lasting_one_s_messages_wait(place: Place) -> None:
    for clean in (True, False):
        one, _ = await place.wire("till-1", clean=clean)
        await subscribed(one, TOPIC)
        one.send(b"\xe0\x00")
        two, _ = await place.wire("till-2")
        await asyncio.sleep(0.1)
        await told(two, TOPIC, b"meanwhile")
        again, answer = await place.wire("till-1", clean=clean)
        assert answer.body[0] == (0 if clean else 1)
        if clean:
            await nothing(again)
        else:
            message = Message(await expect(again, PUBLISH), V4)
            assert message.payload == b"meanwhile"
            again.acknowledge(message)
        again.close()
        two.close()
        await asyncio.sleep(0.1)


async def the_session_hears_again_what_it_did_not_acknowledge(place: Place) -> None:
    till, _ = await place.wire("till-1")
    async with place.session() as session:
        await session.subscribe([("pos/v1/+/state", 1)])
        await told(till, STATE, b"one")
        message = await first_of(session)
        assert (str(message.topic), message.payload, message.qos) == (STATE, b"one", 1)
    async with place.session() as session:
        message = await first_of(session)
        assert message.payload == b"one"
        session._client.ack(message.mid, message.qos)
        await asyncio.sleep(0.1)
    async with place.session() as session:
        with pytest.raises(TimeoutError):
            await first_of(session, QUIET_S)
    till.close()


async def the_session_s_publish_returns_when_the_broker_has_it(place: Place) -> None:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.CorrelationData = b"mine"
    till, _ = await place.wire("till-1", V5)
    await subscribed(till, "pos/v1/till-1/#")
    async with place.session() as session:
        await session.publish(TOPIC, b"stored", qos=1, retain=True, properties=properties, timeout=WITHIN_S)
    message = Message(await expect(till, PUBLISH), V5)
    assert (message.payload, message.properties) == (b"stored", b"\x09\x00\x04mine")
    till.close()


async def a_session_that_asks_for_it_is_told_what_was_to_be_retained(place: Place) -> None:
    till, _ = await place.wire("till-1")
    async with place.session() as session:
        await session.subscribe("pos/v1/+/requests/+", options=AS_PUBLISHED)
        for retain in (False, True):
            till.send(publish("pos/v1/till-1/requests/a", b"ask", retain=retain, qos=1, packet_id=7))
            await expect(till, PUBACK)
            message = await first_of(session)
            assert (message.qos, bool(message.retain)) == (0, retain)
    till.close()


RULES: list[Rule] = [
    a_session_that_asks_for_it_is_told_what_was_to_be_retained,
    what_is_published_comes_to_whoever_subscribed,
    a_retained_message_comes_with_the_subscription_until_it_is_cleared,
    a_will_is_published_when_its_client_vanishes_and_not_when_it_leaves,
    a_second_connection_of_a_name_ends_the_first,
    a_clean_client_s_subscriptions_go_with_it_and_a_lasting_one_s_messages_wait,
    the_session_hears_again_what_it_did_not_acknowledge,
    the_session_s_publish_returns_when_the_broker_has_it,
]


async def first_of(session: Any, within_s: float = WITHIN_S) -> Any:
    async with asyncio.timeout(within_s):
        async for message in session.messages:
            return message
    raise AssertionError("no message")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_of_mosquitto(rule: Rule) -> None:
    if shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("mosquitto is not installed")
    with tempfile.TemporaryDirectory(prefix="ns-") as folder:
        broker = Broker(Path(folder), True, Limits("mosquitto", 50_000_000, 1000, 64, 400_000, 268_435_456, 0.1, 1.0))
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(broker.run(ready.set, stop))
        try:
            async with asyncio.timeout(15):
                await ready.wait()
            await rule(Place(broker.socket, aiomqtt.Client))
        finally:
            stop.set()
            await running


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_of_the_simulated_broker(rule: Rule) -> None:
    loop = SimLoop("contract")
    loop.network = network = Network(loop)
    network.links["broker"] = Link((0.0001, 0.001), Random("contract"))
    broker = SimBroker()
    server, client = Process(loop, "broker", "contract"), Process(loop, "client", "contract")

    def listen() -> None:
        network.listen("broker", broker.accept).serving = True

    async def speak() -> None:
        await rule(Place(Path("broker"), SimClient))

    server.context().run(listen)
    try:
        loop.run_until_complete(client.spawn(speak(), "client"))
    finally:
        for process in (client, server):
            with suppress(Exception):
                process.die()
        loop.close()
    assert not loop.unhandled
