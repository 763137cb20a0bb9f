"""the machine's clocks → [time truth] → records, status. What time it truly is, on a box without a clock battery.

A record carries wall time as the box believed it and, beside it, boot and uptime, which no hand can set. Once the clock
of a boot is synchronised, one offset (wall time - uptime) places everything of that boot. Pure: readings are arguments.
"""

from typing import Any, Final, NamedTuple

from agent.core.instants import to_ms, to_text

CORRECTED: Final = "nightsafe.clock.corrected"
"""The type of the record that states a boot's offset."""
STEP_MS: Final = 100
"""An offset that differs by less is the same: time services slew below this, and step above it."""
PLAUSIBLE_FROM_MS: Final = to_ms("2026-01-01T00:00:00Z")
"""No box of this make ran before: a wall clock that says so is wrong."""


class Reading(NamedTuple):
    """One look at the machine's clocks, all at the same instant. `error_ms` is what the wall time may be off by."""

    boot: str
    uptime_ms: int
    wall_ms: int
    synced: bool
    error_ms: int

    @property
    def offset_ms(self) -> int:
        """Wall time minus uptime."""
        return self.wall_ms - self.uptime_ms


class Moment(NamedTuple):
    """When something was recorded: wall time as the box believed it, and uptime in the boot of that row."""

    wall_ms: int
    uptime_ms: int
    boot: int


def correction(reading: Reading, known_ms: int | None) -> dict[str, Any] | None:
    """The record to be made of a reading, or None. `known_ms` is the offset that this boot has a record of.

    Its meaning: a record's true time = wall_at - (uptime_ms - record.uptime_ms), for every record of this boot; where a
    boot has several, the newest knows best.
    """
    if not reading.synced or (known_ms is not None and abs(reading.offset_ms - known_ms) < STEP_MS):
        return None
    return {
        "boot": reading.boot,
        "uptime_ms": reading.uptime_ms,
        "wall_at": to_text(reading.wall_ms),
        "error_ms": reading.error_ms,
    }


def offset_ms(data: dict[str, Any]) -> int:
    """The offset that the data of a `nightsafe.clock.corrected` record states."""
    return to_ms(data["wall_at"]) - int(data["uptime_ms"])


def true_ms(wall_ms: int, uptime_ms: int, known_ms: int | None) -> int:
    """When something was truly recorded, as well as is known: by its boot's offset, or else as the box believed."""
    return wall_ms if known_ms is None else known_ms + uptime_ms


def steady_ms(held_ms: int | None, seen_ms: int) -> int:
    """The offset to show by, of a clock that nothing vouches for: the one held, until the clock has been set."""
    return seen_ms if held_ms is None or abs(seen_ms - held_ms) >= STEP_MS else held_ms
