"""downlink → [journal: commands] → those whom they concern. What the cloud has told, kept with the cursor behind it.

One transaction for what has come together: a command is durable before the cursor passes it, and the same one twice is
kept once. Never decides what it means.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from agent.core import cards
from agent.core.clock import Moment
from agent.core.commands import NEWEST, Command
from agent.journal.database import SQL
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

    def __init__(self, writing: Writing, along: Callable[[sqlite3.Connection, Command], None]) -> None:
        """`along` writes what else a new command brings about, in the same transaction."""
        self._writing = writing
        self._along = along
        self._looked_upto = 0
        """Behind which id it is looked next for what is old; it goes round."""

    async def cursor(self) -> str:
        """Where the stream goes on; empty at first. Raises JournalDamaged while the journal limps."""
        row = await self._writing.run(lambda connection: connection.execute(SQL["read_downlink"]).fetchone())
        return str(row[0]) if row is not None else ""

    async def keep(self, commands: Sequence[Command], cursor: str) -> tuple[Command, ...]:
        """Keep these and move the cursor behind them; returns those that are new. Durable when this returns.

        Raises Transient and JournalDamaged: then nothing of it is kept.
        """
        lived_s = self._writing.lived().total_s

        def write(connection: sqlite3.Connection) -> tuple[Command, ...]:
            stamp = self._writing.stamp(connection)
            at = (stamp.wall_ms, stamp.uptime_ms, stamp.boot, lived_s)
            new = []
            for one in commands:
                statement = SQL["write_command" if one.event in NEWEST else "add_command_once"]
                clean = _clean(one)
                if connection.execute(statement, (*clean, *at)).rowcount:
                    new.append(one)
                    self._along(connection, clean)
            self._remove_old(connection, lived_s)
            connection.execute(SQL["write_downlink"], (cursor,))
            return tuple(new)

        return await self._writing.change(write, must=True)

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
