"""downlink → [journal: commands] → those whom they concern. What the cloud has told, kept with the cursor behind it.

One transaction for what has come together: a command is durable before the cursor passes it, with what it brings about,
and the same one twice is kept once. Never decides what it means.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from agent.core import cards
from agent.core.clock import Moment
from agent.core.commands import NEWEST, Command
from agent.journal.book import EpochBook
from agent.journal.database import SQL
from agent.journal.fold import Fold
from agent.journal.told import Told
from agent.journal.writing import Writing

PAYMENTS_KEEP_S: Final = 400 * 86_400.0
"""How long the fate of a payment is kept, in seconds that the box runs."""
WINDOW_IDS: Final = 200
"""So many ids are looked through for what is old whenever commands come: the table may have a million, and a sale waits
for this transaction."""


class Heard(NamedTuple):
    """A command as it was kept: its data, and when it was heard."""

    data: str
    at: Moment


def _clean(one: Command) -> Command:
    """What the disk may have of it: no card number, neither in the data nor in what it is about."""
    if cards.text_clean(one.data) and cards.text_clean(one.business):
        return one
    business, data = (cards.masked(text.encode()).decode() for text in (one.business, one.data))
    return one._replace(business=business, data=data)


class Inbox:
    """The table of commands, and the cursor."""

    def __init__(
        self,
        writing: Writing,
        along: Callable[[Fold, Command, bool], tuple[bool, Sequence[Told]]],
        tell: Callable[[Told], None] = lambda told: None,
    ) -> None:
        """`along` writes what else a command brings about, in the same transaction, knowing whether it is new: whether
        that is something, and what people have to know of it; `tell` hears that when it is durable."""
        self._writing = writing
        self._along = along
        self._looked_upto = 0
        """Behind which id it is looked next for what is old; it goes round."""
        self._tell = tell

    async def cursor(self) -> str:
        """Where the stream goes on; empty at first. Raises JournalDamaged while the journal limps."""
        row = await self._writing.run(lambda connection: connection.execute(SQL["read_downlink"]).fetchone())
        return str(row[0]) if row is not None else ""

    async def keep(self, commands: Sequence[Command], cursor: str) -> tuple[Command, ...]:
        """Keep these and move the cursor behind them; returns those that are news. Durable when this returns.

        Raises Transient and JournalDamaged: then nothing of it is kept.
        """
        told: list[Told] = []

        def write(connection: sqlite3.Connection) -> tuple[tuple[Command, ...], set[EpochBook]]:
            fold, new = self._writing.fold(connection), []
            told.clear()
            at = (fold.stamp.wall_ms, fold.stamp.uptime_ms, fold.stamp.boot, fold.stamp.lived_s)
            for one in commands:
                clean = _clean(one)
                statement = SQL["write_command" if one.event in NEWEST else "add_command_once"]
                is_new = connection.execute(statement, (*clean, *at)).rowcount > 0
                changed, words = self._along(fold, clean, is_new)
                told.extend(words)
                if is_new or changed:
                    new.append(one)
            self._remove_old(connection, fold.stamp.lived_s)
            connection.execute(SQL["write_downlink"], (cursor,))
            return tuple(new), fold.write()

        new = await self._writing.transact(write, must=True)
        for one in told:
            self._tell(one)
        self._writing.tell()
        return new

    def _remove_old(self, connection: sqlite3.Connection, lived_s: float) -> None:
        """Let go of what is old in the next window of ids."""
        first = self._looked_upto
        connection.execute(SQL["remove_commands"], (first, first + WINDOW_IDS, lived_s - PAYMENTS_KEEP_S))
        (last,) = connection.execute(SQL["read_last_command"]).fetchone()
        self._looked_upto = first + WINDOW_IDS if first + WINDOW_IDS < (last or 0) else 0

    async def get(self, event: str, business: str) -> Heard | None:
        """What was told about one thing. Raises JournalDamaged while the journal limps."""

        def read(connection: sqlite3.Connection) -> Heard | None:
            row = connection.execute(SQL["read_command"], (event, business)).fetchone()
            return Heard(row[0], Moment(*row[1:])) if row is not None else None

        return await self._writing.run(read)
