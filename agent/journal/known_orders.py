"""[journal: facts of orders] ← orders, rebuild. What the tables say of one order, and having again what the log says.

Runs on the writer's thread or a reader's; never commits.
"""

import sqlite3
from functools import reduce
from typing import Any

import msgspec

from agent.core.order_facts import Fact, Order, fold, recalled
from agent.journal.database import SQL, corrupt

_fact = msgspec.json.Decoder(Fact).decode


def order_of(connection: sqlite3.Connection, order_id: str) -> Order:
    """All that is known of an order. A fact that cannot be read may be the one that forbids a refund, so the journal is
    built anew then: raises JournalDamaged."""
    facts = [_readable(text) for (text,) in connection.execute(SQL["read_order_facts"], (order_id,))]
    if None in facts:
        raise corrupt("a fact of an order cannot be read")
    return reduce(fold, filter(None, facts), Order(order_id))


def _readable(text: str | bytes) -> Fact | None:
    try:
        return _fact(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def recall(connection: sqlite3.Connection) -> None:
    """Have the facts that the log's own records say, in a database that was built anew; what cannot be read goes."""
    run = connection.execute
    lived_s = run("select boottime_s from journal").fetchone()[0] or 0.0
    for row, text in run("select id, fact from order_facts").fetchall():
        if _readable(text) is None:
            run("delete from order_facts where id = ?", (row,))
    for (event,) in run(SQL["find_own_order_records"], (b'"nightsafe.order.',)).fetchall():
        fact = _recalled(event)
        if fact is not None:
            run(SQL["add_order_fact"], (fact.order_id, msgspec.json.encode(fact).decode()))
    for (order_id,) in run("select distinct order_id from order_facts").fetchall():
        run("insert or ignore into orders (order_id, resting, changed_s) values (?, 0, ?)", (order_id, lived_s))


class _Own(msgspec.Struct):
    type: str
    data: dict[str, Any]


_own = msgspec.json.Decoder(_Own).decode


def _recalled(event: bytes) -> Fact | None:
    try:
        found = _own(event)
        return recalled(found.type, found.data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
