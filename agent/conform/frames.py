"""[frames] The few MQTT packets that the relay looks into, from both sides. Reads and writes bytes; decides nothing."""

from collections.abc import Iterator
from typing import Final, NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, DISCONNECT = 1, 2, 3, 4, 5, 6, 7, 14
V5: Final = 5


class Frame(NamedTuple):
    """One packet: its first byte, its body, and all of its bytes."""

    first: int
    body: bytes
    raw: bytes

    @property
    def kind(self) -> int:
        """Which packet it is."""
        return self.first >> 4


class Message(NamedTuple):
    """A PUBLISH. `properties` with their length, empty in 3.1.1."""

    topic: str
    qos: int
    packet_id: int
    properties: bytes
    payload: bytes


def split(buffer: bytearray) -> Iterator[Frame]:
    """The whole packets at the beginning of `buffer`, which are taken out of it. ValueError for what is no MQTT."""
    while len(buffer) >= 2:
        found = read_length(buffer, 1)
        if found is None or len(buffer) < found[1] + found[0]:
            return
        length, body = found
        raw = bytes(buffer[: body + length])
        del buffer[: body + length]
        yield Frame(raw[0], raw[body:], raw)


def read_length(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """A variable byte integer and the position behind it; None where bytes are missing."""
    value = 0
    for index in range(4):
        if at + index >= len(data):
            return None
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a length has more than four bytes")


def packet(first: int, body: bytes) -> bytes:
    """A packet from its first byte and its body."""
    length, out = len(body), bytearray((first,))
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out) + body


def message(frame: Frame, level: int) -> Message:
    """What a PUBLISH says."""
    size = int.from_bytes(frame.body[:2], "big")
    topic, at = frame.body[2 : 2 + size].decode("utf-8", "replace"), 2 + size
    qos, packet_id, properties = frame.first >> 1 & 3, 0, b""
    if qos:
        packet_id, at = int.from_bytes(frame.body[at : at + 2], "big"), at + 2
    if level == V5:
        found = read_length(frame.body, at)
        if found is None:
            raise ValueError("a PUBLISH ends inside its properties")
        properties, at = frame.body[at : found[1] + found[0]], found[1] + found[0]
    return Message(topic, qos, packet_id, properties, frame.body[at:])


def publish(topic: str, payload: bytes, level: int, *, qos: int = 0, packet_id: int = 0, first: int = 0) -> bytes:
    """A PUBLISH without properties; `first` gives other flags than `qos` alone."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (packet_id.to_bytes(2, "big") if qos else b"")
    return packet(first or (PUBLISH << 4 | qos << 1), body + (b"\0" if level == V5 else b"") + payload)


def answer(kind: int, packet_id: int) -> bytes:
    """A PUBACK, PUBREC or PUBCOMP without an error."""
    return packet(kind << 4, packet_id.to_bytes(2, "big"))


def refusal(level: int) -> bytes:
    """A CONNACK for a wrong user name or password."""
    return packet(CONNACK << 4, b"\0\x86\0" if level == V5 else b"\0\4")


def login_of(connect: Frame) -> tuple[str, str]:
    """User name and password of a CONNECT, empty where there is none. ValueError where it ends too early."""
    if len(connect.body) < 10:
        raise ValueError("a CONNECT ends inside its header")
    body, flags, at = connect.body, connect.body[7], 10

    def properties() -> None:
        nonlocal at
        found = read_length(body, at) if level_of(connect) == V5 else (0, at)
        if found is None:
            raise ValueError("a CONNECT ends inside its properties")
        at = found[0] + found[1]

    def blob() -> bytes:
        nonlocal at
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        if end > len(body):
            raise ValueError("a CONNECT ends inside a field")
        taken, at = body[at + 2 : end], end
        return taken

    properties()
    blob()
    if flags & 0x04:
        properties()
        blob()
        blob()
    name = blob() if flags & 0x80 else b""
    password = blob() if flags & 0x40 else b""
    return name.decode("utf-8", "replace"), password.decode("utf-8", "replace")


def packet_id_of(frame: Frame) -> int:
    """Which packet an answer is about."""
    return int.from_bytes(frame.body[:2], "big")


def level_of(connect: Frame) -> int:
    """The protocol level of a CONNECT."""
    return connect.body[6] if len(connect.body) > 6 else 0
