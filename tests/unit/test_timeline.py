"""What people read of the uplink's history: stretches, bars and sums."""

from datetime import UTC, date
from zoneinfo import ZoneInfo

import pytest

from agent.core.facts import UplinkChange
from agent.core.instants import to_ms
from agent.core.sentence import what_held
from agent.core.timeline import BAR_UNITS, DAYS_MAX, STRETCHES_MAX, Segment, days, listed, stretches

LONDON = ZoneInfo("Europe/London")
START = ("offline", "none", "")


def change(at: str, state: str, cause: str = "none", finding: str = "") -> UplinkChange:
    return UplinkChange(f"2026-11-{at}.000Z", state, cause, finding)  # type: ignore[arg-type]


def at(text: str) -> int:
    return to_ms(f"2026-11-{text}.000Z")


EVENING = (
    change("21T09:00:00", *START),
    change("21T09:00:01", "online"),
    change("22T19:00:00", "offline", "link"),
    change("22T19:00:03", "offline", "gateway", "gateway_silent"),
    change("22T19:30:00", "degraded", "cloud_slow"),
    change("22T19:40:00", "online"),
)


def test_A1_7_an_outage_is_one_stretch_named_by_the_cause_that_held_longest() -> None:
    found = stretches(EVENING, at("22T20:00:00"))
    assert [one.state for one in found] == [None, "online", "offline", "degraded", "online"]
    outage = found[2]
    assert (outage.cause, outage.finding, outage.seconds) == ("gateway", "gateway_silent", 1800.0)
    assert [one.lasts for one in found] == [False] * 4 + [True]
    assert [one.state for one in listed(found)] == ["degraded", "offline", None], (
        "the latest first, without what went well"
    )


def test_a_days_bar_shows_each_state_where_it_was_and_the_sum_of_what_was_offline() -> None:
    today, yesterday = days(stretches(EVENING, at("22T20:00:00")), UTC, at("22T20:00:00"))
    assert (today.day, yesterday.day) == (date(2026, 11, 22), date(2026, 11, 21))
    assert (today.offline_count, today.offline_s, today.at_most) == (1, 1800.0, False)
    hour = BAR_UNITS / 24
    assert today.segments == (
        Segment("online", False, 0.0, pytest.approx(19 * hour, abs=0.01)),
        Segment("offline", False, pytest.approx(19 * hour, abs=0.01), pytest.approx(hour / 2, abs=0.01)),
        Segment("degraded", False, pytest.approx(19.5 * hour, abs=0.01), pytest.approx(hour / 6, abs=0.01)),
        Segment("online", False, pytest.approx(19 * hour + hour * 2 / 3, abs=0.01), pytest.approx(hour / 3, abs=0.01)),
    )
    assert (yesterday.offline_count, yesterday.segments[1].state) == (0, "online")


def test_an_outage_over_midnight_counts_on_both_days_as_the_venue_counts_them() -> None:
    changes = (change("21T22:00:00", "offline", "link", "provider"), change("22T02:00:00", "online"))
    there = days(stretches(changes, at("22T03:00:00")), ZoneInfo("Asia/Tokyo"), at("22T03:00:00"))
    assert [(one.day, one.offline_s) for one in there] == [(date(2026, 11, 22), 4 * 3600.0)], "22:00 is 7:00 there"
    here = days(stretches(changes, at("22T03:00:00")), UTC, at("22T03:00:00"))
    assert [one.offline_s for one in here] == [2 * 3600.0, 2 * 3600.0]


def test_a_stretch_that_ends_with_a_new_start_may_have_ended_before() -> None:
    changes = (
        change("20T10:00:00", "online"),
        change("20T11:00:00", "offline", "link", "no_carrier"),
        change("22T10:00:00", *START),
        change("22T10:00:02", "online"),
    )
    found = stretches(changes, at("22T12:00:00"))
    assert [(one.state, one.cut) for one in found] == [
        ("online", False), ("offline", True), (None, False), ("online", False),
    ]  # fmt: skip
    assert [one.at_most for one in days(found, UTC, at("22T12:00:00"))] == [True, True, True]


def test_two_starts_in_a_row_are_two_and_a_box_that_never_reached_anything_is_no_outage() -> None:
    found = stretches((change("22T10:00:00", *START), change("22T10:05:00", *START)), at("22T11:00:00"))
    assert [(one.state, one.cut) for one in found] == [(None, True), (None, False)]
    assert days(found, UTC, at("22T11:00:00"))[0].offline_count == 0


def test_a_clock_that_was_set_back_makes_nothing_negative() -> None:
    changes = (
        change("22T10:00:00", "online"),
        change("22T09:00:00", "offline", "link"),
        change("22T09:30:00", "online"),
    )
    found = stretches(changes, at("22T08:00:00"))
    assert all(one.seconds >= 0 for one in found)
    assert all(part.width >= 0 for day in days(found, UTC, at("22T08:00:00")) for part in day.segments)


def test_the_days_of_a_change_of_time_are_whole_bars() -> None:
    changes = (UplinkChange("2026-10-24T00:00:00.000Z", "online", "none"),)
    now_ms = to_ms("2026-10-26T12:00:00.000Z")
    widths = [sum(part.width for part in day.segments) for day in days(stretches(changes, now_ms), LONDON, now_ms)]
    assert widths[1] == BAR_UNITS, "the day of 25 hours"


def test_a_link_that_has_flapped_for_a_month_is_bounded() -> None:
    flaps = [
        change(
            f"{1 + number // 40:02}T{number % 40 // 2:02}:{number % 2 * 30:02}:00",
            "online" if number % 2 else "offline",
            "link",
        )
        for number in range(1_000)
    ]
    found = stretches(flaps, at("26T00:00:00"))
    assert len(days(found, LONDON, at("26T00:00:00"))) <= DAYS_MAX
    assert len(listed(found)) == STRETCHES_MAX


def test_a_box_that_was_online_for_a_year_has_a_month_of_bars() -> None:
    now_ms = at("22T12:00:00")
    found = stretches((UplinkChange("2025-11-22T12:00:00.000Z", "online", "none"),), now_ms)
    assert len(days(found, UTC, now_ms)) == DAYS_MAX


def test_nothing_written_down_is_nothing() -> None:
    assert (stretches((), 0), days((), UTC, 0), listed(())) == ((), (), ())


@pytest.mark.parametrize(
    ("state", "cause", "finding", "words"),
    [
        ("offline", "gateway", "gateway_silent", "the router does not answer"),
        ("offline", "cloud", "", "the cloud does not answer as it should"),
        ("degraded", "cloud_slow", "", "the cloud answers slowly"),
        ("degraded", "cloud", "", "the cloud answers, but uploads fail"),
    ],
)
def test_A1_8_what_was_wrong_is_said_as_in_the_sentence(state: str, cause: str, finding: str, words: str) -> None:
    assert what_held(state, cause, finding) == words  # type: ignore[arg-type]
