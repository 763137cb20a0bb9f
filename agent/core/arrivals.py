"""device → gate → ingest → [what arrived before?] → journal. Each device's counting: what is stored, what is missing.

Pure state without I/O: the journal folds every record into it, in journal order, and rebuilds it the same way at start.
Holes are never waited for. Never decides about content: a (device, id) seen before is the journal's business.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final, NamedTuple

from agent.core.events import Event, Refusal

TOLD_MAX: Final = 100
"""The latest holes and refused events that a receipt names, and so what is kept of them at hand."""


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

    Memory grows with the number of holes, never with the number of sequences; each call finds its place by bisection.
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
        return self._holes(0, len(self._firsts))

    def oldest_gaps(self, count: int) -> tuple[Gap, ...]:
        """The lowest `count` holes, ascending."""
        return self._holes(0, min(count, len(self._firsts)))

    def latest_gaps(self, count: int) -> tuple[Gap, ...]:
        """The highest `count` holes, ascending."""
        return self._holes(max(0, len(self._firsts) - count), len(self._firsts))

    def gaps_within(self, gap: Gap) -> tuple[Gap, ...]:
        """The holes that begin inside `gap`, ascending."""
        start = 0 if self.contiguous >= gap.first - 1 else bisect_left(self._lasts, gap.first - 1) + 1
        stop = min(bisect_right(self._lasts, gap.last - 1) + 1, len(self._firsts))
        return tuple(hole for hole in self._holes(start, stop) if gap.first <= hole.first <= gap.last)

    def _holes(self, start: int, stop: int) -> tuple[Gap, ...]:
        """The holes before the ranges `start` to `stop` - 1."""
        edges = [self.contiguous, *self._lasts] if start == 0 else self._lasts[start - 1 :]
        return tuple(Gap(edges[at] + 1, first - 1) for at, first in enumerate(self._firsts[start:stop]))

    def holds(self, sequence: int) -> bool:
        """Whether this sequence is accounted for."""
        return self.covers(sequence, sequence)

    def covers(self, first: int, last: int) -> bool:
        """Whether each of `first` to `last` is accounted for."""
        if last <= self.contiguous:
            return True
        index = bisect_right(self._firsts, first) - 1
        return index >= 0 and last <= self._lasts[index]

    def add(self, sequence: int) -> Place:
        """Account for one sequence (≥ 1) and say where it stood."""
        if sequence == self.contiguous + 1 and not self._firsts:
            self.contiguous = sequence
            return Place.NEXT
        if self.holds(sequence):
            return Place.REUSED
        highest = self.highest
        self.add_range(sequence, sequence)
        if sequence < highest:
            return Place.LATE
        return Place.NEXT if sequence == highest + 1 else Place.AHEAD

    def add_range(self, first: int, last: int) -> None:
        """Account for `first` to `last`, whatever of it was accounted for before."""
        if first > self.contiguous + 1:
            start, stop = bisect_left(self._lasts, first - 1), bisect_right(self._firsts, last + 1)
            if start < stop:
                first, last = min(first, self._firsts[start]), max(last, self._lasts[stop - 1])
            self._firsts[start:stop] = [first]
            self._lasts[start:stop] = [last]
            return
        stop = bisect_right(self._firsts, max(self.contiguous, last) + 1)
        self.contiguous = max(self.contiguous, last, *self._lasts[stop - 1 : stop] if stop else ())
        del self._firsts[:stop], self._lasts[:stop]


class OpenGaps:
    """The holes of one epoch as they were opened, with when (ms of wall time); they open in ascending order."""

    __slots__ = ("_gaps", "_opened_ms")

    def __init__(self) -> None:
        self._gaps: list[Gap] = []
        self._opened_ms: dict[Gap, int] = {}

    def __iter__(self) -> Iterator[Gap]:
        return iter(tuple(self._gaps))

    def __len__(self) -> int:
        return len(self._gaps)

    def open(self, gap: Gap, at_ms: int) -> None:
        """A hole that lies above all others."""
        self._gaps.append(gap)
        self._opened_ms[gap] = at_ms

    def at(self, sequence: int) -> Gap | None:
        """The hole that `sequence` fell into."""
        index = bisect_right(self._gaps, sequence, key=lambda gap: gap.first) - 1
        return self._gaps[index] if index >= 0 and sequence <= self._gaps[index].last else None

    def end(self, gap: Gap) -> int | None:
        """The hole is none any more; when it was opened, or None when it is not known here."""
        opened_ms = self._opened_ms.pop(gap, None)
        if opened_ms is not None:
            del self._gaps[bisect_left(self._gaps, gap)]
        return opened_ms
