"""[sim: broker] An MQTT broker in memory, in Mosquitto's place behind the gate: 3.1.1 and 5.0, QoS 0 and 1.

Keeps sessions, retained messages and wills as long as it lives, and forgets all of it when it ends, as Mosquitto does
here. What tests rely on passes the same contract test as the real one (tests/contract/test_broker.py).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tests.integration.mqtt import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    V5,
    Packet,
    frame,
    publish,
    read_varint,
    varint,
)
from tests.sim.wire import Message, Packets

QUEUED_MAX: Final = 1000
"""Messages kept for a client that is away; the rest is dropped silently, as Mosquitto does."""
GRACE: Final = 1.5
"""A client may be silent for this many keep-alives."""
TAKEN_OVER: Final = 0x8E


AS_PUBLISHED = 0x08
"""Subscription option: whether a message was to be retained is told to who hears it at once, too."""


class Sent(NamedTuple):
    """A message on its way to a client."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: bytes


class Session:
    """What the broker keeps of a client. `connection` is None while it is away."""

    def __init__(self) -> None:
        self.filters: dict[str, int] = {}
        """Topic filter to its subscription options, as the byte of MQTT 5."""
        self.queue: deque[Sent] = deque()
        self.unacknowledged: dict[int, Sent] = {}
        self.connection: Connection | None = None
        self.lasting = False
        self._last_mid = 0

    def take(self, message: Sent) -> None:
        """Bring it to the client, or keep it until it is back."""
        if self.connection is not None:
            self.connection.deliver(message, self._mid(message))
        elif message.qos and len(self.queue) < QUEUED_MAX:
            self.queue.append(message)

    def resume(self) -> None:
        """The client is back: what it has not confirmed comes again, then what it missed."""
        assert self.connection is not None
        for mid, message in self.unacknowledged.items():
            self.connection.deliver(message, mid, again=True)
        while self.queue:
            message = self.queue.popleft()
            self.connection.deliver(message, self._mid(message))

    def _mid(self, message: Sent) -> int:
        if not message.qos:
            return 0
        self._last_mid = self._last_mid % 65_535 + 1
        self.unacknowledged[self._last_mid] = message
        return self._last_mid


class SimBroker:
    """The broker. `heard` is told of every message: (client, topic, payload, retain)."""

    def __init__(self, heard: Callable[[str, str, bytes, bool], None] = lambda *_: None) -> None:
        self.heard = heard
        self.retained: dict[str, Sent] = {}
        self.sessions: dict[str, Session] = {}

    def accept(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return Connection(self)

    def publish(self, client: str, message: Sent) -> None:
        """Route a message of `client`, and keep it when it is retained."""
        self.heard(client, message.topic, message.payload, message.retain)
        if message.retain:
            if message.payload:
                self.retained[message.topic] = message
            else:
                self.retained.pop(message.topic, None)
        for session in self.sessions.values():
            found = [options for wanted, options in session.filters.items() if matches(wanted, message.topic)]
            if found:
                retain = message.retain and any(options & AS_PUBLISHED for options in found)
                session.take(message._replace(qos=min(message.qos, max(one & 3 for one in found)), retain=retain))


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, broker: SimBroker) -> None:
        self._broker = broker
        self._packets = Packets()
        self._transport: Any = None
        self._level = 4
        self._name = ""
        self._session: Session | None = None
        self._will: Sent | None = None
        self._keep_alive_s = 0
        self._heard_at_s = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        session, self._session = self._session, None
        if session is None:
            return
        session.connection = None
        if not session.lasting:
            self._broker.sessions.pop(self._name, None)
        if self._will is not None:
            self._broker.publish(self._name, self._will)

    def data_received(self, data: bytes) -> None:
        self._heard_at_s = asyncio.get_running_loop().time()
        for packet in self._packets.feed(data):
            if self._session is None and packet.kind != CONNECT:
                self._transport.abort()
                return
            self._take(packet)

    def deliver(self, message: Sent, mid: int, *, again: bool = False) -> None:
        """Send one message to the client."""
        properties = varint(len(message.properties)) + message.properties
        self._transport.write(
            publish(
                message.topic,
                message.payload,
                qos=message.qos,
                packet_id=mid,
                level=self._level,
                dup=again,
                retain=message.retain,
                props=properties,
            )
        )

    def _take(self, packet: Packet) -> None:
        assert self._session is not None or packet.kind == CONNECT
        match packet.kind:
            case 1:
                self._connect(packet.body)
            case 3:
                self._publish(packet)
            case 4:
                assert self._session is not None
                self._session.unacknowledged.pop(packet.packet_id, None)
            case 8:
                self._subscribe(packet.body)
            case 12:
                self._transport.write(frame(PINGRESP, b""))
            case 14:
                self._will = None if packet.reason != 4 else self._will
                self._transport.close()
            case _:
                raise AssertionError(f"the simulated broker does not know packet type {packet.kind}")

    def _connect(self, body: bytes) -> None:
        fields = _Fields(body)
        fields.blob()
        self._level, flags = fields.number(1), fields.number(1)
        self._keep_alive_s = fields.number(2)
        expiry_s = fields.expiry_s() if self._level == V5 else 0
        client_id = fields.blob().decode()
        if flags & 0x04:
            if self._level == V5:
                fields.expiry_s()
            topic, payload = fields.blob().decode(), fields.blob()
            self._will = Sent(topic, payload, flags >> 3 & 3, bool(flags & 0x20), b"")
        self._name = fields.blob().decode() if flags & 0x80 else client_id  # use_username_as_clientid
        clean = bool(flags & 0x02)
        before = self._broker.sessions.get(self._name)
        if before is not None and before.connection is not None:
            before.connection.taken_over()
            before = self._broker.sessions.get(self._name)
        there = before is not None and not clean
        session = before if before is not None and there else Session()
        session.lasting = bool(expiry_s) if self._level == V5 else not clean
        session.connection = self
        self._session = self._broker.sessions[self._name] = session
        answer = bytes((there, 0)) + (b"\0" if self._level == V5 else b"")
        self._transport.write(frame(CONNACK, answer))
        if self._keep_alive_s:
            self._watch_silence()
        session.resume()

    def taken_over(self) -> None:
        """Another connection of this client has come."""
        if self._level == V5:
            self._transport.write(frame(DISCONNECT, bytes((TAKEN_OVER,))))
        transport = self._transport
        self.connection_lost(None)
        transport.close()

    def _watch_silence(self) -> None:
        loop = asyncio.get_running_loop()
        silent_s = loop.time() - self._heard_at_s
        if silent_s >= GRACE * self._keep_alive_s:
            self._transport.close()
        else:
            self._watch = loop.call_later(GRACE * self._keep_alive_s - silent_s + 0.1, self._watch_silence)

    def _publish(self, packet: Packet) -> None:
        message = Message(packet, self._level)
        assert message.qos < 2, "the simulated broker takes no QoS 2"
        sent = Sent(message.topic, message.payload, message.qos, message.retain, message.properties)
        self._broker.publish(self._name, sent)
        if message.qos:
            self._transport.write(frame(PUBACK, message.mid.to_bytes(2, "big")))

    def _subscribe(self, body: bytes) -> None:
        assert self._session is not None
        fields = _Fields(body)
        mid = fields.take(2)
        if self._level == V5:
            fields.expiry_s()
        wanted: list[tuple[str, int]] = []
        while not fields.at_end:
            wanted.append((fields.blob().decode(), fields.number(1)))
        self._session.filters.update(wanted)
        answer = mid + (b"\0" if self._level == V5 else b"") + bytes(min(options & 3, 1) for _, options in wanted)
        self._transport.write(frame(SUBACK, answer))
        for pattern, options in wanted:
            for message in tuple(self._broker.retained.values()):
                if matches(pattern, message.topic):
                    self._session.take(message._replace(qos=min(options & 3, message.qos, 1)))


class _Fields:
    """Reads one packet's body; the gate has checked it."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._body)

    def take(self, size: int) -> bytes:
        self._at += size
        return self._body[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def blob(self) -> bytes:
        return self.take(self.number(2))

    def expiry_s(self) -> int:
        """Skips a block of properties; returns the session expiry interval in it, 0 without one."""
        length, self._at = read_varint(self._body, self._at)
        block = self.take(length)
        return int.from_bytes(block[1:5], "big") if block[:1] == b"\x11" else 0


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic filter takes a topic."""
    wanted, found = pattern.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at >= len(found) or level not in ("+", found[at]):
            return False
    return len(wanted) == len(found)


assert (CONNECT, PUBLISH, PUBACK, SUBSCRIBE, PINGREQ, DISCONNECT) == (1, 3, 4, 8, 12, 14)
