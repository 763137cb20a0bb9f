"""How the gate treats a connection as a stream of bytes: cut anywhere, glued together, slow, half-closed, unread.

Every device here speaks a correct protocol; only the way its bytes travel is odd.
"""

import json
import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import psutil
import pytest

from tests.integration import mqtt
from tests.integration.machine import Box, until
from tests.integration.mqtt import V4, V5, Device, Gone, Wire
from tests.sales import counted, event, new_name

both_levels = pytest.mark.parametrize("level", [V4, V5], ids=["v311", "v5"])


def small(number: int) -> bytes:
    """An event of few bytes."""
    return json.dumps({"specversion": "1.0", "id": str(number), "source": "s", "type": "x"}).encode()


# Cut and glued -------------------------------------------------------------------------------------------------------


AT_ONCE = 40


def cut_stream(level: int, at: int) -> tuple[str, bytes, list[bytes]]:
    """A device, its CONNECT, PUBLISH, PINGREQ and PUBLISH in one, and its two events."""
    name = f"cut-{level}-{at % AT_ONCE:02}"
    topic, events = f"pos/v1/{name}/events", [small(at * 2 + 10_000), small(at * 2 + 10_001)]
    first, second = (mqtt.publish(topic, one, packet_id=number, level=level) for number, one in enumerate(events, 1))
    return name, mqtt.connect(name, username=name, level=level) + first + mqtt.PING + second, events


@both_levels
def test_a_stream_cut_at_any_byte_means_the_same(box: Box, level: int) -> None:
    """Every place of the cut, some devices at a time: while all send their first pieces, none sends its second."""
    size = len(cut_stream(level, 0)[1])
    wanted: dict[str, list[bytes]] = {}
    for start in range(1, size, AT_ONCE):
        with ExitStack() as stack:
            wires = []
            for at in range(start, min(size, start + AT_ONCE)):
                name, stream, events = cut_stream(level, at)
                assert len(stream) == size
                wire = stack.enter_context(Wire(box.port))
                wires.append((wire.send(stream[:at]), stream[at:]))
                wanted.setdefault(name, []).extend(events)
            for wire, rest in wires:
                wire.send(rest)
            for wire, _ in wires:
                assert wire.packet().kind == mqtt.CONNACK
                assert Counter(one.kind for one in wire.packets(3)) == {mqtt.PUBACK: 2, mqtt.PINGRESP: 1}
    assert {name: box.stored(name) for name in wanted} == wanted


@both_levels
def test_a_sender_of_single_bytes_is_understood(box: Box, name: str, level: int) -> None:
    payloads = [event(), event()]
    topic = f"pos/v1/{name}/events"
    stream = mqtt.connect(name, username=name, level=level) + b"".join(
        mqtt.publish(topic, payload, packet_id=at, level=level) for at, payload in enumerate(payloads, 1)
    )
    with Wire(box.port) as wire:
        for byte in stream:
            wire.send(bytes((byte,)))
        assert [one.kind for one in wire.packets(3)] == [mqtt.CONNACK, mqtt.PUBACK, mqtt.PUBACK]
    assert box.stored(name) == payloads


@both_levels
def test_many_packets_in_one_segment_are_answered_one_by_one_and_in_order(box: Box, name: str, level: int) -> None:
    payloads = [event() for _ in range(300)]
    with Device(box.port, name, level=level) as device:
        frames = []
        for at, payload in enumerate(payloads, 1):
            frames.append(device.frame(payload, packet_id=at))
            if at % 3 == 0:
                frames += [mqtt.PING, device.frame(b"{}", topic="conform/x", packet_id=1000 + at)]
        device.send(*frames)
        got = device.packets(500)
    told = [one.packet_id for one in got if one.kind == mqtt.PUBACK]
    assert [packet_id for packet_id in told if packet_id < 1000] == list(range(1, 301))
    assert [packet_id for packet_id in told if packet_id > 1000] == list(range(1003, 1301, 3))
    assert sum(one.kind == mqtt.PINGRESP for one in got) == 100
    assert box.stored(name) == payloads


@both_levels
def test_acknowledgements_never_stand_inside_a_large_message(box: Box, name: str, level: int) -> None:
    """A message of Mosquitto's arrives in pieces while the gate acknowledges events on the same connection."""
    large = bytes(range(256)) * 1200
    with Device(box.port, name, level=level) as device:
        device.subscribe("conform/large")
        for _ in range(5):
            frames = [device.frame(small(device.new_id())) for _ in range(20)]
            device.send(device.frame(large, topic="conform/large"), *frames)
            got = device.packets(22)
            assert sum(one.kind == mqtt.PUBACK for one in got) == 21
            (message,) = (one for one in got if one.kind == mqtt.PUBLISH)
            assert message.body.endswith(large)
            device.send(mqtt.frame(mqtt.PUBACK, message.body[len(large) * -1 - 2 - (level == V5) :][:2]))


@both_levels
def test_devices_that_all_come_at_once_are_all_let_in(box: Box, level: int) -> None:
    """As after a restart of the box: far more than Mosquitto's own queue of new connections takes."""
    names = [new_name() for _ in range(100)]
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(box.port)) for _ in names]
        for name, wire in zip(names, wires, strict=True):
            wire.send(mqtt.connect(name, username=name, level=level))
        assert [wire.packet().body[1] for wire in wires] == [0] * 100


# Half-closed ---------------------------------------------------------------------------------------------------------


@both_levels
@pytest.mark.parametrize("count", [1, 40, 200])
def test_a_device_that_has_said_all_still_gets_its_pubacks(box: Box, name: str, count: int, level: int) -> None:
    payloads = [event() for _ in range(count)]
    with Device(box.port, name, level=level) as device:
        frames = [device.frame(payload, packet_id=at) for at, payload in enumerate(payloads, 1)]
        rest = device.send(*frames).half_close().rest()
        assert [one.packet_id for one in rest] == list(range(1, count + 1))
    assert box.stored(name) == payloads


@both_levels
@pytest.mark.parametrize("count", [1, 200])
def test_all_said_in_one_go_before_the_connack_is_stored_and_acknowledged(
    box: Box, name: str, count: int, level: int
) -> None:
    """As `nc` does: CONNECT, events and the end of the stream in one segment."""
    payloads = [small(number) for number in range(count)]
    topic = f"pos/v1/{name}/events"
    frames = [mqtt.publish(topic, payload, packet_id=at, level=level) for at, payload in enumerate(payloads, 1)]
    with Wire(box.port) as wire:
        wire.send(mqtt.connect(name, username=name, level=level), *frames).half_close()
        rest = wire.rest()
        assert [one.kind for one in rest] == [mqtt.CONNACK] + [mqtt.PUBACK] * count
    assert box.stored(name) == payloads


@both_levels
def test_events_before_a_disconnect_are_acknowledged_before_the_end(box: Box, name: str, level: int) -> None:
    payloads = [event() for _ in range(100)]
    with Device(box.port, name, level=level) as device:
        frames = [device.frame(payload, packet_id=at) for at, payload in enumerate(payloads, 1)]
        rest = device.send(*frames, b"\xe0\x00").rest()
        assert [one.packet_id for one in rest] == list(range(1, 101))
    assert box.stored(name) == payloads


def test_a_device_that_hangs_up_without_listening_has_its_events_stored(box: Box, name: str) -> None:
    payloads = [event() for _ in range(50)]
    with Device(box.port, name) as device:
        device.send(*(device.frame(payload) for payload in payloads))
    until(lambda: len(box.stored(name)) == 50, "all of it is stored")
    assert box.stored(name) == payloads


# Keep-alive ----------------------------------------------------------------------------------------------------------


def test_keep_alive(box: Box) -> None:
    """A device that sends events alone stays connected; one that pings gets its own answers; a silent one is dropped.

    All at once, since it takes its time: more than three keep-alives.
    """
    with (
        Device(box.port, new_name("events4"), keep_alive_s=2, clean=False) as events4,
        Device(box.port, new_name("events5"), keep_alive_s=2, level=V5) as events5,
        Device(box.port, new_name("pinging"), keep_alive_s=2) as pinging,
        Device(box.port, new_name("silent"), keep_alive_s=1) as silent,
    ):
        started_s = time.monotonic()
        for device in (events4, events5):
            device.subscribe(f"pos/v1/{device.name}/commands")
        for _ in range(13):
            for device in (events4, events5):
                device.tell(event())
            pinging.send(pinging.frame(event()), mqtt.PING)
            time.sleep(0.5)
        assert time.monotonic() - started_s > 6
        for device in (events4, events5):
            topic = f"pos/v1/{device.name}/commands"
            pinging.send(pinging.frame(b"still there?", topic=topic, qos=0))
            assert next(device.messages()) == (topic, b"still there?")
        pinging.send(pinging.frame(event(), packet_id=5000))
        seen: Counter[int] = Counter()
        while True:
            got = pinging.packet()
            seen[got.kind] += 1
            if got.kind == mqtt.PUBACK and got.packet_id == 5000:
                break
        assert seen == {mqtt.PINGRESP: 13, mqtt.PUBACK: 14}
        assert silent.rest(0.01) == []


# Back-pressure -------------------------------------------------------------------------------------------------------


@both_levels
def test_a_device_that_sends_without_reading_loses_nothing_and_slows_nobody(box: Box, name: str, level: int) -> None:
    agent = psutil.Process(box.pid)
    before = agent.memory_info().rss
    payloads = [counted("e", at) for at in range(1, 5001)]
    with Device(box.port, name, level=level) as device, Device(box.port, new_name("other")) as other:
        device.send(*(device.frame(payload, packet_id=at) for at, payload in enumerate(payloads, 1)))
        other.tell(event())
        until(lambda: len(box.stored(name)) == 5000, "all of it is stored", 30)
        assert agent.memory_info().rss - before < 40 * 2**20
        assert [one.packet_id for one in device.packets(5000)] == list(range(1, 5001))
    assert box.stored(name) == payloads
    assert box.device(name)["stored"] == "5000"


def test_answers_do_not_pile_up_for_a_device_that_never_reads_them(new_box: Callable[..., Box]) -> None:
    """The gate stops reading from it; it would otherwise hold an answer for all that is sent."""
    mine = new_box().start()
    with socket.socket() as raw, Device(mine.port, "other", level=V5) as other:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(5.0)
        raw.connect(("127.0.0.1", mine.port))
        raw.sendall(mqtt.connect("deaf", username="deaf", level=V5))
        wordy = event(specversion="é" * 200)  # its refusal repeats what it says
        frame = mqtt.publish("pos/v1/deaf/events", wordy, level=V5) * 500
        raw.setblocking(False)
        sent, size = 0, len(frame) * 80
        while select.select([], [raw], [], 1.0)[1]:
            sent += raw.send(frame[sent % len(frame) :])
            assert sent < size, "all of it was taken"
        assert len(other.tell(event()).body) == 2


def test_a_subscriber_that_does_not_read_harms_nobody(box: Box, name: str) -> None:
    agent = psutil.Process(box.pid)
    with Device(box.port, new_name("slow")) as slow, Device(box.port, name, level=V5) as device:
        slow.subscribe("flood/x")
        before = agent.memory_info().rss
        frame = device.frame(b"x" * 60_000, topic="flood/x", qos=0)
        for _ in range(500):
            device.send(frame)
        device.ping()
        assert device.tell(event()).reason == 0
        assert agent.memory_info().rss - before < 20 * 2**20
        with pytest.raises((Gone, TimeoutError)):
            for _ in slow.messages(0.5):
                pass
    with Device(box.port, slow.name) as again:
        again.tell(event())
