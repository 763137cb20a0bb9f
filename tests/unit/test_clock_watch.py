"""The stage that looks at the clock: what it records, how often, and what it tells people."""

from typing import Any

import msgspec

from agent.core.clock import Reading, offset_ms
from agent.core.errors import Transient
from agent.core.instants import to_ms
from agent.upkeep.clock import AGAIN_S, ClockWatch

NOON = to_ms("2026-11-22T12:00:00Z")


class Limits(msgspec.Struct):
    unsynced_notice_s: float = 300.0


class Desk:
    """Clock, journal and people in one; the boot is `now_s` old, and its wall clock says `wall_ms`."""

    def __init__(self, known_ms: int | None = None) -> None:
        self.now_s = 10.0
        self.wall_ms = NOON
        self.synced = True
        self.full = False
        self.known_ms = known_ms
        self.told_ms: int | None = None
        self.records: list[dict[str, Any]] = []
        self.held: dict[str, tuple[str, bool]] = {}
        self.watch = ClockWatch(self, self, self, Limits)

    def boottime_s(self) -> float:
        return self.now_s

    def reading(self) -> Reading:
        return Reading("boot-1", int(self.now_s * 1000), self.wall_ms, self.synced, 3)

    def corrected(self, offset_ms: int) -> None:
        self.told_ms = offset_ms

    def clock_offset_ms(self) -> int | None:
        return self.known_ms

    async def record(self, kind: str, data: dict[str, Any]) -> None:
        assert kind == "nightsafe.clock.corrected"
        if self.full:
            raise Transient("disk_full", "full")
        self.records.append(data)
        self.known_ms = offset_ms(data)

    def hold(self, id: str, severity: str, title: str, text: str, hint: str) -> None:
        self.held[id] = severity, bool(hint)

    def lift(self, id: str) -> None:
        self.held.pop(id, None)

    async def after(self, seconds: int, *, frozen: bool = False) -> None:
        """Time passes, and is looked at each second."""
        for _ in range(seconds):
            self.now_s += 1
            self.wall_ms += 0 if frozen else 1000
            await self.watch._look()


async def test_what_is_known_of_this_boot_is_told_at_once_and_not_recorded_again() -> None:
    desk = Desk(NOON - 10_000)
    assert desk.told_ms == NOON - 10_000
    await desk.after(200)
    assert desk.records == []


async def test_a_clock_that_is_set_all_the_time_or_stands_still_floods_nothing() -> None:
    desk = Desk()
    await desk.after(600, frozen=True)
    assert 2 <= len(desk.records) <= 600 / AGAIN_S + 1


async def test_a_full_disk_puts_the_record_off_and_loses_it_not() -> None:
    desk = Desk()
    desk.full = True
    await desk.after(5)
    assert desk.told_ms is None
    desk.full = False
    await desk.after(1)
    assert (len(desk.records), desk.told_ms) == (1, NOON - 10_000)


async def test_people_are_told_of_an_unsynchronised_clock_after_a_while_and_must_act_where_it_is_surely_wrong() -> None:
    desk = Desk()
    desk.synced = False
    await desk.after(300)
    assert desk.held == {}
    await desk.after(5)
    assert desk.held == {"clock_unsynced": ("info", False)}
    desk.wall_ms = 5_000
    await desk.after(1)
    assert desk.held == {"clock_unsynced": ("warning", True)}
    desk.synced, desk.wall_ms = True, NOON
    await desk.after(1)
    assert desk.held == {}
    desk.synced = False
    await desk.after(300)
    assert desk.held == {}
