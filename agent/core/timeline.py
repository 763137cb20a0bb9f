"""uplink history → [timeline] → page. How the way to the cloud was, day by day, for people: stretches, bars, sums.

Pure. A stretch is one state without a break, whatever its cause became meanwhile; it is named by the cause that held
longest. When a box stopped, nobody wrote down: a stretch that ends with a new start may have ended any time before.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Final, NamedTuple

from agent.core.facts import Finding, UplinkCause, UplinkChange, UplinkState
from agent.core.instants import from_ms, to_ms

BAR_UNITS: Final = 1_000
"""A day's bar is so wide, whatever its hours."""
DAYS_MAX: Final = 31
STRETCHES_MAX: Final = 200
"""So many stretches are listed, the latest."""


class Stretch(NamedTuple):
    """One state from `began_ms` to `ended_ms`. `cut`: the box began anew at its end, and may have been off before;
    `lasts`: it holds still. State None: the box had just begun, and nothing was known yet."""

    state: UplinkState | None
    cause: UplinkCause
    finding: Finding
    began_ms: int
    ended_ms: int
    cut: bool = False
    lasts: bool = False

    @property
    def seconds(self) -> float:
        """How long it was, at most."""
        return (self.ended_ms - self.began_ms) / 1000


class Segment(NamedTuple):
    """A part of a day's bar, in `BAR_UNITS` from its left end."""

    state: UplinkState | None
    cut: bool
    left: float
    width: float


class Day(NamedTuple):
    """One day at the venue: its bar, and how often and for how many seconds it was offline, `at_most` where the box may
    have been off in between."""

    day: date
    segments: tuple[Segment, ...]
    offline_count: int
    offline_s: float
    at_most: bool = False


def stretches(changes: Iterable[UplinkChange], now_ms: int) -> tuple[Stretch, ...]:
    """From changes, oldest first; the last stretch lasts until now. A clock that was set back makes none negative."""
    found: list[Stretch] = []
    run: list[tuple[UplinkChange, int]] = []
    last_ms = 0
    for one in changes:
        at_ms = last_ms = max(last_ms, to_ms(one.at))
        if run and (_known(one) is None or _known(one) != _known(run[-1][0])):
            found.append(_stretch(run, at_ms, cut=_known(one) is None))
            run = []
        run.append((one, at_ms))
    if run:
        found.append(_stretch(run, max(last_ms, now_ms), lasts=True))
    return tuple(found)


def _known(one: UplinkChange) -> UplinkState | None:
    return None if (one.state, one.cause) == ("offline", "none") else one.state


def _stretch(run: Sequence[tuple[UplinkChange, int]], ended_ms: int, cut: bool = False, lasts: bool = False) -> Stretch:
    ends = [at_ms for _, at_ms in run[1:]] + [ended_ms]
    held: dict[tuple[UplinkCause, Finding], int] = {}
    for (one, at_ms), end_ms in zip(run, ends, strict=True):
        key = (one.cause, one.finding)
        held[key] = held.get(key, 0) + end_ms - at_ms
    cause, finding = max(held, key=lambda one: (held[one], bool(one[1])))
    return Stretch(_known(run[0][0]), cause, finding, run[0][1], ended_ms, cut, lasts)


def days(found: Sequence[Stretch], zone: tzinfo, now_ms: int) -> tuple[Day, ...]:
    """The days that they touch, the latest first, at most `DAYS_MAX`."""
    if not found:
        return ()
    first, today = (from_ms(at_ms).astimezone(zone).date() for at_ms in (found[0].began_ms, now_ms))
    wanted = [today - timedelta(days=back) for back in range(min(DAYS_MAX, (today - first).days + 1))]
    return tuple(_day(one, found, zone) for one in wanted)


def _day(day: date, found: Sequence[Stretch], zone: tzinfo) -> Day:
    begin_ms, end_ms = (_midnight_ms(one, zone) for one in (day, day + timedelta(days=1)))
    segments, count, offline_ms, at_most = [], 0, 0, False
    for one in found:
        left_ms, right_ms = max(one.began_ms, begin_ms), min(one.ended_ms, end_ms)
        if left_ms >= right_ms:
            continue
        scale = BAR_UNITS / (end_ms - begin_ms)
        left, width = round((left_ms - begin_ms) * scale, 2), round((right_ms - left_ms) * scale, 2)
        segments.append(Segment(one.state, one.cut, left, width))
        if one.state == "offline":
            count += 1
            offline_ms += right_ms - left_ms
            at_most = at_most or one.cut
    return Day(day, tuple(segments), count, offline_ms / 1000, at_most)


def _midnight_ms(day: date, zone: tzinfo) -> int:
    return round(datetime.combine(day, time(), zone).timestamp() * 1000)


def listed(found: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """What people want to read of: all but what went well, the latest first."""
    return tuple(one for one in reversed(found) if one.state != "online")[:STRETCHES_MAX]
