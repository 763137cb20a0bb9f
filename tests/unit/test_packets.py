"""The MQTT packets that the gate reads and writes, byte by byte as the standards have them."""

import pytest

from agent.lan import packets
from agent.lan.packets import V4, V5, BadAuthentication, Malformed, ProtocolError, Unsupported
from tests.integration import mqtt


def body(packet: bytes) -> bytes:
    """A packet's body."""
    _, at = mqtt.read_varint(packet, 1)
    return packet[at:]


def parsed(packet: bytes) -> packets.Connect:
    return packets.parse_connect(body(packet))


# Lengths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001"), (2_097_151, "ffff7f"),
        (2_097_152, "80808001"), (268_435_455, "ffffff7f"),
    ],
)  # fmt: skip
def test_lengths_are_written_and_read_in_the_fewest_bytes(value: int, raw: str) -> None:
    encoded = bytes.fromhex(raw)
    assert packets.write_varint(value) == encoded
    assert packets.read_varint(b"x" + encoded + b"y", 1) == (value, 1 + len(encoded))
    for cut in range(len(encoded)):
        assert packets.read_varint(encoded[:cut], 0) is None


@pytest.mark.parametrize("raw", ["8000", "ff00", "808000", "80808000", "ffffffff", "ffffff80", "8080808001"])
def test_longer_lengths_are_malformed(raw: str) -> None:
    with pytest.raises(Malformed):
        packets.read_varint(bytes.fromhex(raw), 0)


# CONNECT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [V4, V5])
def test_a_connect_is_parsed_whole(level: int) -> None:
    found = parsed(
        mqtt.connect("cid", username="till-1", password=b"\xff\0", level=level, keep_alive_s=300, will=("a/b", b"\0"))
    )
    assert (found.level, found.client_id, found.username, found.keep_alive_s) == (level, "cid", "till-1", 300)
    assert found.tells_problems
    bare = parsed(mqtt.connect("", level=level))
    assert (bare.client_id, bare.username, bare.keep_alive_s) == ("", None, 60)


def test_every_property_of_a_connect_may_stand_there_once_and_user_properties_often() -> None:
    given = mqtt.properties(
        b"\x11\0\0\1\0", b"\x21\0\x0a", b"\x27\0\1\0\0", b"\x22\0\5", b"\x19\1", b"\x17\1",
        mqtt.user_property("a", "b"), mqtt.user_property("a", "b"),
    )  # fmt: skip
    assert parsed(mqtt.connect("c", level=V5, props=given)).tells_problems


@pytest.mark.parametrize(
    ("given", "tells"),
    [(b"", True), (b"\x17\0", False), (b"\x17\1", True), (b"\x27\0\0\0\x40", False), (b"\x27\0\0\2\x10", True)],
)
def test_reasons_are_told_where_they_are_wanted_and_fit(given: bytes, tells: bool) -> None:
    assert parsed(mqtt.connect("c", level=V5, props=mqtt.properties(given))).tells_problems is tells


@pytest.mark.parametrize("level", [0, 1, 2, 3, 6, 0x83, 0x84, 255])
def test_other_levels_are_unsupported(level: int) -> None:
    with pytest.raises(Unsupported):
        parsed(mqtt.connect("c", level=level, props=b""))


def test_an_authentication_method_is_named() -> None:
    with pytest.raises(BadAuthentication, match="GSS"):
        parsed(mqtt.connect("c", level=V5, props=mqtt.properties(b"\x15" + mqtt.text("GSS"))))


@pytest.mark.parametrize("level", [V4, V5])
def test_a_connect_cut_or_followed_at_any_byte_is_malformed(level: int) -> None:
    whole = body(mqtt.connect("cid", username="till-1", password=b"x", level=level, will=("a/b", b"xyz")))
    for cut in range(len(whole)):
        with pytest.raises(Malformed):
            packets.parse_connect(whole[:cut])
    with pytest.raises(Malformed, match="trail"):
        packets.parse_connect(whole + b"\0")


@pytest.mark.parametrize("level", [V4, V5])
@pytest.mark.parametrize("known", ["cid", ""])
def test_a_user_name_is_put_into_a_connect_that_has_none(level: int, known: str) -> None:
    for will in (None, ("a/b", b"x" * 300)):
        before = parsed(mqtt.connect(known, level=level, will=will, clean=False))
        after = parsed(packets.connect_as(before, "till-1"))
        assert after.username == "till-1"
        assert after._replace(username=None, flags=before.flags, body=before.body) == before
        assert after.flags == before.flags | 0x80
        assert packets.connect_as(before, "till-1") == mqtt.connect(
            known, username="till-1", level=level, will=will, clean=False
        )


# CONNACK -------------------------------------------------------------------------------------------------------------


def test_the_connack_of_3_1_1_is_passed_on_as_it_is() -> None:
    assert packets.rewrite_connack(V4, b"\1\0", 64, 1000) == (True, True, False, None, b"\x20\x02\1\0")
    assert packets.rewrite_connack(V4, b"\0\5", 64, 1000) == (False, False, True, None, b"\x20\x02\0\5")
    assert packets.rewrite_connack(V4, b"\0\3", 64, 1000).unknown is False


def test_the_connack_of_5_0_gets_the_gates_limits_in_place_of_the_brokers() -> None:
    theirs = mqtt.properties(
        b"\x22\0\x0a", b"\x12" + mqtt.text("auto-1"), b"\x21\0\x14", b"\x13\0\x1e", mqtt.user_property("a", "b"),
        b"\x27\0\x0f\0\0", b"\x28\1",
    )  # fmt: skip
    accepted, resumed, _, keep_alive_s, forwarded = packets.rewrite_connack(V5, b"\1\0" + theirs, 64, 327_680)
    assert (accepted, resumed, keep_alive_s) == (True, True, 30)
    told = mqtt.Packet(2, 0, body(forwarded)).properties
    assert told == {
        0x12: b"auto-1", 0x13: b"\0\x1e", 0x26: b"b", 0x28: b"\1", 0x21: b"\0\x40", 0x22: b"\0\0", 0x27: b"\0\5\0\0"
    }  # fmt: skip
    assert body(forwarded)[:2] == b"\1\0"


def test_a_refusing_connack_of_5_0_is_passed_on_as_it_is() -> None:
    refusal = b"\0\x87" + mqtt.properties(b"\x1f" + mqtt.text("no"))
    assert packets.rewrite_connack(V5, refusal, 64, 1000) == (False, False, True, None, mqtt.frame(2, refusal))


@pytest.mark.parametrize("raw", [b"", b"\0", b"\0\0", b"\0\0\5\x21", b"\0\0\1\x7e", b"\0\0\3\x80\0\0"])
def test_a_connack_that_is_none_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        packets.rewrite_connack(V5, raw, 64, 1000)


# PUBLISH -------------------------------------------------------------------------------------------------------------


def test_the_properties_of_a_publish_that_matter_are_read_and_the_rest_is_skipped() -> None:
    given = mqtt.properties(
        b"\1\1", b"\2\0\0\0\x0a", b"\3" + mqtt.text("application/json"), b"\x08" + mqtt.text("r/é"),
        b"\x09" + mqtt.text(b"\0\xff"), mqtt.user_property("a", "b"),
    )  # fmt: skip
    found, at = packets.parse_publish_properties(b"xx" + given + b"payload", 2, 2 + len(given) + 7)
    assert found == ("r/é", b"\0\xff", False)
    assert at == 2 + len(given)
    assert packets.parse_publish_properties(b"\3\x23\0\1", 0, 4)[0].alias
    assert packets.parse_publish_properties(b"\0{}", 0, 3) == ((None, None, False), 1)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", Malformed), (b"\x05\1", Malformed), (b"\3\x21\0\1", Malformed), (b"\2\x0b\1", Malformed),
        (b"\4\1\0\1\0", ProtocolError), (b"\4\x08\0\1\xff", Malformed), (b"\4\x08\0\1\0", Malformed),
        (b"\3\x08\0\5", Malformed), (b"\x80\0", Malformed),
    ],
)  # fmt: skip
def test_broken_properties_of_a_publish_are_malformed(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        packets.parse_publish_properties(raw, 0, len(raw))


# What the gate says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [packets.PUBACK, packets.PUBREC, packets.PUBCOMP])
def test_success_is_the_shortest_packet(kind: int) -> None:
    for level in (V4, V5):
        assert packets.acknowledge(kind, b"\1\2", level, packets.SUCCESS, "x") == bytes((kind << 4, 2, 1, 2))


def test_a_refusal_has_a_reason_in_5_0_only() -> None:
    def refused(level: int, text: str) -> bytes:
        return packets.acknowledge(packets.PUBACK, b"\0\7", level, packets.PAYLOAD_FORMAT_INVALID, text)

    assert refused(V4, "why") == b"\x40\x02\0\7"
    assert refused(V5, "why") == b"\x40\x0a\0\7\x99\x06\x1f\0\3why"
    assert refused(V5, "") == b"\x40\x04\0\7\x99\0"


def test_a_reason_string_is_cut_at_a_character_and_holds_no_nul() -> None:
    packet = packets.disconnect(packets.QUOTA_EXCEEDED, "a\0" + "é" * 1000)
    words = mqtt.Packet(14, 0, body(packet)).reason_string
    assert words is not None
    assert words == "a" + "é" * 255
    assert len(packet) <= packets.ANSWER_BYTES_MAX


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (packets.UNSUPPORTED_VERSION, 1), (packets.SERVER_UNAVAILABLE, 3), (packets.SERVER_BUSY, 3),
        (packets.NOT_AUTHORIZED, 5), (packets.BAD_AUTHENTICATION_METHOD, 5),
    ],
)  # fmt: skip
def test_a_refused_connect_gets_the_nearest_return_code(reason: int, code: int) -> None:
    assert packets.refuse_connect(V4, reason, "words") == bytes((0x20, 2, 0, code))
    five = mqtt.Packet(2, 0, body(packets.refuse_connect(V5, reason, "words")))
    assert (five.reason, five.reason_string) == (reason, "words")
