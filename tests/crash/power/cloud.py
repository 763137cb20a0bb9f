"""journal → drain → [a cloud in memory] → judgement. What the reference cloud checks of a stream, and nothing else.

It is the drain's port, without a network between. Every seal is worked out again from the contract's words. It keeps
what it took in order, so that it can be had again as it was at any time before.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from agent.core.answers import BatchAnswer, CloudRefused, Refusal, StreamState
from agent.core.lineage import Parent
from tests.crash.judge import seal

RECORDS_MAX, BYTES_MAX = 1000, 8_000_000
ORIGIN = bytes(32)


class Record(Protocol):
    """A record as the journal's reader has it."""

    @property
    def sequence(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def recordedtime(self) -> str: ...
    @property
    def prevhash(self) -> bytes: ...
    @property
    def rechash(self) -> bytes: ...
    @property
    def event(self) -> bytes: ...


class Named(Protocol):
    """A stream as the box opens it."""

    @property
    def epoch(self) -> str: ...
    @property
    def parent(self) -> Parent | None: ...


class Opening(NamedTuple):
    """A stream that was opened; of `parent`, where it has one."""

    epoch: str
    parent: Parent | None


class Taken(NamedTuple):
    """A record that is there; of a hole that was declared, its last one's seal alone."""

    epoch: str
    sequence: int
    rechash: bytes
    device: str
    event: bytes


Act = Opening | Taken


class _Line(msgspec.Struct):
    epoch: str
    sequence: str
    device: str
    data: msgspec.Raw


_line = msgspec.json.Decoder(_Line).decode


class Cloud:
    """`acts` is all that it ever took, in order; `refusals` what it would not take, which no honest box is told."""

    def __init__(self, acts: Sequence[Act] = ()) -> None:
        self.acts: list[Act] = []
        self.refusals: list[str] = []
        self._seals: dict[str, dict[int, bytes]] = {}
        self._last: dict[str, int] = {}
        for act in acts:
            self._note(act)

    def records(self) -> list[Taken]:
        """What an export would hold, in the order in which it came."""
        return [act for act in self.acts if isinstance(act, Taken) and act.device]

    def seal_of(self, epoch: str, sequence: int) -> bytes | None:
        """The seal at `sequence`, if a record or a hole ends there."""
        return self._seals.get(epoch, {}).get(sequence)

    def _note(self, act: Act) -> None:
        self.acts.append(act)
        if isinstance(act, Opening):
            self._seals[act.epoch] = {0: act.parent.rechash if act.parent is not None else ORIGIN}
            self._last[act.epoch] = 0
        else:
            self._seals[act.epoch][act.sequence] = act.rechash
            self._last[act.epoch] = act.sequence

    def _refuse(self, status: int, kind: str, words: str) -> CloudRefused:
        self.refusals.append(words)
        return CloudRefused(Refusal(status, f"urn:nightsafe:{kind}", words))

    # The drain's port -------------------------------------------------------------------------------------------------

    async def stream(self, epoch: str) -> StreamState:
        if epoch not in self._last:
            raise CloudRefused(Refusal(404, "urn:nightsafe:no-stream"))
        last = self._last[epoch]
        return StreamState(last + 1, self._seals[epoch][last], last, True, RECORDS_MAX, BYTES_MAX, 0.0)

    async def open_stream(self, stream: Named) -> StreamState:
        if stream.epoch not in self._last:
            parent = stream.parent
            if parent is not None and self.seal_of(parent.epoch, parent.sequence) != parent.rechash:
                raise self._refuse(409, "no-parent", f"{stream.epoch} continues {parent}, which is not here")
            self._note(Opening(stream.epoch, parent))
        return await self.stream(stream.epoch)

    async def hash_at(self, epoch: str, sequence: int) -> bytes | None:
        return self.seal_of(epoch, sequence)

    async def prepare(self, epoch: str, records: Sequence[Record], *, gzip: bool, base64: bool) -> Sequence[Record]:
        return records

    def travel_bytes(self, batch: object) -> int:
        return 1000

    async def put(self, epoch: str, batch: Sequence[Record]) -> BatchAnswer:
        following = self._last[epoch] + 1
        first = batch[0]
        if first.sequence > following:
            raise self._refuse(409, "gap", f"{first.sequence} was sent where {following} should")
        if self.seal_of(epoch, first.sequence - 1) != first.prevhash:
            raise self._refuse(409, "conflict", f"{first.sequence} does not join on")
        head = first.prevhash
        for sequence, record in enumerate(batch, start=first.sequence):
            head = seal(head, sequence, record.recordedtime, record.device, record.event)
            if sequence != record.sequence or head != record.rechash:
                raise self._refuse(400, "malformed", f"{sequence} has a wrong seal or number")
            if sequence >= following:
                self._note(Taken(epoch, sequence, head, record.device, record.event))
            elif self.seal_of(epoch, sequence) != head:
                raise self._refuse(409, "conflict", f"{sequence} is another record here")
        state = await self.stream(epoch)
        duplicate = max(0, min(len(batch), following - first.sequence))
        return BatchAnswer(state.next, state.head, state.safe, len(batch) - duplicate, duplicate, ())

    async def put_hole(
        self, epoch: str, first: int, last: int, prevhash: bytes, rechash: bytes, reason: str
    ) -> StreamState:
        if first != self._last[epoch] + 1 or self.seal_of(epoch, first - 1) != prevhash:
            raise self._refuse(409, "gap", f"a hole {first}-{last} does not join on")
        self._note(Taken(epoch, last, rechash, "", b""))
        return await self.stream(epoch)

    def read_token(self) -> None:
        """There is none."""


def acts_of(ledger: Path) -> list[Act]:
    """What a night's real cloud took, from its ledger: one stream without holes."""
    acts: list[Act] = []
    connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
    try:
        rows = connection.execute("select rechash, text from records order by position").fetchall()
    finally:
        connection.close()
    for rechash, text in rows:
        line = _line(text)
        if not acts:
            acts.append(Opening(line.epoch, None))
        acts.append(Taken(line.epoch, int(line.sequence), rechash, line.device, bytes(line.data)))
    return acts
