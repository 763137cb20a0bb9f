"""A paired device that means harm: what it may not read, write, have kept or ask for, and what others notice of it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.integration import mqtt
from tests.integration.machine import Box
from tests.integration.mqtt import V4, V5, Device, Gone, Packet
from tests.integration.test_pairing import paired
from tests.sales import counted, event

pytestmark = pytest.mark.needs("mosquitto")

both_levels = pytest.mark.parametrize("level", [V4, V5], ids=["3.1.1", "5.0"])
AT_ONCE = 100
PER_S = 50.0
WAIT_MAX_S = 1.0
"""The longest that another till waits for an acknowledgement meanwhile."""


class Paired(Device):
    """A device on the plain address with what it was told when it was paired."""

    def __init__(self, box: Box, name: str, level: int = V4, will: tuple[str, bytes] | None = None) -> None:
        mqtt.Wire.__init__(self, box.port)
        self.name, self.level, self.events = name, level, f"pos/v1/{name}/events"
        self._ids = iter(range(1, 65536))
        password = box.passwords[name].encode()  # type: ignore[attr-defined]
        self.send(mqtt.connect(name, username=name, password=password, level=level, will=will))
        self.connack = self.packet()
        assert self.connack.body[1] == 0, self.connack

    def listen(self, *filters: str) -> list[Packet]:
        """Subscribe; returns what was retained there."""
        for one in filters:
            self.send(mqtt.subscribe(one, packet_id=self.new_id(), level=self.level))
        return self.everything()

    def everything(self, for_s: float = 0.6) -> list[Packet]:
        found = []
        try:
            while True:
                found.append(self.packet(for_s))
        except TimeoutError:
            return found


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """A venue with three paired devices; all of them mean well until a test says otherwise."""
    made = Box(
        settings={
            "devices": {"open": False},
            "web": {"listen_tls": "127.0.0.1:0"},
            "gate": {"messages_per_s_max": PER_S, "messages_at_once_max": AT_ONCE},
            "gate.tls": {"also_plain": ["127.0.0.1:0"]},
        }
    )
    try:
        made.start()
        made.passwords = {name: paired(made, name)["password"] for name in ("till-1", "till-2", "nosy")}  # type: ignore[attr-defined]
        yield made
        assert made.stop() == 0
        assert "Traceback" not in made.text
    finally:
        made.close()


@both_levels
def test_who_asks_for_everything_hears_its_own_and_the_venues_topics_only(box: Box, level: int) -> None:
    filters = [
        "#", "+/#", "$SYS/#", "$CONTROL/#", "$share/g/#", "$share/g/pos/v1/till-1/#", "pos/v1/+/state",
        "pos/v1/+/receipt", "pos/v1/till-1/#", "pos/v1/+/requests/+", "pos/v1/+/commands",
    ]  # fmt: skip
    with Paired(box, "nosy", level) as nosy, Paired(box, "till-1") as till:
        for at, name in enumerate(filters, 1):
            nosy.send(mqtt.subscribe(name, packet_id=at, level=level))
        till.tell(event())
        till.tell(b'{"state":"ready"}', topic="pos/v1/till-1/state")
        till.tell(b'{"id":"r1","args":{}}', topic="pos/v1/till-1/requests/loyalty.balance")
        nosy.send(nosy.frame(b'{"state":"ready"}', topic="pos/v1/nosy/state"))
        time.sleep(1.0)  # the receipt of the till has come by then, where it goes
        heard = [one.topic for one in nosy.everything() if one.kind == mqtt.PUBLISH]
        assert "pos/v1/nosy/state" in heard, "it hears what it may"
        assert not [one for one in heard if not one.startswith(("pos/v1/nosy/", "pos/v1/venue/"))]


@both_levels
def test_what_a_device_may_not_write_reaches_nobody_is_counted_and_logged_once(box: Box, level: int) -> None:
    topics = [
        "pos/v1/till-1/state", "pos/v1/till-1/receipt", "pos/v1/till-1/commands", "pos/v1/nosy/receipt",
        "pos/v1/nosy/commands", "pos/v1/nosy/orders", "pos/v1/venue/status", "pos/v1/venue/checks/1009",
        "pos/v1/agent/state", "$SYS/broker/uptime", "$CONTROL/dynamic-security/v1", "pos/v1/nosy/requests/a/b",
        "pos/v1/nosy/../till-1/state", "pos/v1/nosy", "pos/v1/NOSY/state", "pos/v1/n\u043esy/state", "x" * 60_000,
        "/".join("abc" * 66), "pos/v1/nosy/requests",
    ]  # fmt: skip
    before, since = box.counts()["foreign_topics"], len(box.text)
    with Paired(box, "till-1") as till, Paired(box, "nosy", level) as nosy:
        till.listen("pos/v1/till-1/#", "pos/v1/venue/#")
        for at, topic in enumerate(topics, 1):
            nosy.send(mqtt.publish(topic, b'{"state":"ready","from":"nosy"}', packet_id=at, level=level, retain=True))
            try:
                got = nosy.packet()
            except Gone:  # Mosquitto ends a client for a topic of too many levels
                nosy.socket.close()
                nosy.__init__(box, "nosy", level)  # type: ignore[misc]
                continue
            assert got.kind == mqtt.PUBACK
            assert got.reason == (0x87 if level == V5 else 0), topic
        heard = [one for one in till.everything() if one.kind == mqtt.PUBLISH]
        assert not [one for one in heard if b"nosy" in one.body]
    assert box.counts()["foreign_topics"] - before == len(topics)
    told = [line for line in box.text[since:].splitlines() if "topic_denied" in line]
    assert 1 <= len(told) <= 3, "once for each connection"
    assert "nosy" in told[0]


def test_a_foreign_will_reaches_nobody_and_is_counted(box: Box) -> None:
    before = box.counts()["foreign_topics"]
    with Paired(box, "till-1") as till:
        till.listen("pos/v1/till-1/#")
        for _ in range(20):  # a device that flaps
            Paired(box, "nosy", will=("pos/v1/till-1/state", b'{"state":"offline","from":"nosy"}')).socket.close()
        heard = till.everything()
        assert not [one for one in heard if one.kind == mqtt.PUBLISH and b"nosy" in one.body]
    assert box.counts()["foreign_topics"] - before == 20


@both_levels
def test_a_flood_of_retained_messages_is_slowed_cleared_and_keeps_nobody_waiting(box: Box, level: int) -> None:
    flood = AT_ONCE + 100
    before = box.counts()
    broker = psutil.Process(box.mosquitto_pid())
    memory = broker.memory_info().rss
    with Paired(box, "nosy", level) as nosy, Paired(box, "till-1") as till:
        began_s = time.monotonic()
        for number in range(flood):
            topic = f"pos/v1/nosy/requests/flood-{level}-{number}"
            nosy.send(nosy.frame(b"z" * 20_000, topic=topic, qos=0, retain=True))
        worst_s, sequence = 0.0, 0
        while box.counts()["retained_cleared"] - before["retained_cleared"] < flood:
            assert time.monotonic() < began_s + 20
            asked_s = time.monotonic()
            till.tell(counted(f"flood-{level}", sequence := sequence + 1))
            worst_s = max(worst_s, time.monotonic() - asked_s)
        assert time.monotonic() - began_s >= (flood - AT_ONCE) / PER_S * 0.8
        assert worst_s < WAIT_MAX_S
        nosy.ping()
        assert [
            one for one in nosy.listen("pos/v1/nosy/requests/+") if one.kind == mqtt.PUBLISH and len(one.body) > 1_000
        ] == []
    assert box.counts()["messages_slowed"] > before["messages_slowed"]
    assert broker.memory_info().rss - memory < 20 * 2**20


def test_subscriptions_without_end_are_slowed_and_the_device_still_sells(box: Box) -> None:
    before = box.counts()["messages_slowed"]
    with Paired(box, "nosy") as nosy:
        for number in range(AT_ONCE + 25):
            nosy.send(mqtt.subscribe(f"pos/v1/nosy/{number}", packet_id=number + 1))
        nosy.send(nosy.frame(sold := event(), packet_id=60_000))
        got = [one for one in nosy.everything() if one.kind == mqtt.PUBACK]
        assert [one.packet_id for one in got] == [60_000]
    assert sold in box.stored("nosy")
    assert box.counts()["messages_slowed"] > before


def test_one_subscribe_of_thousands_of_filters_is_not_read(box: Box) -> None:
    """Each level of each filter costs the broker memory."""
    before = box.counts()["too_large"]
    with Paired(box, "nosy", V5) as nosy:
        filters = b"".join(mqtt.text(f"{number}{'/x' * 20}") + b"\1" for number in range(1_000))
        nosy.send(mqtt.frame(8, b"\0\1\0" + filters, 2))
        got = nosy.packet()
        assert (got.kind, got.body[0]) == (mqtt.DISCONNECT, 0x95)
    assert box.counts()["too_large"] == before + 1


@pytest.mark.parametrize("level", [V4, V5])
def test_a_device_keeps_so_many_filters_in_the_broker_over_all_its_connections(box: Box, level: int) -> None:
    """A session that outlives its connection keeps them; a new one, or ending some, makes room."""
    before, name = box.counts()["subscriptions_over_limit"], "nosy"
    password = box.passwords[name].encode()  # type: ignore[attr-defined]

    def subscribing(first: int, count: int) -> bytes:
        filters = b"".join(mqtt.text(f"pos/v1/{name}/x/{first + at}") + b"\1" for at in range(count))
        return mqtt.frame(8, b"\0\1" + b"\0" * (level == V5) + filters, 2)

    def subscribe(wire: mqtt.Wire, first: int, count: int) -> int:
        return wire.send(subscribing(first, count)).packet().kind

    def connected(clean: bool, resumed: bool) -> mqtt.Wire:
        wire = mqtt.Wire(box.port)
        lasting = mqtt.properties(b"\x11\0\0\x0e\x10") if not clean else b"\0"
        wire.send(mqtt.connect(name, username=name, password=password, level=level, clean=clean, props=lasting))
        assert wire.packet().body[:2] == bytes((resumed, 0))
        return wire

    connected(clean=True, resumed=False).socket.close()
    for at in range(3):
        with connected(clean=False, resumed=at > 0) as wire:
            for _ in range(2):
                assert subscribe(wire, at * 60, 60) == mqtt.SUBACK, "the same ones again are not more"
    with connected(clean=False, resumed=True) as wire:
        wire.send(subscribing(180, 60))
        assert [got.kind for got in wire.rest()] == [mqtt.DISCONNECT] * (level == V5)
    assert box.counts()["subscriptions_over_limit"] == before + 1
    with connected(clean=False, resumed=True) as wire:
        assert subscribe(wire, 0, 60) == mqtt.SUBACK, "what was refused does not count against what it has"
    with connected(clean=True, resumed=False) as wire:
        assert [subscribe(wire, first, 60) for first in (0, 60, 120)] == [mqtt.SUBACK] * 3
        ended = b"".join(mqtt.text(f"pos/v1/{name}/x/{one}") for one in range(60))
        wire.send(mqtt.frame(10, b"\0\2" + b"\0" * (level == V5) + ended, 2))
        assert wire.packet().kind == mqtt.UNSUBACK
        assert subscribe(wire, 180, 60) == mqtt.SUBACK


def test_events_at_anothers_topic_without_end_are_slowed_and_none_is_stored(box: Box) -> None:
    before = box.counts()["messages_slowed"]
    with Paired(box, "nosy", V5) as nosy, Paired(box, "till-1") as till:
        for number in range(AT_ONCE + 25):
            nosy.send(mqtt.publish("pos/v1/till-1/events", event(), packet_id=number + 1, level=V5))
        got = [one for one in nosy.everything() if one.kind == mqtt.PUBACK]
        assert {one.reason for one in got} == {0x87}
        till.tell(event())
    assert box.counts()["messages_slowed"] > before


def test_events_that_take_long_to_judge_are_read_slowly_and_others_sell_beside_them(box: Box) -> None:
    """A quarter of a megabyte of single digits each: every one of them might begin a card number."""
    before, count = box.counts()["messages_slowed"], 12
    heavy = [event(type="venue.note", data={"text": f"{at} " + "1 " * 125_000}) for at in range(count)]
    with Paired(box, "nosy") as nosy, Paired(box, "till-1") as till, ThreadPoolExecutor() as aside:
        answers = aside.submit(nosy.packets, count, 60)
        sending = aside.submit(nosy.send, *(nosy.frame(one, packet_id=at + 1) for at, one in enumerate(heavy)))
        worst_s = 0.0
        while not answers.done():
            asked_s = time.monotonic()
            till.tell(event())
            worst_s = max(worst_s, time.monotonic() - asked_s)
            time.sleep(0.01)
        sending.result()
        got = answers.result()
    assert worst_s < WAIT_MAX_S
    assert [one.packet_id for one in got] == list(range(1, count + 1))
    assert box.stored("nosy")[-count:] == heavy
    assert box.counts()["messages_slowed"] >= before + count - 1


def test_no_device_takes_anothers_session_by_its_client_id(box: Box) -> None:
    with Paired(box, "till-1") as till:
        till.listen("pos/v1/till-1/commands")
        thief = mqtt.Wire(box.port)
        password = box.passwords["nosy"].encode()  # type: ignore[attr-defined]
        thief.send(mqtt.connect("till-1", username="nosy", password=password))
        assert thief.packet().body[1] == 0
        thief.send(mqtt.publish("pos/v1/till-1/events", event(id="stolen")))
        thief.rest()
        till.ping()
    assert not [one for one in box.stored("till-1") if b"stolen" in one]
    thief.socket.close()


def test_memory_of_the_broker_has_a_bound_and_who_exceeds_it_is_sent_away(new_box: Callable[..., Box]) -> None:
    """Where any device may connect Mosquitto keeps what anybody has retained: its own bound is the last one."""
    settings: dict[str, Any] = {"gate": {"messages_per_s_max": 10_000.0, "messages_at_once_max": 100_000}}
    box = new_box(broker={"memory_bytes_max": 33_554_432}, **settings).start()
    broker = psutil.Process(box.mosquitto_pid())
    with Device(box.port, "till-1") as till:
        number, sold, sent_away_count = 0, 0, 0
        while sent_away_count < 3:
            assert number < 10_000
            try:
                with Device(box.port, "nosy") as nosy:
                    for _ in range(100):
                        number += 1
                        nosy.send(nosy.frame(b"z" * 40_000, topic=f"x/{number}", qos=0, retain=True))
                    nosy.ping()
            except (Gone, OSError):
                sent_away_count += 1
            till.tell(counted("e1", sold := sold + 1))
        assert broker.memory_info().rss < 80 * 2**20
    with Device(box.port, "till-2") as later:
        later.tell(counted("e1", 1))
    assert len(box.stored("till-1")) == sold
