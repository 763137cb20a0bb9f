"""monitor → [uplink history] → journal, page. Remembers every change of the raw state, none of them debounced.

Writes what has gathered a few times a minute at most: a link that flaps must not wear the disk. Nothing waits for it,
and what a kill leaves unwritten is lost.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import structlog

from agent.core.errors import NightsafeError
from agent.core.facts import UplinkChange
from agent.core.instants import to_text
from agent.core.uplink import Reading

log = structlog.get_logger()

WRITE_INTERVAL_S: Final = 5.0
"""Shortest time between two writes, in seconds."""
SHOWN_MAX: Final = 1_000
"""So many of the latest changes are held for showing."""
WAITING_MAX: Final = 10_000
"""So many wait while nothing can be written; of more, the oldest go."""
DAY_S: Final = 86_400


class Changes(Protocol):
    """The durable table. `add` and `latest` raise NightsafeError."""

    async def add(self, changes: Sequence[Any], keep_s: float) -> Sequence[Any]: ...
    async def latest(self, count: int) -> Sequence[Any]: ...
    def instant_ms(self, at: Any) -> int: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def history_days(self) -> int: ...


class History:
    """The stage. `made` makes a change for the table out of a reading, with this instant."""

    def __init__(self, changes: Changes, made: Callable[[Reading], Any], limits: Callable[[], Limits]) -> None:
        self.name = "uplink-history"
        self._changes = changes
        self._made = made
        self._limits = limits
        self._waiting: deque[Any] = deque(maxlen=WAITING_MAX)
        self._kept: deque[Any] = deque(maxlen=SHOWN_MAX)

    def note(self, reading: Reading) -> None:
        """The raw state has changed just now."""
        self._waiting.append(self._made(reading))

    def latest(self) -> tuple[UplinkChange, ...]:
        """The latest changes that are durable, oldest first."""
        return tuple(
            UplinkChange(to_text(self._changes.instant_ms(one.at)), one.state, one.cause, one.finding)
            for one in self._kept
        )

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Write what gathers until `stop`, and the rest then."""
        ready()
        with suppress(NightsafeError):  # the page shows what comes from now on
            self._kept.extend(await self._changes.latest(SHOWN_MAX))
        while not stop.is_set():
            await self._write()
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_INTERVAL_S):
                    await stop.wait()
        await self._write()

    async def _write(self) -> None:
        due = list(self._waiting)
        if not due:
            return
        try:
            kept = await self._changes.add(due, self._limits().history_days * DAY_S)
        except NightsafeError as error:
            log.debug("uplink_history_put_off", code=error.code)
            return
        self._kept.extend(kept)
        for _ in due:
            self._waiting.popleft()
