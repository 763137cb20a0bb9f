"""[sim: MQTT wire] One MQTT connection of a simulated client: packets in and out, waiting in virtual time.

Reads whole packets off the bytes, whatever pieces they came in. Never answers one by itself.
"""

import asyncio
from typing import Any

from tests.integration.mqtt import PUBACK, V5, Packet, frame, read_varint


class Gone(Exception):
    """The connection is no more."""


class Packets:
    """Puts packets together from what arrives."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are whole now."""
        buffer, at, found = self._buffer + data, 0, []
        while True:
            try:
                length, body = read_varint(buffer, at + 1)
            except IndexError:
                break
            if len(buffer) < body + length:
                break
            found.append(Packet(buffer[at] >> 4, buffer[at] & 0x0F, buffer[body : body + length]))
            at = body + length
        self._buffer = buffer[at:]
        return found


class Message:
    """A PUBLISH as its receiver reads it. `properties` is the raw block of 5.0, empty in 3.1.1."""

    def __init__(self, packet: Packet, level: int) -> None:
        self.topic = packet.topic
        self.qos = packet.flags >> 1 & 3
        self.retain = bool(packet.flags & 1)
        at = 2 + len(self.topic.encode())
        self.mid = int.from_bytes(packet.body[at : at + 2], "big") if self.qos else 0
        at += 2 if self.qos else 0
        self.properties = b""
        if level == V5:
            length, behind = read_varint(packet.body, at)
            self.properties = packet.body[behind : behind + length]
            at = behind + length
        self.payload = packet.body[at:]


class Wire(asyncio.Protocol):
    """The client's end."""

    def __init__(self, level: int) -> None:
        self.level = level
        self._packets = Packets()
        self._queue: asyncio.Queue[Packet | None] = asyncio.Queue()
        self._transport: Any = None
        self.gone = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for packet in self._packets.feed(data):
            self._queue.put_nowait(packet)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self._queue.put_nowait(None)

    def send(self, *frames: bytes) -> None:
        """Write them in one piece."""
        if self._transport.is_closing():
            raise Gone
        self._transport.write(b"".join(frames))

    async def packet(self, within_s: float) -> Packet | None:
        """The next packet, or None when none came in time. Raises Gone at the end."""
        try:
            async with asyncio.timeout(within_s):
                found = await self._queue.get()
        except TimeoutError:
            return None
        if found is None:
            self._queue.put_nowait(None)
            raise Gone
        return found

    def acknowledge(self, message: Message) -> None:
        """PUBACK for what came with QoS 1."""
        if message.qos:
            self.send(frame(PUBACK, message.mid.to_bytes(2, "big")))

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()
