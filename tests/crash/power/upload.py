"""journal → [the agent's own reader, cursor and drain] → a cloud in memory → examination. Until nothing waits.

Only the network is left out: what is read, sealed, sent and moved on is done by the agent's own code.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from agent.app.drain_side import DrainSide
from agent.drain.drainer import Drain
from agent.journal.reader import Reader, Stored
from agent.journal.writer import Journal
from agent.settings.uplink import DrainSettings
from tests.crash.power.cloud import Cloud
from tests.property.journal_rig import Ticking

CACHE_BYTES = 1_048_576
DRAIN_MAX_S = 20.0
NEW_EPOCH = "0199c0de-0000-7000-8000-0000000000f0"
SETTINGS = DrainSettings(batch_records_first=500)


class _Clock(Ticking):
    """The drain's clock."""

    def boottime_s(self) -> float:
        return self.uptime_ms() / 1000

    def wall_ms_at(self, boottime_s: float) -> int:
        return self.wall_ms()


class _Told:
    """Hears what the drain says; a drain that waits for people ends the wait."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.heard = asyncio.Event()

    def hold(self, id: str, severity: Literal["info", "warning", "critical"], title: str, text: str, hint: str) -> None:
        self.words.append(f"{id}: {text}")
        self.heard.set()

    def happened(
        self, id: str, severity: Literal["info", "warning", "critical"], title: str, text: str, hint: str
    ) -> None:
        """A fork that the cut came into is ended by the next process, which tells it."""
        if id != "forked":
            self.words.append(f"{id}: {text}")

    def lift(self, id: str) -> None:
        """What had been said of it does not hold any more."""


class _Side(DrainSide):
    """As the agent's own; `through` is set when the cursor has reached the last record."""

    def __init__(self, journal: Journal, reader: Reader) -> None:
        super().__init__(journal, reader, lambda: NEW_EPOCH)
        self.through = asyncio.Event()
        self.look()

    def look(self) -> None:
        if self.cursor() == self.last():
            self.through.set()

    async def advance(
        self, cursor: int, safe: int, uploaded: Sequence[Stored], set_aside: Sequence[tuple[Stored, str]] = ()
    ) -> None:
        await super().advance(cursor, safe, uploaded, set_aside)
        self.look()


async def upload(journal: Journal, folder: Path, cloud: Cloud) -> list[str]:
    """Drain `journal` into `cloud` to its last record; returns what the drain had to say on its way, and what the cloud
    refused: nothing, where all is well."""
    told = _Told()
    reader = Reader(folder, CACHE_BYTES, lambda: journal.book.lineage, lambda: journal.generation)
    side = _Side(journal, reader)
    drain = Drain(side, cloud, _Clock(), lambda: SETTINGS, told, lambda: 0.5)
    stop = asyncio.Event()
    running = asyncio.create_task(drain.run(lambda: None, stop))
    waits = [asyncio.create_task(event.wait()) for event in (side.through, told.heard)]
    await asyncio.wait({*waits, running}, timeout=DRAIN_MAX_S, return_when=asyncio.FIRST_COMPLETED)
    if not side.through.is_set():
        why = drain.facts().error_code
        told.words.append(f"the drain stands at {side.cursor()} of {side.last()} ({why})")
    stop.set()
    for one in waits:
        one.cancel()
    ended = await asyncio.gather(running, *waits, return_exceptions=True)
    told.words += [f"the drain ended by {one!r}" for one in ended[:1] if isinstance(one, Exception)]
    await reader.close()
    return told.words + cloud.refusals
