"""basket → [outbox] → till → gate. The device's own memory: what happened, what was sent, what the box said it stored.

Four files of JSON lines and one small one per device, append-only, so that a killed till goes on where it was, with the
same ids, epoch and sequences, and so that a checker can judge the box later. Knows no network and reads no clock.

    events.jsonl    every event with its bytes; fsynced before it is sent for the first time
    sent.jsonl      the first time that each was handed to the network
    told.jsonl      the box acknowledged it with success; fsynced
    refused.jsonl   the box said that it never will store it; fsynced
    device.json     the epoch, commands done, whether payments are held; replaced whole

`tick` counts sendings and tellings of one device in one row: order between them is tick, never time.
"""

import fcntl
import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from agent.core.errors import NightsafeError
from agent.tills.lines import LineFile, sync_directory

APPLIED_MAX: Final = 50
"""Ids of commands done that a till remembers."""


class OutboxInUse(NightsafeError):
    """Another process works with this outbox."""


class Key(NamedTuple):
    """Names an event of one device."""

    epoch: str
    sequence: int


class Kept(msgspec.Struct, frozen=True):
    """A line of events.jsonl. `event` is the event's bytes, verbatim."""

    id: str
    epoch: str
    sequence: int
    sha256: str
    event: msgspec.Raw


class Sent(msgspec.Struct, frozen=True):
    """A line of sent.jsonl."""

    id: str
    tick: int
    at: str


class Told(msgspec.Struct, frozen=True):
    """A line of told.jsonl; `at` is wall time, for people only."""

    id: str
    epoch: str
    sequence: int
    sha256: str
    tick: int
    at: str


class Refused(msgspec.Struct, frozen=True):
    """A line of refused.jsonl."""

    id: str
    reason: str
    detail: str
    at: str


class Device(msgspec.Struct, frozen=True):
    """device.json."""

    device: str
    epoch: str
    applied: tuple[str, ...] = ()
    payments_held: bool = False


class _Place(NamedTuple):
    """Where an event lies in events.jsonl."""

    id: str
    sha256: str
    offset: int
    length: int


class Outbox:
    """One device's outbox. Used by one thread of one process, which holds its lock."""

    def __init__(self, directory: Path, device: Device, lock: int) -> None:
        """Use `open`."""
        self._lock = lock
        self._closed = False
        self._directory = directory
        self.device = device
        self._places: dict[Key, _Place] = {}
        self._untold: dict[Key, None] = {}
        self._sent: set[Key] = set()
        self._keys: dict[str, Key] = {}
        self._tick = 0
        self._lasts: dict[str, int] = {}
        self._covered: dict[str, int] = {}
        self.made_count = 0
        self.told_count = 0
        self.refused_count = 0
        self._files = {name: LineFile(directory / f"{name}.jsonl") for name in ("events", "sent", "told", "refused")}

    @classmethod
    def open(cls, directory: Path, device: str, new_epoch: str) -> Self:
        """The outbox in `directory`, as the last process left it; `new_epoch` is used only when there is none yet.

        Torn last lines are cut off. OutboxDamaged when a line before the last cannot be read, OutboxInUse when another
        process has it open.
        """
        directory.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory)
        path = directory / "device.json"
        if path.exists():
            outbox = cls(directory, msgspec.json.decode(path.read_bytes(), type=Device), lock)
        else:
            outbox = cls(directory, Device(device=device, epoch=new_epoch), lock)
            outbox._replace_device()
        outbox._load()
        return outbox

    @property
    def last(self) -> int:
        """The highest sequence given in the present epoch; 0 before the first."""
        return self._lasts.get(self.device.epoch, 0)

    @property
    def untold(self) -> tuple[Key, ...]:
        """Every event that the box has neither acknowledged nor refused, in the order in which it happened."""
        return tuple(self._untold)

    @property
    def untold_count(self) -> int:
        return len(self._untold)

    def keep(self, events: Iterable[tuple[str, int, bytes]]) -> list[Key]:
        """Put (id, sequence, bytes) on disk, in the present epoch; on return they survive a power cut."""
        lines: list[Kept] = []
        keys: list[Key] = []
        for id, sequence, event in events:
            if sequence != self.last + len(lines) + 1:
                raise ValueError(f"The next sequence of {self.device.device} is {self.last + 1}, not {sequence}.")
            line = Kept(id, self.device.epoch, sequence, sha256(event).hexdigest(), msgspec.Raw(event))
            lines.append(line)
            keys.append(Key(line.epoch, sequence))
        for line, (offset, length) in zip(lines, self._files["events"].append(lines, durable=True), strict=True):
            self._note_kept(line, offset, length)
        return keys

    def id_of(self, key: Key) -> str | None:
        """The event's id, or None when the outbox no longer keeps it."""
        place = self._places.get(key)
        return place.id if place else None

    def event(self, key: Key) -> bytes | None:
        """The event's bytes, or None when the outbox no longer keeps it."""
        place = self._places.get(key)
        if place is None:
            return None
        line = self._files["events"].read(place.offset, place.length)
        return bytes(msgspec.json.decode(line, type=Kept).event)

    def mark_sent(self, key: Key, at: str) -> bool:
        """The event is about to be handed to the network; True, and a line, for the first time only."""
        if key in self._sent or key not in self._places:
            return False
        self._tick += 1
        self._files["sent"].append([Sent(self._places[key].id, self._tick, at)], durable=False)
        self._sent.add(key)
        return True

    def mark_told(self, keys: Iterable[Key], at: str) -> None:
        """The box acknowledged these with success. On return the outbox remembers, whatever happens."""
        lines = []
        for key in keys:
            if key in self._untold:
                self._tick += 1
                place = self._places[key]
                lines.append(Told(place.id, key.epoch, key.sequence, place.sha256, self._tick, at))
                self._note_told(key)
        if lines:
            self._files["told"].append(lines, durable=True)

    def mark_refused(self, id: str, reason: str, detail: str, at: str) -> bool:
        """The box said that it will never store this one. False when that is known, or the id is not ours."""
        key = self._keys.get(id)
        if key is None:
            return False
        self._files["refused"].append([Refused(id, reason, detail, at)], durable=True)
        self._note_refused(key, id)
        return True

    def cover(self, epoch: str, uploaded: int) -> None:
        """The cloud has 1..`uploaded` of `epoch`: those need not be kept for a resend any more."""
        start = self._covered.get(epoch, 0) + 1
        for sequence in range(start, min(uploaded, self._lasts.get(epoch, 0)) + 1):
            key = Key(epoch, sequence)
            if key not in self._untold:
                place = self._places.pop(key, None)
                if place is not None:
                    self._keys.pop(place.id, None)
                    self._sent.discard(key)
        self._covered[epoch] = max(min(uploaded, self._lasts.get(epoch, 0)), start - 1)

    def kept(self, epoch: str, first: int, last: int) -> list[Key]:
        """The events of a range that a resend can still bring."""
        return sorted(key for key in self._places if key.epoch == epoch and first <= key.sequence <= last)

    def remember(self, *, applied: Iterable[str] = (), payments_held: bool | None = None) -> None:
        """Commands done, and whether payments are held, for the next process too."""
        old = self.device
        held = old.payments_held if payments_held is None else payments_held
        self.device = Device(old.device, old.epoch, (*old.applied, *applied)[-APPLIED_MAX:], held)
        self._replace_device()

    def new_epoch(self, epoch: str) -> None:
        """Start counting afresh, as after a reinstall. What was not told keeps its old epoch and is still sent."""
        self.device = Device(self.device.device, epoch, self.device.applied, self.device.payments_held)
        self._replace_device()

    def close(self) -> None:
        """Release the folder. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        for lines in self._files.values():
            lines.close()
        os.close(self._lock)

    def _load(self) -> None:
        for line, offset, length in self._files["events"].lines(Kept):
            self._note_kept(line, offset, length)
        for sent, _, _ in self._files["sent"].lines(Sent):
            self._tick = max(self._tick, sent.tick)
            if sent.id in self._keys:
                self._sent.add(self._keys[sent.id])
        for told, _, _ in self._files["told"].lines(Told):
            self._tick = max(self._tick, told.tick)
            self._note_told(Key(told.epoch, told.sequence))
        for refused, _, _ in self._files["refused"].lines(Refused):
            if refused.id in self._keys:
                self._note_refused(self._keys[refused.id], refused.id)

    def _note_kept(self, line: Kept, offset: int, length: int) -> None:
        key = Key(line.epoch, line.sequence)
        self._places[key] = _Place(line.id, line.sha256, offset, length)
        self._keys[line.id] = key
        self._untold[key] = None
        self._lasts[line.epoch] = max(line.sequence, self._lasts.get(line.epoch, 0))
        self.made_count += 1

    def _note_told(self, key: Key) -> None:
        if key in self._untold:
            del self._untold[key]
            self.told_count += 1

    def _note_refused(self, key: Key, id: str) -> None:
        self._untold.pop(key, None)
        self._places.pop(key, None)
        self._keys.pop(id, None)
        self.refused_count += 1

    def _replace_device(self) -> None:
        path = self._directory / "device.json"
        fresh = path.with_suffix(".fresh")
        with open(fresh, "wb") as file:
            file.write(msgspec.json.encode(self.device))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        sync_directory(self._directory)


def _lock(directory: Path) -> int:
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        text = f"Another process works with the outbox in {directory}."
        raise OutboxInUse("outbox_in_use", text, "End it first, or choose another folder.") from error
    return lock
