"""device → gate → ingest → [what arrived before?] → journal. Each device's counting: what is stored, what is missing.

Pure state without I/O: the journal folds every record into it, in journal order, and rebuilds it the same way at start.
Holes are never waited for. Never decides about content: a (device, id) seen before is the journal's business.
"""

from bisect import bisect_right
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from agent.core.events import Event, Refusal


class Own(NamedTuple):
    """An event of the box itself, to be recorded as device `agent`."""

    type: str
    data: dict[str, Any]


class Outcome(Enum):
    """What became of an item, known after its commit. UNSTORED: nothing is on disk, nothing may be acknowledged."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNSTORED = "unstored"


Item = Event | Refusal | Own
Settle = Callable[[Item, Outcome], None]


class Receipt(NamedTuple):
    """What a device may be told of one of its epochs. `stored` and `uploaded` are contiguous, None without an epoch.

    `refused` holds (id, sequence, reason, detail), the latest last.
    """

    device: str
    epoch: str | None
    newest: bool
    stored: int | None
    uploaded: int | None
    gaps: tuple[tuple[int, int], ...]
    refused: tuple[tuple[str | None, int | None, str, str], ...]


class Place(Enum):
    """Where a sequence stands in its device's counting."""

    NEXT = "next"
    LATE = "late"
    AHEAD = "ahead"
    REUSED = "reused"


class Gap(NamedTuple):
    """Sequences `first` to `last` of one device epoch that never came."""

    first: int
    last: int


class Tally:
    """Which sequences 1, 2, 3 … of one epoch are accounted for: a contiguous start, and ranges beyond it.

    Memory grows with the number of holes, never with the number of sequences.
    """

    __slots__ = ("_firsts", "_lasts", "contiguous")

    def __init__(self, contiguous: int = 0, ranges: tuple[tuple[int, int], ...] = ()) -> None:
        self.contiguous = contiguous
        self._firsts = [first for first, _ in ranges]
        self._lasts = [last for _, last in ranges]

    @property
    def highest(self) -> int:
        """The highest sequence seen, 0 before the first."""
        return self._lasts[-1] if self._lasts else self.contiguous

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """What is accounted for beyond `contiguous`, ascending and disjoint."""
        return tuple(zip(self._firsts, self._lasts, strict=True))

    def gaps(self) -> tuple[Gap, ...]:
        """The holes below `highest`, ascending."""
        edge, found = self.contiguous, []
        for first, last in zip(self._firsts, self._lasts, strict=True):
            found.append(Gap(edge + 1, first - 1))
            edge = last
        return tuple(found)

    def holds(self, sequence: int) -> bool:
        """Whether this sequence is accounted for."""
        if sequence <= self.contiguous:
            return True
        index = bisect_right(self._firsts, sequence) - 1
        return index >= 0 and sequence <= self._lasts[index]

    def add(self, sequence: int) -> Place:
        """Account for one sequence (≥ 1) and say where it stood."""
        if sequence == self.contiguous + 1 and not self._firsts:
            self.contiguous = sequence
            return Place.NEXT
        if self.holds(sequence):
            return Place.REUSED
        place = Place.LATE if sequence < self.highest else Place.NEXT
        if place is Place.NEXT and sequence > self.highest + 1:
            place = Place.AHEAD
        self.add_range(sequence, sequence)
        return place

    def add_range(self, first: int, last: int) -> None:
        """Account for `first` to `last`, whatever of it was accounted for before."""
        merged: list[tuple[int, int]] = []
        for low, high in [(1, self.contiguous), *self.ranges()]:
            if high + 1 < first or low > last + 1:
                merged.append((low, high))
            else:
                first, last = min(low, first), max(high, last)
        merged = sorted([*(pair for pair in merged if pair[1] >= pair[0]), (first, last)])
        self.contiguous = merged.pop(0)[1] if merged[0][0] == 1 else 0
        self._firsts = [low for low, _ in merged]
        self._lasts = [high for _, high in merged]
