"""What is on the box's disk and in the cloud's export, judged by code that shares nothing with either.

`Disk` follows the journal's file from kill to kill; `judge` compares it at the end with the devices' own files and with
the export.
"""

from base64 import b64decode
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

import msgspec

from agent.core.instants import to_text
from agent.tills import audit
from agent.tills.checker import Verdict, check
from tests.crash.load import Load, Told
from tests.integration.machine import Box, CloudServer

AGENT = "agent"

ROWS = (
    "select r.position, d.device, e.epoch, r.device_sequence, r.recorded_ms, r.event, r.prevhash, r.rechash"
    " from records r join device_epochs e on e.id = r.device_epoch join devices d on d.id = e.device"
    " where r.position > ? order by r.position"
)
REFUSED = (
    "select q.id, d.device, e.epoch, q.device_sequence, q.event_id"
    " from quarantine q join device_epochs e on e.id = q.device_epoch join devices d on d.id = e.device"
    " where q.id > ? order by q.id"
)


class _Event(msgspec.Struct):
    id: str


class _Line(msgspec.Struct):
    epoch: str
    sequence: str
    recordedtime: str
    device: str
    rechash: str
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: str = ""


_id = msgspec.json.Decoder(_Event).decode
_line = msgspec.json.Decoder(_Line).decode


def seal(previous: bytes, sequence: int, recordedtime: str, device: str, event: bytes) -> bytes:
    """The contract's rechash, in its own words."""
    return sha256(previous + f"{sequence:020d}\n{recordedtime}\n{device}\n".encode() + event).digest()


class Disk:
    """The journal's file as it was at each look: every look must find all that the looks before it found."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._quarantined = 0
        self.seals: list[bytes] = []
        self.events: set[tuple[str, str]] = set()
        self.refused: set[tuple[str, str]] = set()
        self._sequences: dict[tuple[str, str], set[int]] = {}
        self._contiguous: dict[tuple[str, str], int] = {}

    def look(self) -> None:
        """Read what is new, and check that the chain goes on from what was there."""
        last = len(self.seals)
        head = self.seals[-1] if self.seals else bytes(32)
        if last:
            assert self._box.rows("select rechash from records where position = ?", last) == [(head,)]
        for position, device, epoch, sequence, recorded_ms, event, prevhash, rechash in self._box.rows(ROWS, last):
            assert position == len(self.seals) + 1, f"position {position} behind {len(self.seals)}"
            assert prevhash == head, f"position {position} does not join on"
            head = seal(head, position, to_text(recorded_ms), device, event)
            assert rechash == head, f"position {position} has a wrong seal"
            self.seals.append(head)
            self._note(device, epoch, sequence, event)
        for row, device, epoch, sequence, name in self._box.rows(REFUSED, self._quarantined):
            self._quarantined = row
            self.refused.add((device, name))
            self._count(device, epoch, sequence)

    def has_all(self, told: dict[str, Told]) -> None:
        """Nothing was acknowledged, and no receipt spoke of anything, that is not here."""
        for device, what in told.items():
            missing = [
                name for name in what.ids if (device, name) not in self.events and (device, name) not in self.refused
            ]
            assert not missing, f"{device} was told of {len(missing)} events without a row, the first is {missing[0]}"
            for epoch, stored in what.receipts.items():
                there = self.contiguous(device, epoch)
                assert stored <= there, f"{device} had a receipt for {stored} of {epoch}; {there} are there"

    def contiguous(self, device: str, epoch: str) -> int:
        """The highest n such that each of 1..n is stored or refused."""
        key = (device, epoch)
        found, there = self._contiguous.get(key, 0), self._sequences.get(key, set())
        while found + 1 in there:
            found += 1
        self._contiguous[key] = found
        return found

    def _note(self, device: str, epoch: str, sequence: int | None, event: bytes) -> None:
        name = _id(event).id
        assert (device, name) not in self.events, f"{device} {name} is stored twice"
        self.events.add((device, name))
        self._count(device, epoch, sequence)

    def _count(self, device: str, epoch: str, sequence: int | None) -> None:
        if sequence is not None:
            self._sequences.setdefault((device, epoch), set()).add(sequence)


class Judgement(NamedTuple):
    """The checker's verdict, and what was exported."""

    verdict: Verdict
    exported: list[bytes]


def judge(load: Load, disk: Disk, cloud: CloudServer) -> Judgement:
    """Everything told is in the export exactly once, in journal order, with its own bytes, and nothing else is."""
    exported = cloud.export()
    assert chained(exported) == disk.seals, "the export is not the journal"
    verdict = check(audit.read_evidence(load.folder), exported)
    assert verdict.clean, "\n".join(audit.findings(verdict))
    assert verdict.told == load.told_count
    assert not load.surprises, load.surprises[:10]
    opened = [line for line in exported if b'"nightsafe.gap.opened"' in line]
    assert not opened, f"no device ever left a gap; the box saw {len(opened)}, the first: {opened[0]!r}"
    return Judgement(verdict, exported)


def chained(exported: Iterable[bytes]) -> list[bytes]:
    """The rechash of each exported record, recomputed: one epoch, sequences 1..n without holes."""
    seals: list[bytes] = []
    head, epoch = bytes(32), ""
    for at, text in enumerate(exported, start=1):
        line = _line(text)
        epoch = epoch or line.epoch
        assert line.epoch == epoch, f"line {at}: another epoch, {line.epoch}"
        assert line.sequence == f"{at:020d}", f"line {at}: sequence {line.sequence}"
        event = bytes(line.data) or b64decode(line.data_base64, validate=True)
        head = seal(head, at, line.recordedtime, line.device, event)
        assert line.rechash == head.hex(), f"line {at}: a wrong rechash"
        seals.append(head)
    return seals
