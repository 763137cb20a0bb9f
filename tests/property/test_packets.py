"""The MQTT parser on bytes that nobody meant: it answers with a value or with one of its own errors."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.lan import packets
from agent.lan.packets import V4, V5, BadAuthentication, Malformed, Unsupported
from tests.integration import mqtt

ERRORS = (Malformed, Unsupported, BadAuthentication)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@st.composite
def connects(draw: st.DrawFn) -> bytes:
    """The body of a CONNECT that the standard allows."""
    level = draw(st.sampled_from([V4, V5]))
    username = draw(st.none() | names)
    packet = mqtt.connect(
        draw(names),
        username=username,
        password=None if username is None else draw(st.none() | st.binary(max_size=5)),
        level=level,
        keep_alive_s=draw(st.integers(0, 65535)),
        clean=draw(st.booleans()),
        will=draw(st.none() | st.just(("a/b", b"\0\xff"))),
        props=draw(st.sampled_from([b"\0", mqtt.properties(b"\x21\0\5", mqtt.user_property("a", "b"))])),
    )
    return packet[mqtt.read_varint(packet, 1)[1] :]


def tried(parse: Callable[..., Any], *arguments: Any) -> Any:
    """What it returned, None for one of its own errors."""
    try:
        return parse(*arguments)
    except ERRORS:
        return None


@settings(max_examples=150, deadline=None)
@given(connects())
def test_a_good_connect_is_parsed_and_can_be_given_a_name(body: bytes) -> None:
    found = packets.parse_connect(body)
    assert found.body == body
    if found.username is None:
        again = packets.connect_as(found, "till-1")
        assert packets.parse_connect(again[mqtt.read_varint(again, 1)[1] :]).username == "till-1"


@settings(max_examples=200, deadline=None)
@given(connects(), st.data())
def test_a_damaged_connect_is_parsed_or_refused(body: bytes, data: st.DataObject) -> None:
    raw = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    found = tried(packets.parse_connect, bytes(raw))
    assert found is None or found.body == bytes(raw)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 5), st.sampled_from([V4, V5]))
def test_random_bytes_raise_nothing_else(raw: bytes, at: int, level: int) -> None:
    tried(packets.parse_connect, raw)
    tried(packets.parse_connect, b"\0\4MQTT" + bytes((level,)) + raw)
    tried(packets.rewrite_connack, level, raw, 64, 1000)
    tried(packets.rewrite_connack, level, b"\0\0" + raw, 64, 1000)
    tried(packets.read_varint, raw, at)
    found = tried(packets.parse_publish_properties, raw, min(at, len(raw)), len(raw))
    assert found is None or min(at, len(raw)) < found[1] <= len(raw)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=700), st.sampled_from([V4, V5]))
def test_what_the_gate_says_can_always_be_read(text: str, level: int) -> None:
    for packet in (
        packets.acknowledge(packets.PUBACK, b"\1\2", level, 0x99, text),
        packets.refuse_connect(level, 0x87, text),
        packets.disconnect(0x81, text),
    ):
        length, at = mqtt.read_varint(packet, 1)
        assert len(packet) == at + length <= packets.ANSWER_BYTES_MAX
        words = mqtt.Packet(packet[0] >> 4, 0, packet[at:])
        if len(packet) > 4:
            assert text.replace("\0", "").startswith(words.reason_string or "")
