"""drain → [journal: retention] → disk. Deletes the oldest records when the cloud has called them safe for long enough.

Only the records go: ids, refused events, holes and figures outlive them. How long is counted in the seconds that this
box has run, so that no wrong clock deletes anything. Runs on the writer's thread inside one transaction; never commits.
"""

import sqlite3
from typing import Final, NamedTuple

from agent.journal.database import SQL

MARK_INTERVAL_S: Final = 600.0
"""Marks are at least so far apart, in seconds that the box has run."""


class Pages(NamedTuple):
    """The database file in pages: all, those that deletions freed, the most there may be; and a page's bytes."""

    total: int
    free: int
    total_max: int
    size: int

    @property
    def used_bytes(self) -> int:
        """What holds something."""
        return (self.total - self.free) * self.size

    @property
    def free_bytes(self) -> int:
        """What the file has already and new records will use first."""
        return self.free * self.size

    @property
    def left_bytes(self) -> int:
        """What may still be stored before the file is as large as it may get."""
        return max(0, self.total_max - self.total + self.free) * self.size


def pages(connection: sqlite3.Connection) -> Pages:
    """How full the database is."""
    names = ("page_count", "freelist_count", "max_page_count", "page_size")
    return Pages(*(connection.execute(f"pragma {name}").fetchone()[0] for name in names))


def mark(connection: sqlite3.Connection, safe: int, lived_s: float) -> None:
    """Note that the cloud calls everything up to `safe` safe when the box has run `lived_s`, if that is news and the
    last mark is old enough."""
    marks = connection.execute(SQL["read_safe_marks"]).fetchall()
    if not marks or (safe > marks[-1][0] and not 0 <= lived_s - marks[-1][1] < MARK_INTERVAL_S):
        connection.execute(SQL["mark_safe"], (safe, lived_s))


def lower(connection: sqlite3.Connection, safe: int) -> None:
    """The cloud calls no more than this safe: what it called safe above counts anew from when it does so again."""
    above = [at_s for position, at_s in connection.execute(SQL["read_safe_marks"]) if position > safe]
    if not above:
        return
    if safe > 0:
        connection.execute(SQL["mark_safe"], (safe, above[0]))
    connection.execute(SQL["drop_safe_marks"], (safe,))


def delete(connection: sqlite3.Connection, highest: int, horizon_s: float, rows_max: int) -> int:
    """Delete at most `rows_max` of the oldest records that a mark from before `horizon_s` covers, none above `highest`;
    returns how many."""
    marks = [tuple(row) for row in connection.execute(SQL["read_safe_marks"])]
    covered = _covered(marks, horizon_s)
    if not covered:
        return 0
    bound = (min(covered, highest), rows_max)
    deleted = connection.execute(SQL["delete_records"], bound).rowcount if bound[0] > 0 else 0
    if deleted < rows_max:  # through: older marks than the one that covers all this say nothing more
        connection.execute(SQL["prune_safe_marks"], (covered,))
    return deleted


def _covered(marks: list[tuple[int, float]], horizon_s: float) -> int:
    """The highest position whose mark is as old as `horizon_s`. A mark counts as no older than any below it: where one
    was damaged, records stay for longer and not for shorter."""
    covered = 0
    for position, at_s in marks:
        if at_s > horizon_s:
            break
        covered = position
    return covered
