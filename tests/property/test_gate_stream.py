"""One device's connection against a model: however its bytes are cut, and whenever commits return, the same happens.

The connection is the gate's own; transport, broker and journal are stand-ins that keep what they are given. Events
reach the journal in order, everything else reaches the broker in order and byte for byte, and no event is acknowledged
before its commit has returned.
"""

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.core.arrivals import Item, Outcome, Settle
from agent.core.events import Reason, Refusal
from agent.lan import packets
from agent.lan.connection import DeviceConnection
from agent.lan.gate import Gate, Limits
from agent.lan.packets import V4, V5
from agent.lan.upstream import Upstream
from tests.integration import mqtt

LIMITS = Limits(
    connections_max=10,
    connect_timeout_s=10.0,
    event_bytes_max=4096,
    inflight_max=3,
    preconnack_bytes_max=1024,
    partial_bytes_max=1 << 20,
    stranger_bytes_max=1 << 20,
    refuse_delay_s=5.0,
    linger_s=5.0,
    keepalive_idle_s=30,
    keepalive_interval_s=10,
    keepalive_probes_max=3,
)
TOPIC = "pos/v1/till-1/events"
ITEM = Refusal("till-1", Reason.SCHEMA, "no", None, None, None, "", 0, "", None)


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and gives what it is fed only while it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.fed: list[bytes] = []
        self.reading = True
        self.closed = False
        self.protocol: Any = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += bytes(data)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def deliver(self) -> bool:
        """Give the next piece to the protocol; False when there is none, or nobody reads."""
        if not self.fed or not self.reading or self.closed:
            return False
        self.protocol.data_received(self.fed.pop(0))
        return True


class Journal:
    """Takes events; a commit settles the oldest that wait."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.waiting: list[Settle] = []
        self.settled = 0
        self.room: Any = None

    def offer(self, device: str, payload: bytes, settle: Settle) -> bool:
        assert device == "till-1"
        self.taken.append(payload)
        self.waiting.append(settle)
        return len(self.waiting) < 5

    def on_room(self, call: Any) -> None:
        self.room = call

    def commit(self, count: int) -> None:
        for settle in self.waiting[:count]:
            self.settled += 1
            settle(ITEM, Outcome.STORED)
        del self.waiting[:count]
        self.room()


class Nobody:
    """Who hears of odd things; here there are none."""

    def spoofed(self, device: str, topic: str) -> None:
        raise AssertionError

    def answer(self, device: str, topic: str, correlation: bytes | None, item: Item, outcome: Outcome) -> None:
        raise AssertionError


class StandInGate(Gate):
    """The gate with a broker that is a stand-in as well: it answers a CONNECT when it is told to."""

    def join(self, connection: DeviceConnection, connect: bytes) -> asyncio.Task[None]:
        self.broker = Wire()
        upstream = Upstream(connection)
        self.broker.protocol = upstream
        upstream.connection_made(self.broker)
        connection.joined_upstream(upstream)
        upstream.write(connect, 0.0)
        return asyncio.get_running_loop().create_task(asyncio.sleep(0))


@st.composite
def steps(draw: st.DrawFn) -> tuple[int, list[tuple[str, bytes]]]:
    """A protocol level and packets of one device, each as (what it is, its bytes)."""
    level = draw(st.sampled_from([V4, V5]))
    made: list[tuple[str, bytes]] = []
    for at in range(1, draw(st.integers(1, 12)) + 1):
        kind = draw(st.sampled_from(["event", "event", "event0", "event2", "ping", "other", "subscribe", "puback"]))
        payload = draw(st.binary(max_size=40))
        if kind.startswith("event"):
            qos = {"event": 1, "event0": 0, "event2": 2}[kind]
            props = draw(st.sampled_from([b"\0", b"\2\1\1", mqtt.properties(mqtt.user_property("a", "b"))]))
            raw = mqtt.publish(TOPIC, payload, qos=qos, packet_id=at, level=level, props=props)
        elif kind == "other":
            topic = draw(st.sampled_from(["pos/v1/till-1/state", "pos/v1/till-1/eventsx", "pos/v1/till-1/event", "a"]))
            raw = mqtt.publish(topic, payload * 10, packet_id=at, level=level)
        else:
            raw = {
                "ping": mqtt.PING,
                "subscribe": mqtt.subscribe("a/+", packet_id=at, level=level),
                "puback": mqtt.frame(mqtt.PUBACK, at.to_bytes(2, "big")),
            }[kind]
        made.append((kind, raw))
    return level, made


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[low:high] for low, high in pairwise(edges)]


async def run(level: int, made: list[tuple[str, bytes]], cuts: list[int], turns: list[int], large: bytes) -> None:
    journal, device = Journal(), Wire()
    gate = StandInGate((), None, True, LIMITS, journal, Nobody())  # type: ignore[arg-type]
    connection = DeviceConnection(gate)
    device.protocol = connection
    connection.connection_made(device)
    hello = mqtt.connect("till-1", username="till-1", level=level, keep_alive_s=0)
    device.fed = pieces(hello + b"".join(raw for _, raw in made), cuts)
    answers = pieces(mqtt.frame(mqtt.CONNACK, b"\0\0" + b"\0" * (level == V5)) + large, cuts)
    choices = iter(turns)
    while True:
        turn = next(choices, 3)
        moved = False
        if turn % 4 in (0, 3):
            moved |= device.deliver()
        if turn % 4 in (1, 3) and hasattr(gate, "broker"):
            gate.broker.fed, answers = gate.broker.fed + answers, []
            moved |= gate.broker.deliver()
        if turn % 4 in (2, 3) and journal.waiting:
            journal.commit(1 + turn % 3)
            moved = True
        for _ in range(3):
            await asyncio.sleep(0)
        told = acknowledgements(device.written)
        assert sum(told.values()) <= journal.settled
        assert len(journal.waiting) <= LIMITS.inflight_max
        if turn == 3 and not moved and next(choices, None) is None:
            break
    assert device.fed == []
    assert device.reading
    check(level, made, hello, journal, gate.broker.written, device.written, large)


def acknowledgements(written: bytes) -> Counter[tuple[int, int]]:
    """Acknowledgements in what the device was sent; fails where that is no sequence of packets."""
    told: Counter[tuple[int, int]] = Counter()
    at = 0
    while at < len(written):
        length, body = mqtt.read_varint(written, at + 1)
        assert body + length <= len(written), "a packet was begun and not ended before the next thing was said"
        if written[at] >> 4 in (packets.PUBACK, packets.PUBREC):
            told[written[at] >> 4, int.from_bytes(written[body : body + 2], "big")] += 1
        at = body + length
    return told


def check(
    level: int, made: list[tuple[str, bytes]], hello: bytes, journal: Journal, broker: bytes, told: bytes, large: bytes
) -> None:
    events = [raw for kind, raw in made if kind.startswith("event")]
    assert [raw.endswith(taken) for raw, taken in zip(events, journal.taken, strict=True)] == [True] * len(events)
    others = b"".join(raw for kind, raw in made if not kind.startswith("event"))
    assert broker == hello + others
    wanted = Counter(
        (packets.PUBACK if kind == "event" else packets.PUBREC, at)
        for at, (kind, _) in enumerate(made, 1)
        if kind in ("event", "event2")
    )
    assert acknowledgements(told) == wanted
    assert large in told
    ids = [at for at, (kind, _) in enumerate(made, 1) if kind in ("event", "event2")]
    assert [packet_id for _, packet_id in acknowledgements(told)] == ids
    assert level in (V4, V5)


@settings(max_examples=200, deadline=None)
@given(
    steps(), st.lists(st.integers(0, 2000), max_size=12), st.lists(st.integers(0, 30), max_size=40), st.integers(0, 300)
)
def test_any_cutting_of_any_stream_means_the_same(
    said: tuple[int, list[tuple[str, bytes]]], cuts: list[int], turns: list[int], size: int
) -> None:
    large = mqtt.publish("a/b", b"\xd0\x00" * size, qos=0, level=said[0])
    with capture_logs():
        asyncio.run(run(*said, cuts, turns, large))


async def released(level: int) -> None:
    journal, device = Journal(), Wire()
    gate = StandInGate((), None, True, LIMITS, journal, Nobody())  # type: ignore[arg-type]
    connection = DeviceConnection(gate)
    device.protocol = connection
    connection.connection_made(device)
    hello = mqtt.connect("till-1", username="till-1", level=level, keep_alive_s=0)
    connection.data_received(hello)
    gate.broker.protocol.data_received(mqtt.frame(mqtt.CONNACK, b"\0\0" + b"\0" * (level == V5)))
    connection.data_received(mqtt.publish(TOPIC, b"{}", qos=2, packet_id=7, level=level))
    journal.commit(1)
    await asyncio.sleep(0)
    connection.data_received(mqtt.pubrel(7) + mqtt.pubrel(7) + mqtt.pubrel(8))
    await asyncio.sleep(0)
    assert device.written.endswith(mqtt.frame(mqtt.PUBREC, b"\0\7") + mqtt.frame(mqtt.PUBCOMP, b"\0\7"))
    assert gate.broker.written == hello + mqtt.pubrel(7) + mqtt.pubrel(8)


def test_the_gate_ends_its_own_qos_2_flows_and_nobody_elses() -> None:
    for level in (V4, V5):
        with capture_logs():
            asyncio.run(released(level))
