"""server, ledger → [order desk] → file. What the platform knows of a venue's orders, and when it gives money back.

It knows what its operator has sent, and what the box has recorded: of each mark the first stands. Money goes back once,
and only because the box says that the order was rejected; not where it has said before that the food was made, and no
second person agreed: a box that was restored from an older copy may have forgotten. Runs in its caller's transaction.
"""

import sqlite3
from collections.abc import Mapping
from typing import Any, Final

import msgspec

SENT: Final = {"order.placed": "placed", "order.cancelled": "cancel_asked", "order.refunded": "refunded"}
"""Commands, and the mark that each leaves."""
PREFIX: Final = "nightsafe.order."
RECORDED: Final = frozenset(
    {
        "awaiting_venue",
        "alerted",
        "accepted",
        "ready",
        "provided",
        "rejected",
        "reject_refused",
        "problem",
        "undeliverable",
        "cancelled",
        "late",
    }
)
"""What a box records of an order."""
STATES: Final = (
    "refunded",
    "rejected",
    "cancelled",
    "provided",
    "ready",
    "accepted",
    "problem",
    "undeliverable",
    "awaiting_venue",
    "placed",
)
"""The first of these that is marked is the state."""
MADE: Final = frozenset({"ready", "provided"})
WITHHELD: Final = "refund_withheld"
"""The mark of an order whose money is not given back before a person has looked at it."""
LISTED_MAX: Final = 200
TEXT_MAX: Final = 500
REFUNDED_BY_REJECT: Final = "rejected by the venue"


class OrderMark(msgspec.Struct):
    """Who said what, and when."""

    mark: str
    actor: str
    at: str
    reason: str


class OrderAnswer(msgspec.Struct):
    """An order as the platform knows it."""

    order_id: str
    state: str
    marks: list[OrderMark]


class OrdersAnswer(msgspec.Struct):
    """A venue's orders, the latest first."""

    orders: list[OrderAnswer]


class OrderBook:
    """The orders of one venue. `sql` are the desk's statements."""

    def __init__(self, db: sqlite3.Connection, sql: Mapping[str, str], venue: str) -> None:
        self._db = db
        self._sql = sql
        self._venue = venue

    def sent(self, event: str, order_id: str, data: Mapping[str, Any], at: str) -> None:
        """A command that goes to the venue."""
        if event in SENT:
            self._mark(order_id, SENT[event], "platform", at, _text(data.get("reason")))

    def recorded(self, kind: str, data: Mapping[str, Any]) -> str | None:
        """A record of the box itself; returns the order whose money is to be given back now."""
        mark, order_id = kind.removeprefix(PREFIX), data.get("order_id")
        if not kind.startswith(PREFIX) or mark not in RECORDED or not isinstance(order_id, str):
            return None
        before = self._marks(order_id)
        actor, at = _text(data.get("actor")), _text(data.get("at"))
        self._mark(order_id, mark, actor, at, _text(data.get("reason")))
        if mark != "rejected" or mark in before or "refunded" in before:
            return None
        if before.keys() & MADE and not data.get("second_actor"):
            self._mark(order_id, WITHHELD, "platform", at, "it was made, and no second person agreed")
            return None
        return order_id

    def all(self) -> OrdersAnswer:
        """The latest orders."""
        ids = [order_id for (order_id,) in self._db.execute(self._sql["latest_orders"], (self._venue, LISTED_MAX))]
        return OrdersAnswer([self._told(order_id) for order_id in ids])

    def _told(self, order_id: str) -> OrderAnswer:
        marks = self._marks(order_id)
        state = next((name for name in STATES if name in marks), "unknown")
        return OrderAnswer(order_id, state, list(marks.values()))

    def _marks(self, order_id: str) -> dict[str, OrderMark]:
        rows = self._db.execute(self._sql["order_marks"], (self._venue, order_id))
        return {row[0]: OrderMark(*row) for row in rows}

    def _mark(self, order_id: str, mark: str, actor: str, at: str, reason: str) -> None:
        self._db.execute(self._sql["add_order_mark"], (self._venue, order_id, mark, actor, at, reason))


def _text(value: Any) -> str:
    return value[:TEXT_MAX] if isinstance(value, str) else ""
