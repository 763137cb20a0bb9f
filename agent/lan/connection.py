"""device → [gate: one device's connection] → ingest. From accept to close: joining, holding, closing.

Its bytes are cut into packets by `stream`, its events are taken and acknowledged by `flow`. What a device sends faster
than it is stored is left unread in its socket. Nothing here is stored, and no packet but the CONNECT is looked into.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from agent.core.allowance import Allowance
from agent.lan import packets
from agent.lan.flow import EventFlow
from agent.lan.packets import Malformed
from agent.lan.phases import Hold, LockedOut, Phase
from agent.lan.sockets import acknowledge_at_once
from agent.lan.stream import PacketStream
from agent.lan.upstream import Upstream

if TYPE_CHECKING:
    from agent.lan.gate import Gate

log = structlog.get_logger()


class DeviceConnection(asyncio.Protocol):
    """One device, from accept to close."""

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate
        self._limits = gate.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._upstream: Upstream | None = None
        self._flow = EventFlow(gate, self)
        self._stream = PacketStream(self._flow, self, gate.limits.packet_drop_bytes)
        self._buffer = b""
        self._partial = 0
        self._logged_in = False
        self._deadline: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._unstored: asyncio.TimerHandle | None = None
        self._joining: asyncio.Task[None] | None = None
        self._connect: packets.Connect | None = None
        self._level = packets.V4
        self.phase = Phase.NEW
        self.holds = 0
        self.ended = False
        """Whether the device or the broker has said all; what is under way is still acknowledged."""
        self.heard_s = self._loop.time()
        """When the device's latest bytes came."""
        self.keep_alive_s = 0
        """How long it may be silent, as it was told; 0 for ever."""
        self.device = ""
        self.address = ""
        self.peer = ""
        self._allowance = Allowance(gate.limits.messages_per_s_max, gate.limits.messages_at_once_max, self.heard_s)
        self._foreign = False

    # The transport's calls --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else "local"
        self.peer = f"{self.address}:{peer[1]}" if isinstance(peer, tuple) else "local"
        self._deadline = self._loop.call_later(self._limits.connect_timeout_s, self._too_late)
        self._gate.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.phase = Phase.CLOSING
        self.ended = True
        for timer in (self._deadline, self._unstored, self._linger):
            if timer is not None:
                timer.cancel()
        if self._joining is not None:
            self._joining.cancel()
        if self._upstream is not None:
            self._upstream.close()
        self._drop_unread()
        self._gate.left(self)

    def eof_received(self) -> bool:
        """The device has said all: what it sent is still stored, and acknowledged while it listens."""
        if self.ended:
            return True  # told again when reading goes on after a pause
        if self.phase is Phase.NEW or self.phase is Phase.CLOSING:
            return False
        if self.phase is Phase.OPEN:
            if self._flow.inflight == 0:
                self._flow.flush()
                return False
            if self._upstream is not None:
                self._upstream.close()
        self.ended = True
        self._abort_later()
        return True

    def data_received(self, data: bytes) -> None:
        if self.phase is Phase.CLOSING:
            return
        self.heard_s = self._loop.time()
        self._buffer = self._buffer + data if self._buffer else data
        if self.phase is Phase.OPEN:
            self._read_on()
        elif self.phase is Phase.NEW:
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
        if len(buffer) < body + length:
            self._note_partial(len(buffer))
            return
        self._buffer = buffer[body + length :]
        self._note_partial(len(self._buffer))
        if self.phase is not Phase.NEW:  # it made room for others
            return
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
            name, forwarded = self._gate.name_of(connect, self.address, self.peer)
        except LockedOut as refusal:
            self._refuse(packets.CONNECTION_RATE_EXCEEDED, str(refusal))
            return
        except PermissionError as refusal:
            self._refuse(packets.NOT_AUTHORIZED, str(refusal))
            return
        self.device = name
        self.phase = Phase.JOINING
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
            self._gate.refused(self, answer.unknown)
            self._close_after(answer.forwarded)
            return
        self._transport.write(answer.forwarded)
        self._note_partial(0)
        self._logged_in = True
        keep_alive_s = self._connect.keep_alive_s if answer.keep_alive_s is None else answer.keep_alive_s
        self._upstream.keep_alive_s = self.keep_alive_s = keep_alive_s
        self._stream.prefix = self._gate.events_prefix(self.device)
        self._flow.open(self.device, self._level)
        self.phase = Phase.OPEN
        self._gate.opened(self)
        if not answer.resumed:
            self._gate.subscriptions.begin(self.device)
        if self._connect.will_topic is not None:
            self._note_topic(self._connect.will_topic.encode())
        self.release(Hold.JOINING)
        self._read_on()
        if self.ended:
            self.finish_soon()

    # Reading ----------------------------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        if not self.holds and self._buffer and self.phase is Phase.OPEN:
            self._guarded(self._read_packets)

    def _guarded(self, read: Callable[[], None]) -> None:
        try:
            read()
        except Malformed as broken:
            self._gate.count("malformed")
            log.debug("connection_malformed", device=self.device, peer=self.peer, rule=str(broken))
            self.close_saying(broken.reason, str(broken))

    def _read_packets(self) -> None:
        self._buffer = self._stream.read(self._buffer)
        self._note_partial(len(self._buffer))

    def to_upstream(self, data: bytes) -> None:
        """Bytes of the device for the broker."""
        if self._upstream is not None:
            self._upstream.write(data, self._loop.time())
            acknowledge_at_once(self._transport)

    def message(self, topic: bytes) -> bool:
        """A PUBLISH for the broker; it refuses what the device may not write, the gate counts and tells of it."""
        self._note_topic(topic)
        return self.charge()

    def _note_topic(self, topic: bytes) -> None:
        if self._gate.is_foreign(self.device, topic):
            self._gate.foreign(self, topic, self._foreign)
            self._foreign = True

    def subscribing(self, kind: int, body: bytes) -> bool:
        """The broker may keep so many filters of a device, and no more: one that wants more is sent away."""
        filters, kept = packets.parse_filters(kind, body, self._level), self._gate.subscriptions
        if kind == packets.UNSUBSCRIBE:
            kept.remove(self.device, filters)
            return True
        if kept.add(self.device, filters):
            return True
        self._gate.count("subscriptions_over_limit")
        text = f"more than {self._limits.subscriptions_max} subscriptions, or too long ones: end some and connect again"
        self.close_saying(packets.QUOTA_EXCEEDED, text)
        return False

    def charge(self, count: float = 1.0) -> bool:
        """One of the packets that cost others something, or as many: so many a second, then it is read from later."""
        wait_s = self._allowance.take(self._loop.time(), count)
        if wait_s:
            self.slow_down(wait_s)
        return not wait_s

    def slow_down(self, wait_s: float) -> None:
        """Read from this device later: what it sends costs others too much."""
        self._gate.count("messages_slowed")
        self.hold(Hold.PACE)
        self._loop.call_later(wait_s, self.release, Hold.PACE)

    def keep_upstream_alive(self) -> None:
        """The device has just sent an event, of which the broker sees nothing."""
        assert self._upstream is not None
        self._upstream.keep_alive(self._loop.time())

    # For the flow of events -------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Bytes of the gate's own for the device."""
        self._transport.write(data)

    def told(self, text: str) -> str:
        """The words as this device wants them: none, if it asked for none."""
        return text if self._connect is None or self._connect.tells_problems else ""

    def not_stored(self) -> None:
        """Nothing is acknowledged: the device keeps its events, and is sent away to come again."""
        if self._unstored is None:
            self.hold(Hold.STOPPING)  # what comes later must not be stored before what was not
            text = "nothing can be stored right now: keep your events and connect again"
            self._unstored = self._loop.call_later(
                self._limits.refuse_delay_s, self.close_saying, packets.QUOTA_EXCEEDED, text
            )

    def too_large(self, text: str = "") -> None:
        """A packet that is not even refused by name."""
        self._gate.count("too_large")
        own = f"an event of more than {self._limits.event_drop_bytes} bytes is not read"
        self.close_saying(packets.PACKET_TOO_LARGE, text or own)

    def finish_soon(self) -> None:
        """All that was under way is acknowledged, and the other side has hung up."""
        self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        """The device has hung up: read what it still had sent, and close when all of it is acknowledged."""
        self._read_on()
        if self.ended and self._flow.inflight == 0 and self.phase is not Phase.CLOSING:
            self.close()

    # Holding and closing ----------------------------------------------------------------------------------------------

    def hold(self, why: int) -> None:
        """Stop reading from the device for this reason."""
        if not self.holds and not self._transport.is_closing():
            self._transport.pause_reading()
        self.holds |= why

    def release(self, why: int) -> None:
        """This reason is gone; read on when no other is left."""
        if not self.holds & why:
            return
        self.holds &= ~why
        if not self.holds and not self._transport.is_closing():
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
        if self.phase is not Phase.CLOSING:
            self._transport.write(data)

    def upstream_lost(self) -> None:
        """The broker has hung up: acknowledge what is under way, then let the device connect again."""
        if self.phase in (Phase.NEW, Phase.JOINING):
            self.not_joined()
            return
        if self.phase is Phase.CLOSING:
            return
        self.ended = True
        if self._flow.inflight == 0:
            self.close()
        else:
            self.hold(Hold.STOPPING)
            self._abort_later()

    @property
    def idle(self) -> bool:
        """Whether nothing of this device waits to be stored or acknowledged."""
        return self._flow.idle

    def stop(self) -> None:
        """The gate is closing: everything read is acknowledged by now."""
        self.close_saying(packets.SERVER_SHUTTING_DOWN, "the box is restarting: connect again")

    def cut(self, text: str) -> None:
        """The device may not connect any more."""
        if self.phase is Phase.OPEN:
            self.close_saying(packets.ADMINISTRATIVE_ACTION, text)
        else:
            self.close()

    def close(self) -> None:
        """Hang up after what is written has gone out."""
        self._flow.flush()
        self.phase = Phase.CLOSING
        self._drop_unread()
        self._transport.close()
        self._abort_later()

    def _close_after(self, last: bytes) -> None:
        """Hang up after these bytes. What the device is still sending is read and dropped, not answered by a reset
        that would destroy them on their way."""
        if self.phase is Phase.CLOSING or self._transport.is_closing():
            return
        self._flow.flush()
        self._transport.write(last)
        if not self._transport.can_write_eof():
            self.close()
            return
        self.phase = Phase.CLOSING
        self._drop_unread()
        with suppress(OSError):  # it may be reset already
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

    def close_saying(self, reason: int, text: str) -> None:
        """Hang up; an MQTT 5 device hears why."""
        if self._level == packets.V5 and self.phase is Phase.OPEN:
            self._close_after(packets.disconnect(reason, self.told(text)))
        else:
            self.close()

    def _too_late(self) -> None:
        if self.phase in (Phase.NEW, Phase.JOINING):
            self._gate.count("connect_timeouts")
            self.close()

    def _drop_unread(self) -> None:
        """Nothing more is read of this device."""
        self._note_partial(0)
        self._buffer = b""

    @property
    def kept_bytes(self) -> int:
        """What it has sent that is kept unread."""
        return self._partial

    def _note_partial(self, size: int) -> None:
        """Count the bytes that are kept unread: over all devices, apart from those of whoever has not logged in."""
        change, self._partial = size - self._partial, size
        if not self._logged_in:
            self._gate.hear_stranger(change)
            return
        self._gate.partial_bytes += change
        if size and self._gate.partial_bytes > self._limits.partial_bytes_max:
            self._gate.count("partial_dropped")
            self.close_saying(packets.QUOTA_EXCEEDED, "too many half-sent packets on this box: connect again")
