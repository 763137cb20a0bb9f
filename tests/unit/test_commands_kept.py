"""The table of the cloud's commands: what is old goes, and a sale never waits for a look through all of it."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from agent.core.commands import Command
from agent.journal import inbox as module
from agent.journal.inbox import PAYMENTS_KEEP_S, WINDOW_IDS, Inbox
from agent.journal.writing import Writing

MIGRATION = Path(module.__file__).with_name("migrations") / "0006_downlink.sql"


class Table:
    """Stands where the journal's writer stands, over a table in memory."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.executescript(MIGRATION.read_text())
        self.now_s = 0.0

    def fold(self, _: sqlite3.Connection) -> SimpleNamespace:
        stamp = SimpleNamespace(wall_ms=1, uptime_ms=1, boot=1, lived_s=self.now_s)
        return SimpleNamespace(stamp=stamp, write=set)

    async def transact(self, work: Callable[[sqlite3.Connection], Any], must: bool = False) -> Any:
        return work(self.connection)[0]

    def tell(self) -> None: ...

    def fill(self, count: int, event: str = "payment.posted") -> None:
        rows = ((event, f"{event}-{number}", "{}", 1, 1, 1, self.now_s) for number in range(count))
        self.connection.executemany(
            "insert into commands (event, business, data, heard_ms, uptime_ms, boot, lived_s) values (?,?,?,?,?,?,?)",
            rows,
        )

    def count(self, event: str) -> int:
        return int(self.connection.execute("select count(*) from commands where event = ?", (event,)).fetchone()[0])


def keep(inbox: Inbox, business: str) -> None:
    asyncio.run(inbox.keep([Command("payment.posted", business, "{}")], f"log-{business}"))


def made(table: Table) -> Inbox:
    return Inbox(cast("Writing", table), lambda fold, command, is_new: (False, ()))


def steps(table: Table, inbox: Inbox, business: str) -> int:
    """Thousands of SQLite's own steps that keeping one command takes."""
    seen = [0]

    def count() -> int:
        seen[0] += 1
        return 0

    table.connection.set_progress_handler(count, 100)
    keep(inbox, business)
    table.connection.set_progress_handler(None, 0)
    return seen[0]


def test_keeping_a_command_costs_the_same_however_many_there_are() -> None:
    small, large = Table(), Table()
    small.fill(2 * WINDOW_IDS)
    large.fill(100 * WINDOW_IDS)
    assert steps(large, made(large), "new") <= 2 * steps(small, made(small), "new") + 2


def test_old_fates_of_payments_go_and_orders_and_younger_ones_stay() -> None:
    table = Table()
    table.fill(3, "order.placed")
    table.fill(5 * WINDOW_IDS)
    table.now_s = PAYMENTS_KEEP_S / 2
    table.fill(3, "payment.declined")
    table.now_s = PAYMENTS_KEEP_S + 1
    inbox = made(table)
    for number in range(8):
        keep(inbox, f"new-{number}")
    assert table.count("payment.posted") == 8
    assert table.count("order.placed") == 3
    assert table.count("payment.declined") == 3


def test_the_look_for_what_is_old_goes_round() -> None:
    table = Table()
    table.fill(3 * WINDOW_IDS)
    inbox = made(table)
    for number in range(5):
        keep(inbox, f"new-{number}")
    table.now_s = PAYMENTS_KEEP_S + 1
    for number in range(5, 13):
        keep(inbox, f"new-{number}")
    assert table.count("payment.posted") == 8


def test_the_first_command_of_all_is_kept() -> None:
    table = Table()
    keep(made(table), "p1")
    assert table.count("payment.posted") == 1
