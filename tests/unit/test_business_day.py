"""The business date: by the venue's zone and its cut-off, also on the days when clocks change."""

from datetime import date, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.business_day import bounds_ms, business_date, cut_off
from agent.core.instants import to_ms, to_text

HOUR_MS = 3_600_000
ZONES = ("UTC", "Europe/London", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kolkata")


@pytest.mark.parametrize(
    ("at", "zone", "starts", "day"),
    [
        ("2026-11-22T04:59:59.999Z", "UTC", "05:00", "2026-11-21"),
        ("2026-11-22T05:00:00.000Z", "UTC", "05:00", "2026-11-22"),
        ("2026-11-22T23:59:59.999Z", "UTC", "00:00", "2026-11-22"),
        ("2026-06-22T03:59:59.999Z", "Europe/London", "05:00", "2026-06-21"),
        ("2026-06-22T04:00:00.000Z", "Europe/London", "05:00", "2026-06-22"),
        ("2026-11-22T18:30:00.000Z", "Asia/Kolkata", "00:00", "2026-11-23"),
    ],
)
def test_a_sale_belongs_to_the_day_of_the_last_cut_off(at: str, zone: str, starts: str, day: str) -> None:
    assert business_date(to_ms(at), ZoneInfo(zone), cut_off(starts)).isoformat() == day


@pytest.mark.parametrize(
    ("day", "zone", "starts", "begins", "hours"),
    [
        ("2026-03-28", "Europe/London", "05:00", "2026-03-28T05:00:00.000Z", 23),
        ("2026-10-24", "Europe/London", "05:00", "2026-10-24T04:00:00.000Z", 25),
        ("2026-03-08", "America/New_York", "02:30", "2026-03-08T07:00:00.000Z", 23.5),
        ("2026-03-07", "America/New_York", "02:30", "2026-03-07T07:30:00.000Z", 23.5),
        ("2026-11-01", "America/New_York", "01:30", "2026-11-01T05:30:00.000Z", 25),
        ("2026-10-31", "America/New_York", "01:30", "2026-10-31T05:30:00.000Z", 24),
        ("2026-10-04", "Australia/Lord_Howe", "02:15", "2026-10-03T15:30:00.000Z", 23.75),
        ("2026-09-06", "America/Santiago", "00:00", "2026-09-06T04:00:00.000Z", 23),
    ],
)
def test_a_business_day_has_the_hours_that_its_clocks_give_it(
    day: str, zone: str, starts: str, begins: str, hours: float
) -> None:
    """A cut-off that the clocks jump over is the instant of the jump; one that comes twice is its first."""
    begin_ms, end_ms = bounds_ms(date.fromisoformat(day), ZoneInfo(zone), cut_off(starts))
    assert (to_text(begin_ms), (end_ms - begin_ms) / HOUR_MS) == (begins, hours)
    for at_ms, expected in ((begin_ms, 0), (begin_ms - 1, -1), (end_ms - 1, 0), (end_ms, 1)):
        wanted = date.fromisoformat(day) + timedelta(days=expected)
        assert business_date(at_ms, ZoneInfo(zone), cut_off(starts)) == wanted


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ZONES), st.times().map(lambda at: at.replace(second=0, microsecond=0)), st.data())
def test_every_instant_lies_in_the_day_that_it_belongs_to_and_days_never_go_back(
    zone: str, starts: time, data: st.DataObject
) -> None:
    at_ms = data.draw(st.integers(to_ms("2020-01-01T00:00:00Z"), to_ms("2032-01-01T00:00:00Z")))
    place = ZoneInfo(zone)
    day = business_date(at_ms, place, starts)
    begin_ms, end_ms = bounds_ms(day, place, starts)
    assert begin_ms <= at_ms < end_ms
    assert 22 * HOUR_MS <= end_ms - begin_ms <= 26 * HOUR_MS
    assert bounds_ms(day + timedelta(days=1), place, starts)[0] == end_ms
    assert business_date(at_ms + HOUR_MS, place, starts) >= day
