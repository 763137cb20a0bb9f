"""A raw MQTT client for tests: frames built by hand, packets read with a deadline, nothing done by itself.

It can say whatever a device should not say. It never answers a packet, never pings and never reconnects.
"""

import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = 8, 9, 10, 11, 12, 13, 14, 15
V4, V5 = 4, 5
DEADLINE_S = 10.0
PING = b"\xc0\x00"


class Gone(Exception):
    """The other side has closed the connection."""


class Packet(NamedTuple):
    """One packet as it came: its type, the flags of its first byte, and its body."""

    kind: int
    flags: int
    body: bytes

    @property
    def packet_id(self) -> int:
        """Of an acknowledgement."""
        return int.from_bytes(self.body[:2], "big")

    @property
    def reason(self) -> int:
        """The reason code of an MQTT 5 acknowledgement or DISCONNECT; 0 where it is left out."""
        at = 0 if self.kind == DISCONNECT else 1 if self.kind == CONNACK else 2
        return self.body[at] if len(self.body) > at else 0

    @property
    def properties(self) -> dict[int, bytes]:
        """MQTT 5 properties by identifier, raw values."""
        at = {DISCONNECT: 1, CONNACK: 2, PUBLISH: 2 + int.from_bytes(self.body[:2], "big")}.get(self.kind, 3)
        if self.kind == PUBLISH and self.flags & 6:
            at += 2
        return read_properties(self.body[at:])

    @property
    def reason_string(self) -> str | None:
        """The words of an MQTT 5 acknowledgement or DISCONNECT, None without any."""
        found = self.properties.get(0x1F)
        return None if found is None else found.decode()

    @property
    def topic(self) -> str:
        """Of a PUBLISH."""
        return self.body[2 : 2 + int.from_bytes(self.body[:2], "big")].decode()


def varint(value: int, width: int = 1) -> bytes:
    """A variable byte integer; `width` asks for more bytes than needed, which the standard forbids."""
    out = bytearray()
    while value >= 0x80 or len(out) + 1 < width:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str | bytes) -> bytes:
    """A string or binary field: two bytes of length before it."""
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def frame(kind: int, body: bytes, flags: int = 0) -> bytes:
    """A packet."""
    return bytes((kind << 4 | flags,)) + varint(len(body)) + body


def properties(*items: bytes) -> bytes:
    """A property block of items that are already encoded."""
    joined = b"".join(items)
    return varint(len(joined)) + joined


def user_property(name: str, value: str) -> bytes:
    return b"\x26" + text(name) + text(value)


def connect(
    client_id: str,
    *,
    username: str | bytes | None = None,
    password: bytes | None = None,
    level: int = V4,
    keep_alive_s: int = 60,
    clean: bool = True,
    flags: int = 0,
    name: bytes = b"MQTT",
    props: bytes = b"\0",
    will: tuple[str, bytes] | None = None,
    tail: bytes = b"",
) -> bytes:
    """A CONNECT. `flags` are added to those that the other arguments mean; `tail` trails behind the last field."""
    flags |= 2 * clean | 0x80 * (username is not None) | 0x40 * (password is not None) | 0x0C * (will is not None)
    body = text(name) + bytes((level, flags)) + keep_alive_s.to_bytes(2, "big") + (props if level >= V5 else b"")
    body += text(client_id)
    if will is not None:
        body += (b"\0" if level >= V5 else b"") + text(will[0]) + text(will[1])
    if username is not None:
        body += text(username)
    if password is not None:
        body += text(password)
    return frame(CONNECT, body + tail)


def publish(
    topic: str | bytes,
    payload: bytes,
    *,
    qos: int = 1,
    packet_id: int = 1,
    level: int = V4,
    dup: bool = False,
    retain: bool = False,
    props: bytes = b"\0",
) -> bytes:
    """A PUBLISH."""
    body = text(topic) + (packet_id.to_bytes(2, "big") if qos else b"") + (props if level == V5 else b"") + payload
    return frame(PUBLISH, body, dup << 3 | qos << 1 | retain)


def subscribe(topic: str, *, packet_id: int = 1, qos: int = 1, level: int = V4) -> bytes:
    """A SUBSCRIBE for one topic filter."""
    body = packet_id.to_bytes(2, "big") + (b"\0" if level == V5 else b"") + text(topic) + bytes((qos,))
    return frame(SUBSCRIBE, body, 2)


def pubrel(packet_id: int) -> bytes:
    return frame(PUBREL, packet_id.to_bytes(2, "big"), 2)


def read_properties(data: bytes) -> dict[int, bytes]:
    """The properties of a block that a well-behaved server has sent, by identifier; raw values."""
    sizes = {0x01: 1, 0x02: 4, 0x11: 4, 0x13: 2, 0x17: 1, 0x18: 4, 0x19: 1, 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1}
    sizes |= {0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
    found: dict[int, bytes] = {}
    if not data:
        return found
    length, at = read_varint(data, 0)
    end = at + length
    while at < end:
        identifier = data[at]
        at += 1
        assert identifier == 0x26 or identifier not in found, f"property {identifier:#x} twice"
        for _ in range(2 if identifier == 0x26 else 1):
            size = sizes.get(identifier)
            if size is None:
                size = int.from_bytes(data[at : at + 2], "big")
                at += 2
            found[identifier] = data[at : at + size]
            at += size
    return found


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer and the position behind it. IndexError while bytes are missing."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


class Wire:
    """One TCP connection to the gate."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> "Wire":
        """Send all of it in one call."""
        self.socket.settimeout(DEADLINE_S)
        self.socket.sendall(b"".join(frames))
        return self

    def half_close(self) -> "Wire":
        """Say that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def packet(self, within_s: float = DEADLINE_S) -> Packet:
        """The next packet. TimeoutError after the deadline, Gone at the end of the stream."""
        end_s = time.monotonic() + within_s
        while (found := self._take()) is None:
            self.socket.settimeout(max(0.001, end_s - time.monotonic()))
            try:
                more = self.socket.recv(65536)
            except ConnectionError as error:
                raise Gone from error
            if not more:
                raise Gone(f"with {len(self._buffer)} bytes of a packet" if self._buffer else "")
            self._buffer += more
        return found

    def packets(self, count: int, within_s: float = DEADLINE_S) -> list[Packet]:
        """The next `count` packets."""
        return [self.packet(within_s) for _ in range(count)]

    def rest(self, within_s: float = DEADLINE_S) -> list[Packet]:
        """Everything up to the end of the stream; TimeoutError if the other side does not close."""
        found = []
        try:
            while True:
                found.append(self.packet(within_s))
        except Gone:
            return found

    def quiet(self, for_s: float) -> bool:
        """Whether the connection stays open and silent for this long."""
        try:
            self.packet(for_s)
        except TimeoutError:
            return True
        except Gone:
            return False
        return False

    def _take(self) -> Packet | None:
        try:
            length, body = read_varint(self._buffer, 1)
        except IndexError:
            return None
        if len(self._buffer) < body + length:
            return None
        first = self._buffer[0]
        found = Packet(first >> 4, first & 0x0F, self._buffer[body : body + length])
        self._buffer = self._buffer[body + length :]
        return found


class Device(Wire):
    """A device that has been let in: CONNECT sent, CONNACK read and kept."""

    def __init__(
        self, port: int, name: str, *, level: int = V4, keep_alive_s: int = 60, clean: bool = True, props: bytes = b"\0"
    ) -> None:
        super().__init__(port)
        self.name = name
        self.level = level
        self.events = f"pos/v1/{name}/events"
        self._ids = iter(range(1, 65536))
        self.send(connect(name, username=name, level=level, keep_alive_s=keep_alive_s, clean=clean, props=props))
        self.connack = self.packet()
        assert self.connack.kind == CONNACK, self.connack
        assert self.connack.body[1] == 0, self.connack

    def new_id(self) -> int:
        return next(self._ids)

    def frame(
        self, payload: bytes, *, topic: str | None = None, qos: int = 1, packet_id: int = 0, **more: bool
    ) -> bytes:
        """A PUBLISH of this device, to its events topic unless told otherwise."""
        chosen = packet_id or (self.new_id() if qos else 0)
        return publish(topic or self.events, payload, qos=qos, packet_id=chosen, level=self.level, **more)

    def tell(self, payload: bytes, *, topic: str | None = None, props: bytes = b"\0") -> Packet:
        """Publish with QoS 1 and return the PUBACK."""
        chosen = self.new_id()
        self.send(publish(topic or self.events, payload, packet_id=chosen, level=self.level, props=props))
        return self.acknowledged(chosen)

    def acknowledged(self, packet_id: int) -> Packet:
        """The next packet, which must be the PUBACK for this id."""
        got = self.packet()
        assert (got.kind, got.packet_id) == (PUBACK, packet_id), got
        return got

    def subscribe(self, topic: str) -> "Device":
        """Subscribe with QoS 1, and read up to the SUBACK."""
        self.send(subscribe(topic, packet_id=self.new_id(), level=self.level))
        got = self.packet()
        assert got.kind == SUBACK, got
        return self

    def messages(self, within_s: float = DEADLINE_S) -> Iterator[tuple[str, bytes]]:
        """What arrives on subscriptions as (topic, payload), acknowledged at once; TimeoutError after the deadline."""
        while True:
            got = self.packet(within_s)
            if got.kind != PUBLISH:
                continue
            at = 2 + len(got.topic.encode())
            if got.flags & 6:
                self.send(frame(PUBACK, got.body[at : at + 2]))
                at += 2
            if self.level == V5:
                length, at = read_varint(got.body, at)
                at += length
            yield got.topic, got.body[at:]

    def ping(self) -> None:
        """PINGREQ, and its PINGRESP next."""
        self.send(PING)
        got = self.packet()
        assert got.kind == PINGRESP, got
