"""Bytes that nobody meant, by the hundred connections: the gate closes, counts, and serves everybody else as before.

By default the streams come from one fixed seed, so that a failure can be seen again; `--long` takes more of them and a
seed of its own, which is printed; `--seed` repeats it.
"""

import random
import time
from collections.abc import Callable

import psutil
import pytest

from agent.core.events import device_allowed
from tests.integration import mqtt
from tests.integration.machine import Box, until
from tests.integration.mqtt import V4, V5, Device, Gone, Wire
from tests.sales import event, payment

AT_ONCE = 25
WARMING = 200
"""Connections before memory is measured: what is allocated once is there by then."""
GROWN_BYTES_MAX, GROWN_BYTES_A_CONNECTION = 6 * 2**20, 1_500
"""How much memory the agent may take more afterwards. A connection's own buffers are 64 KiB and more: keeping one of
ten would be too much."""


def seeds(chance: random.Random) -> list[bytes]:
    """Streams to start from: what devices say, well formed."""
    level = chance.choice([V4, V5])
    name = f"fuzz-{chance.randrange(20)}"
    topic = f"pos/v1/{name}/events"
    will = chance.choice([None, (topic, event()), ("a/b", b"gone")])
    props = chance.choice(
        [b"\0", mqtt.properties(b"\x17\0"), mqtt.properties(b"\x11\0\0\0\5", mqtt.user_property("a", "b"))]
    )
    frames = [mqtt.connect(name, username=chance.choice([name, None]), level=level, will=will, props=props)]
    for at in range(chance.randrange(6)):
        frames.append(
            chance.choice(
                [
                    mqtt.publish(topic, event(), qos=chance.randrange(4), packet_id=at, level=level),
                    mqtt.publish(topic, chance.randbytes(30), packet_id=at + 1, level=level),
                    mqtt.publish(topic, event(data=payment(note="x" * 5000)), packet_id=at + 1, level=level),
                    mqtt.publish("pos/v1/other/events", event(), packet_id=at + 1, level=level),
                    mqtt.publish("a/b", chance.randbytes(200), qos=chance.randrange(3), packet_id=at + 1, level=level),
                    mqtt.subscribe(chance.choice(["a/#", "+/+", topic, "$SYS/#", "$share/a/b"]), level=level),
                    mqtt.pubrel(at + 1),
                    mqtt.PING,
                    b"\xe0\x00",
                ]
            )
        )
    return frames


def mutated(chance: random.Random) -> bytes:
    """A stream with some of it changed, cut, doubled or moved, or nothing but noise."""
    frames = seeds(chance)
    way = chance.randrange(8)
    if way == 0:
        return chance.randbytes(chance.randrange(400))
    if way == 1:
        return frames[0] + chance.randbytes(chance.randrange(400))
    if way == 2:
        chance.shuffle(frames)
    elif way == 3:
        frames.insert(chance.randrange(len(frames) + 1), chance.choice(frames))
    stream = bytearray(b"".join(frames))
    if way >= 4:
        for _ in range(chance.choice([1, 1, 2, 5, 20])):
            at = chance.randrange(len(stream))
            kind = chance.randrange(4)
            if kind == 0:
                stream[at] = chance.randrange(256)
            elif kind == 1:
                stream[at] ^= 1 << chance.randrange(8)
            elif kind == 2:
                del stream[at : at + chance.randrange(1, 20)]
            else:
                stream[at:at] = chance.randbytes(chance.randrange(1, 5))
            if not stream:
                break
    return bytes(stream[: chance.randrange(len(stream) + 1)] if way == 7 else stream)


def storm(port: int, chance: random.Random) -> int:
    """Some connections at once, each with a stream of its own; returns how many bytes came back."""
    heard = 0
    wires = []
    for _ in range(AT_ONCE):
        wires.append((Wire(port), mutated(chance)))
    for wire, stream in wires:
        cut = chance.randrange(len(stream) + 1)
        for piece in (stream[:cut], stream[cut:]):
            try:
                wire.send(piece)
            except OSError:
                break
    for wire, _ in wires:
        try:
            while True:
                heard += len(wire.packet(0.02).body)
        except (Gone, TimeoutError, OSError, IndexError):
            pass
        finally:
            wire.socket.close()
    return heard


@pytest.mark.parametrize("connections", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_malformed_streams_harm_nobody(
    new_box: Callable[..., Box], request: pytest.FixtureRequest, connections: int
) -> None:
    given = request.config.getoption("--seed")
    seed = int(given) if given else (20261122 if connections < 1000 else time.time_ns())
    print(f"seed {seed}")
    chance = random.Random(seed)
    box = new_box().start()
    agent = psutil.Process(box.pid)
    with Device(box.port, "till-1", level=V5, keep_alive_s=0) as regular:
        regular.subscribe("pos/v1/till-1/+")
        heard, sent = 0, list[bytes]()
        for at in range((WARMING + connections) // AT_ONCE):
            if at == WARMING // AT_ONCE:
                until(lambda: box.counts()["connections"] == 1, "all is quiet")
                files, memory, threads = agent.num_fds(), agent.memory_info().rss, agent.num_threads()
            heard += storm(box.port, chance)
            sent.append(event())
            regular.send(regular.frame(sent[-1], packet_id=at + 1))
        told = [one.packet_id for one in everything(regular, len(sent)) if one.kind == mqtt.PUBACK]
        assert told == list(range(1, len(sent) + 1))
        assert heard > connections
        until(lambda: box.counts()["connections"] == 1, "what was opened is closed")
        until(lambda: agent.num_fds() <= files + 2, "its file descriptors are given back")
        grown = agent.memory_info().rss - memory
        print(
            f"descriptors {files} -> {agent.num_fds()}, threads {threads} -> {agent.num_threads()}, grown {grown} bytes"
        )
        assert grown < GROWN_BYTES_MAX + connections * GROWN_BYTES_A_CONNECTION
        assert agent.num_threads() <= threads + 1
    assert box.stored("till-1") == sent
    counts = box.counts()
    assert counts["malformed"] > connections // 10
    until(lambda: box.status()["safe_to_power_off"], "nothing is being committed any more")
    with Device(box.port, "till-2") as later:
        assert len(later.tell(event()).body) == 2
        later.ping()
    assert box.stop() == 0
    assert "Traceback" not in box.text
    assert "exception" not in box.text.lower()
    assert {stage for stage in ("stage_crashed", "broker_ended", "session_lost") if stage in box.text} == set()
    names = [name for (name,) in box.rows("select device from devices")]
    assert [name for name in names if name != "agent" and not device_allowed(name)] == []


def everything(device: Device, pubacks: int) -> list[mqtt.Packet]:
    """All packets up to the last of so many PUBACKs."""
    found: list[mqtt.Packet] = []
    while sum(one.kind == mqtt.PUBACK for one in found) < pubacks:
        found.append(device.packet())
    return found
