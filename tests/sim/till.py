"""[sim: till] A simulated device with an outbox: it sells, sends with QoS 1 or 2, reconnects, forgets nothing untold.

It keeps its own account of what it made, sent and was told, outside of the box. Some have bad habits: events sent late
or never, ids used twice, garbage, card numbers, a reinstalled app. Speaks the device contract and nothing else.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from tests.integration.mqtt import (
    CONNACK,
    DISCONNECT,
    PING,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    V4,
    V5,
    Packet,
    connect,
    publish,
    pubrel,
    subscribe,
)
from tests.sim.loop import Process
from tests.sim.network import Address, Link, Network
from tests.sim.story import Story
from tests.sim.wire import Gone, Message, Wire

ANSWER_S = 20.0
"""How long a till waits for a CONNACK, or for any sign of life after its ping."""
BACK_OFF_S = (0.5, 20.0)
APPLIED_MAX = 50


class Habits(NamedTuple):
    """What a till is like. Rates are per second, the rest are shares of its events."""

    sales_rate: float
    window: int
    level: int
    qos: int
    keep_alive_s: int
    counted: bool
    withholds: float = 0.0
    forgets: float = 0.0
    conflicts: float = 0.0
    garbage: float = 0.0
    refused: float = 0.0
    reuses: float = 0.0
    drops_rate: float = 0.0
    reinstalls_rate: float = 0.0
    will_event: bool = False


class Entry:
    """One event in a till's outbox. `kind`: what the box must make of it."""

    __slots__ = ("body", "device", "epoch", "forgotten", "id", "kind", "late", "sent", "sequence", "told", "withheld")

    def __init__(self, device: str, epoch: str | None, sequence: int | None, id: str, body: bytes, kind: str) -> None:
        self.device = device
        self.epoch = epoch
        self.sequence = sequence
        self.id = id
        self.body = body
        self.kind = kind
        self.sent = False
        self.told = False
        self.withheld = False
        self.late = False
        """It was withheld once: it may stand behind later ones."""
        self.forgotten = False

    @property
    def owed(self) -> bool:
        """Whether it has still to be sent."""
        return not (self.told or self.withheld or self.forgotten)

    def __str__(self) -> str:
        return f"{self.device}/{self.epoch}#{self.sequence} {self.id} ({self.kind})"


class Witness(Protocol):
    """What a till reports to; see tests.sim.oracles. A stray event may be stored and is not owed to anybody."""

    def sent(self, entry: Entry) -> None: ...
    def sent_stray(self, device: str, body: bytes) -> None: ...
    def told(self, entry: Entry, good: bool) -> None: ...


class SimTill:
    """One till. `selling` is switched off at the end; `sell` makes one more event."""

    def __init__(
        self,
        process: Process,
        network: Network,
        address: Address,
        link: Link,
        name: str,
        habits: Habits,
        witness: Witness,
        story: Story,
    ) -> None:
        self.name = name
        self.habits = habits
        self.link = link
        self.selling = True
        self.well_behaved = False
        self.entries: list[Entry] = []
        self.epochs: list[str] = []
        self._process = process
        self._network = network
        self._address = address
        self._witness = witness
        self._story = story
        self._chance = process.chance
        self._loop = process.loop
        self._sequence = 0
        self._number = 0
        self._first_owed = 0
        self._urgent: list[Entry] = []
        self._applied: list[str] = []
        self._wire: Wire | None = None
        self._open = False
        self._flying: dict[int, Entry | None] = {}
        self._released: set[int] = set()
        self._mid = 0
        self._new_epoch()

    @property
    def owes(self) -> int:
        """Events that it made and was not told of."""
        return sum(entry.owed for entry in self.entries[self._first_owed :])

    @property
    def connected(self) -> bool:
        return self._open

    async def live(self) -> None:
        """Sell and send, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_selling(), name=f"{self.name}-sells")
            group.create_task(self._keep_connected(), name=f"{self.name}-connects")

    def leave(self) -> None:
        """Disconnect, and stay away."""
        for task in tuple(self._process.tasks):
            task.cancel()

    # Selling ----------------------------------------------------------------------------------------------------------

    async def _keep_selling(self) -> None:
        habits = self.habits
        while True:
            await asyncio.sleep(self._chance.expovariate(habits.sales_rate))
            if not self.selling:
                await asyncio.sleep(1.0)
                continue
            if self._chance.random() < habits.reinstalls_rate / habits.sales_rate:
                self.reinstall()
            if self._chance.random() < habits.drops_rate / habits.sales_rate:
                self._drop()
            for _ in range(self._chance.choice((1, 1, 1, 2, 5))):
                self.sell()

    def sell(self) -> None:
        """One event, by the till's habits."""
        habits, chance = self.habits, self._chance
        roll = 1.0 if self.well_behaved else chance.random()
        for share, make in (
            (habits.garbage, self._garbage),
            (habits.refused, self._refusable),
            (habits.conflicts, self._conflict),
            (habits.reuses, self._reuse),
        ):
            if roll < share:
                make()
                self._pump()
                return
            roll -= share
        entry = self._keep(self._next_id(), self._sale(), "good")
        if habits.counted and not self.well_behaved:
            entry.withheld = entry.late = chance.random() < habits.withholds
            entry.forgotten = not entry.withheld and chance.random() < habits.forgets
        self._pump()

    def reinstall(self) -> None:
        """The app counts afresh; what was not told keeps its epoch and is still sent."""
        if self.habits.counted:
            self._new_epoch()

    def _new_epoch(self) -> None:
        self.epochs.append(f"e{len(self.epochs) + 1}-{self.name}")
        self._sequence = 0
        self._story.tell(self.name, "counts afresh", epoch=self.epochs[-1])

    def _next_id(self) -> str:
        self._number += 1
        return f"{self.name}-{self._number}-{self._chance.getrandbits(32):08x}"

    def _sale(self) -> dict[str, Any]:
        amount = {"amount": self._chance.randrange(100, 20_000), "currency": "GBP"}
        if self._chance.random() < 0.2:
            return {"type": "pos.note", "data": {"text": "x" * self._chance.randrange(6000), "amount": amount}}
        data = {"payment_id": f"p-{self._number}", "check_id": "1009", "amount": amount, "tender": "cash"}
        return {"type": "pos.payment.captured", "data": {**data, "offline": False, "training": False}}

    def _body(self, id: str, parts: dict[str, Any], sequence: int | None) -> bytes:
        event: dict[str, Any] = {"specversion": "1.0", "id": id, "source": f"/devices/{self.name}", **parts}
        event["time"] = "2026-11-22T10:15:00.120Z"
        if sequence is not None:
            event |= {"epoch": self.epochs[-1], "sequence": f"{sequence:020d}"}
        return json.dumps(event, separators=(",", ":")).encode()

    def _keep(self, id: str, parts: dict[str, Any], kind: str, sequence: int | None = None) -> Entry:
        epoch = None
        if self.habits.counted:
            epoch = self.epochs[-1]
            if sequence is None:
                self._sequence += 1
                sequence = self._sequence
        entry = Entry(self.name, epoch, sequence, id, self._body(id, parts, sequence), kind)
        self.entries.append(entry)
        return entry

    def _garbage(self) -> None:
        body = b'{"specversion":"1.0","id":"broken-%d",' % self._number
        self._number += 1
        self.entries.append(Entry(self.name, None, None, "", body, "refused"))

    def _refusable(self) -> None:
        data: dict[str, Any] = {"note": "4111 1111 1111 1111"} if self._chance.random() < 0.5 else {"payment_id": 7}
        self._keep(self._next_id(), {"type": "pos.payment.captured", "data": data}, "refused")

    def _conflict(self) -> None:
        stored = [entry for entry in self.entries if entry.told and entry.kind == "good"]
        if stored:
            self._keep(self._chance.choice(stored).id, self._sale(), "refused")

    def _reuse(self) -> None:
        stored = [one for one in self.entries if one.told and one.kind == "good" and one.epoch == self.epochs[-1]]
        if stored:
            self._keep(self._next_id(), self._sale(), "reused", sequence=self._chance.choice(stored).sequence)

    # Being connected --------------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        pause_s = BACK_OFF_S[0]
        while True:
            try:
                pending = await self._network.connect(self._address, self.link)
                self._wire = Wire(self.habits.level)
                pending.end.attach(self._wire)
                await self._converse(self._wire)
            except (Gone, OSError):
                pass
            finally:
                if self._wire is not None:
                    self._wire.close()
                if self._open:
                    pause_s = BACK_OFF_S[0]
                self._open, self._wire = False, None
                self._flying.clear()
                self._released.clear()
                self._urgent.clear()
            await asyncio.sleep(pause_s * self._chance.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, BACK_OFF_S[1])

    async def _converse(self, wire: Wire) -> None:
        habits = self.habits
        wire.send(self._hello())
        answer = await wire.packet(ANSWER_S)
        if answer is None or answer.kind != CONNACK or answer.body[1]:
            raise Gone
        self._open = True
        for topic in (f"pos/v1/{self.name}/receipt/#", f"pos/v1/{self.name}/commands", "pos/v1/venue/status"):
            wire.send(subscribe(topic, packet_id=self._new_mid(None), level=habits.level))
        self._tell_state()
        self._pump()
        asked = False
        while True:
            packet = await wire.packet(ANSWER_S if asked else habits.keep_alive_s / 2)
            if packet is None:
                if asked:
                    raise Gone
                wire.send(PING)
            asked = packet is None
            if packet is not None:
                self._take(wire, packet)
            self._pump()

    def _hello(self) -> bytes:
        habits, topic, payload = self.habits, f"pos/v1/{self.name}/state", b'{"state":"offline"}'
        if habits.will_event:
            topic = f"pos/v1/{self.name}/events"
            payload = self._body(self._next_id(), self._sale(), None)
            self._witness.sent_stray(self.name, payload)
        return connect(
            self.name,
            username=self.name,
            level=habits.level,
            keep_alive_s=habits.keep_alive_s,
            clean=True,
            will=(topic, payload),
        )

    def _new_mid(self, entry: Entry | None) -> int:
        while True:
            self._mid = self._mid % 65_535 + 1
            if self._mid not in self._flying and self._mid not in self._released:
                self._flying[self._mid] = entry
                return self._mid

    def _drop(self) -> None:
        """Leave in one of the ways in which devices leave."""
        if self._wire is None or not self._open:
            return
        way = self._chance.choice(("abort", "close", "half close"))
        self._story.tell(self.name, "drops its connection", way=way)
        if way == "half close":
            self._wire._transport.write_eof()
        elif way == "close":
            self._wire.close()
        else:
            self._wire.abort()

    def _tell_state(self) -> None:
        assert self._wire is not None
        said = json.dumps({"state": "ready", "applied": self._applied}).encode()
        topic, level = f"pos/v1/{self.name}/state", self.habits.level
        with suppress(Gone):
            self._wire.send(publish(topic, said, packet_id=self._new_mid(None), level=level, retain=True))

    # Sending and hearing ----------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send what is owed, in order, as far as the window allows."""
        if not self._open or self._wire is None:
            return
        entries = self.entries
        while self._first_owed < len(entries) and (
            entries[self._first_owed].told or entries[self._first_owed].forgotten
        ):
            self._first_owed += 1
        flying = {id(entry) for entry in self._flying.values() if entry is not None}
        room = self.habits.window - len(flying)
        with suppress(Gone):
            while room > 0 and self._urgent:
                self._send(self._urgent.pop(0))
                room -= 1
            for at in range(self._first_owed, len(entries)):
                if room <= 0:
                    break
                if entries[at].owed and id(entries[at]) not in flying:
                    self._send(entries[at])
                    room -= 1

    def _send(self, entry: Entry) -> None:
        assert self._wire is not None
        habits = self.habits
        again, entry.sent = entry.sent, True
        self._witness.sent(entry)
        mid = self._new_mid(entry)
        topic = f"pos/v1/{self.name}/events"
        self._wire.send(publish(topic, entry.body, qos=habits.qos, packet_id=mid, level=habits.level, dup=again))

    def _take(self, wire: Wire, packet: Packet) -> None:
        if packet.kind in (PUBACK, PUBREC):
            self._acknowledged(wire, packet)
        elif packet.kind == PUBCOMP:
            self._released.discard(packet.packet_id)
        elif packet.kind == PUBLISH:
            message = Message(packet, self.habits.level)
            wire.acknowledge(message)
            if message.topic.endswith("/commands"):
                self._obey(json.loads(message.payload))
        elif packet.kind == DISCONNECT:
            raise Gone
        elif packet.kind == 9:
            self._flying.pop(packet.packet_id, None)

    def _acknowledged(self, wire: Wire, packet: Packet) -> None:
        assert self.habits.level in (V4, V5)
        good = self.habits.level == V4 or packet.reason < 0x80
        entry = self._flying.pop(packet.packet_id, None)
        if packet.kind == PUBREC and good:
            self._released.add(packet.packet_id)
            wire.send(pubrel(packet.packet_id))
        if entry is not None:
            entry.told = True
            self._witness.told(entry, good)

    def _obey(self, command: dict[str, Any]) -> None:
        if command["command"] != "resend":
            return
        if command["id"] not in self._applied:
            self._applied = [*self._applied, command["id"]][-APPLIED_MAX:]
            wanted = command["args"]
            found = [
                entry
                for entry in self.entries
                if entry.epoch == wanted["epoch"] and int(wanted["from"]) <= (entry.sequence or 0) <= int(wanted["to"])
            ]
            for entry in found:
                entry.withheld = False
                self._first_owed = min(self._first_owed, self.entries.index(entry))
            self._urgent += [entry for entry in found if entry.told]
            hopeless = any(entry.forgotten for entry in found)
            if hopeless and wanted["epoch"] == self.epochs[-1]:
                self._new_epoch()  # it cannot fill the hole
                self.sell()
        self._tell_state()
        self._pump()
