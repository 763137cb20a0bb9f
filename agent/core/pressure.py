"""free space → [pressure: how much may still be taken] → gate, journal, page. Levels, and hours until the disk is full.

Pure. QoS 1 and 2 are taken until the level is `refuse`, which comes before the disk is really full: what the drain and
the deletions write still has room then. Never decides what is deleted.
"""

from collections import deque
from enum import IntEnum
from typing import Final, NamedTuple

RELIEF: Final = 1.25
"""A level ends only when there is this much more room than where it began, so that it does not come and go."""
JOURNAL_SHED_SHARE: Final = 8
JOURNAL_REFUSE_SHARE: Final = 32
"""Of a small `bytes_max` at most this part (an eighth, a thirty-second) is kept free, however large the thresholds."""
TELEMETRY: Final = frozenset({"nightsafe.condition.raised", "nightsafe.condition.cleared"})
"""The box's own records that may be left out when room is short: no sale, no loss, no answer and no audit hangs on
them. What a person has ended is written in a transaction of its own, and is not asked for here."""
SPAN_MAX_S: Final = 3_900.0
"""How far back growth is measured, in seconds that the box has run."""
SPAN_MIN_S: Final = 300.0
"""Growth over less than this says nothing yet."""
SAMPLE_INTERVAL_S: Final = 60.0
FORECAST_ATTENTION_H: Final = 72.0
"""A disk that is full sooner than this, at the present rate, needs a person."""
WORN_PERCENT: Final = 90
"""A flash card of which more than this is used needs a person."""
HOURS_MAX: Final = 24 * 365 * 10
"""A longer forecast says nothing to anybody: then there is none."""


class Level(IntEnum):
    """What is taken: everything; no QoS 0 and no telemetry; nothing from devices."""

    NORMAL = 0
    SHED = 1
    REFUSE = 2


class Room(NamedTuple):
    """Bytes left: on the file system, and of the journal's own `bytes_max` (pages that deletions freed count)."""

    disk_bytes: int
    journal_bytes: int


class Bounds(NamedTuple):
    """The settings of the same names."""

    shed_free_bytes: int
    refuse_free_bytes: int
    bytes_max: int
    checkpoint_bytes: int


def room(before: Level, disk_free_bytes: int, freed_bytes: int, journal_left_bytes: int, bounds: Bounds) -> Room:
    """The room there is. Pages that deletions freed are room on the disk, too, while the write-ahead log can grow."""
    log_bytes = bounds.checkpoint_bytes * (RELIEF if before is Level.REFUSE else 1.0)
    return Room(disk_free_bytes + (freed_bytes if disk_free_bytes >= log_bytes else 0), journal_left_bytes)


def level(before: Level, room: Room, bounds: Bounds) -> Level:
    """The level from now on; `before` is the one that held."""
    shed = Room(bounds.shed_free_bytes, min(bounds.shed_free_bytes, bounds.bytes_max // JOURNAL_SHED_SHARE))
    refuse = Room(bounds.refuse_free_bytes, min(bounds.refuse_free_bytes, bounds.bytes_max // JOURNAL_REFUSE_SHARE))
    if _short(room, refuse, before >= Level.REFUSE):
        return Level.REFUSE
    if _short(room, shed, before >= Level.SHED):
        return Level.SHED
    return Level.NORMAL


def _short(room: Room, wanted: Room, was_short: bool) -> bool:
    factor = RELIEF if was_short else 1.0
    return any(left < bound * factor for left, bound in zip(room, wanted, strict=True))


def usable_bytes(room: Room, bounds: Bounds) -> int:
    """What the journal may still grow by until nothing is taken any more."""
    journal_kept = min(bounds.refuse_free_bytes, bounds.bytes_max // JOURNAL_REFUSE_SHARE)
    return max(0, min(room.disk_bytes - bounds.refuse_free_bytes, room.journal_bytes - journal_kept))


class Growth:
    """How fast the journal grows: its size about each minute over the last hour or so."""

    def __init__(self) -> None:
        self._sizes: deque[tuple[float, int]] = deque()

    def note(self, at_s: float, size: int) -> None:
        """The journal's `size` in bytes when the box had run `at_s` seconds."""
        if not self._sizes or at_s - self._sizes[-1][0] >= SAMPLE_INTERVAL_S:
            self._sizes.append((at_s, size))
        while at_s - self._sizes[0][0] > SPAN_MAX_S:
            self._sizes.popleft()

    def hours_until(self, at_s: float, size: int, left_bytes: int) -> float | None:
        """Hours until `left_bytes` more are used at the present rate; None while it does not grow, or nobody can tell.

        No room left is 0 hours, whatever the rate.
        """
        if left_bytes <= 0:
            return 0.0
        if not self._sizes or at_s - self._sizes[0][0] < SPAN_MIN_S:
            return None
        since_s, first = self._sizes[0]
        if size <= first:
            return None
        hours = left_bytes / (size - first) * (at_s - since_s) / 3600
        return round(hours, 1) if hours <= HOURS_MAX else None


def wear_days_left(first_percent: int, first_s: float, percent: int, at_s: float) -> int | None:
    """Days until a flash card that was `first_percent` used at `first_s` and is `percent` used now is worn out.

    None while it has not moved. Cards tell tenths only, so this is an estimate.
    """
    if percent <= first_percent or at_s <= first_s:
        return None
    return max(0, round((100 - percent) * (at_s - first_s) / (percent - first_percent) / 86_400))
