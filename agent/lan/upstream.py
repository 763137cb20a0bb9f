"""device → gate → [the way to Mosquitto]. One device's connection to the broker's Unix socket.

Passes bytes on both ways; to the device in whole packets, since the gate puts its own between them. Looks into none,
but hands over the CONNACK and swallows the answers to pings that keep the session of a device alive which sends nothing
but events. Never changes a byte behind the CONNACK.
"""

import asyncio
from typing import Protocol

from agent.lan import packets
from agent.lan.packets import Malformed


class Downstream(Protocol):
    """The device's side."""

    def answered(self, body: bytes) -> None: ...
    def from_upstream(self, data: bytes) -> None: ...
    def upstream_lost(self) -> None: ...
    def pause_upstream(self) -> None: ...
    def resume_upstream(self) -> None: ...


class Upstream(asyncio.Protocol):
    """One connection to the broker, for one device."""

    def __init__(self, downstream: Downstream) -> None:
        self._downstream = downstream
        self._transport: asyncio.Transport
        self._buffer = b""
        self._answered = False
        self._own_pings = 0
        self._written_at_s = 0.0
        self.keep_alive_s = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._downstream.upstream_lost()

    def pause_writing(self) -> None:
        self._downstream.pause_upstream()

    def resume_writing(self) -> None:
        self._downstream.resume_upstream()

    def data_received(self, data: bytes) -> None:
        try:
            if not self._answered:
                data = self._take_connack(data)
            if data:
                passed = self._whole_packets(data)
                if passed:
                    self._downstream.from_upstream(passed)
        except Malformed:
            self.close()

    def _take_connack(self, data: bytes) -> bytes:
        """Hand over the CONNACK once it is whole; returns what stands behind it."""
        self._buffer += data
        if len(self._buffer) < 2:
            return b""
        found = packets.read_varint(self._buffer, 1)
        if found is None:
            return b""
        length, body = found
        if self._buffer[0] != packets.CONNACK << 4:
            raise Malformed("the broker's first packet is not a CONNACK")
        if len(self._buffer) < body + length:
            return b""
        connack, rest = self._buffer[body : body + length], self._buffer[body + length :]
        self._buffer, self._answered = b"", True
        self._downstream.answered(connack)
        return rest

    def _whole_packets(self, data: bytes) -> bytes:
        """What came up to the last packet's end, without the PINGRESPs to the gate's own pings; the rest waits."""
        data = self._buffer + data if self._buffer else data
        at, kept, out, end = 0, 0, b"", len(data)
        while at < end:
            found = packets.read_varint(data, at + 1)
            if found is None or found[1] + found[0] > end:
                break
            stop = found[1] + found[0]
            if data[at] == packets.PINGRESP << 4 and self._own_pings:
                self._own_pings -= 1  # one is like another: as many reach the device as it has asked for
                out += data[kept:at]
                kept = stop
            at = stop
        self._buffer = data[at:]
        return out + data[kept:at]

    def write(self, data: bytes, now_s: float) -> None:
        """Bytes of the device for the broker."""
        if not self._transport.is_closing():
            self._written_at_s = now_s
            self._transport.write(data)

    def keep_alive(self, now_s: float) -> None:
        """The device has just sent an event: let the broker hear of it in time.

        Only a device's own activity is passed on like this, so the broker still notices a silent one.
        """
        if self.keep_alive_s and now_s - self._written_at_s > self.keep_alive_s / 4:
            self._own_pings += 1
            self.write(packets.PINGREQ_PACKET, now_s)

    def pause(self) -> None:
        """The device reads slowly: stop reading from the broker."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """The device has caught up."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Hang up after what is written has gone out."""
        self._transport.close()
