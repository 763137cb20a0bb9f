"""uplink → [journal: the uplink's history] → page. Every change of its raw state, kept for some weeks.

Written a few at a time beside the commits of events. It is no record of the venue: a rebuild of a damaged database
begins it anew.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from agent.core.clock import Moment
from agent.core.facts import Finding, UplinkCause, UplinkState
from agent.journal.database import SQL
from agent.journal.writing import Writing

KEPT_MAX: Final = 100_000
"""So many changes are kept, the latest."""


class Change(NamedTuple):
    """One change; `at` is when it was seen, as the box believed it then."""

    state: UplinkState
    cause: UplinkCause
    finding: Finding
    wall_ms: int
    uptime_ms: int


class Kept(NamedTuple):
    """A change as the table has it."""

    state: UplinkState
    cause: UplinkCause
    finding: Finding
    at: Moment


class UplinkChanges:
    """The table of changes."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing

    async def add(self, changes: Sequence[Change], keep_s: float) -> tuple[Kept, ...]:
        """Write these, and remove what is older than `keep_s` seconds of the box's running; returns them as kept.

        Raises Transient and JournalDamaged: then none of them is written.
        """
        lived_s = self._writing.lived().total_s

        def write(connection: sqlite3.Connection) -> tuple[Kept, ...]:
            boot = self._writing.stamp(connection).boot
            kept = tuple(
                Kept(one.state, one.cause, one.finding, Moment(one.wall_ms, one.uptime_ms, boot)) for one in changes
            )
            connection.executemany(SQL["add_uplink_change"], ((*one[:3], *one.at, lived_s) for one in kept))
            connection.execute(SQL["remove_uplink_changes"], (lived_s - keep_s, KEPT_MAX))
            return kept

        return await self._writing.change(write)

    async def latest(self, count: int) -> tuple[Kept, ...]:
        """The latest so many, oldest first. Raises JournalDamaged while the journal limps."""

        def read(connection: sqlite3.Connection) -> tuple[Kept, ...]:
            rows = connection.execute(SQL["read_uplink_changes"], (count,)).fetchall()
            return tuple(Kept(state, cause, finding, Moment(*at)) for state, cause, finding, *at in reversed(rows))

        return await self._writing.run(read)

    def instant_ms(self, at: Moment) -> int:
        """When it truly was, as well as is known."""
        return self._writing.book.instant_ms(at)
