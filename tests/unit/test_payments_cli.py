"""What people mean by a time of the day when they ask about a payment."""

from datetime import datetime

import pytest

from agent.cli.payments import _day_of


@pytest.mark.parametrize(
    ("clock", "now", "day"),
    [
        ("23:50", "2026-11-23 00:20", "2026-11-22"),
        ("00:10", "2026-11-23 00:20", "2026-11-23"),
        ("19:02", "2026-11-23 18:45", "2026-11-23"),
        ("19:02", "2026-11-23 18:00", "2026-11-22"),
    ],
)
def test_A2_10_a_time_of_the_day_is_the_last_that_has_been(clock: str, now: str, day: str) -> None:
    assert _day_of(clock, datetime.fromisoformat(now)).isoformat() == day
