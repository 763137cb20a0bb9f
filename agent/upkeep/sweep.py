"""journal → [sweep] → journal. Reads the whole log again and again, slowly, and has damaged records repaired.

Begins with the file's structure, then what the cloud lacks, then the rest; then it rests. It only reads: mending and
setting aside are the journal's. It is ancillary: nothing waits for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec
import structlog

from agent.core.conditions import Severity
from agent.core.errors import JournalDamaged, Transient
from agent.core.facts import SweepFacts

log = structlog.get_logger()

TURN_S: Final = 0.5
"""One look each so often; the rate is a setting."""
REPAIR_MAX: Final = 16
"""Records that are repaired in one step; between two steps there is a turn's pause, for whoever writes."""
REST_S: Final = 30.0
"""How often a resting sweep looks whether it is time to begin again."""


class Look(Protocol):
    """What one look found; see the journal's survey."""

    @property
    def last(self) -> int | None: ...
    @property
    def checked(self) -> int: ...
    @property
    def damaged(self) -> Sequence[int]: ...
    @property
    def unjoined(self) -> Sequence[int]: ...
    @property
    def holes(self) -> Sequence[tuple[int, int]]: ...


class Survey(Protocol):
    """Reads and checks. Raises JournalDamaged where the file cannot be read."""

    async def structure(self) -> Sequence[str]: ...
    async def look(self, after: int, count: int) -> Look: ...
    def interrupt(self) -> None: ...


class Journal(Protocol):
    """What mends. `cursor` is the last position that the cloud has."""

    def cursor(self) -> int: ...
    def last(self) -> int: ...
    def lived_s(self) -> float: ...
    def limps(self) -> bool: ...
    async def repair(self, positions: Sequence[int]) -> bool: ...
    def demand_rebuild(self, why: str, now: bool) -> None: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def sweep_records_per_s(self) -> int: ...
    @property
    def sweep_interval_s(self) -> float: ...


class Telling(Protocol):
    """Where people are told."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def happened(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def lift(self, id: str) -> None: ...


class Sweep:
    """The stage that looks for damage."""

    name = "sweep"

    def __init__(self, survey: Survey, journal: Journal, limits: Callable[[], Limits], telling: Telling) -> None:
        self._survey = survey
        self._journal = journal
        self._limits = limits
        self._telling = telling
        self._facts = SweepFacts()
        self._stop = asyncio.Event()

    def facts(self) -> SweepFacts:
        """How far it is."""
        return self._facts

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Sweep until `stop`."""
        self._stop = stop
        ready()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._interrupt_on(stop), name="sweep-stop")
            while not stop.is_set():
                await self._round()
                await self._rest()
            watching.cancel()

    async def _interrupt_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._survey.interrupt()

    async def _round(self) -> None:
        """The structure, what the cloud lacks, and the rest. A disk that fails as such is no damage to the journal."""
        while self._journal.limps() and not self._stop.is_set():
            await self._pause(REST_S)
        self._tell(state="structure")
        try:
            if found := await self._survey.structure():
                self._broken(f"its structure: {found[0]}", now=False)
            elif not self._stop.is_set() and not self._journal.limps():
                self._tell(structure="sound")
                self._telling.lift("journal_structure")
            begin = self._journal.cursor()
            self._tell(state="checking", checked_count=0)
            await self._walk(begin, None)
            await self._walk(0, begin)
        except JournalDamaged as damaged:
            if self._journal.limps():
                log.debug("sweep_put_off", code=damaged.code)
            else:
                self._broken(damaged.text, now=False)
        except Transient as failed:
            log.debug("sweep_put_off", code=failed.code)
        if not self._stop.is_set():
            self._tell(state="resting", rounds_count=self._facts.rounds_count + 1)

    async def _walk(self, after: int, end: int | None) -> None:
        """Look at what stands behind `after`, up to `end`."""
        while not self._stop.is_set():
            count = max(1, round(self._limits().sweep_records_per_s * TURN_S))
            look = await self._survey.look(after, count)
            await self._act_on(look)
            self._tell(
                checked_count=self._facts.checked_count + look.checked, position=look.last or self._journal.last()
            )
            if look.last is None or (end is not None and look.last >= end):
                return
            after = look.last
            await self._pause(TURN_S)

    async def _act_on(self, look: Look) -> None:
        for at in range(0, len(look.damaged), REPAIR_MAX):
            if at:
                await self._pause(TURN_S)
            together = look.damaged[at : at + REPAIR_MAX]
            log.warning("damage_found", count=len(together), first=together[0])
            await self._journal.repair(together)
            self._tell(damaged_count=self._facts.damaged_count + len(together))
        for first, last in look.holes:
            self._broken(f"records {first} to {last} are missing, and nothing says why", last > self._journal.cursor())
        if look.unjoined:
            self._tell(damaged_count=self._facts.damaged_count + len(look.unjoined))
            self._telling.happened(
                "journal_chain",
                "critical",
                "Records do not join",
                f"Record {look.unjoined[0]} does not follow the record before it, though each is whole by itself.",
                "Call support before anything is repaired: files of two journals may have been mixed. Keep selling.",
            )

    def _broken(self, what: str, now: bool) -> None:
        """The file as such is damaged: it is built anew from what is sound."""
        self._tell(structure="damaged")
        log.error("journal_structure_damaged", reason=what)
        self._journal.demand_rebuild(what, now)
        self._telling.hold(
            "journal_structure",
            "critical",
            "The box's disk has damaged its journal",
            f"The journal's file is damaged ({what}). Sales are recorded on; every record that is whole will be kept.",
            "Restart the box in a quiet minute: it builds the journal anew by itself. Replace the disk or card soon.",
        )

    async def _rest(self) -> None:
        ended_s = self._journal.lived_s()
        while not self._stop.is_set() and self._journal.lived_s() - ended_s < self._limits().sweep_interval_s:
            await self._pause(REST_S)

    async def _pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stop.wait()

    def _tell(self, **changes: object) -> None:
        self._facts = msgspec.structs.replace(self._facts, **changes)
