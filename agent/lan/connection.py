"""device → [gate: one device's connection] → ingest. Takes events out of the stream, passes the rest to Mosquitto.

An event is acknowledged when its outcome arrives, which is after the commit; never before. What a device sends faster
than it is stored is left unread in its socket. Nothing here is stored, and no other topic is looked into.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import structlog

from agent.core.arrivals import Item, Outcome
from agent.core.events import DEVICE_PATTERN, Refusal
from agent.lan import packets
from agent.lan.packets import Malformed, ProtocolError
from agent.lan.upstream import Upstream

if TYPE_CHECKING:
    from agent.lan.gate import Gate

log = structlog.get_logger()

_EVENTS_TAIL = b"/events"
_TOPIC_HEAD = b"pos/v1/"


class Phase(Enum):
    """How far a connection has come."""

    NEW = "new"
    JOINING = "joining"
    OPEN = "open"
    CLOSING = "closing"


class Hold:
    """Why a device is not read from right now: bits, plain integers since every event looks at them."""

    JOINING = 1
    INFLIGHT = 2
    ROOM = 4
    UPSTREAM = 8
    STOPPING = 16
    UNREAD = 32


class DeviceConnection(asyncio.Protocol):
    """One device, from accept to close."""

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate
        self._limits = gate.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._upstream: Upstream | None = None
        self._phase = Phase.NEW
        self._holds = 0
        self._buffer = b""
        self._partial = 0
        self._pass_left = 0
        self._acks: list[bytes] = []
        self._inflight = 0
        self._owned_qos2: set[bytes] = set()
        self._ended = False
        self._packet_drop_bytes = gate.limits.packet_drop_bytes
        self._event_drop_bytes = gate.limits.event_drop_bytes
        self._deadline: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._unstored: asyncio.TimerHandle | None = None
        self._joining: asyncio.Task[None] | None = None
        self._connect: packets.Connect | None = None
        self._level = packets.V4
        self._events_prefix = b""
        self.device = ""
        self.peer = ""

    # The transport's calls --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "local"
        self._deadline = self._loop.call_later(self._limits.connect_timeout_s, self._too_late)
        self._gate.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = Phase.CLOSING
        self._ended = True
        for timer in (self._deadline, self._unstored, self._linger):
            if timer is not None:
                timer.cancel()
        if self._joining is not None:
            self._joining.cancel()
        if self._upstream is not None:
            self._upstream.close()
        self._note_partial(0)
        self._buffer = b""
        self._gate.left(self)

    def eof_received(self) -> bool:
        """The device has said all: what it sent is still stored, and acknowledged while it listens."""
        if self._ended:
            return True  # told again when reading goes on after a pause
        if self._phase is Phase.NEW or self._phase is Phase.CLOSING:
            return False
        if self._phase is Phase.OPEN:
            if self._inflight == 0:
                self._flush()
                return False
            if self._upstream is not None:
                self._upstream.close()
        self._ended = True
        self._abort_later()
        return True

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.CLOSING:
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._phase is Phase.OPEN:
            self._read_on()
        elif self._phase is Phase.NEW:
            self._guarded(self._read_connect)
        else:
            self._note_partial(len(self._buffer))
            if len(self._buffer) > self._limits.preconnack_bytes_max:
                self.hold(Hold.JOINING)

    def pause_writing(self) -> None:
        """The device does not read: neither the broker's packets nor acknowledgements may pile up for it."""
        if self._upstream is not None:
            self._upstream.pause()
        self.hold(Hold.UNREAD)

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()
        self.release(Hold.UNREAD)

    # Joining ----------------------------------------------------------------------------------------------------------

    def _read_connect(self) -> None:
        buffer = self._buffer
        if len(buffer) < 2:
            return
        if buffer[0] != packets.CONNECT << 4:
            raise Malformed("the first packet is not a CONNECT")
        found = packets.read_varint(buffer, 1)
        if found is None:
            return
        length, body = found
        if length > self._limits.connect_bytes_max:
            raise Malformed("the CONNECT is too large")
        self._note_partial(len(buffer))
        if len(buffer) < body + length or self._phase is not Phase.NEW:
            return
        self._buffer = buffer[body + length :]
        self._note_partial(len(self._buffer))
        self._level = packets.V5 if length > 6 and buffer[body + 6] == packets.V5 else packets.V4
        try:
            connect = packets.parse_connect(buffer[body : body + length])
        except packets.Unsupported as refusal:
            self._refuse(packets.UNSUPPORTED_VERSION, f"{refusal} is not spoken here: use MQTT 3.1.1 or 5.0")
            return
        except packets.BadAuthentication as refusal:
            self._refuse(packets.BAD_AUTHENTICATION_METHOD, f"the authentication method {refusal} is not offered")
            return
        self._connect = connect
        try:
            name, forwarded = self._gate.name_of(connect)
        except PermissionError as refusal:
            self._refuse(packets.NOT_AUTHORIZED, str(refusal))
            return
        self.device = name
        self._phase = Phase.JOINING
        self._joining = self._gate.join(self, forwarded)

    def joined_upstream(self, upstream: Upstream) -> None:
        """The broker's socket is open, and the CONNECT is on its way."""
        self._upstream = upstream

    def not_joined(self) -> None:
        """The broker could not be reached."""
        self._refuse(packets.SERVER_UNAVAILABLE, "the broker is starting: try again in a few seconds")

    def answered(self, body: bytes) -> None:
        """The broker's CONNACK: from here on the device is who it says, or it is gone."""
        assert self._connect is not None
        assert self._upstream is not None
        limits = self._limits
        answer = packets.rewrite_connack(self._level, body, limits.inflight_max, limits.packet_bytes_max)
        if self._deadline is not None:
            self._deadline.cancel()
        if not answer.accepted:
            self._gate.count("connects_refused")
            self._close_after(answer.forwarded)
            return
        self._transport.write(answer.forwarded)
        keep_alive_s = self._connect.keep_alive_s if answer.keep_alive_s is None else answer.keep_alive_s
        self._upstream.keep_alive_s = keep_alive_s
        self._events_prefix = self._gate.events_prefix(self.device)
        self._phase = Phase.OPEN
        self._gate.opened(self)
        self.release(Hold.JOINING)
        self._read_on()
        if self._ended:
            self._loop.call_soon(self._finish)

    # Reading ----------------------------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        if not self._holds and self._buffer and self._phase is Phase.OPEN:
            self._guarded(self._read_packets)

    def _guarded(self, read: Callable[[], None]) -> None:
        try:
            read()
        except Malformed as broken:
            self._gate.count("malformed")
            log.debug("connection_malformed", device=self.device, peer=self.peer, rule=str(broken))
            self._close_saying(broken.reason, str(broken))

    def _read_packets(self) -> None:
        """Read whole packets off the buffer: events to ingest, everything else to the broker in one piece."""
        buffer, at, passed = self._buffer, 0, 0
        end, prefix = len(buffer), self._events_prefix
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
            if length > self._packet_drop_bytes:
                self._pass(buffer[passed:at])
                self._too_large()
                return
            if kind == packets.PUBLISH:
                if prefix and buffer.startswith(prefix, body):
                    if stop > end:
                        break
                    if passed < at:
                        self._pass(buffer[passed:at])
                    self._take_event(first, buffer, body + len(prefix), stop)
                    at = passed = stop
                    if self._holds or self._phase is not Phase.OPEN:
                        break
                    continue
                if not self._is_others(buffer, body, min(stop, end), stop):
                    if self._is_partial_topic(buffer, body, end, stop):
                        break
                else:
                    if stop > end:
                        break
                    self._pass(buffer[passed:at])
                    at = passed = stop
                    self._refuse_topic(first, buffer, body, stop)
                    if self._phase is not Phase.OPEN:
                        return
                    continue
            elif kind == packets.PUBREL:
                if stop > end:
                    break
                if self._ours(first, length, buffer, body):
                    self._pass(buffer[passed:at])
                    at = passed = stop
                    continue
            else:
                self._check_kind(kind, first, length)
            if stop > end:
                self._pass_left = stop - end
                at = end
                break
            at = stop
        if passed < at:
            self._pass(buffer[passed:at])
        self._buffer = buffer[at:] if at < end else b""
        self._note_partial(len(self._buffer))

    def _check_kind(self, kind: int, first: int, length: int) -> None:
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

    def _take_event(self, first: int, buffer: bytes, at: int, stop: int) -> None:
        qos = first >> 1 & 3
        packet_id = b""
        if qos:
            packet_id = buffer[at : at + 2]
            at += 2
            if at > stop or packet_id == b"\0\0" or qos == 3:
                raise Malformed("a PUBLISH without a packet id, or with QoS 3")
        elif first & 8:
            raise Malformed("a PUBLISH with QoS 0 is marked as a repetition")
        else:
            self._gate.count("events_qos0")
            if self._gate.shedding:
                self._gate.count("events_shed")
                return
        response = None
        if self._level == packets.V5:
            if at < stop and buffer[at] == 0:
                at += 1
            else:
                properties, at = packets.parse_publish_properties(buffer, at, stop)
                if properties.alias:
                    self._close_saying(packets.TOPIC_ALIAS_INVALID, "topic aliases are not taken (maximum 0)")
                    return
                response = properties if properties.response_topic else None
        if stop - at > self._event_drop_bytes:
            self._too_large()
            return
        self._inflight += 1
        if self._inflight >= self._limits.inflight_max:
            self.hold(Hold.INFLIGHT)
        settle = partial(self._settled, qos, packet_id, response)
        if not self._gate.offer(self.device, buffer[at:stop], settle):
            self.hold(Hold.ROOM)
            self._gate.starve(self)
        assert self._upstream is not None
        self._upstream.keep_alive(self._loop.time())

    def _is_others(self, buffer: bytes, body: int, end: int, stop: int) -> bool:
        """Whether this PUBLISH goes to an events topic that is not this device's."""
        if body + 2 > end:
            return False
        length = buffer[body] << 8 | buffer[body + 1]
        if body + 2 + length > stop:
            raise Malformed("a topic reaches beyond its packet")
        if body + 2 + length > end:
            return False
        topic = buffer[body + 2 : body + 2 + length]
        return topic.endswith(_EVENTS_TAIL) and topic.startswith(_TOPIC_HEAD) and topic.count(b"/") == 3

    @staticmethod
    def _is_partial_topic(buffer: bytes, body: int, end: int, stop: int) -> bool:
        """Whether more bytes are needed to know the topic."""
        if body + 2 > stop:
            raise Malformed("a PUBLISH without a topic")
        return body + 2 > end or body + 2 + (buffer[body] << 8 | buffer[body + 1]) > end

    def _refuse_topic(self, first: int, buffer: bytes, body: int, stop: int) -> None:
        """An events topic of somebody else: named, never stored."""
        length = buffer[body] << 8 | buffer[body + 1]
        topic = buffer[body + 2 : body + 2 + length].decode("utf-8", "replace")
        at = body + 2 + length
        qos = first >> 1 & 3
        self._gate.spoofed(self.device, topic)
        if self._level == packets.V4 or qos == 3:
            self.close()
            return
        if qos:
            packet_id = buffer[at : at + 2]
            if at + 2 > stop or packet_id == b"\0\0":
                raise Malformed("a PUBLISH without a packet id")
            kind = packets.PUBACK if qos == 1 else packets.PUBREC
            text = f"{self.device} may publish events at pos/v1/{self.device}/events only; names match {DEVICE_PATTERN}"
            self._acknowledge(
                packets.acknowledge(kind, packet_id, self._level, packets.NOT_AUTHORIZED, self._told(text))
            )

    def _ours(self, first: int, length: int, buffer: bytes, body: int) -> bool:
        """Whether this PUBREL ends a QoS 2 flow of the gate's; then it is answered."""
        if first & 0x0F != 2 or length < 2:
            raise Malformed("a PUBREL with wrong flags or without a packet id")
        packet_id = buffer[body : body + 2]
        if packet_id not in self._owned_qos2:
            return False
        self._owned_qos2.discard(packet_id)
        self._acknowledge(packets.acknowledge(packets.PUBCOMP, packet_id, self._level, packets.SUCCESS, ""))
        return True

    def _pass(self, data: bytes) -> None:
        if data and self._upstream is not None:
            self._upstream.write(data, self._loop.time())

    # Answering --------------------------------------------------------------------------------------------------------

    def _settled(
        self,
        qos: int,
        packet_id: bytes,
        response: packets.PublishProperties | None,
        item: Item,
        outcome: Outcome,
    ) -> None:
        """An event's outcome, after its commit."""
        self._inflight -= 1
        if outcome is Outcome.UNSTORED:
            self._not_stored()
        elif self._phase is Phase.OPEN or self._ended:
            if qos:
                good = outcome is Outcome.STORED or outcome is Outcome.DUPLICATE
                if good and qos == 1:
                    self._acknowledge(b"\x40\x02" + packet_id)
                else:
                    self._answer(qos, packet_id, item, outcome, good)
            if response is not None:
                self._gate.answer(self.device, response, item, outcome)
        if self._holds & Hold.INFLIGHT and self._inflight <= self._limits.inflight_max // 2:
            self.release(Hold.INFLIGHT)
        if self._ended and self._inflight == 0:
            self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        """The device has hung up: read what it still had sent, and close when all of it is acknowledged."""
        self._read_on()
        if self._ended and self._inflight == 0 and self._phase is not Phase.CLOSING:
            self.close()

    def _answer(self, qos: int, packet_id: bytes, item: Item, outcome: Outcome, good: bool) -> None:
        kind = packets.PUBACK if qos == 1 else packets.PUBREC
        reason = packets.SUCCESS if good else packets.PAYLOAD_FORMAT_INVALID
        if qos == 2 and (good or self._level == packets.V4):
            self._owned_qos2.add(packet_id)
        text = "" if good else self._told(why(item, outcome))
        self._acknowledge(packets.acknowledge(kind, packet_id, self._level, reason, text))

    def _told(self, text: str) -> str:
        return text if self._connect is None or self._connect.tells_problems else ""

    def _acknowledge(self, packet: bytes) -> None:
        if not self._acks:
            self._loop.call_soon(self._flush)
        self._acks.append(packet)

    def _flush(self) -> None:
        if self._acks and self._phase is not Phase.CLOSING:
            self._transport.write(b"".join(self._acks))
        self._acks.clear()
        self._gate.settled.set()

    def _not_stored(self) -> None:
        """Nothing is acknowledged: the device keeps its events, and is sent away to come again."""
        if self._unstored is None:
            self.hold(Hold.STOPPING)  # what comes later must not be stored before what was not
            text = "nothing can be stored right now: keep your events and connect again"
            self._unstored = self._loop.call_later(
                self._limits.refuse_delay_s, self._close_saying, packets.QUOTA_EXCEEDED, text
            )

    # Holding and closing ----------------------------------------------------------------------------------------------

    def hold(self, why: int) -> None:
        """Stop reading from the device for this reason."""
        if not self._holds and not self._transport.is_closing():
            self._transport.pause_reading()
        self._holds |= why

    def release(self, why: int) -> None:
        """This reason is gone; read on when no other is left."""
        if not self._holds & why:
            return
        self._holds &= ~why
        if not self._holds and not self._transport.is_closing():
            self._transport.resume_reading()
            self._loop.call_soon(self._read_on)

    def pause_upstream(self) -> None:
        """The broker reads slowly: so does the gate from this device."""
        self.hold(Hold.UPSTREAM)

    def resume_upstream(self) -> None:
        """The broker has caught up."""
        self.release(Hold.UPSTREAM)

    def from_upstream(self, data: bytes) -> None:
        """Bytes of the broker for the device."""
        if self._phase is not Phase.CLOSING:
            self._transport.write(data)

    def upstream_lost(self) -> None:
        """The broker has hung up: acknowledge what is under way, then let the device connect again."""
        if self._phase in (Phase.NEW, Phase.JOINING):
            self.not_joined()
            return
        if self._phase is Phase.CLOSING:
            return
        self._ended = True
        if self._inflight == 0:
            self.close()
        else:
            self.hold(Hold.STOPPING)
            self._abort_later()

    @property
    def idle(self) -> bool:
        """Whether nothing of this device waits to be stored or acknowledged."""
        return self._inflight == 0 and not self._acks

    def stop(self) -> None:
        """The gate is closing: everything read is acknowledged by now."""
        self._close_saying(packets.SERVER_SHUTTING_DOWN, "the box is restarting: connect again")

    def close(self) -> None:
        """Hang up after what is written has gone out."""
        self._flush()
        self._phase = Phase.CLOSING
        self._transport.close()
        self._abort_later()

    def _close_after(self, last: bytes) -> None:
        """Hang up after these bytes. What the device is still sending is read and dropped, not answered by a reset
        that would destroy them on their way."""
        if self._phase is Phase.CLOSING or self._transport.is_closing():
            return
        self._flush()
        self._transport.write(last)
        if not self._transport.can_write_eof():
            self.close()
            return
        self._phase = Phase.CLOSING
        self._transport.write_eof()
        self._transport.resume_reading()
        self._abort_later()
        if self._upstream is not None:
            self._upstream.close()

    def _abort_later(self) -> None:
        if self._linger is None:
            self._linger = self._loop.call_later(self._limits.linger_s, self._transport.abort)

    def _refuse(self, reason: int, text: str) -> None:
        self._gate.count("connects_refused")
        self._close_after(packets.refuse_connect(self._level, reason, text))

    def _close_saying(self, reason: int, text: str) -> None:
        if self._level == packets.V5 and self._phase is Phase.OPEN:
            self._close_after(packets.disconnect(reason, self._told(text)))
        else:
            self.close()

    def _too_large(self) -> None:
        self._gate.count("too_large")
        text = f"an event of more than {self._event_drop_bytes} bytes is not read"
        self._close_saying(packets.PACKET_TOO_LARGE, text)

    def _too_late(self) -> None:
        if self._phase in (Phase.NEW, Phase.JOINING):
            self._gate.count("connect_timeouts")
            self.close()

    def _note_partial(self, size: int) -> None:
        """Count the bytes of packets that are not whole yet, over all devices."""
        self._gate.partial_bytes += size - self._partial
        self._partial = size
        if size and self._gate.partial_bytes > self._limits.partial_bytes_max:
            self._gate.count("partial_dropped")
            self._close_saying(packets.QUOTA_EXCEEDED, "too many half-sent packets on this box: connect again")


def why(item: Item, outcome: Outcome) -> str:
    """The reason string of a refused event: its reason, and words."""
    if isinstance(item, Refusal):
        return f"{item.reason.value}: {item.detail}"
    return f"{outcome.value}: this id was stored before with other content"
