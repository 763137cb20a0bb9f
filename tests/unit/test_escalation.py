"""When a sync that does not come about is told: by a fake clock, second by second."""

import pytest

from agent.core import escalation as rules
from agent.core.escalation import LastSync, Now, Packet, Stall
from agent.core.facts import UplinkFacts

AFTER_S = 900.0
HOUR_S = 3600.0
STEPS = (24.0, 48.0, 72.0)


class Line:
    """A box whose probes and backlog a test moves; `fired` are the seconds at which it is told."""

    def __init__(self) -> None:
        self.stall = Stall()
        self.at_s = 0.0
        self.cursor, self.last = 0, 10
        self.fired: list[float] = []

    def run(self, seconds: int, passing: bool | None = True, probe_every: int = 3, moves: int = 0) -> None:
        """So many seconds; `passing` None: no probe ends at all. `moves` records are taken each second."""
        for _ in range(seconds):
            self.at_s += 1
            self.cursor = min(self.last, self.cursor + moves)
            if passing is not None and self.at_s % probe_every == 0:
                self.stall = rules.probed(self.stall, passing, self.at_s, self.last)
            self.stall, due = rules.looked(self.stall, self.at_s, self.cursor, self.last, AFTER_S)
            if due:
                self.fired.append(self.at_s)


def test_A2_8_a_stable_link_with_a_stuck_head_is_told_at_15_minutes_and_once() -> None:
    line = Line()
    line.run(10_000)
    assert line.fired == [903.0], "the first probe passed at 3 s"


def test_A2_8_a_link_that_flaps_never_tells() -> None:
    line = Line()
    for _ in range(50):
        line.run(880)
        line.run(3, passing=False)
    assert line.fired == []


def test_A2_8_uploads_that_fail_or_are_held_reset_nothing_and_neither_do_probes_that_are_left_out() -> None:
    line = Line()
    line.run(30)
    line.run(1_000, passing=None)
    assert line.fired == [903.0]


def test_A2_8_a_backlog_that_moves_but_is_not_drained_in_time_is_told_and_one_that_is_drained_is_not() -> None:
    slow, quick = Line(), Line()
    slow.last = quick.last = 2_000
    slow.run(1_000, moves=1)
    quick.run(1_000, moves=3)
    assert (slow.fired, quick.fired) == ([903.0], [])


def test_A2_8_what_comes_in_later_does_not_count_as_the_backlog_of_the_beginning() -> None:
    line = Line()
    for _ in range(2_000):
        line.last += 1
        line.run(1, moves=1)
    assert line.fired == [], "each stretch's backlog is drained, though something always waits"


def test_A2_8_it_is_told_again_only_after_the_backlog_was_drained_in_between() -> None:
    line = Line()
    line.run(1_000)
    line.run(5, passing=False)
    line.last = 20
    line.run(2_000)
    assert line.fired == [903.0]
    line.run(20, moves=5)
    assert line.cursor == line.last
    line.last = 40
    line.run(1_000)
    assert len(line.fired) == 2


def test_A2_8_nothing_waits_so_nothing_is_told() -> None:
    line = Line()
    line.last = 0
    line.run(5_000)
    assert line.fired == []


@pytest.mark.parametrize(("hours", "level"), [(23.9, 0), (24.1, 1), (48.1, 2), (72.1, 3), (500.0, 3)])
def test_A5_1_A5_4_the_alarm_has_three_levels(hours: float, level: int) -> None:
    assert rules.level(hours * HOUR_S, STEPS) == level


def test_A5_1_powered_time_counts_alone_until_the_clock_is_known() -> None:
    last = LastSync(1_000.0, 0, True)
    off = 30 * HOUR_S * 1000
    assert rules.overdue(last, Now(1_600.0, int(off), False)) == (600.0, True)
    assert rules.overdue(last, Now(1_600.0, int(off), True)) == (30 * HOUR_S, False)
    assert rules.overdue(LastSync(1_000.0, 0, False), Now(1_600.0, int(off), True)) == (600.0, True)


def test_A5_1_a_wall_clock_set_back_takes_nothing_from_the_time_that_the_box_has_run() -> None:
    assert rules.overdue(LastSync(0.0, 10**12, True), Now(90_000.0, 10**11, True)).age_s == 90_000.0


def test_A5_2_the_alarm_says_what_is_wrong_and_what_to_do() -> None:
    uplink = UplinkFacts("offline", "gateway", "2026-11-22T10:00:00.000Z", "gateway_silent")
    words = rules.overdue_words(rules.Overdue(25 * HOUR_S, False), 1, uplink, 7, None)
    assert words.title == "Nothing has reached the cloud for 25 hours"
    assert "The router does not answer." in words.text
    assert words.hint.startswith("Check the router and its cables.")
    assert "Selling goes on" in words.hint
    held = rules.overdue_words(rules.Overdue(25 * HOUR_S, True), 1, UplinkFacts("online", "none", ""), 1, None)
    assert "1 record is safe on this box (counted while the box was on: its clock is not set)." in held.text


def test_A5_4_the_second_level_is_grave_and_says_when_the_disk_is_full() -> None:
    uplink = UplinkFacts("degraded", "auth", "")
    words = rules.overdue_words(rules.Overdue(49 * HOUR_S, False), 2, uplink, 7, 30.0)
    assert words.severity == "critical"
    assert "the disk is full in about 30 hours" in words.text
    assert "needs a new token" in words.hint


def test_A2_9_the_packet_has_everything_in_text_and_in_json() -> None:
    packet = Packet(
        "sync_stalled", "loc-7", "Harbour Bar", "harbour", "2026-11-22T10:00:00.000Z", "2026-11-22T10:15:00.000Z",
        ("till-1", "till-2"), "0199c0de", "12", "40", 29, "cloud_500: it fails", "0.1.0",
    )  # fmt: skip
    facts = rules.packet_facts(packet)
    assert facts["from"] == "2026-11-22T10:00:00.000Z"
    for name in (
        "location_id",
        "location_name",
        "to",
        "device_ids",
        "first_sequence",
        "last_sequence",
        "last_cloud_error",
    ):
        assert facts[name]
    text = rules.packet_text(packet)
    for part in ("loc-7", "Harbour Bar", "10:00:00", "10:15:00", "till-1, till-2", "12 to 40", "cloud_500"):
        assert part in text
