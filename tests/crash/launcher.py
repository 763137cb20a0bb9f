"""The agent's own command with one promise broken on purpose: `launcher.py BREAK run --config FILE`.

A check that never convicts anybody proves nothing: these are the culprits that it must find. The agent itself has no
such switch; everything here is put over its code from outside. `clock` breaks nothing: a file says whether the clock is
synchronised, because no test may touch the kernel's word on it.
"""

import os
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent import cli
from agent.core.arrivals import Item, Outcome, Settle
from agent.journal import database
from agent.journal.writer import Journal
from agent.runtime.clock import Clock
from agent.upkeep import clock as clock_watch

LAUNCHER = Path(__file__)
SYNCED_FILE = "NIGHTSAFE_TEST_SYNCED_FILE"
"""Names the file that is there while the clock is to be called synchronised."""


def sync_less(synchronous: str) -> None:
    """SQLite is told to leave some of the writing to the operating system (`normal`), or all of it (`off`)."""
    prepare = database._prepare

    def prepare_with_less(connection: sqlite3.Connection, *limits: int) -> None:
        prepare(connection, *limits)
        connection.execute(f"pragma synchronous = {synchronous}")

    database._prepare = prepare_with_less


def checkpoint_nothing() -> None:
    """What an earlier process left in the log is believed to be on the disk."""
    database._checkpoint = lambda connection: None


def tell_first() -> None:
    """Devices are told before the writer has even looked."""
    submit = Journal.submit

    def tell_and_submit(self: Journal, item: Item, settle: Settle) -> None:
        settle(item, Outcome.STORED)
        submit(self, item, lambda item, outcome: None)

    Journal.submit = tell_and_submit  # type: ignore[method-assign]


def synced_by_a_file() -> None:
    """The clock is synchronised while a file is there, and several corrections may follow each other soon."""
    file = Path(os.environ[SYNCED_FILE])
    Clock.synced = lambda self: file.exists()  # type: ignore[method-assign]
    Clock.error_ms = lambda self: 5  # type: ignore[method-assign]
    clock_watch.AGAIN_S = 0.5  # type: ignore[misc]


BREAKS: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "sync": partial(sync_less, "off"),
    "sync some": partial(sync_less, "normal"),
    "start": checkpoint_nothing,
    "order": tell_first,
    "clock": synced_by_a_file,
}

if __name__ == "__main__":
    BREAKS[sys.argv.pop(1)]()
    cli.main()
