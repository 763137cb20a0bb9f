"""Instants between machines and people: RFC 3339 UTC text with milliseconds on the wire, local HH:MM on a page.

Pure: which instant it is now comes in as an argument. Never orders anything: order is sequence.
"""

from datetime import UTC, date, datetime, timedelta, tzinfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_text(wall_ms: int) -> str:
    """Milliseconds since 1970 as `2026-11-22T10:15:00.131Z`."""
    return (_EPOCH + timedelta(milliseconds=wall_ms)).isoformat("T", "milliseconds").replace("+00:00", "Z")


def from_ms(wall_ms: int) -> datetime:
    """Milliseconds since 1970 as an instant."""
    return _EPOCH + timedelta(milliseconds=wall_ms)


def to_ms(text: str) -> int:
    """The instant of an RFC 3339 text in milliseconds since 1970. ValueError when it is none or has no offset."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"an instant without an offset: {text!r}")
    return (at - _EPOCH) // timedelta(milliseconds=1)


def local_day(day: date) -> str:
    """A day as people at the venue say it: `Sun 22 Nov`."""
    return f"{_WEEKDAYS[day.weekday()]} {day.day} {_MONTHS[day.month - 1]}"


def local_time(text: str, zone: tzinfo, now_ms: int) -> str:
    """How people at the venue say the instant: `19:02`, with the day in front when it is not today's."""
    at = datetime.fromisoformat(text).astimezone(zone)
    today = (_EPOCH + timedelta(milliseconds=now_ms)).astimezone(zone).date()
    clock = f"{at:%H:%M}"
    return clock if at.date() == today else f"{at.day} {_MONTHS[at.month - 1]} {clock}"


# Named here: strftime's month names follow the process's locale.
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
