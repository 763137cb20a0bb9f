"""device → gate → ingest → [what arrived before?] → journal. Each device's counting: what is stored, what is missing.

Pure state without I/O: the journal folds every record into it, in journal order, and rebuilds it the same way at start.
Holes are never waited for. Never decides about content: a (device, id) seen before is the journal's business.
"""

from bisect import bisect_left, bisect_right, insort
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


class Announced(NamedTuple):
    """A device says that it has counted up to `last` in `epoch`, and that nothing of it is under way any more."""

    device: str
    epoch: str
    last: int


class Asked(NamedTuple):
    """The command by which the hole of a device's epoch that begins at `first` is asked for."""

    device: str
    epoch: str
    first: int
    command: str


class GivenUp(NamedTuple):
    """The device cannot fill the hole of its epoch that begins at `first`: what is missing of it is lost."""

    device: str
    epoch: str
    first: int


class Outcome(Enum):
    """What became of an item, known after its commit. UNSTORED: nothing is on disk, nothing may be acknowledged."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNSTORED = "unstored"


Item = Event | Refusal | Own | Announced | Asked | GivenUp
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

    A device may also have said how far it has counted: what is missing up to there is a hole like any other.
    Memory grows with the number of holes, never with the number of sequences; each call finds its place by bisection.
    """

    __slots__ = ("_expected", "_firsts", "_lasts", "contiguous")

    def __init__(self, contiguous: int = 0, ranges: tuple[tuple[int, int], ...] = ()) -> None:
        self.contiguous = contiguous
        self._firsts = [first for first, _ in ranges]
        self._lasts = [last for _, last in ranges]
        self._expected = 0

    @property
    def highest(self) -> int:
        """The highest sequence seen or announced, 0 before the first."""
        return max(self._seen, self._expected)

    @property
    def _seen(self) -> int:
        return self._lasts[-1] if self._lasts else self.contiguous

    def expect(self, last: int) -> Gap | None:
        """Sequences up to `last` are known to exist. The hole that this is news of, or None."""
        highest = self.highest
        if last <= highest:
            return None
        self._expected = last
        return Gap(highest + 1, last)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """What is accounted for beyond `contiguous`, ascending and disjoint."""
        return tuple(zip(self._firsts, self._lasts, strict=True))

    def gaps(self) -> tuple[Gap, ...]:
        """The holes up to `highest`, ascending."""
        return self._holes(0, self._count)

    def oldest_gaps(self, count: int) -> tuple[Gap, ...]:
        """The lowest `count` holes, ascending."""
        return self._holes(0, min(count, self._count))

    def latest_gaps(self, count: int) -> tuple[Gap, ...]:
        """The highest `count` holes, ascending."""
        return self._holes(max(0, self._count - count), self._count)

    def gaps_within(self, gap: Gap, count: int) -> tuple[Gap, ...]:
        """What of `gap` is not accounted for, ascending; the lowest `count` parts of it."""
        start = bisect_right(self._firsts, gap.first)
        stop = min(bisect_right(self._lasts, gap.last - 1) + 1, self._count, start + count + 1)
        clipped = (Gap(max(first, gap.first), min(last, gap.last)) for first, last in self._holes(start, stop))
        return tuple(hole for hole in clipped if hole.first <= hole.last)[:count]

    def missing_of(self, gap: Gap) -> Gap | None:
        """From the lowest to the highest sequence of `gap` that is not accounted for; None when all are."""
        first, last = max(gap.first, self.contiguous + 1), gap.last
        below = bisect_right(self._firsts, first) - 1
        if below >= 0:
            first = max(first, self._lasts[below] + 1)
        above = bisect_left(self._lasts, last)
        if above < len(self._firsts):
            last = min(last, self._firsts[above] - 1)
        return Gap(first, last) if first <= last else None

    @property
    def _count(self) -> int:
        """How many holes there are: one before each range, and the announced one behind them."""
        return len(self._firsts) + (self._expected > self._seen)

    def _holes(self, start: int, stop: int) -> tuple[Gap, ...]:
        """The holes `start` to `stop` - 1."""
        edges = [self.contiguous, *self._lasts] if start == 0 else self._lasts[start - 1 :]
        firsts = self._firsts[start:stop]
        if start <= len(self._firsts) < stop:
            firsts.append(self._expected + 1)
        return tuple(Gap(edges[at] + 1, first - 1) for at, first in enumerate(firsts))

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
        if sequence == self.contiguous + 1 and not self._firsts and sequence > self._expected:
            self.contiguous = sequence
            return Place.NEXT
        if self.holds(sequence):
            return Place.REUSED
        highest = self.highest
        self.add_range(sequence, sequence)
        if sequence <= highest:
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

    def take_out(self, first: int, last: int) -> None:
        """Account no more for `first` to `last`: they are a hole again, the highest ones too."""
        self._expected = self.highest
        spans = [(1, self.contiguous), *self.ranges()] if self.contiguous else list(self.ranges())
        parts = [part for low, high in spans for part in ((low, min(high, first - 1)), (max(low, last + 1), high))]
        left = [part for part in parts if part[0] <= part[1]]
        self.contiguous = left.pop(0)[1] if left and left[0][0] == 1 else 0
        self._firsts = [low for low, _ in left]
        self._lasts = [high for _, high in left]


class Hole:
    """A hole as it was found. `opened_s` counts the seconds that the box has run, over restarts and boots.

    `command` is the one by which it is asked for; `came_count` is how much of it has come since this process knows it.
    """

    __slots__ = ("came_count", "command", "gap", "opened_ms", "opened_s")

    def __init__(self, gap: Gap, opened_ms: int, opened_s: float, command: str | None = None) -> None:
        self.gap = gap
        self.opened_ms = opened_ms
        self.opened_s = opened_s
        self.command = command
        self.came_count = 0


class Holes:
    """Holes of one epoch that do not overlap, found by any of their sequences.

    `events_count` is how many sequences they span, `newest_s` when the newest that was ever here was opened.
    """

    __slots__ = ("_holes", "events_count", "newest_s")

    def __init__(self) -> None:
        self._holes: list[Hole] = []
        self.events_count = 0
        self.newest_s = 0.0

    def __iter__(self) -> Iterator[Hole]:
        return iter(tuple(self._holes))

    def __len__(self) -> int:
        return len(self._holes)

    def lowest(self, count: int, behind: int = 0) -> list[Hole]:
        """The lowest `count` of those that begin behind the sequence `behind`, ascending."""
        at = bisect_right(self._holes, behind, key=_first) if behind else 0
        return self._holes[at : at + count]

    def latest(self, count: int) -> list[Hole]:
        """The highest `count`, ascending."""
        return self._holes[-count:]

    @property
    def highest(self) -> int:
        """The last sequence of the highest one, 0 without any."""
        return self._holes[-1].gap.last if self._holes else 0

    def at_or_below(self, sequence: int) -> Hole | None:
        """The lowest one, if it begins at `sequence` or below."""
        return self._holes[0] if self._holes and self._holes[0].gap.first <= sequence else None

    def add(self, hole: Hole) -> None:
        """One more, which overlaps no other."""
        insort(self._holes, hole, key=_place)
        self.events_count += hole.gap.last - hole.gap.first + 1
        self.newest_s = max(self.newest_s, hole.opened_s)

    def at(self, sequence: int) -> Hole | None:
        """The hole that `sequence` fell into."""
        index = bisect_right(self._holes, sequence, key=_first) - 1
        return self._holes[index] if index >= 0 and sequence <= self._holes[index].gap.last else None

    def remove(self, hole: Hole) -> None:
        """It is none any more."""
        at = bisect_left(self._holes, hole.gap, key=_place)
        if at < len(self._holes) and self._holes[at] is hole:
            del self._holes[at]
            self.events_count -= hole.gap.last - hole.gap.first + 1


def _first(hole: Hole) -> int:
    return hole.gap.first


def _place(hole: Hole) -> Gap:
    return hole.gap


class OpenGap(NamedTuple):
    """A hole as it may be told after a commit: `first` to `last` as found, and what of it is missing still."""

    device: str
    epoch: str
    first: int
    last: int
    missing_first: int
    missing_last: int
    came_count: int
    opened_s: float
    command: str | None


class Loss(NamedTuple):
    """What of one device's epoch was declared lost and has not come since, as it may be told after a commit.

    `lowest` is the first sequence of it, `latest` the highest ranges; `at_s` is when the newest was declared, in
    seconds that the box has run.
    """

    device: str
    epoch: str
    events_count: int
    ranges_count: int
    lowest: int
    latest: tuple[Gap, ...]
    at_s: float
