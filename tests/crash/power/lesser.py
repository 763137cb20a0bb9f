"""The agent's own command with SQLite's promise changed: `lesser.py SYNCHRONOUS CHECKPOINT_BYTES run --config FILE`.

`full` leaves the promise as it is: then only checkpoints come more often, or not even that with 0 bytes. `normal`,
`off` and `first`, which tells before it commits, are what power cuts must convict. The agent itself has no such
switch; this is put over its code from outside.
"""

import sqlite3
import sys
from pathlib import Path

from agent import cli
from agent.journal import database
from tests.crash.launcher import tell_first

LESSER = Path(__file__)


def promise(synchronous: str) -> None:
    """Once the agent has set up its connection, have it sync as little as this."""
    prepare = database._prepare

    def prepare_otherwise(connection: sqlite3.Connection, cache_bytes: int, bytes_max: int) -> None:
        prepare(connection, cache_bytes, bytes_max)
        connection.execute(f"pragma synchronous = {synchronous}")

    database._prepare = prepare_otherwise


def checkpoint_every(size: int) -> None:
    """Copy the log into the database file when it has this many bytes."""
    database.CHECKPOINT_BYTES = size  # type: ignore[misc]


if __name__ == "__main__":
    synchronous, checkpoint_bytes = sys.argv.pop(1), int(sys.argv.pop(1))
    if synchronous == "first":
        tell_first()
    elif synchronous != "full":
        promise(synchronous)
    if checkpoint_bytes:
        checkpoint_every(checkpoint_bytes)
    cli.main()
