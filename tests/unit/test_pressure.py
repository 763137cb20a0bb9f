"""How short room is: levels that do not come and go, and a forecast that says nothing where nobody can tell."""

import pytest

from agent.core.pressure import (
    HOURS_MAX,
    RELIEF,
    SPAN_MIN_S,
    Bounds,
    Growth,
    Level,
    Room,
    level,
    room,
    usable_bytes,
    wear_days_left,
)

BOUNDS = Bounds(shed_free_bytes=1000, refuse_free_bytes=400, bytes_max=1_000_000, checkpoint_bytes=100)
PLENTY = 500_000


@pytest.mark.parametrize(
    ("left", "found"),
    [(PLENTY, Level.NORMAL), (1000, Level.NORMAL), (999, Level.SHED), (400, Level.SHED), (399, Level.REFUSE)],
)
def test_each_level_begins_at_its_own_bound(left: int, found: Level) -> None:
    assert level(Level.NORMAL, Room(left, PLENTY), BOUNDS) is found
    assert level(Level.NORMAL, Room(PLENTY, left), BOUNDS) is found


def test_a_level_ends_only_with_a_quarter_more_room_than_where_it_began() -> None:
    assert level(Level.SHED, Room(round(1000 * RELIEF) - 1, PLENTY), BOUNDS) is Level.SHED
    assert level(Level.SHED, Room(round(1000 * RELIEF), PLENTY), BOUNDS) is Level.NORMAL
    assert level(Level.REFUSE, Room(round(400 * RELIEF) - 1, PLENTY), BOUNDS) is Level.REFUSE
    assert level(Level.REFUSE, Room(round(400 * RELIEF), PLENTY), BOUNDS) is Level.SHED


def test_a_small_bound_of_the_journal_is_not_eaten_up_by_large_thresholds() -> None:
    bounds = BOUNDS._replace(shed_free_bytes=10_000, refuse_free_bytes=10_000, bytes_max=8_000)
    assert level(Level.NORMAL, Room(PLENTY, 1_000), bounds) is Level.NORMAL
    assert level(Level.NORMAL, Room(PLENTY, 999), bounds) is Level.SHED
    assert level(Level.NORMAL, Room(PLENTY, 249), bounds) is Level.REFUSE


def test_pages_that_deletions_freed_are_room_while_the_log_can_grow() -> None:
    assert room(Level.NORMAL, 100, 5000, 7, BOUNDS) == Room(5100, 7)
    assert room(Level.NORMAL, 99, 5000, 7, BOUNDS) == Room(99, 7)
    assert room(Level.REFUSE, 124, 5000, 7, BOUNDS) == Room(124, 7)


def test_A5_4_the_forecast_is_what_is_left_over_the_rate_of_the_last_hour() -> None:
    growth = Growth()
    for minute in range(61):
        growth.note(minute * 60.0, 1_000_000 + minute * 1_000)
    assert growth.hours_until(3600.0, 1_060_000, 600_000) == 10.0


def test_the_forecast_says_nothing_before_it_knows_and_while_nothing_grows() -> None:
    growth = Growth()
    growth.note(0.0, 1000)
    assert growth.hours_until(SPAN_MIN_S - 1, 2000, 500) is None
    assert growth.hours_until(SPAN_MIN_S, 1000, 500) is None
    assert growth.hours_until(SPAN_MIN_S, 900, 500) is None
    assert growth.hours_until(SPAN_MIN_S, 1001, HOURS_MAX * 3600) is None
    assert growth.hours_until(SPAN_MIN_S, 900, 0) == 0.0


def test_an_hour_ago_is_forgotten() -> None:
    growth = Growth()
    growth.note(0.0, 0)
    for minute in range(100, 170):
        growth.note(minute * 60.0, 1_000_000)
    assert growth.hours_until(170 * 60.0, 1_000_000, 500) is None


def test_usable_room_ends_where_nothing_is_taken_any_more() -> None:
    assert usable_bytes(Room(1400, PLENTY), BOUNDS) == 1000
    assert usable_bytes(Room(PLENTY, 1400), BOUNDS) == 1000
    assert usable_bytes(Room(0, PLENTY), BOUNDS) == 0


def test_wear_is_told_in_days_once_it_has_moved() -> None:
    day_s = 86_400.0
    assert wear_days_left(10, 0.0, 10, 400 * day_s) is None
    assert wear_days_left(10, 0.0, 20, 100 * day_s) == 800
    assert wear_days_left(10, 0.0, 100, 100 * day_s) == 0
