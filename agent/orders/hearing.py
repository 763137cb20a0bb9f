"""journal → [hearing] → courier, desk. What devices have said of orders, heard in the order that refunds nothing twice.

Looks through the log behind a place that is kept with what was heard. All that is stored and was not heard is heard
together, and before any person acts, in the same transaction: see docs/decisions/0009. Never decides what it means.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog

from agent.core.conditions import Severity
from agent.core.errors import NightsafeError, RecordDamaged, Transient
from agent.core.order_facts import Order
from agent.core.orders import Step

log = structlog.get_logger()

SLICE_RECORDS: Final = 1_000
"""Records looked through at once."""
REST_SHARE: Final = 3.0
"""So many times as long as such a slice took is the pause behind it, while there are more and nobody waits."""
PLACE_RECORDS: Final = 5_000
"""Where nobody speaks of orders, the place in the log is written down every so many records."""
ACT_WAIT_S: Final = 8.0
"""How long a person waits until all that is stored has been looked through, in seconds."""
TRIES: Final = 3
"""How often hearing is begun anew where the log has grown too much meanwhile."""
MEND_PAUSE_S: Final = 1.0
"""Until a damaged record that somebody else is mending is looked at again."""

Take = Callable[[Order, int], Step]


class Tables(Protocol):
    """The tables of orders, and the log. Raises NightsafeError, RecordDamaged."""

    async def place(self) -> int: ...
    async def slice(self, after: int, upto: int, records_max: int) -> Any: ...
    async def write_place(self, place: int) -> None: ...
    async def hear(self, found: Any, who: tuple[str, Take] | None = None) -> Any: ...


class Journal(Protocol):
    """The log, as far as it is durable. `repair` mends damaged records, or sets them aside."""

    @property
    def committed(self) -> int: ...
    async def repair(self, positions: Sequence[int]) -> bool: ...


class Telling(Protocol):
    """Where people are told what has happened."""

    def happened(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...


class Hearing:
    """Who hears, one at a time. `on_step` is told what each hearing has done, when it is durable."""

    def __init__(self, tables: Tables, journal: Journal, telling: Telling) -> None:
        self._tables = tables
        self._journal = journal
        self._telling = telling
        self._found: Any = None
        """What was found behind the place that the disk has; None until that is known."""
        self._again: set[int] = set()
        """Positions to be looked at once more: their records have been mended."""
        self._one = asyncio.Lock()
        self._waiting_count = 0
        self._on_step: Callable[[Step], None] = lambda step: None

    def on_step(self, call: Callable[[Step], None]) -> None:
        """Call `call` with each step that hearing or a person has made."""
        self._on_step = call

    def repaired(self, mended: Sequence[int]) -> None:
        """Records at these positions are as they were again."""
        self._again |= set(mended)

    def reopened(self) -> None:
        """The journal was opened anew: another file may be there."""
        self._found = None

    async def catch_up(self) -> None:
        """Hear all that is stored by now. Raises NightsafeError."""
        async with self._one:
            await self._look()
            if self._found.told:
                await self._hear(None)
            elif self._found.upto - self._found.after >= PLACE_RECORDS:
                await self._tables.write_place(self._found.upto)
                self._found = None

    async def act(self, order_id: str, take: Take) -> Step:
        """A person acts, behind all that is stored. Raises Transient while that has not been looked through."""
        self._waiting_count += 1
        try:
            for _ in range(TRIES):
                if (done := await self._try((order_id, take))) is not None:
                    return done
        finally:
            self._waiting_count -= 1
        raise _behind()

    async def _try(self, who: tuple[str, Take]) -> Step | None:
        """None where the log has grown too much meanwhile."""
        try:
            async with asyncio.timeout(ACT_WAIT_S):
                await self._one.acquire()
        except TimeoutError as error:
            raise _behind() from error
        try:
            async with asyncio.timeout(ACT_WAIT_S):
                await self._look()
        except TimeoutError as error:
            self._one.release()
            raise _behind() from error
        except BaseException:
            self._one.release()
            raise
        try:
            return await self._hear(who)
        except RecordDamaged as damaged:
            await self._have_mended(damaged.position)
            return None
        except Transient as error:
            if error.code != "orders_behind":
                raise
            return None
        finally:
            self._one.release()

    async def _look(self) -> None:
        """Look through the log up to its end."""
        while True:
            try:
                await self._look_on()
            except RecordDamaged as damaged:
                await self._have_mended(damaged.position)
            else:
                return

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        if self._found is None:
            place = await self._tables.place()
            self._found = await self._tables.slice(place, place, 1)
        for position in sorted(self._again):
            if position <= self._found.upto:
                part = await self._tables.slice(position - 1, position, 1)
                self._found = self._found._replace(told=self._found.told + part.told)
            self._again.discard(position)
        while self._found.upto < (committed := self._journal.committed):
            began_s, found = loop.time(), self._found
            part = await self._tables.slice(found.upto, committed, SLICE_RECORDS)
            if self._found is not found:
                raise _behind()  # the journal was opened anew meanwhile
            self._found = found._replace(upto=part.upto, told=found.told + part.told)
            if part.upto < committed and not self._waiting_count:
                await asyncio.sleep(REST_SHARE * (loop.time() - began_s))

    async def _hear(self, who: tuple[str, Take] | None) -> Step | None:
        found, self._found = self._found, None  # whatever becomes of it, the disk knows
        heard = await self._tables.hear(found, who)
        for step in (*heard.steps, *([heard.acted] if heard.acted is not None else ())):
            for one in step.attentions:
                self._telling.happened(one.id, "warning", one.title, one.text, one.hint)
            for refused in step.refusals:
                log.warning("order_act_refused", order=step.order.order_id, code=refused.code)
            for fact in step.facts:
                log.info("order_fact", order=fact.order_id, kind=fact.kind, actor=fact.actor)
            self._on_step(step)
        return heard.acted  # type: ignore[no-any-return]

    async def _have_mended(self, position: int) -> None:
        """A damaged record is never passed by: it is mended, or set aside by name, and then it is gone."""
        try:
            mended = await self._journal.repair([position])
        except NightsafeError as error:
            log.debug("orders_not_mended", code=error.code)
            mended = False
        if not mended:
            await asyncio.sleep(MEND_PAUSE_S)


def _behind() -> Transient:
    return Transient("orders_behind", "The box is still looking through its records.", "Wait a moment, then repeat it.")
