"""tills' files + cloud's export → [checker] → verdict. Judges whether anything was lost, doubled, reordered or altered.

Pure: it gets what the tills wrote and what the cloud exported, and says which events break which promise. It trusts
neither the box nor the tills' memory, and it knows no reason that would excuse a finding.

    lost       told (acknowledged with success), but neither in the export nor reported there as refused
    doubled    the same (device, id) more than once in the export, in whatever epoch of the cloud
    reordered  the export's sequences are not 1, 2, 3 … within a cloud epoch; or of two events of one device the later
               stands first, although the till had heard that the earlier was stored before it sent the later
    altered    the bytes in the export are not the bytes that the till keeps
    phantom    in the export, but no till ever made it (records of the box itself, device `agent`, are none)
"""

from base64 import b64decode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

OWN_DEVICE: Final = "agent"
"""The box's own records carry this device."""
REFUSED_TYPE: Final = "nightsafe.event.refused"
NAMED_MAX: Final = 20
"""Findings of one kind that a verdict names; all are counted."""


class Made(NamedTuple):
    """An event as its till keeps it. `sent_tick` is None while it was never handed to the network."""

    sha256: str
    sent_tick: int | None


class Evidence(NamedTuple):
    """One till's own files, by event id. Ticks count sendings and tellings of that till in one row."""

    device: str
    made: Mapping[str, Made]
    told: Mapping[str, int]
    refused: frozenset[str]


class Finding(msgspec.Struct, frozen=True):
    """One event that breaks a promise, and where it stands."""

    device: str
    id: str
    where: str


class Findings(msgspec.Struct, frozen=True):
    """All of one kind: how many, and the first of them by name."""

    count: int = 0
    first: tuple[Finding, ...] = ()


class Verdict(msgspec.Struct, frozen=True):
    """What the comparison found. `in_cloud` counts the tills' events in the export once each."""

    told: int
    refused: int
    in_cloud: int
    records: int
    lost: Findings
    doubled: Findings
    reordered: Findings
    altered: Findings
    phantom: Findings

    @property
    def clean(self) -> bool:
        """True when no promise is broken. Says nothing about whether anything was told at all."""
        kinds = (self.lost, self.doubled, self.reordered, self.altered, self.phantom)
        return not any(kind.count for kind in kinds)


class ExportUnreadable(ValueError):
    """A line of the export is not a record of the contract."""


class _Record(msgspec.Struct):
    """What the judgement needs of an exported record; `data` stays as the raw text."""

    id: str
    epoch: str
    sequence: str
    device: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | msgspec.UnsetType = msgspec.UNSET


class _RefusedData(msgspec.Struct):
    device: str | None = None
    id: str | None = None


class _OwnEvent(msgspec.Struct):
    """One of the box's own events, as far as it speaks of a device's event."""

    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


def check(evidence: Iterable[Evidence], export: Iterable[bytes | str]) -> Verdict:
    """Judge the lines of `nightsafe cloud export` against the tills' files. ExportUnreadable for anything else."""
    tills = {till.device: till for till in evidence}
    judge = _Judge(tills)
    for number, line in enumerate(export, start=1):
        judge.see(number, line)
    return judge.verdict()


class _Tally:
    """Counts one kind of finding and names the first few."""

    def __init__(self) -> None:
        self._count = 0
        self._first: list[Finding] = []

    def add(self, device: str, id: str, where: str) -> None:
        self._count += 1
        if len(self._first) < NAMED_MAX:
            self._first.append(Finding(device, id, where))

    def findings(self) -> Findings:
        return Findings(self._count, tuple(self._first))


class _Judge:
    """Reads the export once, from top to bottom."""

    def __init__(self, tills: Mapping[str, Evidence]) -> None:
        self._tills = tills
        self._seen: dict[str, set[str]] = {device: set() for device in tills}
        self._strangers: set[tuple[str, str]] = set()
        self._last_in_epoch: dict[str, int] = {}
        self._epoch = ""
        self._sent_tick_max: dict[str, int] = {}
        self._refused_by_box: set[tuple[str, str]] = set()
        self._records = 0
        self._doubled, self._reordered, self._altered, self._phantom = _Tally(), _Tally(), _Tally(), _Tally()

    def see(self, number: int, line: bytes | str) -> None:
        """One line of the export."""
        record, event = _read(number, line)
        where = f"line {number}, sequence {record.sequence}"
        self._records += 1
        id = record.id.removeprefix(f"{record.device}/")
        self._see_sequence(record, id, where)
        if record.device == OWN_DEVICE:
            self._see_own(event)
            return
        till = self._tills.get(record.device)
        made = till.made.get(id) if till else None
        if till is None or made is None:
            self._see_stranger(record.device, id, where)
            return
        if id in self._seen[till.device]:
            self._doubled.add(till.device, id, where)
            return
        self._seen[till.device].add(id)
        if sha256(event).hexdigest() != made.sha256:
            self._altered.add(till.device, id, where)
        self._see_order(till, id, made, where)

    def verdict(self) -> Verdict:
        lost = _Tally()
        for till in self._tills.values():
            for id in till.told:
                if id not in self._seen[till.device] and (till.device, id) not in self._refused_by_box:
                    lost.add(till.device, id, "told, but not in the export")
        return Verdict(
            told=sum(len(till.told) for till in self._tills.values()),
            refused=sum(len(till.refused) for till in self._tills.values()),
            in_cloud=sum(len(seen) for seen in self._seen.values()),
            records=self._records,
            lost=lost.findings(),
            doubled=self._doubled.findings(),
            reordered=self._reordered.findings(),
            altered=self._altered.findings(),
            phantom=self._phantom.findings(),
        )

    def _see_sequence(self, record: _Record, id: str, where: str) -> None:
        """Within a cloud epoch the journal counts 1, 2, 3 …, and an epoch stands in one piece."""
        known = record.epoch in self._last_in_epoch
        broken_off = known and record.epoch != self._epoch
        sequence = int(record.sequence)
        if broken_off or sequence != self._last_in_epoch.get(record.epoch, 0) + 1:
            self._reordered.add(record.device, id, f"{where}, after {self._last_in_epoch.get(record.epoch, 0)}")
        self._epoch = record.epoch
        self._last_in_epoch[record.epoch] = sequence

    def _see_order(self, till: Evidence, id: str, made: Made, where: str) -> None:
        """What was told before another was sent must stand before it; anything above that was sent later is a swap."""
        told_tick = till.told.get(id)
        latest = self._sent_tick_max.get(till.device, 0)
        if told_tick is not None and told_tick < latest:
            self._reordered.add(till.device, id, f"{where}, behind an event sent after this one was told")
        if made.sent_tick is not None:
            self._sent_tick_max[till.device] = max(latest, made.sent_tick)

    def _see_stranger(self, device: str, id: str, where: str) -> None:
        if (device, id) in self._strangers:
            self._doubled.add(device, id, where)
            return
        self._strangers.add((device, id))
        self._phantom.add(device, id, where)

    def _see_own(self, event: bytes) -> None:
        """A record of the box itself; the one that reports a refusal accounts for an event."""
        own = msgspec.json.decode(event, type=_OwnEvent)
        if own.type != REFUSED_TYPE:
            return
        data = msgspec.json.decode(own.data, type=_RefusedData)
        if data.device is not None and data.id is not None:
            self._refused_by_box.add((data.device, data.id))


def _read(number: int, line: bytes | str) -> tuple[_Record, bytes]:
    """A record and its event's bytes, cut out of the raw text. ExportUnreadable when it is no record."""
    try:
        record = msgspec.json.decode(line, type=_Record)
        if isinstance(record.data, msgspec.Raw):
            event = bytes(record.data)
        elif isinstance(record.data_base64, str):
            event = b64decode(record.data_base64, validate=True)
        else:
            raise ValueError("neither data nor data_base64")
        int(record.sequence)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ExportUnreadable(f"Line {number} of the export is no record: {error}.") from error
    return record, event
