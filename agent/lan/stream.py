"""device → [gate: a stream's packets] → events to ingest, the rest to Mosquitto. Cuts bytes into packets.

Knows the framing and whose topic it is, and hands each packet on: to the flow of events, or to the broker in as few
pieces as possible. It keeps no bytes, answers nothing and looks into no payload.
"""

from typing import Final, Protocol

from agent.lan import packets
from agent.lan.packets import Malformed, ProtocolError
from agent.lan.subscriptions import FILTER_BYTES

_EVENTS_TAIL: Final = b"/events"
_TOPIC_HEAD: Final = b"pos/v1/"
SUBSCRIBE_BYTES_MAX: Final = 8_192
"""Longest SUBSCRIBE or UNSUBSCRIBE: a hundred filters. The broker keeps each level of each filter."""
SUBSCRIBE_WORDS: Final = f"subscribe with at most {SUBSCRIBE_BYTES_MAX} bytes at once"
_SUBSCRIBING: Final = (packets.SUBSCRIBE, packets.UNSUBSCRIBE)


class Events(Protocol):
    """Takes what concerns events."""

    def take(self, first: int, buffer: bytes, at: int, stop: int) -> bool:
        """An event, from behind its topic to its end. False: no further packet may be read now."""
        ...

    def refuse_topic(self, first: int, buffer: bytes, body: int, stop: int) -> bool:
        """A PUBLISH to an events topic that is not the device's. False: no further packet may be read."""
        ...

    def released(self, packet_id: bytes) -> bool:
        """A PUBREL: whether it ended a QoS 2 flow of the gate's."""
        ...


class Onward(Protocol):
    """The connection."""

    def to_upstream(self, data: bytes) -> None:
        """Bytes that are the broker's."""
        ...

    def too_large(self, text: str = "") -> None:
        """A packet that is not read at all, with words where it is no event."""
        ...

    def message(self, topic: bytes) -> bool:
        """A PUBLISH that is the broker's. False: no further packet may be read now."""
        ...

    def subscribing(self, kind: int, body: bytes) -> bool:
        """A SUBSCRIBE or UNSUBSCRIBE, whole. False when that ends the connection."""
        ...

    def charge(self, count: float = 1.0) -> bool:
        """What costs others something, as much as `count` messages. False: no further packet may be read now."""
        ...


class PacketStream:
    """Where reading stands in one device's stream. `prefix` is how the body of its own events begins."""

    def __init__(self, events: Events, onward: Onward, packet_drop_bytes: int) -> None:
        self._events = events
        self._onward = onward
        self._packet_drop_bytes = packet_drop_bytes
        self._pass_left = 0
        self.prefix = b""

    def read(self, buffer: bytes) -> bytes:
        """Hand on all packets that may be read now; returns what is left. Raises Malformed."""
        at, passed, go_on = 0, 0, True
        end, prefix = len(buffer), self.prefix
        if self._pass_left:
            at = min(self._pass_left, end)
            self._pass_left -= at
        while end - at >= 2:
            first, length, body = buffer[at], buffer[at + 1], at + 2
            if length >= 0x80:
                found = packets.read_varint(buffer, at + 1)
                if found is None:
                    break
                length, body = found
            stop = body + length
            kind = first >> 4
            if length > SUBSCRIBE_BYTES_MAX and self._is_too_large(kind, length):
                self._pass(buffer[passed:at])
                self._onward.too_large(SUBSCRIBE_WORDS if kind in _SUBSCRIBING else "")
                return b""
            if kind == packets.PUBLISH:
                if prefix and buffer.startswith(prefix, body):
                    if stop > end:
                        break
                    if passed < at:
                        self._pass(buffer[passed:at])
                    go_on = self._events.take(first, buffer, body + len(prefix), stop)
                    at = passed = stop
                    if not go_on:
                        break
                    continue
                topic = _topic(buffer, body, end, stop)
                if topic is None:
                    break
                if not is_events_topic(topic):
                    go_on = self._onward.message(topic)
                else:
                    _check_name(topic)
                    if stop > end:
                        break
                    self._pass(buffer[passed:at])
                    at = passed = stop
                    if not self._events.refuse_topic(first, buffer, body, stop):
                        return b""
                    if not self._onward.charge():
                        break
                    continue
            elif kind == packets.PUBREL:
                if stop > end:
                    break
                if first & 0x0F != 2 or length < 2:
                    raise Malformed("a PUBREL with wrong flags or without a packet id")
                if self._events.released(buffer[body : body + 2]):
                    self._pass(buffer[passed:at])
                    at = passed = stop
                    continue
            else:
                _check_kind(kind, first, length)
                if kind in _SUBSCRIBING:
                    if stop > end:
                        break
                    if not self._onward.subscribing(kind, buffer[body:stop]):
                        return b""
                    go_on = self._onward.charge(1 + length // FILTER_BYTES)
            if stop > end:
                self._pass_left = stop - end
                at = end
                break
            at = stop
            if not go_on:
                break
        if passed < at:
            self._pass(buffer[passed:at])
        return buffer[at:] if at < end else b""

    def _is_too_large(self, kind: int, length: int) -> bool:
        """Of a packet beyond what any subscription may have."""
        return kind in _SUBSCRIBING or length > self._packet_drop_bytes

    def _pass(self, data: bytes) -> None:
        if data:
            self._onward.to_upstream(data)


def is_events_topic(topic: bytes) -> bool:
    """Whether this is the events topic of some device, whatever its name."""
    return topic.endswith(_EVENTS_TAIL) and topic.startswith(_TOPIC_HEAD) and topic.count(b"/") == 3


def _check_name(topic: bytes) -> None:
    """An events topic that is no topic name (MQTT-3.3.2-2, 1.5.4). Raises Malformed."""
    if b"+" in topic or b"#" in topic:
        raise Malformed("a topic name holds a wildcard")
    packets.as_text(topic)


def _topic(buffer: bytes, body: int, end: int, stop: int) -> bytes | None:
    """Where this PUBLISH goes; None where more bytes are needed to know. Raises Malformed."""
    if body + 2 > stop:
        raise Malformed("a PUBLISH without a topic")
    if body + 2 > end:
        return None
    after = body + 2 + (buffer[body] << 8 | buffer[body + 1])
    if after > stop:
        raise Malformed("a topic reaches beyond its packet")
    return buffer[body + 2 : after] if after <= end else None


def _check_kind(kind: int, first: int, length: int) -> None:
    """A packet for the broker: one that a client may send, with the flags it must have."""
    if kind in (packets.PUBACK, packets.PUBREC, packets.PUBCOMP, packets.DISCONNECT):
        wanted = 0
    elif kind in (packets.SUBSCRIBE, packets.UNSUBSCRIBE):
        wanted = 2
    elif kind == packets.PINGREQ:
        wanted = 0
        if length:
            raise Malformed("a PINGREQ has a body")
    elif kind == packets.CONNECT:
        raise ProtocolError("a second CONNECT")
    elif kind == 0:
        raise Malformed("there is no packet type 0")
    else:
        raise ProtocolError(f"a client does not send packet type {kind}")
    if first & 0x0F != wanted:
        raise Malformed(f"packet type {kind} has wrong flags")
