"""Time truth: when a boot's offset is recorded, what it makes of a record's time, and what people are shown."""

from typing import Any

import pytest

from agent.core import clock
from agent.core.clock import STEP_MS, Reading, correction, offset_ms, steady_ms, true_ms
from agent.core.instants import to_ms, to_text
from agent.runtime.clock import Clock

NOON = to_ms("2026-11-22T12:00:00Z")
"""The true time at which the boot was 10 000 ms old."""


def reading(wall_ms: int = NOON, uptime_ms: int = 10_000, synced: bool = True) -> Reading:
    return Reading("boot-1", uptime_ms, wall_ms, synced, 12)


def test_the_record_is_made_when_the_clock_is_synchronised_and_once_only() -> None:
    assert correction(reading(synced=False), None) is None
    data = correction(reading(), None)
    assert data == {"boot": "boot-1", "uptime_ms": 10_000, "wall_at": "2026-11-22T12:00:00.000Z", "error_ms": 12}
    assert correction(reading(NOON + 60_000, 70_000), offset_ms(data)) is None


@pytest.mark.parametrize("by_ms", [STEP_MS, -STEP_MS, 3_600_000, -3_600_000, 56 * 365 * 86_400_000])
def test_it_is_made_again_when_a_synchronised_clock_was_set(by_ms: int) -> None:
    known_ms = reading().offset_ms
    again = correction(reading(NOON + by_ms), known_ms)
    assert again is not None
    assert offset_ms(again) - known_ms == by_ms
    assert correction(reading(NOON + by_ms, synced=False), known_ms) is None


@pytest.mark.parametrize("by_ms", [STEP_MS - 1, 1 - STEP_MS])
def test_what_a_time_service_slews_is_no_new_truth(by_ms: int) -> None:
    assert correction(reading(NOON + by_ms), reading().offset_ms) is None


@pytest.mark.parametrize("believed", ["1970-01-01T00:00:05Z", "2027-11-22T11:59:55Z", "2026-11-22T10:59:55Z"])
def test_a_records_true_time_follows_from_its_uptime_whatever_it_believed(believed: str) -> None:
    data: dict[str, Any] = {"boot": "b", "uptime_ms": 10_000, "wall_at": to_text(NOON), "error_ms": 12}
    believed_ms = to_ms(believed)
    assert true_ms(believed_ms, 5_000, offset_ms(data)) == NOON - (10_000 - 5_000)
    assert true_ms(believed_ms, 15_000, offset_ms(data)) == NOON + 5_000
    assert true_ms(believed_ms, 5_000, None) == believed_ms


def test_what_is_shown_by_an_unsynchronised_clock_does_not_tremble_and_follows_when_it_is_set() -> None:
    held = steady_ms(None, 1000)
    assert [steady_ms(held, seen) for seen in (1000, 1001, 999, 1000 + STEP_MS - 1)] == [1000] * 4
    assert steady_ms(held, 1000 + STEP_MS) == 1000 + STEP_MS
    assert steady_ms(held, -5_000_000) == -5_000_000


class Set(Clock):
    """The machine's clock, its wall time set by somebody."""

    def __init__(self) -> None:
        super().__init__()
        self.shift_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.shift_ms


def test_an_instant_of_this_boot_is_told_the_same_until_more_is_known() -> None:
    box = Set()
    at_s = box.boottime_s()
    told = {box.wall_ms_at(at_s) for _ in range(200)}
    assert len(told) == 1
    assert not box.offset_known()
    box.shift_ms = -56 * 365 * 86_400_000
    assert abs(box.wall_ms_at(at_s) - told.pop() - box.shift_ms) <= STEP_MS
    box.corrected(NOON - 10_000)
    box.shift_ms = 0
    assert box.offset_known()
    assert box.wall_ms_at(5.0) == NOON - 5_000
    assert box.wall_ms_at(at_s) == NOON - 10_000 + int(at_s * 1000)


def test_a_reading_is_of_one_instant_and_says_how_sure_it_is() -> None:
    box = Clock()
    one, other = box.reading(), box.reading()
    assert one.boot == box.boot_id()
    assert abs(one.offset_ms - other.offset_ms) < STEP_MS
    assert (one.synced, one.error_ms >= 0) == (box.synced(), True)


def test_a_wall_clock_from_before_this_make_is_wrong() -> None:
    assert clock.PLAUSIBLE_FROM_MS < NOON
    assert to_ms("1970-01-02T00:00:00Z") < clock.PLAUSIBLE_FROM_MS
