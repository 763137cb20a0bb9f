"""cloud → drain → [retention] → journal. Deletes records when the cloud has called them safe for long enough.

In small steps with pauses, so that recording never waits for it. What may go is the journal's to decide; how long is
counted in the seconds that the box has run, never by a clock.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from agent.core.errors import JournalDamaged, Transient

log = structlog.get_logger()

DAY_S: Final = 86_400


class Journal(Protocol):
    """Both raise Transient or JournalDamaged when nothing can be written."""

    async def mark_safe(self) -> None: ...
    async def delete_kept(self, keep_s: float, rows_max: int) -> int: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def keep_days(self) -> int: ...
    @property
    def delete_interval_s(self) -> float: ...
    @property
    def delete_records_max(self) -> int: ...
    @property
    def delete_pause_s(self) -> float: ...


class Retention:
    """The stage."""

    name = "retention"

    def __init__(self, journal: Journal, limits: Callable[[], Limits]) -> None:
        self._journal = journal
        self._limits = limits

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Look every minute or so until `stop`."""
        ready()
        while not stop.is_set():
            await _pause(stop, self._limits().delete_interval_s)
            try:
                await self._round(stop)
            except (Transient, JournalDamaged) as error:
                log.debug("retention_put_off", code=error.code)

    async def _round(self, stop: asyncio.Event) -> None:
        await self._journal.mark_safe()
        total = 0
        while not stop.is_set():
            limits = self._limits()
            deleted = await self._journal.delete_kept(limits.keep_days * DAY_S, limits.delete_records_max)
            total += deleted
            if deleted < limits.delete_records_max:
                break
            await _pause(stop, limits.delete_pause_s)
        if total:
            log.info("records_deleted", count=total, keep_days=self._limits().keep_days)


async def _pause(stop: asyncio.Event, pause_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(pause_s):
            await stop.wait()
