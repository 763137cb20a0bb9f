"""One device of the load: makes events, sends them, and keeps outside the box what it sent and what it was told.

It speaks MQTT 3.1.1 or 5.0 by hand, with QoS 1 or 2, several events in flight. After each connection it sends what it
was not told again, in order, with the same ids. Now and then it cuts its own connection, in the middle of a packet too,
and it sends some events twice. Its files have the shape of a till's outbox, so that the same checker reads them.
"""

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import NamedTuple
from uuid import UUID

import msgspec

from agent.tills.lines import LineFile
from agent.tills.outbox import Kept, Refused, Sent, Told
from tests.integration import mqtt
from tests.integration.mqtt import V5, Packet

CONNECT_S = 5.0
PAUSE_S = 0.05
"""Longest pause before the next attempt to connect."""
CUT_SHARE, TWICE_SHARE, AGAIN_SHARE, BAD_SHARE, REINSTALL_SHARE = 0.004, 0.03, 0.02, 0.01, 0.02
"""How often it cuts, sends twice, sends again what it was told, makes an event that must be refused, starts anew."""


class Cut(Exception):
    """It has cut its own connection."""


class Made(NamedTuple):
    """An event of its own. `bad`: the box must refuse it."""

    id: str
    epoch: str
    sequence: int
    body: bytes
    bad: bool


class Settings(NamedTuple):
    """How a device behaves. `pace_s` is the mean pause between two events; an event has one of the `notes`."""

    name: str
    level: int
    qos: int
    window: int
    pace_s: float
    notes: tuple[str, ...]


class Till:
    """A device; `run` lives until everything made was told, once `making` is off."""

    def __init__(self, settings: Settings, folder: Path, seed: str) -> None:
        self.settings = settings
        self.port = 0
        self.making = True
        self.connected = False
        self.connects = 0
        self.told: dict[str, None] = {}
        self.refused: dict[str, None] = {}
        self.receipts: dict[str, int] = {}
        self.surprises: list[str] = []
        self.sent_highest: dict[str, int] = {}
        self.chance = Random(seed)
        self._untold: dict[str, Made] = {}
        self._sent: set[str] = set()
        self._last_told: Made | None = None
        self._tick = 0
        self._count = 0
        self._epoch = self._new_id()
        self._inflight: dict[int, Made] = {}
        self._releasing: set[int] = set()
        self._packet_id = 0
        self._room = asyncio.Event()
        folder.mkdir(parents=True)
        self._files = {name: LineFile(folder / f"{name}.jsonl") for name in ("events", "sent", "told", "refused")}

    @property
    def made_count(self) -> int:
        return len(self._sent)

    @property
    def finished(self) -> bool:
        return not self.making and not self._untold

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    async def run(self) -> None:
        """Connect again and again until it is finished."""
        while not self.finished:
            try:
                await self._one_connection()
            except* (OSError, Cut, mqtt.Gone):
                self.connected = False
                await asyncio.sleep(self.chance.uniform(0.005, PAUSE_S))
            if self.chance.random() < REINSTALL_SHARE and self.making:
                self._epoch, self._count = self._new_id(), 0

    # One connection ---------------------------------------------------------------------------------------------------

    async def _one_connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._inflight.clear()
        self._releasing.clear()
        self._room.set()
        try:
            packets = Packets(reader)
            await self._log_in(packets, writer)
            async with asyncio.TaskGroup() as group:
                hearing = group.create_task(self._hear(packets, writer))
                await self._say(writer)
                hearing.cancel()
            writer.write(mqtt.frame(mqtt.DISCONNECT, b""))
            await writer.drain()
        finally:
            self.connected = False
            writer.transport.abort()

    async def _log_in(self, packets: "Packets", writer: asyncio.StreamWriter) -> None:
        name, level = self.settings.name, self.settings.level
        clean = self.chance.random() < 0.5
        writer.write(mqtt.connect(name, username=name, level=level, clean=clean))
        async with asyncio.timeout(CONNECT_S):
            connack = await packets.next()
        if connack.kind != mqtt.CONNACK or connack.body[1]:
            raise mqtt.Gone("not let in")
        topic = f"pos/v1/{name}/receipt/#"
        writer.write(mqtt.subscribe(topic, packet_id=self._next_packet_id(), level=level))
        self.connected = True
        self.connects += 1

    async def _say(self, writer: asyncio.StreamWriter) -> None:
        """First what was not told, in order; then what happens, until it is told to stop and everything was told."""
        for made in list(self._untold.values()):
            if made.id in self._untold:
                await self._send(writer, made)
        while not self.finished:
            if self.making:
                await asyncio.sleep(self.chance.expovariate(1 / self.settings.pace_s))
                for _ in range(self.chance.choice((1, 1, 1, 4))):
                    await self._send(writer, self._make())
                if self._last_told is not None and self.chance.random() < AGAIN_SHARE:
                    await self._send(writer, self._last_told)
            else:
                await asyncio.sleep(0.02)

    async def _send(self, writer: asyncio.StreamWriter, made: Made) -> None:
        times = 2 if self.chance.random() < TWICE_SHARE else 1
        for _ in range(times):
            while len(self._inflight) >= self.settings.window:
                self._room.clear()
                await self._room.wait()
            packet_id = self._next_packet_id()
            again = made.id in self._sent and self.chance.random() < 0.5
            frame = mqtt.publish(
                f"pos/v1/{self.settings.name}/events", made.body, qos=self.settings.qos, packet_id=packet_id,
                level=self.settings.level, dup=again,
            )  # fmt: skip
            self._inflight[packet_id] = made
            self._note_sent(made)
            if self.chance.random() < CUT_SHARE:
                writer.write(frame[: self.chance.randrange(len(frame))])
                await asyncio.sleep(0)
                raise Cut
            writer.write(frame)
        await writer.drain()

    async def _hear(self, packets: "Packets", writer: asyncio.StreamWriter) -> None:
        while True:
            packet = await packets.next()
            if packet.kind in (mqtt.PUBACK, mqtt.PUBREC):
                self._acknowledged(packet, writer)
            elif packet.kind == mqtt.PUBCOMP:
                self._releasing.discard(packet.packet_id)
            elif packet.kind == mqtt.PUBLISH:
                self._heard(packet, writer)
            elif packet.kind == mqtt.DISCONNECT:
                raise mqtt.Gone("sent away")

    def _acknowledged(self, packet: Packet, writer: asyncio.StreamWriter) -> None:
        made = self._inflight.pop(packet.packet_id, None)
        self._room.set()
        if made is None:
            self.surprises.append(f"an acknowledgement for {packet.packet_id}, which is not in flight")
            return
        good = packet.reason < 0x80
        if packet.kind == mqtt.PUBREC and good:
            self._releasing.add(packet.packet_id)
            writer.write(mqtt.pubrel(packet.packet_id))
        if good:
            self._note_told(made)
        else:
            self._note_refused(made, packet)

    def _heard(self, packet: Packet, writer: asyncio.StreamWriter) -> None:
        """A receipt: it may never speak of what was not even sent."""
        at = 2 + len(packet.topic.encode())
        if packet.flags & 6:
            writer.write(mqtt.frame(mqtt.PUBACK, packet.body[at : at + 2]))
            at += 2
        if self.settings.level == V5:
            length, at = mqtt.read_varint(packet.body, at)
            at += length
        receipt = json.loads(packet.body[at:])
        epoch, stored = receipt["epoch"], int(receipt["stored"])
        self.receipts[epoch] = max(stored, self.receipts.get(epoch, 0))
        if stored > self.sent_highest.get(epoch, 0):
            self.surprises.append(f"a receipt says {stored} of {epoch}; {self.sent_highest.get(epoch)} were sent")
        if receipt["gaps"]:
            self.surprises.append(f"a receipt names gaps: {receipt['gaps']}")

    # Its own memory ---------------------------------------------------------------------------------------------------

    def _make(self) -> Made:
        self._count += 1
        bad = self.chance.random() < BAD_SHARE
        made = Made(self._new_id(), self._epoch, self._count, b"", bad)
        made = made._replace(body=an_event(made, self.chance, self.settings.notes))
        self._untold[made.id] = made
        kept = Kept(made.id, made.epoch, made.sequence, sha256(made.body).hexdigest(), msgspec.Raw(made.body))
        self._files["events"].append([kept], durable=False)
        return made

    def _note_sent(self, made: Made) -> None:
        self.sent_highest[made.epoch] = max(made.sequence, self.sent_highest.get(made.epoch, 0))
        if made.id not in self._sent:
            self._sent.add(made.id)
            self._tick += 1
            self._files["sent"].append([Sent(made.id, self._tick, "")], durable=False)

    def _note_told(self, made: Made) -> None:
        if self._untold.pop(made.id, None) is None:
            return
        self._tick += 1
        self.told[made.id] = None
        self._last_told = made
        line = Told(made.id, made.epoch, made.sequence, sha256(made.body).hexdigest(), self._tick, "")
        self._files["told"].append([line], durable=False)

    def _note_refused(self, made: Made, packet: Packet) -> None:
        if not made.bad:
            self.surprises.append(f"{made.id} was refused: {packet.reason:#x} {packet.reason_string}")
        if self._untold.pop(made.id, None) is not None:
            self.refused[made.id] = None
            self._files["refused"].append([Refused(made.id, hex(packet.reason), "", "")], durable=False)

    def _next_packet_id(self) -> int:
        while True:
            self._packet_id = self._packet_id % 65535 + 1
            if self._packet_id not in self._inflight and self._packet_id not in self._releasing:
                return self._packet_id

    def _new_id(self) -> str:
        return str(UUID(bytes=self.chance.randbytes(16)))


class Packets:
    """Whole packets of a stream."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._buffer = b""

    async def next(self) -> Packet:
        """The next one; raises Gone at the end."""
        while (found := self._take()) is None:
            more = await self._reader.read(65536)
            if not more:
                raise mqtt.Gone
            self._buffer += more
        return found

    def _take(self) -> Packet | None:
        try:
            length, body = mqtt.read_varint(self._buffer, 1)
        except IndexError:
            return None
        if len(self._buffer) < body + length:
            return None
        first, found = self._buffer[0], self._buffer[body : body + length]
        self._buffer = self._buffer[body + length :]
        return Packet(first >> 4, first & 0x0F, found)


NOTES = ("", "Crème brûlée", "a\\u00e9b", "\\ud83c\\udf7a", '\\"quoted\\"', "x" * 900)


def an_event(made: Made, chance: Random, notes: tuple[str, ...]) -> bytes:
    """Its bytes, as programs differ in writing JSON: blanks, escapes and numbers that a re-writer would change."""
    blank = chance.choice(("", "", " "))
    note, amount = chance.choice(notes), chance.randrange(100, 9999)
    kind = "nightsafe.forged" if made.bad else chance.choice(("pos.payment.captured", "x.note"))
    members = (
        ("specversion", '"1.0"'),
        ("id", f'"{made.id}"'),
        ("source", '"/devices/load"'),
        ("type", f'"{kind}"'),
        ("epoch", f'"{made.epoch}"'),
        ("sequence", f'"{made.sequence:0{chance.choice((1, 20))}d}"'),
        (
            "data",
            f'{{"payment_id":"p-{made.id}",{blank}"amount":{{"amount":{amount},"currency":"GBP"}},"tender":"cash",'
            f'"note":"{note}","rate":{amount / 100:.2f},"small":1e-3}}',
        ),
    )
    return ("{" + f",{blank}".join(f'"{name}":{blank}{value}' for name, value in members) + "}").encode()
