"""The agent's own command with SQLite's promise changed: `lesser.py PROMISE run --config FILE`.

`full` leaves the promise as it is. `normal`, `off` and `first`, which tells before it commits, are what power cuts must
convict. The agent itself has no such switch; this is put over its code from outside.
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

    def prepare_otherwise(connection: sqlite3.Connection, *limits: int) -> None:
        prepare(connection, *limits)
        connection.execute(f"pragma synchronous = {synchronous}")

    database._prepare = prepare_otherwise  # type: ignore[assignment]


if __name__ == "__main__":
    promised = sys.argv.pop(1)
    if promised == "first":
        tell_first()
    elif promised != "full":
        promise(promised)
    cli.main()
