"""How devices come in, and what they may not send: CONNECT, CONNACK and malformed packets, in MQTT 3.1.1 and 5.0.

Devices here are raw sockets, so that they may say what no stock client would.
"""

import pytest

from tests.integration import mqtt
from tests.integration.machine import Box
from tests.integration.mqtt import V4, V5, Device, Packet, Wire
from tests.sales import event, new_name

EVENT_BYTES_MAX = 262_144

both_levels = pytest.mark.parametrize("level", [V4, V5], ids=["v311", "v5"])


# CONNECT and CONNACK -------------------------------------------------------------------------------------------------


@both_levels
def test_events_sent_before_the_connack_are_stored(box: Box, name: str, level: int) -> None:
    payloads = [event() for _ in range(300)]  # more bytes than the gate takes in before it knows who sends
    assert sum(map(len, payloads)) > 65_536
    topic = f"pos/v1/{name}/events"
    frames = [mqtt.publish(topic, payload, packet_id=at, level=level) for at, payload in enumerate(payloads, 1)]
    with Wire(box.port) as wire:
        wire.send(mqtt.connect(name, username=name, level=level), *frames)
        assert wire.packet().kind == mqtt.CONNACK
        assert [one.packet_id for one in wire.packets(300)] == list(range(1, 301))
    assert box.stored(name) == payloads


def test_events_sent_before_a_refusing_connack_are_discarded(box: Box) -> None:
    name = new_name()
    with Wire(box.port) as wire:
        wire.send(mqtt.connect("", clean=False), mqtt.publish(f"pos/v1/{name}/events", event()))
        assert [one.kind for one in wire.rest()] == [mqtt.CONNACK]
    assert box.device(name) is None


def test_the_connack_of_5_0_carries_the_gates_limits(box: Box, name: str) -> None:
    with Device(box.port, name, level=V5) as device:
        told = device.connack.properties
    assert told[0x22] == b"\0\0"
    assert told[0x21] == (64).to_bytes(2, "big")
    assert told[0x27] == (EVENT_BYTES_MAX + 65_536).to_bytes(4, "big")
    assert device.connack.body.count(b"\x22\x00\x00") == 1


def test_the_connack_of_3_1_1_is_as_mosquitto_sent_it(box: Box, name: str) -> None:
    with Device(box.port, name) as device:
        assert device.connack == Packet(mqtt.CONNACK, 0, b"\0\0")


@pytest.mark.parametrize("level", [0, 3, 6, 0x84, 255])
def test_another_protocol_level_is_refused_by_return_code(box: Box, name: str, level: int) -> None:
    with Wire(box.port) as wire:
        wire.send(mqtt.connect(name, username=name, level=level, props=b""))
        assert wire.rest() == [Packet(mqtt.CONNACK, 0, b"\0\1")]


def test_an_authentication_method_is_refused(box: Box, name: str) -> None:
    with Wire(box.port) as wire:
        wire.send(mqtt.connect(name, level=V5, props=mqtt.properties(b"\x15" + mqtt.text("SCRAM-SHA-1"))))
        (got,) = wire.rest()
        assert (got.kind, got.reason) == (mqtt.CONNACK, 0x8C)


@both_levels
def test_a_second_connect_closes(box: Box, name: str, level: int) -> None:
    with Device(box.port, name, level=level) as device:
        device.tell(event())
        rest = device.send(mqtt.connect(name, username=name, level=level)).rest()
        assert [(one.kind, one.reason) for one in rest] == ([(mqtt.DISCONNECT, 0x82)] if level == V5 else [])


def _connects(name: str) -> dict[str, bytes]:
    """CONNECTs that the standard forbids."""
    plain, five = mqtt.connect(name), mqtt.connect(name, level=V5)
    assert plain[1] < 0x80
    return {
        "flags in the first byte": b"\x11" + plain[1:],
        "reserved flag": mqtt.connect(name, flags=1),
        "length not in the fewest bytes": plain[:1] + mqtt.varint(plain[1], 2) + plain[2:],
        "length of five bytes": b"\x10\xff\xff\xff\xff\x01",
        "bytes behind the last field": mqtt.connect(name, tail=b"x"),
        "password without user name": mqtt.connect(name, password=b"x"),
        "will flags without a will": mqtt.connect(name, flags=0x20),
        "will with QoS 3": mqtt.connect(name, flags=0x18, will=("a/b", b"")),
        "will topic with a wildcard": mqtt.connect(name, will=("a/#", b"")),
        "will topic empty": mqtt.connect(name, will=("", b"")),
        "another protocol name": mqtt.connect(name, name=b"MQTX"),
        "the name of 3.1": mqtt.connect(name, name=b"MQIsdp", level=3),
        "client id not UTF-8": mqtt.connect(name).replace(name.encode(), b"\xff" * len(name)),
        "client id with U+0000": mqtt.connect(name).replace(name.encode(), b"\0" * len(name)),
        "user name with a surrogate": mqtt.connect(name, username=b"\xed\xa0\x80"),
        "properties reach too far": mqtt.connect(name, level=V5, props=b"\x7f"),
        "properties' length not in the fewest bytes": mqtt.connect(name, level=V5, props=b"\x80\x00"),
        "a property twice": mqtt.connect(name, level=V5, props=mqtt.properties(b"\x21\0\x05", b"\x21\0\x05")),
        "a property of another packet": mqtt.connect(name, level=V5, props=mqtt.properties(b"\x23\0\x05")),
        "Receive Maximum 0": mqtt.connect(name, level=V5, props=mqtt.properties(b"\x21\0\0")),
        "Request Problem Information 2": mqtt.connect(name, level=V5, props=mqtt.properties(b"\x17\2")),
        "ends early": mqtt.frame(mqtt.CONNECT, five[2:-3]),
        "not a CONNECT first": mqtt.PING,
        "a PUBLISH first": mqtt.publish("a/b", b""),
        "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "a length above any CONNECT": b"\x10" + mqtt.varint(EVENT_BYTES_MAX + 65_537),
    }


@pytest.mark.parametrize("broken", _connects("x"))
def test_a_malformed_connect_closes_and_is_counted(box: Box, name: str, broken: str) -> None:
    before = box.counts().get("malformed", 0)
    with Wire(box.port) as wire:
        assert wire.send(_connects(name)[broken]).rest() == []
    assert box.counts()["malformed"] == before + 1


def _packets(name: str, level: int) -> dict[str, bytes]:
    """Packets that no client may send once it is connected."""
    topic, none = f"pos/v1/{name}/events", b"\0" if level == V5 else b""
    whole = mqtt.publish(topic, event(), level=level)
    return {
        "PUBLISH with QoS 3": mqtt.publish(topic, event(), qos=3, level=level),
        "PUBLISH with packet id 0": mqtt.publish(topic, event(), packet_id=0, level=level),
        "PUBLISH without room for its packet id": mqtt.frame(mqtt.PUBLISH, mqtt.text(topic) + b"\1", 2),
        "PUBLISH with DUP and QoS 0": mqtt.publish(topic, event(), qos=0, dup=True, level=level),
        "PUBLISH whose topic reaches too far": mqtt.frame(mqtt.PUBLISH, b"\0\x7fpos", 2),
        "PUBLISH without a topic": mqtt.frame(mqtt.PUBLISH, b"\0", 0),
        "PUBLISH with a length not in the fewest bytes": whole[:1] + mqtt.varint(len(whole) - 3, 3) + whole[3:],
        "a length of five bytes": b"\x30\xff\xff\xff\xff\x01",
        "PINGREQ with a body": b"\xc0\x01x",
        "PINGREQ with flags": b"\xc1\x00",
        "SUBSCRIBE without its flags": mqtt.frame(mqtt.SUBSCRIBE, mqtt.subscribe("a", level=level)[2:]),
        "UNSUBSCRIBE without its flags": mqtt.frame(mqtt.UNSUBSCRIBE, b"\0\1" + none + mqtt.text("a")),
        "PUBREL without its flags": mqtt.frame(mqtt.PUBREL, b"\0\1"),
        "PUBREL without a packet id": mqtt.frame(mqtt.PUBREL, b"\1", 2),
        "PUBACK with flags": mqtt.frame(mqtt.PUBACK, b"\0\1", 1),
        "CONNACK": b"\x20\x02\0\0",
        "SUBACK": b"\x90\x03\0\1\0",
        "UNSUBACK": b"\xb0\x02\0\1",
        "PINGRESP": b"\xd0\x00",
        "AUTH": b"\xf0\x00",
        "packet type 0": b"\x00\x00",
        "another's event with packet id 0": mqtt.publish("pos/v1/x/events", b"{}", packet_id=0, level=level),
    }


def _closed_as_malformed(box: Box, name: str, level: int, broken: bytes) -> None:
    before = box.counts().get("malformed", 0)
    with Device(box.port, name, level=level) as device:
        rest = device.send(broken).rest()
    told = [(one.kind, one.reason) for one in rest if one.kind == mqtt.DISCONNECT]
    assert told in ([(mqtt.DISCONNECT, 0x81)], [(mqtt.DISCONNECT, 0x82)]) if level == V5 else told == []
    assert box.counts()["malformed"] == before + 1
    assert box.device(name) is None


@both_levels
@pytest.mark.parametrize("broken", _packets("x", V4))
def test_a_malformed_packet_closes_and_is_counted(box: Box, name: str, broken: str, level: int) -> None:
    if broken == "another's event with packet id 0" and level == V4:
        pytest.skip("3.1.1 closes for the topic before it looks further")
    _closed_as_malformed(box, name, level, _packets(name, level)[broken])


PROPERTIES = {
    "a property of another packet": b"\x03\x21\0\5",
    "Subscription Identifier": b"\x02\x0b\x01",
    "a property twice": b"\x04\x01\0\x01\0",
    "properties reach too far": b"\x7f",
    "a Response Topic that is not UTF-8": b"\x04\x08\0\x01\xff",
}


@pytest.mark.parametrize("broken", PROPERTIES)
def test_malformed_properties_of_an_event_close(box: Box, name: str, broken: str) -> None:
    topic = f"pos/v1/{name}/events"
    frame = mqtt.frame(mqtt.PUBLISH, mqtt.text(topic) + b"\0\1" + PROPERTIES[broken] + b"{}", 2)
    _closed_as_malformed(box, name, V5, frame)


@pytest.mark.parametrize("kind", ["events", "state"])
def test_a_topic_alias_is_refused_on_any_topic(box: Box, name: str, kind: str) -> None:
    alias = mqtt.properties(b"\x23\0\1")
    with Device(box.port, name, level=V5) as device:
        rest = device.send(mqtt.publish(f"pos/v1/{name}/{kind}", event(), level=V5, props=alias)).rest()
        assert [(one.kind, one.reason) for one in rest] == [(mqtt.DISCONNECT, 0x94)]
    assert box.device(name) is None
