"""corrected time → [business date] → status, completeness. The day that a sale belongs to, by the venue's own cut-off.

A business day runs from one cut-off to the next in the venue's time zone: 23 or 25 hours where the clocks change. Pure.
"""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)


def business_date(at_ms: int, zone: tzinfo, day_starts: time) -> date:
    """The business date of an instant, in milliseconds since 1970."""
    at = _EPOCH + timedelta(milliseconds=at_ms)
    day = at.astimezone(zone).date()
    return day if at >= _start(day, zone, day_starts) else day - _DAY


def bounds_ms(day: date, zone: tzinfo, day_starts: time) -> tuple[int, int]:
    """The instants at which a business day begins and ends (the end is the next one's begin), in ms since 1970."""
    begin, end = (_start(each, zone, day_starts) for each in (day, day + _DAY))
    return _ms(begin), _ms(end)


def cut_off(text: str) -> time:
    """`05:00` as a time of day."""
    return time.fromisoformat(text)


def _start(day: date, zone: tzinfo, day_starts: time) -> datetime:
    """When a business day begins, in UTC.

    A cut-off that comes twice (clocks go back) is its first; one that the clocks jump over is the instant of the jump.
    """
    before, after = (datetime.combine(day, day_starts.replace(fold=fold), zone).astimezone(UTC) for fold in (0, 1))
    return before if before <= after else _jump(after, before, zone)


def _jump(low: datetime, high: datetime, zone: tzinfo) -> datetime:
    """The first whole second behind `low` with the UTC offset of `high`: there is one change between them."""
    offset = high.astimezone(zone).utcoffset()
    first, last = 0, int((high - low).total_seconds())
    while first < last:
        middle = (first + last) // 2
        if (low + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            last = middle
        else:
            first = middle + 1
    return low + timedelta(seconds=first)


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)
