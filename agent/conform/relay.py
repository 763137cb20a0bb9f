"""the device ↔ [relay] ↔ the box's gate. Passes packets on, and does to them what the case in play asks for.

Writes down every fact of the device's wire. Never invents an event that the device did not send, but for the one that
the conflict case needs.
"""

import asyncio
import json
import ssl
from collections.abc import Callable
from contextlib import suppress
from hmac import compare_digest
from typing import Any, Final

from agent.conform import frames
from agent.conform.facts import (
    Acknowledged,
    Closed,
    Commanded,
    Fact,
    Opened,
    Released,
    Replied,
    Requested,
    Sent,
    Stated,
    Told,
)
from agent.conform.frames import Frame, Message
from agent.core.events import SEQUENCE_MAX

READ_BYTES: Final = 65_536
PACKET_BYTES_MAX: Final = 4 * 1024 * 1024
"""A larger packet ends the connection: no case needs one."""
FAILED_FROM: Final = 0x80
"""A reason code from here on is a refusal (MQTT 5.0, 2.4), and ends a QoS 2 flow."""
OUR_PACKET_ID: Final = 65_535
"""The packet id of what the relay itself sends to the box."""


class Line:
    """One connection of the device, and its counterpart to the box."""

    def __init__(self, number: int, device: asyncio.StreamWriter, box: asyncio.StreamWriter) -> None:
        self.number = number
        self.level = 4
        self.under_way: dict[int, Sent] = {}
        self.unreleased: dict[int, tuple[Sent, bool]] = {}
        """Events with QoS 2 whose PUBREC has gone out, and whether the box knows nothing of them."""
        self._device = device
        self._box = box

    def to_device(self, data: bytes) -> None:
        """Bytes for the device."""
        self._device.write(data)

    def to_box(self, data: bytes) -> None:
        """Bytes for the box."""
        self._box.write(data)

    def cut(self) -> None:
        """End it, with a reset."""
        for writer in (self._device, self._box):
            writer.transport.abort()

    def end(self) -> None:
        """End it after what is written has gone out."""
        for writer in (self._device, self._box):
            writer.close()


class Play:
    """What a case does to packets. By default everything passes; True from a method: it was dealt with."""

    def event(self, line: Line, sent: Sent, frame: Frame) -> bool:
        """An event on its way to the box."""
        return False

    def acknowledged(self, line: Line, sent: Sent, frame: Frame) -> bool:
        """Its PUBACK, or PUBREC, on its way to the device."""
        return False

    def status(self, line: Line, body: bytes) -> bytes:
        """The venue's status as the device is to hear it."""
        return body


class Relay:
    """Listens for the device; one box behind it, whose port may change."""

    def __init__(self, device: str, now_s: Callable[[], float], password: str = "") -> None:
        """With a `password` nobody but the device, who knows it, is let in."""
        self.device = device
        self._password = password
        self.box_port = 0
        self.play: Play = Play()
        self.facts: list[Fact] = []
        self.changed = asyncio.Event()
        self._now_s = now_s
        self._lines: dict[int, Line] = {}
        self._count = 0

    @property
    def connected(self) -> bool:
        """Whether the device is here."""
        return bool(self._lines)

    def cut(self) -> None:
        """End every connection of the device, with a reset."""
        for line in tuple(self._lines.values()):
            line.cut()

    def note(self, fact: Fact) -> None:
        """Write down one fact."""
        self.facts.append(fact)
        self.changed.set()

    async def serve(self, host: str, port: int, context: ssl.SSLContext | None = None) -> asyncio.Server:
        """Listen, with a context by TLS; OSError where the address is taken."""
        return await asyncio.start_server(self._accept, host, port, ssl=context)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            box_reader, box_writer = await asyncio.open_connection("127.0.0.1", self.box_port)
        except OSError:  # the box is being restarted
            writer.transport.abort()
            return
        self._count += 1
        line = Line(self._count, writer, box_writer)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._pump(line, reader, self._from_device), name="relay-up"),
                    group.create_task(self._pump(line, box_reader, self._from_box), name="relay-down"),
                ]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                line.end()
                for task in tasks:
                    task.cancel()
        finally:
            line.cut()
            if self._lines.pop(line.number, None) is not None:
                self.note(Closed(self._now_s(), line.number))

    async def _pump(self, line: Line, reader: asyncio.StreamReader, take: Callable[[Line, Frame], None]) -> None:
        buffer = bytearray()
        with suppress(OSError, ValueError):
            while (data := await reader.read(READ_BYTES)) and len(buffer) < PACKET_BYTES_MAX:
                buffer += data
                for frame in frames.split(buffer):
                    take(line, frame)

    def _from_device(self, line: Line, frame: Frame) -> None:
        if frame.kind == frames.CONNECT:
            line.level = frames.level_of(frame)
            if not self._lets_in(frame):
                line.to_device(frames.refusal(line.level))
                line.end()
                raise ValueError("somebody else")
        if frame.kind == frames.PUBLISH and self._is_taken(line, frame, frames.message(frame, line.level)):
            return
        if frame.kind == frames.PUBREL and self._is_released(line, frames.packet_id_of(frame)):
            return
        line.to_box(frame.raw)

    def _lets_in(self, connect: Frame) -> bool:
        name, password = frames.login_of(connect) if self._password else (self.device, "")
        return name == self.device and compare_digest(password.encode(), self._password.encode())

    def _is_released(self, line: Line, packet_id: int) -> bool:
        """Whether a PUBREL is about an event that the box has never seen: then it is answered here."""
        sent, unknown = line.unreleased.pop(packet_id, (None, False))
        if sent is not None:
            self.note(Released(self._now_s(), sent.id))
        if unknown:
            line.to_device(frames.answer(frames.PUBCOMP, packet_id))
        return unknown

    def _is_taken(self, line: Line, frame: Frame, message: Message) -> bool:
        """Whether the case deals with a PUBLISH of the device itself."""
        kind = message.topic.removeprefix(f"pos/v1/{self.device}/")
        if message.topic.endswith("/events"):
            sent = _sent(self._now_s(), line, message)
            self.note(sent)
            if message.qos:
                line.under_way[message.packet_id] = sent
            return self.play.event(line, sent, frame)
        body = _object(message.payload)
        if kind == "state":
            applied = body.get("applied")
            self.note(Stated(self._now_s(), tuple(map(str, applied)) if isinstance(applied, list) else ()))
        elif kind.startswith("requests/"):
            self.note(Requested(self._now_s(), str(body.get("id"))))
        return False

    def _from_box(self, line: Line, frame: Frame) -> None:
        if frame.kind == frames.CONNACK and frame.body[1:2] == b"\0":
            self._lines[line.number] = line
            self.note(Opened(self._now_s(), line.number, line.level))
        elif frame.kind in (frames.PUBACK, frames.PUBREC):
            packet_id = frames.packet_id_of(frame)
            if packet_id == OUR_PACKET_ID and packet_id not in line.under_way:
                return
            sent = line.under_way.get(packet_id)
            if sent is not None and self.play.acknowledged(line, sent, frame):
                return
            if sent is not None:
                self._acknowledge(line, sent, frame.raw, frame.body[2] if len(frame.body) > 2 else 0)
                return
        elif frame.kind == frames.PUBLISH:
            line.to_device(self._told(line, frame))
            return
        line.to_device(frame.raw)

    def take(self, line: Line, sent: Sent) -> None:
        """The device hears that an event is done of which the box knows nothing."""
        kind = frames.PUBACK if sent.qos == 1 else frames.PUBREC
        self._acknowledge(line, sent, frames.answer(kind, sent.packet_id), unknown=True)

    def _acknowledge(self, line: Line, sent: Sent, raw: bytes, reason: int = 0, *, unknown: bool = False) -> None:
        """The device hears that an event is done."""
        line.under_way.pop(sent.packet_id, None)
        if sent.qos == 2 and reason < FAILED_FROM:
            line.unreleased[sent.packet_id] = sent, unknown
        line.to_device(raw)
        self.note(Acknowledged(self._now_s(), line.number, sent.id, reason))

    def _told(self, line: Line, frame: Frame) -> bytes:
        message = frames.message(frame, line.level)
        if message.topic == f"pos/v1/{self.device}/commands":
            body = _object(message.payload)
            self.note(Commanded(self._now_s(), str(body.get("id")), str(body.get("command"))))
        elif message.topic == f"pos/v1/{self.device}/replies":
            body = _object(message.payload)
            self.note(Replied(self._now_s(), str(body.get("id")), str(body.get("status"))))
        elif message.topic == "pos/v1/venue/status":
            changed = self.play.status(line, message.payload)
            if changed != message.payload:
                self.note(Told(self._now_s()))
                return frames.packet(frame.first, frame.body[: len(frame.body) - len(message.payload)] + changed)
        return frame.raw


def _sent(now_s: float, line: Line, message: Message) -> Sent:
    body = _object(message.payload)
    id, epoch, text = body.get("id"), body.get("epoch"), str(body.get("sequence") or "")
    sequence = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0
    return Sent(
        now_s,
        line.number,
        message.topic,
        message.qos,
        message.packet_id,
        id if isinstance(id, str) else None,
        epoch if isinstance(epoch, str) else None,
        sequence if 0 < sequence <= SEQUENCE_MAX else None,
        message.payload,
    )


def _object(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
