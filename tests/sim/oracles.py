"""[sim: oracles] What must hold, judged from outside: by what tills sent and were told, by the files, by the ledger.

1. What a till was told is stored is on the box's disk or in the cloud, byte for byte, and a refusal in quarantine.
2. The cloud's log is 1..n and equals the journal, in its order, each event once. What it passes over is declared, is
   nothing but what the cloud takes in no form, and lies whole in the box's quarantine.
3. After the last fault everything drains, every event that was good is acknowledged, and nothing hangs or ends.
4. Nothing is stored that no till sent, nothing twice, and nothing is uploaded that was not durable here before.
5. No receipt claims more than is true; every hole of a device is asked for or named lost, and in the end all is told.
6. Nothing leaks: at rest no task, timer, connection or batch is left, and no error goes unheard.

Looked at with every commit, every acknowledgement, every receipt and every upload, and once more at the end, when all
faults are over. They believe nothing that the agent says of itself. A violation is a sentence; the run ends with it.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.cloud import wire
from agent.receiver.ledger import Appended, Hole, Row
from tests.sim.till import Entry

AGENT = "agent"

JOURNAL_ROWS = """
select r.position, d.device, e.epoch, r.device_sequence, r.rechash, r.event
from records r join device_epochs e on e.id = r.device_epoch join devices d on d.id = e.device
where r.position > ? order by r.position
"""


PASSED_OVER = """
select d.device, e.epoch, r.device_sequence, r.event,
  (select q.payload from quarantine q where q.position = r.position and q.reason = 'cloud_refused')
from records r join device_epochs e on e.id = r.device_epoch join devices d on d.id = e.device
where r.position <= (select position from records where rechash = ?) order by r.position desc limit ?
"""


class Record(NamedTuple):
    """One record of the journal."""

    position: int
    device: str
    epoch: str
    sequence: int | None
    rechash: bytes
    event: bytes


class Counting:
    """One counting of one device: which sequences are accounted for."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._contiguous = 0

    def add(self, sequences: Iterable[int]) -> None:
        self._seen.update(sequences)

    def holds(self, sequence: int) -> bool:
        return sequence in self._seen

    @property
    def contiguous(self) -> int:
        """The highest n such that each of 1..n is there."""
        while self._contiguous + 1 in self._seen:
            self._contiguous += 1
        return self._contiguous

    @property
    def highest(self) -> int:
        return max(self._seen, default=0)


Countings = dict[tuple[str, str], Counting]


class Truth:
    """What has happened, as far as it binds the box. `violations` is empty or the run has failed."""

    def __init__(self, now_s: Callable[[], float], journal: Path) -> None:
        self._now_s = now_s
        self._path = journal
        self.violations: list[str] = []
        self.sent_bodies: dict[str, set[bytes]] = {}
        self.entries: list[Entry] = []
        self.told_count = 0
        self.records: list[Record] = []
        self.by_id: dict[tuple[str, str], bytes] = {}
        self.once: dict[tuple[str, str], bytes] = {}
        """All that was ever durable on a box of this venue, an older copy of its disk put back or not."""
        self.parted = False
        """An older copy was put back, or a clone ran: the cloud may have what this box has not."""
        self.rolled_back: set[tuple[str, str]] = set()
        """What the box had and then had no more, since an older copy was put back."""
        self.refused: set[tuple[str, str]] = set()
        self.uploaded_ids: dict[tuple[str, str], bytes] = {}
        self.stored: Countings = {}
        self.uploaded: Countings = {}
        self.lost: set[tuple[str, str, int]] = set()
        self.receipts_count = 0
        self.poison: Callable[[str, str], bool] = lambda device, id: False
        """Whether the cloud takes an event in no form."""
        self.quarantined: dict[tuple[str, str], bytes] = {}
        """Events that the cloud was told to pass over, as they lie in the box's quarantine."""

    def fail(self, oracle: int, text: str) -> None:
        """Something does not hold: the oracle by its number above."""
        self.violations.append(f"oracle {oracle} at {self._now_s():.3f} s: {text}")

    # What tills report ------------------------------------------------------------------------------------------------

    def sent(self, entry: Entry) -> None:
        """A till hands these bytes to the network."""
        self.sent_bodies.setdefault(entry.device, set()).add(entry.body)

    def sent_stray(self, device: str, body: bytes) -> None:
        """A till left this behind as its will."""
        self.sent_bodies.setdefault(device, set()).add(body)

    def told(self, entry: Entry, good: bool) -> None:
        """A till was acknowledged."""
        self.told_count += 1
        self.entries.append(entry)
        if entry.kind == "refused":
            if (entry.device, sha256(entry.body).hexdigest()) not in self.refused:
                self.fail(1, f"{entry} was acknowledged, and its refusal is not on the disk")
        elif not good:
            self.fail(1, f"{entry} was refused, and is good")
        elif self.once.get((entry.device, entry.id)) != entry.body:
            self.fail(1, f"{entry} was acknowledged, and is not on the disk")
        elif (entry.device, entry.id) not in self.by_id and (entry.device, entry.id) not in self.rolled_back:
            self.fail(1, f"{entry} was acknowledged, and is not on the disk any more")

    # What lands on the box's disk -------------------------------------------------------------------------------------

    def landed(self, connection: sqlite3.Connection) -> None:
        """A commit is durable."""
        after = self.records[-1].position if self.records else 0
        for row in connection.execute(JOURNAL_ROWS, (after,)):
            self._add(Record(*row))

    def landed_elsewhere(self, connection: sqlite3.Connection) -> None:
        """A commit on a clone of the box."""
        for row in connection.execute(JOURNAL_ROWS, (0,)):
            record = Record(*row)
            self.once.setdefault((record.device, json.loads(record.event)["id"]), record.event)

    def put_back(self) -> None:
        """The box's disk is an older copy from now on: what it lacks of it is in the cloud or at the tills."""
        before = set(self.by_id)
        self.parted = True
        self.records, self.by_id, self.stored, self.lost = [], {}, {}, set()
        self.look()
        self.rolled_back |= before - set(self.by_id)

    def look(self) -> None:
        """Read what landed without having been seen: a commit that ended in a power cut."""
        if self._path.exists():
            connection = sqlite3.connect(self._path)
            try:
                self.landed(connection)
            finally:
                connection.close()

    def _add(self, record: Record) -> None:
        self.records.append(record)
        if record.device == AGENT:
            event = json.loads(record.event)
            self.once[AGENT, event["id"]] = record.event
            self._add_own(event)
            return
        if record.event not in self.sent_bodies.get(record.device, ()):
            self.fail(4, f"position {record.position} holds what {record.device} never sent")
        name = (record.device, json.loads(record.event)["id"])
        if name in self.by_id:
            self.fail(4, f"{name} is stored twice, the second time at position {record.position}")
        self.by_id[name] = self.once[name] = record.event
        if record.sequence is not None:
            _counting(self.stored, record.device, record.epoch).add((record.sequence,))

    def _add_own(self, event: dict[str, Any]) -> None:
        data = event["data"]
        if event["type"] == "nightsafe.event.refused":
            self.refused.add((data["device"], data["sha256"]))
            if data["epoch"] is not None and data["sequence"] is not None:
                self._account(data["device"], data["epoch"], (int(data["sequence"]),))
        elif event["type"] == "nightsafe.gap.lost":
            ranges = data.get("ranges", [[data["from"], data["to"]]])
            gone = [sequence for first, last in ranges for sequence in range(int(first), int(last) + 1)]
            stored = _counting(self.stored, data["device"], data["epoch"])
            if data.get("reason") == "refused":
                return  # the record of the refusal has accounted for it; it is in quarantine
            if any(stored.holds(sequence) for sequence in gone):
                self.fail(5, f"named lost, and it is there: {data}")
            self.lost.update((data["device"], data["epoch"], sequence) for sequence in gone)
            self._account(data["device"], data["epoch"], gone)

    def _account(self, device: str, epoch: str, sequences: Iterable[int]) -> None:
        found = tuple(sequences)
        _counting(self.stored, device, epoch).add(found)
        _counting(self.uploaded, device, epoch).add(found)

    # What the cloud takes ---------------------------------------------------------------------------------------------

    def appended(self, outcome: Any, rows: list[Row]) -> None:
        """The cloud's ledger has committed."""
        if not isinstance(outcome, Appended):
            return
        for row in rows[outcome.duplicate :]:
            record = msgspec.json.decode(row.text, type=wire.WireRecord)
            event = wire.event_of(record)
            seen = json.loads(event)
            name = (record.device, seen["id"])
            self.uploaded_ids[name] = event
            if name not in self.once:
                self.look()
            if self.once.get(name) != event:
                self.fail(4, f"{name} was uploaded, and is not so on the disk")
            if record.device != AGENT and "sequence" in seen:
                _counting(self.uploaded, record.device, seen["epoch"]).add((int(seen["sequence"]),))

    def passed_over(self, hole: Hole) -> None:
        """The cloud's ledger has committed a hole: of what it takes in no form, and of nothing else."""
        connection = sqlite3.connect(self._path)
        try:
            self.landed(connection)
            found = connection.execute(PASSED_OVER, (hole.rechash, hole.last - hole.first + 1)).fetchall()
        finally:
            connection.close()
        if not found and not self.parted:
            self.fail(2, f"{hole.first}-{hole.last} was declared a hole, and ends with no record of this box")
        for device, epoch, sequence, event, kept in found:
            id = json.loads(event)["id"]
            if kept is None and self.parted:
                pass  # another copy of the box has passed it over, and has it in its own quarantine
            elif not self.poison(device, id):
                self.fail(2, f"{device} {id} was declared a hole, and the cloud would take it")
            elif kept != event:
                self.fail(2, f"{device} {id} was declared a hole, and is not whole in the quarantine")
            self.quarantined[device, id] = event
            if sequence is not None:
                _counting(self.uploaded, device, epoch).add((sequence,))

    # What tills are promised ------------------------------------------------------------------------------------------

    def heard(self, client: str, topic: str, payload: bytes, retain: bool) -> None:
        """The broker takes a message; the box's receipts are held against what is true now."""
        parts = topic.split("/")
        if client != AGENT or len(parts) < 4 or parts[3] != "receipt":
            return
        self.receipts_count += 1
        receipt = json.loads(payload)
        device, epoch = parts[2], receipt["epoch"]
        if epoch is None:
            return
        stored, uploaded = _counting(self.stored, device, epoch), _counting(self.uploaded, device, epoch)
        if int(receipt["stored"]) > stored.contiguous or int(receipt["uploaded"]) > uploaded.contiguous:
            self.look()
        if int(receipt["stored"]) > stored.contiguous:
            self.fail(5, f"{topic} claims {receipt['stored']} stored of {epoch}; true is {stored.contiguous}")
        if int(receipt["uploaded"]) > uploaded.contiguous:
            self.fail(5, f"{topic} claims {receipt['uploaded']} uploaded of {epoch}; true is {uploaded.contiguous}")

    # At the end -------------------------------------------------------------------------------------------------------

    def judge(self, ledger: Path, entries: Iterable[Entry], retained: dict[str, bytes]) -> None:
        """All faults are over and everything should have drained: compare it all."""
        self.look()
        cloud = list(read_ledger(ledger))
        self._judge_disk({name for name, _ in cloud})
        self._judge_cloud(cloud)
        all_entries = list(entries)
        self._judge_entries(all_entries, {name for name, _ in cloud})
        self._judge_order(all_entries)
        self._judge_receipts(all_entries, retained)

    def _judge_disk(self, cloud: set[tuple[str, str]]) -> None:
        """Nothing that was durable has changed, or gone but to the cloud."""
        connection = sqlite3.connect(self._path)
        try:
            found = [Record(*row) for row in connection.execute(JOURNAL_ROWS, (0,))]
        finally:
            connection.close()
        here = {record.position: record.event for record in found}
        for at, record in enumerate(self.records, 1):
            if record.position != at:
                self.fail(2, f"position {at} of the journal was never there")
                return
            if here.pop(at, record.event) != record.event:
                self.fail(1, f"position {at} of the journal has changed")
            name = (record.device, json.loads(record.event)["id"])
            if at < found[0].position and name not in cloud and name not in self.quarantined:
                self.fail(1, f"position {at} of the journal was deleted, and is not in the cloud")
        if here or len(found) != self.records[-1].position - found[0].position + 1:
            self.fail(
                1, f"the journal holds {len(found)} records from {found[0].position}, not those that were durable"
            )

    def _judge_cloud(self, cloud: list[tuple[tuple[str, str], bytes]]) -> None:
        """The cloud's log, united over epochs, each id once, is the journal, byte for byte and in its order."""
        united: dict[tuple[str, str], bytes] = {}
        for name, event in cloud:
            if united.setdefault(name, event) != event:
                self.fail(2, f"the cloud has {name} with two contents")
        names = [(record.device, json.loads(record.event)["id"]) for record in self.records]
        wanted = [name for name in names if name in united or name not in self.quarantined]
        known = self.once if self.parted else set(wanted)
        missing = [name for name in wanted if name not in united]
        foreign = [name for name in united if name not in known]
        if missing or foreign or (list(united) != wanted and not self.parted):
            self.fail(
                2,
                f"the cloud's log is not the journal: missing {missing[:5]} of {len(missing)}, foreign {foreign[:5]} "
                f"of {len(foreign)}{'' if missing or foreign else ', another order'}",
            )
        for record, name in zip(self.records, names, strict=True):
            if name in united and united[name] != record.event:
                self.fail(2, f"the cloud has other bytes for {name}")
                return

    def _judge_entries(self, entries: list[Entry], cloud: set[tuple[str, str]]) -> None:
        """Every event that was acknowledged is there, and every one that was owed has been."""
        for entry in self.entries:
            name = (entry.device, entry.id)
            if entry.kind != "refused" and name not in cloud | self.quarantined.keys() | self.rolled_back:
                self.fail(1, f"{entry} was acknowledged, and is neither in the journal nor in the cloud")
        for entry in entries:
            if entry.owed:
                self.fail(3, f"{entry} was never acknowledged")
            if entry.withheld and entry.epoch is not None and not self.parted:
                lost = (entry.device, entry.epoch, entry.sequence) in self.lost
                counting = self.stored.get((entry.device, entry.epoch), Counting())
                if counting.highest > (entry.sequence or 0) and not lost:
                    self.fail(5, f"{entry} was never asked for, nor named lost")

    def _judge_order(self, entries: list[Entry]) -> None:
        """What one device sent in order stands in order; only what it sent late may stand late."""
        late = {(entry.device, entry.id) for entry in entries if entry.kind == "reused" or entry.late}
        late |= self.rolled_back
        highest: dict[tuple[str, str], int] = {}
        for record in self.records:
            if record.device == AGENT or record.sequence is None:
                continue
            if (record.device, json.loads(record.event)["id"]) in late:
                continue
            before = highest.get((record.device, record.epoch), 0)
            if record.sequence <= before:
                self.fail(2, f"{record.device}/{record.epoch}#{record.sequence} stands behind #{before}")
            highest[record.device, record.epoch] = record.sequence

    def _judge_receipts(self, entries: list[Entry], retained: dict[str, bytes]) -> None:
        """Every counting's receipt says that all is stored and in the cloud, and names no hole."""
        for (device, epoch), counting in self.stored.items():
            found = [
                receipt
                for topic in (f"pos/v1/{device}/receipt", f"pos/v1/{device}/receipt/{epoch}")
                if (receipt := json.loads(retained.get(topic, b"{}"))).get("epoch") == epoch
            ]
            if not found:
                self.fail(5, f"no receipt is retained for {device}/{epoch}")
            for receipt in found:
                told = (receipt["stored"], receipt["uploaded"], receipt["gaps"])
                if told != (str(counting.highest), str(counting.highest), []):
                    self.fail(5, f"the receipt of {device}/{epoch} says {told}; 1..{counting.highest} is true")


SEQUENCE_BITS = (1 << 40) - 1
"""Of a position in the ledger; the bits above number the stream."""


def read_ledger(path: Path) -> Iterator[tuple[tuple[str, str], bytes]]:
    """What the cloud has, epochs in order of opening: ((device, id), event); a missing sequence must be declared."""
    connection = sqlite3.connect(path)
    try:
        for number, following in connection.execute("select number, next from streams order by number").fetchall():
            rows = connection.execute(
                "select position, text from records where position between ? and ? order by position",
                (number << 40, (number + 1) << 40),
            ).fetchall()
            holes = connection.execute(
                "select first, position from holes where position between ? and ?", (number << 40, (number + 1) << 40)
            ).fetchall()
            spans = [(position & SEQUENCE_BITS,) * 2 for position, _ in rows]
            spans += [(first, position & SEQUENCE_BITS) for first, position in holes]
            at = 0
            for first, last in sorted(spans):
                assert first == at + 1, f"stream {number} lacks {at + 1}"
                at = last
            assert at == following - 1, f"stream {number} ends at {at}, next is {following}"
            for _, text in rows:
                record = msgspec.json.decode(text, type=wire.WireRecord)
                event = wire.event_of(record)
                yield (record.device, json.loads(event)["id"]), event
    finally:
        connection.close()


def _counting(countings: Countings, device: str, epoch: str) -> Counting:
    return countings.setdefault((device, epoch), Counting())
