"""machine's clocks → [clock] → journal → cloud. Records what a boot's wall clock was truly at, once that is known.

A record `nightsafe.clock.corrected` is made once for each boot whose clock gets synchronised, and again when the clock
was set by more than `STEP_MS` meanwhile. Never sets a clock, and no timer of the box depends on what it finds.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Literal, Protocol

import structlog

from agent.core.clock import CORRECTED, PLAUSIBLE_FROM_MS, Reading, correction, offset_ms
from agent.core.errors import Transient
from agent.core.instants import to_text

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""How often the clock is looked at, in seconds."""
AGAIN_S: Final = 60.0
"""Shortest time between two such records, in seconds: a clock that is set all the time floods nothing."""
UNSYNCED: Final = "clock_unsynced"


class Clock(Protocol):
    """The machine's clocks at one instant, and who is told what they are truly at."""

    def boottime_s(self) -> float: ...
    def reading(self) -> Reading: ...
    def corrected(self, offset_ms: int) -> None: ...


class Journal(Protocol):
    """What is recorded of this boot. Recording raises Transient when nothing can be stored."""

    def clock_offset_ms(self) -> int | None: ...
    async def record(self, kind: str, data: dict[str, Any]) -> None: ...


class Limits(Protocol):
    """Setting of the same name."""

    @property
    def unsynced_notice_s(self) -> float: ...


class Telling(Protocol):
    """Where people are told."""

    def hold(
        self, id: str, severity: Literal["info", "warning", "critical"], title: str, text: str, hint: str
    ) -> None: ...
    def lift(self, id: str) -> None: ...


class ClockWatch:
    """The stage that looks at the clock."""

    name = "clock"

    def __init__(self, journal: Journal, clock: Clock, telling: Telling, limits: Callable[[], Limits]) -> None:
        self._journal = journal
        self._clock = clock
        self._telling = telling
        self._limits = limits
        self._recorded_s = float("-inf")
        self._unsynced_s: float | None = None
        known_ms = journal.clock_offset_ms()
        if known_ms is not None:
            clock.corrected(known_ms)

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Look until `stop`, first at once."""
        ready()
        while not stop.is_set():
            await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await stop.wait()

    async def _look(self) -> None:
        reading, now_s = self._clock.reading(), self._clock.boottime_s()
        self._note_quality(reading, now_s)
        if now_s - self._recorded_s < AGAIN_S:
            return
        known_ms = self._journal.clock_offset_ms()
        data = correction(reading, known_ms)
        if data is None:
            return
        with suppress(Transient):  # nothing can be stored: the next look finds the same
            await self._journal.record(CORRECTED, data)
            self._recorded_s = now_s
            self._clock.corrected(offset_ms(data))
            log.info("clock_corrected", by_ms=None if known_ms is None else reading.offset_ms - known_ms, **data)

    def _note_quality(self, reading: Reading, now_s: float) -> None:
        if reading.synced:
            self._unsynced_s = None
            self._telling.lift(UNSYNCED)
            return
        if self._unsynced_s is None:
            self._unsynced_s = now_s
        if now_s - self._unsynced_s < self._limits().unsynced_notice_s:
            return
        advice = "Connect the box to a network with a time server, or set its clock."
        if reading.wall_ms < PLAUSIBLE_FROM_MS:
            said = to_text(reading.wall_ms)
            text = f"It says {said}. Sales are kept in their order, and their times are corrected later."
            self._telling.hold(UNSYNCED, "warning", "The clock of this box is wrong", text, advice)
            return
        text = f"Nothing vouches for it; sales are kept in their order, and times are corrected later. {advice}"
        self._telling.hold(UNSYNCED, "info", "The clock of this box is not synchronised", text, "")
