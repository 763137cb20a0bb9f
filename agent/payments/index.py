"""journal → [the index of payments] → inquiry, business day. Follows the log, in small bites with pauses between them.

Selling goes first: it reads beside the writer, writes at most about once a second, and takes a small share of the time
while it has much to catch up with. Whoever asks for what was stored just now has it hurry. All of it can be made again.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import structlog

from agent.core.conditions import Severity
from agent.core.errors import NightsafeError, RecordDamaged
from agent.core.payments import UNDOING, PaymentFact

log = structlog.get_logger()

LOOK_S: Final = 5.0
"""How often the end of the log is looked at while nobody asks, in seconds: sales near each other share a write."""
SLICE_RECORDS: Final = 256
"""Records looked through at once: one short transaction, also where all of them are payments."""
PAUSE_S: Final = 0.05
"""Least pause between two such bites."""
REST_SHARE: Final = 9.0
"""So many times as long as a bite took is the pause behind it."""
BUSY_PER_S: Final = 100.0
BUSY_PAUSE_S: Final = 2.0
"""While the log grows by more than so many records a second, the pauses are so long; the index catches up later."""
PLACE_RECORDS: Final = 5_000
"""Without payments the place in the log is written down every so many records."""
CAUGHT_UP_S: Final = 2.0
"""How long a question waits for what was stored before it was asked, in seconds."""
RETRY_S: Final = 5.0
TIDY_S: Final = 60.0
"""How often it is looked whether the log has deleted something."""
TIDY_ROWS: Final = 200
"""Rows that one step lets go of."""
MARK_S: Final = 5.0
"""Least time between two notes of how far the cloud is."""
WORDS_S: Final = 1.0
"""Least time between two looks at what people have to be told."""


class Found(Protocol):
    """What was found in a part of the log."""

    @property
    def upto(self) -> int: ...
    @property
    def facts(self) -> Sequence[PaymentFact]: ...
    @property
    def days(self) -> Sequence[Any]: ...


class Tables(Protocol):
    """The tables of the index, and the log that they are made from. Raises NightsafeError, RecordDamaged."""

    async def place(self) -> int: ...
    async def slice(self, after: int, upto: int, records_max: int) -> Found: ...
    async def write(self, found: Any, place: int, window_ms: int) -> None: ...
    async def mark_uploaded(self) -> None: ...
    async def forget_lost(self) -> None: ...
    async def drop_old(self, rows_max: int) -> bool: ...


class Journal(Protocol):
    """The log, as far as it is durable. `repair` mends damaged records, or sets them aside."""

    @property
    def committed(self) -> int: ...
    @property
    def cursor(self) -> int: ...
    async def repair(self, positions: Sequence[int]) -> bool: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def duplicate_window_s(self) -> float: ...


class Telling(Protocol):
    """Where people are told."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def lift(self, id: str) -> None: ...


class Index:
    """The stage."""

    name = "payments"

    def __init__(self, tables: Tables, journal: Journal, limits: Callable[[], Limits]) -> None:
        self._tables = tables
        self._journal = journal
        self._limits = limits
        self._after: int | None = None
        """How far the log has been looked through; None until that is known."""
        self._place = 0
        """The same as the disk has it."""
        self._seen = (0, 0.0)
        """The end of the log as of the last pause, and when that was."""
        self._cursor = -1
        """How far the cloud was when that was last noted."""
        self._again: set[int] = set()
        """Positions to be looked at once more: their records have been mended."""
        self._lost = False
        """Whether records were set aside since it was last looked what of them stands here."""
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        """Set where more is wanted than a look at the news: that may end a pause between two bites."""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._news = True
        self._tell: Callable[[], Any] | None = None
        self._on_facts: Callable[[Sequence[PaymentFact]], None] = lambda facts: None

    def on_facts(self, call: Callable[[Sequence[PaymentFact]], None]) -> None:
        """Call `call` with what was found and is durable; the same again where the log is looked through anew."""
        self._on_facts = call

    def on_news(self, tell: Callable[[], Any]) -> None:
        """Call and await `tell` when what people are told of payments may have changed."""
        self._tell = tell

    def news(self) -> None:
        """Something beside the log has changed."""
        self._news = True
        self._wake.set()

    def repaired(self, mended: Sequence[int], lost: bool) -> None:
        """Records at these positions are as they were again; others were set aside."""
        self._again |= set(mended)
        self._lost = self._lost or lost
        self._wake.set()
        self._hurry.set()

    def reopened(self) -> None:
        """The journal was opened anew: another file may be there."""
        self._after = None
        self._lost = True
        self._wake.set()
        self._hurry.set()

    def has(self, upto: int) -> bool:
        """Whether the log has been looked through up to there."""
        return self._after is not None and self._after >= upto

    async def reached(self, upto: int, within_s: float) -> bool:
        """Wait until the log has been looked through up to a position; False when that takes longer."""
        if self.has(upto):
            return True
        waiting = (upto, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        self._hurry.set()
        try:
            async with asyncio.timeout(within_s):
                await waiting[1]
        except TimeoutError:
            return False
        finally:
            self._waiting.remove(waiting)
        return True

    async def caught_up(self) -> bool:
        """Whether all that is stored by now has been looked through, after a short wait."""
        return await self.reached(self._journal.committed, CAUGHT_UP_S)

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Follow the log until `stop`."""
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(), name="payments-follow")
            ready()
            await stop.wait()
            following.cancel()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        tidied_s = loop.time()
        told_s = marked_s = -MARK_S
        while True:
            self._wake.clear()
            self._hurry.clear()
            began_s = loop.time()
            try:
                await self._bite()
                behind = not self.has(self._journal.committed)
                if not behind and self._cursor != self._journal.cursor and began_s - marked_s >= MARK_S:
                    self._cursor, marked_s = self._journal.cursor, began_s
                    await self._tables.mark_uploaded()
                if began_s - tidied_s >= TIDY_S and not await self._tables.drop_old(TIDY_ROWS):
                    tidied_s = began_s
                if self._news and not behind and self._tell is not None and began_s - told_s >= WORDS_S:
                    self._news, told_s = False, began_s
                    await self._tell()
            except RecordDamaged as damaged:
                await self._have_mended(damaged.position)
            except NightsafeError as error:
                log.debug("payments_put_off", code=error.code)
                self._news = True
                await asyncio.sleep(RETRY_S)
            else:
                await self._rest(behind, loop.time() - began_s)

    async def _rest(self, behind: bool, took_s: float) -> None:
        """Leave the machine to those who sell; while somebody waits for an answer there is no rest. News does not
        shorten the pause of who is behind: while the cloud tells the fate of every sale there would be none."""
        if behind and self._waiting:
            return
        (seen, at_s), self._seen = self._seen, (self._journal.committed, asyncio.get_running_loop().time())
        busy = self._seen[0] - seen > BUSY_PER_S * (self._seen[1] - at_s)
        pause_s = max(BUSY_PAUSE_S if busy else PAUSE_S, REST_SHARE * took_s)
        if not behind:
            pause_s = WORDS_S if self._news else LOOK_S
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await (self._hurry if behind else self._wake).wait()

    async def _bite(self) -> None:
        """Look through the next part of the log."""
        if self._lost:
            await self._tables.forget_lost()
            self._lost = False
        if self._after is None:
            self._place = await self._tables.place()
            self._after, self._news = self._place, True
        after, committed = self._after, self._journal.committed
        for position in sorted(self._again):
            found = await self._tables.slice(position - 1, position, 1)
            if position <= after and not await self._take(found, after, self._place):
                return
            self._again.discard(position)
        if after < committed:
            found = await self._tables.slice(after, committed, SLICE_RECORDS)
            if not await self._take(found, after, found.upto):
                return
            self._after = found.upto
            self._news = self._news or any(_matters(fact) for fact in found.facts)
        for upto, future in self._waiting:
            if self.has(upto) and not future.done():
                future.set_result(None)

    async def _take(self, found: Found, after: int, place: int) -> bool:
        """Write what was found; False where the journal was opened anew since: the file may be another one, of which
        nothing has been looked through."""
        if self._after != after:
            return False
        if found.facts or found.days or place - self._place >= PLACE_RECORDS:
            await self._tables.write(found, place, int(self._limits().duplicate_window_s * 1000))
            self._on_facts(found.facts)
            if self._after != after:
                return False
            self._place = place
        return True

    async def _have_mended(self, position: int) -> None:
        """A damaged record is never passed by: it is mended, or set aside by name, and then it is gone."""
        pause_s = PAUSE_S
        try:
            if not await self._journal.repair([position]):
                pause_s = WORDS_S  # somebody else has, or is about to
        except NightsafeError as error:
            log.debug("payments_not_mended", code=error.code)
            pause_s = RETRY_S
        await asyncio.sleep(pause_s)


def _matters(fact: PaymentFact) -> bool:
    """Whether a payment may have people told something."""
    return fact.card_token is not None or fact.kind in UNDOING
