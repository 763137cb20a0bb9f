"""The table of replies in real time: bounded, and noting one costs the same however many there are."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.core.requests import KEEP_S, Reply, Request, read
from agent.journal import requests as module
from agent.journal.requests import SURPLUS_NOTES, Requests
from agent.journal.writing import Writing

MIGRATION = Path(module.__file__).with_name("migrations") / "0007_requests.sql"


class Table:
    """Stands where the journal's writer stands, over a table in memory."""

    def __init__(self, count: int) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.executescript(MIGRATION.read_text())
        self.now_s = float(count)
        rows = (("till-1", f"old-{number}", "d", "{}", float(number), number % 100 == 0) for number in range(count))
        self.connection.executemany("insert into requests values (?, ?, ?, ?, ?, ?)", rows)

    def lived(self) -> SimpleNamespace:
        return SimpleNamespace(total_s=self.now_s)

    async def change(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        return work(self.connection)

    def count(self) -> int:
        return int(self.connection.execute("select count(*) from requests").fetchone()[0])

    def requests(self) -> Requests:
        return Requests(cast("Writing", self))


def note(requests: Requests, id: str) -> None:
    asked = Request("till-1", "loyalty.balance", id, {}, "digest")
    asyncio.run(requests.note([(asked, Reply(id, "requires_realtime", {}, "uplink_down"))]))


def steps(count: int) -> int:
    """Hundreds of SQLite's own steps that noting one reply takes beside so many."""
    table, seen = Table(count), [0]

    def one() -> int:
        seen[0] += 1
        return 0

    requests = table.requests()
    table.connection.set_progress_handler(one, 100)
    note(requests, "new")
    table.connection.set_progress_handler(None, 0)
    return seen[0]


def test_noting_a_reply_costs_the_same_however_many_there_are() -> None:
    assert steps(20_000) <= steps(200) + 2


def test_what_is_older_than_seven_days_goes_promised_or_not() -> None:
    table = Table(1_000)
    table.now_s = KEEP_S + 500
    note(table.requests(), "new")
    assert table.count() == 501


def test_the_number_of_replies_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_MAX", 300)
    table = Table(1_000)
    requests = table.requests()
    for number in range(SURPLUS_NOTES):
        note(requests, f"new-{number}")
    promised = 10
    assert 300 <= table.count() - promised <= 300 + SURPLUS_NOTES


@pytest.mark.parametrize(
    ("args", "kept"),
    [
        ('{"customer_id":"c7"}', True),
        ('{"card":{"token":"tok-1"},"amount":{"amount":1250,"currency":"GBP"}}', True),
        ('{"card":{"number":"4111 1111 1111 1111"}}', False),
        ('{"card":4111111111111111}', False),
        ('{"cvv":"123"}', False),
    ],
)
def test_of_arguments_that_may_hold_a_card_number_no_digest_is_made(args: str, kept: bool) -> None:
    """A digest of so few possible numbers is as good as the number."""
    found = read("till-1", "loyalty.balance", f'{{"id":"1","args":{args}}}'.encode())
    assert isinstance(found, Request)
    assert bool(found.digest) is kept
