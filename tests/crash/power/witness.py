"""tape → [what somebody outside saw] → examination. Reads the notes: what devices made, sent and were told, and when.

Up to any place of the tape it knows what the box had promised by then. It knows nothing of the disk.
"""

from pathlib import PurePosixPath
from typing import NamedTuple

import msgspec

from tests.crash.power.tape import Op

CLOUD = "cloud"
"""The witness that stands at the cloud's door; all others are devices."""


class Sent(NamedTuple):
    """An event that a device had handed to the network. `bad`: the box must refuse it."""

    device: str
    id: str
    epoch: str
    sequence: int
    body: bytes
    bad: bool


class Key(NamedTuple):
    """Names an event."""

    device: str
    id: str


class _Kept(msgspec.Struct):
    id: str
    epoch: str
    sequence: int
    event: msgspec.Raw


class _Named(msgspec.Struct):
    id: str


class _Upload(msgspec.Struct):
    last: int


_kept, _named = msgspec.json.Decoder(_Kept).decode, msgspec.json.Decoder(_Named).decode
_upload = msgspec.json.Decoder(_Upload).decode


class Witness:
    """Give it each record of a tape with `take`."""

    def __init__(self) -> None:
        self._made: dict[Key, Sent] = {}
        self._rest: dict[str, bytes] = {}
        self.sent: dict[Key, Sent] = {}
        self.told: dict[Key, None] = {}
        self.uploaded = 0
        """The highest sequence of an upload that had arrived at the cloud's door."""
        self.spoiled: set[int] = set()
        """Positions of records that were damaged on purpose: the agent's sweep has to look there."""

    def take(self, op: Op) -> None:
        """The next record."""
        if op.kind != "note":
            return
        place = PurePosixPath(op.path)
        lines = (self._rest.pop(op.path, b"") + op.data).split(b"\n")
        if lines[-1]:
            self._rest[op.path] = lines[-1]
        for line in lines[:-1]:
            self._line(place.parent.name, place.stem, line)

    def _line(self, who: str, what: str, line: bytes) -> None:
        if who == CLOUD:
            self.uploaded = max(self.uploaded, _upload(line).last)
            return
        if what == "events":
            kept = _kept(line)
            body = bytes(kept.event)
            bad = b"nightsafe.forged" in body
            self._made[Key(who, kept.id)] = Sent(who, kept.id, kept.epoch, kept.sequence, body, bad)
            return
        key = Key(who, _named(line).id)
        if what == "sent":
            self.sent[key] = self._made[key]
        elif what in ("told", "refused"):
            self.told[key] = None

    def note_sent(self, sent: Sent) -> None:
        """For who sends without a tape."""
        self.sent[Key(sent.device, sent.id)] = sent

    def note_told(self, key: Key) -> None:
        """For who sends without a tape."""
        self.told[key] = None

    @property
    def untold(self) -> list[Sent]:
        """What devices would send again, each in its own order."""
        return [sent for key, sent in self.sent.items() if key not in self.told]
