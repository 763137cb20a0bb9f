"""what has happened → [journal: attentions] → people. Told until a person has acknowledged it, over every restart.

What a commit itself finds stands in that commit (told.py); what the drain tells goes with the commit that it tells of
(`along`). All else goes into memory at once and to the disk beside the commits of events, in a transaction of its own,
with a record of the box's own that says so. While the journal limps it waits here. Never decides what is worth telling.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

import structlog

from agent.core.arrivals import Own
from agent.core.clock import Moment
from agent.core.conditions import Words
from agent.core.errors import JournalDamaged, NightsafeError, Rejected, Transient
from agent.journal.book import AGENT, Acknowledged, Attention, EpochBook
from agent.journal.database import SQL
from agent.journal.fold import Fold
from agent.journal.told import Told, harmless, harmless_words, put
from agent.journal.writing import Writing

log = structlog.get_logger()
T = TypeVar("T")

PAUSE_S: Final = 0.2
"""Least time between two writes, however much happens: between them, commits of events have the disk."""
RETRY_S: Final = 30.0
"""How often it is looked whether something is not written yet: what failed, or words that have changed."""
TURN_MAX: Final = 50
"""So many are written by one transaction; commits of events wait for it."""
ACKNOWLEDGED_MAX: Final = 200
"""So many of those that a person has ended are remembered, the latest."""
LEFT_OUT: Final = "Too many stood at once, and this was the oldest."


class Happened(NamedTuple):
    """What is told, and when it was first told in this boot, as the wall clock was known."""

    words: Words
    wall_ms: int
    uptime_ms: int


class Attentions:
    """What stands, in memory and on the disk."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._standing: dict[str, Happened] = {}
        self._left_out: dict[str, None] = {}
        """On the disk still, and to be ended there."""
        self._left_out_count = 0
        """Not counted on the disk yet."""
        self._one = asyncio.Lock()
        self._wake = asyncio.Event()
        self._recall: Callable[[str, Words, Moment], None] = lambda id, words, at: None
        writing.on_reopen(self._recall_all)

    # Telling --------------------------------------------------------------------------------------------------------

    def keep(self, id: str, happened: Happened) -> None:
        """It has happened, and stands from now on. What stands already keeps its beginning; only its words change."""
        words = harmless_words(happened.words)
        before = self._standing.get(id)
        if before is not None:
            self._standing[id] = before._replace(words=words)
            return
        self._standing[id] = happened._replace(words=words)
        self._wake.set()

    def leave_out(self, id: str) -> None:
        """There are too many: end it without a person, and count it."""
        if self._standing.pop(id, None) is None:
            return
        log.warning("attention_left_out", condition=id)
        self._left_out_count += 1
        if id in self._writing.book.attentions:
            self._left_out[id] = None
        self._wake.set()

    def on_recalled(self, call: Callable[[str, Words, Moment], None]) -> None:
        """Call `call` with each that an earlier start has told of: now, and when the journal has been opened anew."""
        self._recall = call
        self._recall_all()

    def _recall_all(self) -> None:
        for id, kept in list(self._writing.book.attentions.items()):
            if id not in self._left_out:
                self._standing.setdefault(id, Happened(kept.words, kept.at.wall_ms, kept.at.uptime_ms))
                self._recall(id, kept.words, kept.at)
        self._wake.set()

    def instant_ms(self, at: Moment) -> int:
        """When it truly happened, as well as is known."""
        return self._writing.book.instant_ms(at)

    def ended_s(self, id: str) -> float | None:
        """When a person last ended it, in seconds that the box had run."""
        found = self._writing.book.acknowledged.get(id)
        return found.lived_s if found is not None else None

    async def acknowledge(self, id: str, actor: str, reason: str) -> None:
        """A person ends it; returns when that is durable, with who and why. Raises Rejected, or Transient where nothing
        can be written now."""
        stood = self._standing.pop(id, None)  # what happens from now on is new
        if stood is None:
            raise Rejected("attention_none", f"There is no attention {id}.", "See `nightsafe attention list`.")
        kept = self._writing.book.attentions.get(id)
        seen = {stood.words} if kept is None else {stood.words, kept.words}
        try:
            async with self._one:
                await self._writing.transact(
                    lambda connection: self._acknowledge(connection, id, stood, seen, actor, reason), must=True
                )
        except BaseException as error:
            self._standing.setdefault(id, stood)
            if not isinstance(error, Transient | JournalDamaged):
                raise
            hint = "Repeat it when `nightsafe status` says that sales are stored again."
            raise Transient(
                "attention_stays", f"It is not ended: nothing can be written now. {error.text}", hint
            ) from error
        self._writing.tell()

    # Writing --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write what memory has and the disk has not, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()
            self._wake.clear()
            await self.write()
            await asyncio.sleep(PAUSE_S)

    async def settled(self) -> None:
        """Write all that is due, before its cause goes: the caller goes on behind it. A disk that fails puts it off."""
        while self._due() and await self.write():
            pass

    async def along(self, work: Callable[[sqlite3.Connection], tuple[T, set[EpochBook]]], must: bool = False) -> T:
        """As `Writing.transact`, and what has happened so far and is not written yet is written with it."""
        if not self._due():
            return await self._writing.transact(work, must)
        async with self._one:
            due = self._due()

            def both(connection: sqlite3.Connection) -> tuple[T, set[EpochBook]]:
                result, touched = work(connection)
                return result, touched | self._write(connection, due, [], 0)[1]

            return await self._writing.transact(both, must)

    async def write(self) -> bool:
        """Write what is due, one turn; False where nothing was. A disk that fails puts it off."""
        async with self._one:
            if self._writing.failure is not None:
                return False
            due = self._due()
            gone, count = list(self._left_out)[:TURN_MAX], self._left_out_count
            if not due and not gone and not count:
                return False
            try:
                await self._writing.transact(lambda connection: self._write(connection, due[:TURN_MAX], gone, count))
            except NightsafeError as error:
                log.debug("attentions_put_off", code=error.code)
                return False
            self._left_out_count -= count
            for id in gone:
                del self._left_out[id]
            if len(due) > TURN_MAX or self._left_out:
                self._wake.set()
        self._writing.tell()
        return True

    def _due(self) -> list[tuple[str, Happened]]:
        return [one for one in self._standing.items() if self._is_due(*one)]

    def _is_due(self, id: str, happened: Happened) -> bool:
        kept = self._writing.book.attentions.get(id)
        return kept is None or kept.words != happened.words or id in self._left_out

    def _write(
        self, connection: sqlite3.Connection, due: list[tuple[str, Happened]], gone: list[str], count: int
    ) -> tuple[None, set[EpochBook]]:
        book, fold = self._writing.book, self._writing.fold(connection)
        for id in gone:
            kept = book.attentions.pop(id, None)
            if kept is not None:
                connection.execute(SQL["remove_attention"], (kept.row,))
                _record_end(fold, id, AGENT, LEFT_OUT)
        for id, happened in due:
            self._put(fold, id, happened)
        if count:
            book.attentions_left_out += count
            connection.execute(SQL["write_attentions_left_out"], (book.attentions_left_out,))
        fold.write()
        return None, fold.touched

    def _put(self, fold: Fold, id: str, happened: Happened) -> Attention:
        return put(fold, Told(id, happened.words), Moment(happened.wall_ms, happened.uptime_ms, fold.stamp.boot))

    def _acknowledge(
        self, connection: sqlite3.Connection, id: str, stood: Happened, seen: set[Words], actor: str, reason: str
    ) -> tuple[None, set[EpochBook]]:
        """End it; where a commit has told something else under this name since, that has not been `seen`, and stays."""
        book, fold = self._writing.book, self._writing.fold(connection)
        kept = book.attentions.get(id) or self._put(fold, id, stood)
        del book.attentions[id]
        before = book.acknowledged.pop(id, None)
        if before is not None:
            connection.execute(SQL["remove_attention"], (before.row,))
        connection.execute(SQL["end_attention"], (fold.stamp.lived_s, kept.row))
        book.acknowledged[id] = Acknowledged(kept.row, fold.stamp.lived_s)
        while len(book.acknowledged) > ACKNOWLEDGED_MAX:
            oldest = min(book.acknowledged, key=lambda name: book.acknowledged[name].lived_s)
            connection.execute(SQL["remove_attention"], (book.acknowledged.pop(oldest).row,))
        _record_end(fold, id, harmless(actor), harmless(reason))
        if kept.words not in seen:
            put(fold, Told(id, kept.words))
        fold.write()
        return None, fold.touched


def _record_end(fold: Fold, id: str, actor: str, reason: str) -> None:
    fold.take(Own("nightsafe.condition.cleared", {"condition": id, "actor": actor, "reason": reason}))
