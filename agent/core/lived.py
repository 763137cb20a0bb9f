"""journal → [how long this box has run] → retention, gaps. Time that no wrong clock can steer, across restarts.

Boottime starts at zero with each boot; here it is added up. Pure: the machine's clocks are arguments.
"""

from typing import NamedTuple


class Lived(NamedTuple):
    """`total_s` seconds had been counted when the boot `boot` was `at_s` seconds old."""

    total_s: float = 0.0
    boot: str | None = None
    at_s: float = 0.0


def lived(mark: Lived, boot: str, boottime_s: float) -> Lived:
    """The count as of now. What a boot ran after its last mark, before another one began, is not known and left out."""
    ran_s = boottime_s - mark.at_s if boot == mark.boot else boottime_s
    return Lived(mark.total_s + max(0.0, ran_s), boot, boottime_s)
