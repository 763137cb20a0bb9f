"""devices → [gate: MQTT packets] → ingest. Reads and writes the few packets that the gate must understand.

Pure: bytes in, values or bytes out. Strict where the standard is strict: what is not a packet raises Malformed.
Source: OASIS MQTT 3.1.1 and 5.0; section numbers in comments are those of 5.0.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = 8, 9, 10, 11, 12, 13, 14, 15

V4, V5 = 4, 5

# Reason codes of 5.0 that the gate gives.
SUCCESS: Final = 0x00
MALFORMED_PACKET: Final = 0x81
PROTOCOL_ERROR: Final = 0x82
UNSUPPORTED_VERSION: Final = 0x84
NOT_AUTHORIZED: Final = 0x87
SERVER_UNAVAILABLE: Final = 0x88
SERVER_BUSY: Final = 0x89
SERVER_SHUTTING_DOWN: Final = 0x8B
BAD_AUTHENTICATION_METHOD: Final = 0x8C
TOPIC_ALIAS_INVALID: Final = 0x94
PACKET_TOO_LARGE: Final = 0x95
QUOTA_EXCEEDED: Final = 0x97
ADMINISTRATIVE_ACTION: Final = 0x98
PAYLOAD_FORMAT_INVALID: Final = 0x99
CONNECTION_RATE_EXCEEDED: Final = 0x9F

PINGREQ_PACKET: Final = b"\xc0\x00"

_RECEIVE_MAXIMUM, _TOPIC_ALIAS_MAXIMUM, _MAXIMUM_PACKET_SIZE, _SERVER_KEEP_ALIVE = 0x21, 0x22, 0x27, 0x13
_REASON_STRING, _TOPIC_ALIAS, _RESPONSE_TOPIC, _CORRELATION_DATA = 0x1F, 0x23, 0x08, 0x09
_AUTHENTICATION_METHOD, _REQUEST_PROBLEM_INFORMATION, _USER_PROPERTY = 0x15, 0x17, 0x26

# Size of each property's value (2.2.2.2): a count of bytes, or how it is measured.
_VARINT, _BLOB, _PAIR = -1, -2, -3
_PROPERTY_SIZES: Final = {
    0x01: 1, 0x02: 4, 0x03: _BLOB, 0x08: _BLOB, 0x09: _BLOB, 0x0B: _VARINT, 0x11: 4, 0x12: _BLOB, 0x13: 2, 0x15: _BLOB,
    0x16: _BLOB, 0x17: 1, 0x18: 4, 0x19: 1, 0x1A: _BLOB, 0x1C: _BLOB, 0x1F: _BLOB, 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1,
    0x25: 1, 0x26: _PAIR, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip
_CONNECT_PROPERTIES: Final = frozenset({0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27})
_WILL_PROPERTIES: Final = frozenset({0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26})
_PUBLISH_PROPERTIES: Final = frozenset({0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26})


class Malformed(Exception):
    """These bytes are no MQTT packet that the sender may send here. The text says which rule they break."""

    reason = MALFORMED_PACKET


class ProtocolError(Malformed):
    """A packet that is well formed, but not allowed here and now."""

    reason = PROTOCOL_ERROR


class Unsupported(Exception):
    """A CONNECT of another protocol level than 3.1.1 and 5.0."""


class BadAuthentication(Exception):
    """A CONNECT that asks for an authentication exchange, which is not offered."""


class Connect(NamedTuple):
    """A CONNECT, parsed whole. `username` and `will_topic` are None without one.

    `tells_problems`: reason strings are wanted (Request Problem Information) and fit into the client's packets.
    """

    level: int
    flags: int
    keep_alive_s: int
    client_id: str
    username: str | None
    will_topic: str | None
    tells_problems: bool
    username_at: int
    body: bytes


class PublishProperties(NamedTuple):
    """What the gate heeds of a PUBLISH's properties."""

    response_topic: str | None
    correlation: bytes | None
    alias: bool


def read_varint(data: bytes, at: int) -> tuple[int, int] | None:
    """A variable byte integer at `at`: its value and the position behind it; None while bytes are missing."""
    value, shift = 0, 0
    for index in range(at, at + 4):
        if index >= len(data):
            return None
        byte = data[index]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if byte == 0 and index > at:
                raise Malformed("a length is not encoded in the fewest bytes")
            return value, index + 1
    raise Malformed("a length has more than four bytes")


def write_varint(value: int) -> bytes:
    """The variable byte integer in the fewest bytes."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def packet(first: int, body: bytes) -> bytes:
    """A whole packet from its first byte and its body."""
    return bytes((first,)) + write_varint(len(body)) + body


class _Fields:
    """Reads the fields of one packet body, each with its bounds checked."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.body):
            raise Malformed("the packet ends inside a field")
        found = self.body[self.at : end]
        self.at = end
        return found

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def blob(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        return as_text(self.blob())

    def varint(self) -> int:
        found = read_varint(self.body, self.at)
        if found is None:
            raise Malformed("the packet ends inside a length")
        value, self.at = found
        return value

    def properties(self, allowed: frozenset[int]) -> Iterator[tuple[int, bytes]]:
        """Each property as (identifier, raw value); a second one of a kind is malformed, but for user properties."""
        length = self.varint()
        end = self.at + length
        if end > len(self.body):
            raise Malformed("the properties reach beyond the packet")
        inner, seen = _Fields(self.body[self.at : end]), set[int]()
        self.at = end
        while inner.at < length:
            identifier = inner.varint()
            if identifier not in allowed:
                raise Malformed(f"property {identifier:#04x} does not belong here")
            if identifier in seen and identifier != _USER_PROPERTY:
                raise ProtocolError(f"property {identifier:#04x} stands twice")
            seen.add(identifier)
            yield identifier, inner.value(identifier)

    def value(self, identifier: int) -> bytes:
        size = _PROPERTY_SIZES[identifier]
        if size >= 0:
            return self.take(size)
        if size == _VARINT:
            return self.varint().to_bytes(4, "big")
        found = self.blob()
        if size == _PAIR:
            as_text(found)
            as_text(self.blob())
        return found

    def end(self) -> None:
        if self.at != len(self.body):
            raise Malformed("bytes trail behind the packet's fields")


def as_text(raw: bytes) -> str:
    """An MQTT string (1.5.4): UTF-8 without NUL and without surrogates."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed("a string is not UTF-8") from error
    if "\0" in text:
        raise Malformed("a string holds U+0000")
    return text


def parse_connect(body: bytes) -> Connect:
    """The body of a CONNECT. Raises Malformed, Unsupported for another level, BadAuthentication."""
    fields = _Fields(body)
    if fields.blob() != b"MQTT":
        raise Malformed("the protocol name is not MQTT")
    level = fields.number(1)
    if level not in (V4, V5):
        raise Unsupported(f"protocol level {level}")
    flags = fields.number(1)
    _check_connect_flags(level, flags)
    keep_alive_s = fields.number(2)
    tells_problems = True
    if level == V5:
        found = dict(fields.properties(_CONNECT_PROPERTIES))
        if _AUTHENTICATION_METHOD in found:
            raise BadAuthentication(as_text(found[_AUTHENTICATION_METHOD]))
        if found.get(_RECEIVE_MAXIMUM) == b"\0\0" or found.get(_MAXIMUM_PACKET_SIZE) == b"\0\0\0\0":
            raise ProtocolError("a maximum is zero")
        if found.get(_REQUEST_PROBLEM_INFORMATION, b"\1") not in (b"\0", b"\1"):
            raise ProtocolError("Request Problem Information is neither 0 nor 1")
        room = int.from_bytes(found.get(_MAXIMUM_PACKET_SIZE, b"\xff\xff\xff\xff"), "big")
        tells_problems = found.get(_REQUEST_PROBLEM_INFORMATION) != b"\0" and room >= ANSWER_BYTES_MAX
    client_id = fields.text()
    will_topic = None
    if flags & 0x04:
        if level == V5:
            list(fields.properties(_WILL_PROPERTIES))
        will_topic = fields.text()
        _check_will_topic(will_topic)
        fields.blob()
    username_at = fields.at
    username = fields.text() if flags & 0x80 else None
    if flags & 0x40:
        fields.blob()
    fields.end()
    return Connect(level, flags, keep_alive_s, client_id, username, will_topic, tells_problems, username_at, body)


def _check_connect_flags(level: int, flags: int) -> None:
    if flags & 0x01:
        raise Malformed("the reserved flag of CONNECT is set")
    if not flags & 0x04 and flags & 0x38:
        raise Malformed("will flags without a will")
    if flags & 0x18 == 0x18:
        raise Malformed("the will asks for QoS 3")
    if level == V4 and flags & 0x40 and not flags & 0x80:
        raise Malformed("a password without a user name")


def _check_will_topic(topic: str) -> None:
    if not topic or "+" in topic or "#" in topic:
        raise Malformed("the will's topic is empty or has a wildcard")


def connect_as(connect: Connect, username: str) -> bytes:
    """The same CONNECT with `username` put in; it must have had none."""
    assert connect.username is None
    name = username.encode()
    body = bytearray(connect.body)
    body[connect.username_at : connect.username_at] = len(name).to_bytes(2, "big") + name
    body[7] |= 0x80
    return packet(CONNECT << 4, bytes(body))


LOGIN_REFUSED: Final = {V4: (4, 5), V5: (0x86, NOT_AUTHORIZED)}
"""Codes by protocol level with which a broker refuses a name or a password."""


class Connack(NamedTuple):
    """What the broker answered. `keep_alive_s` is its wish, None without one; `forwarded` is the packet to pass on.

    `unknown` tells that it knows no such name, or that the password is wrong; `resumed`, that it has a session of the
    device's from before.
    """

    accepted: bool
    resumed: bool
    unknown: bool
    keep_alive_s: int | None
    forwarded: bytes


def rewrite_connack(level: int, body: bytes, receive_maximum: int, packet_bytes_max: int) -> Connack:
    """The broker's CONNACK for the device: in 5.0 with the limits that the gate keeps."""
    if len(body) < 2:
        raise Malformed("the broker's CONNACK is short")
    accepted, resumed = body[1] == 0, bool(body[0] & 1)
    if level == V4 or not accepted:
        return Connack(accepted, resumed, body[1] in LOGIN_REFUSED[level], None, packet(CONNACK << 4, body))
    ours = {
        _RECEIVE_MAXIMUM: receive_maximum.to_bytes(2, "big"),
        _TOPIC_ALIAS_MAXIMUM: b"\0\0",
        _MAXIMUM_PACKET_SIZE: packet_bytes_max.to_bytes(4, "big"),
    }
    keep_alive_s = None
    out = bytearray()
    fields = _Fields(body[2:])
    length = fields.varint()
    end = fields.at + length
    while fields.at < end:
        start = fields.at
        identifier = fields.varint()
        if identifier not in _PROPERTY_SIZES:
            raise Malformed(f"the broker's CONNACK has property {identifier:#04x}")
        value = fields.value(identifier)
        if identifier == _SERVER_KEEP_ALIVE:
            keep_alive_s = int.from_bytes(value, "big")
        if identifier not in ours:
            out += fields.body[start : fields.at]
    for identifier, value in ours.items():
        out += bytes((identifier,)) + value
    return Connack(
        True, resumed, False, keep_alive_s, packet(CONNACK << 4, body[:2] + write_varint(len(out)) + bytes(out))
    )


def parse_publish_properties(data: bytes, at: int, end: int) -> tuple[PublishProperties, int]:
    """The properties of a 5.0 PUBLISH from `at`, and where its payload starts."""
    fields = _Fields(data[at:end])
    response_topic, correlation, alias = None, None, False
    for identifier, value in fields.properties(_PUBLISH_PROPERTIES):
        if identifier == _RESPONSE_TOPIC:
            response_topic = as_text(value)
        elif identifier == _CORRELATION_DATA:
            correlation = value
        elif identifier == _TOPIC_ALIAS:
            alias = True
    return PublishProperties(response_topic, correlation, alias), at + fields.at


def parse_filters(kind: int, body: bytes, level: int) -> list[bytes]:
    """The topic filters of a SUBSCRIBE or UNSUBSCRIBE. Raises Malformed."""
    fields, found = _Fields(body), list[bytes]()
    fields.take(2)
    if level == V5:
        fields.take(fields.varint())
    while fields.at < len(body):
        found.append(fields.blob())
        if kind == SUBSCRIBE:
            fields.take(1)
    return found


def acknowledge(kind: int, packet_id: bytes, level: int, reason: int, text: str) -> bytes:
    """PUBACK, PUBREC or PUBCOMP. In 3.1.1 there is no reason; in 5.0 an empty `text` leaves the reason string out."""
    if level == V4 or reason == SUCCESS:
        return bytes((kind << 4, 2)) + packet_id
    return packet(kind << 4, packet_id + bytes((reason,)) + _reason_properties(text))


def disconnect(reason: int, text: str) -> bytes:
    """The server's DISCONNECT; 5.0 only."""
    return packet(DISCONNECT << 4, bytes((reason,)) + _reason_properties(text))


def refuse_connect(level: int, reason: int, text: str = "") -> bytes:
    """A CONNACK that refuses; 3.1.1 gets the return code nearest to `reason`."""
    if level == V5:
        return packet(CONNACK << 4, bytes((0, reason)) + _reason_properties(text))
    code = {UNSUPPORTED_VERSION: 1, SERVER_UNAVAILABLE: 3, SERVER_BUSY: 3, CONNECTION_RATE_EXCEEDED: 3}.get(reason, 5)
    return bytes((CONNACK << 4, 2, 0, code))


def _reason_properties(text: str) -> bytes:
    if not text:
        return b"\0"
    raw = text.encode()[:REASON_BYTES_MAX].decode("utf-8", "ignore").replace("\0", "").encode()
    value = bytes((_REASON_STRING,)) + len(raw).to_bytes(2, "big") + raw
    return write_varint(len(value)) + value


REASON_BYTES_MAX: Final = 512
"""Longest reason string that the gate sends, in bytes."""
ANSWER_BYTES_MAX: Final = REASON_BYTES_MAX + 16
"""Longest packet of the gate's own, in bytes."""
