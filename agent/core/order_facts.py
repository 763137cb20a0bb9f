"""commands, records → [facts of an order] → its life, offers. What is known of an order, and what goes up of it.

Pure. An order is the fold of its facts. Most of them go up as records of the box; the rest is told again by the cloud's
commands, or by offering again. So an order is known anew after a kill from what was durable, in whichever order
commands and records are folded, and however often. It never judges whether a fact may come to be: that is `orders.py`.
"""

from typing import Any, Final, Literal, get_args

import msgspec

PREFIX: Final = "nightsafe.order."
AGENT: Final = "agent"
REFUSED_MAX: Final = 16
"""So many refused answers are remembered, so that hearing them again adds nothing; the latest."""

Letter = Literal["awaiting", "problem"]
Recorded = Literal[
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
]
Kind = Recorded | Literal["placed", "offered", "cancel_asked", "refunded"]
State = Literal[
    "unknown",
    "received",
    "offered",
    "accepted",
    "ready",
    "provided",
    "rejected",
    "cancelled",
    "problem",
    "undeliverable",
]
RECORDED: Final = frozenset(get_args(Recorded))
"""Facts that go up; the others are told again by commands, and `offered` by offering again."""
STATES: Final[tuple[State, ...]] = (
    "rejected",
    "cancelled",
    "problem",
    "undeliverable",
    "provided",
    "ready",
    "accepted",
)
"""The first of these that is marked is the state."""


class Placed(msgspec.Struct, frozen=True):
    """What of `order.placed` decides anything: nothing personal. `incomplete` and `duplicates` as the checks found."""

    placed_ms: int
    respond_within_s: float | None = None
    incomplete: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is so of an order. `event` is the id of the device's event that it follows from: then `actor` is
    that device."""

    kind: Kind
    order_id: str
    actor: str
    at: str
    reason: str = ""
    second_actor: str = ""
    code: str = ""
    event: str = ""
    letter: Letter | None = None
    age_s: int | None = None
    placed: Placed | None = None


class Mark(msgspec.Struct, frozen=True):
    """Who made a fact, and when; `device` tells a device's own word."""

    actor: str
    at: str
    device: bool = False
    reason: str = ""
    second_actor: str = ""


class Alert(msgspec.Struct, frozen=True):
    """A letter that was sent."""

    letter: Letter
    at: str


class Order(msgspec.Struct, frozen=True):
    """All that is known of an order but its content. `offered` are the devices that have it, as far as is known."""

    order_id: str
    placed: Placed | None = None
    offered: tuple[str, ...] = ()
    alerts: tuple[Alert, ...] = ()
    refused: tuple[str, ...] = ()
    awaiting_venue: Mark | None = None
    accepted: Mark | None = None
    ready: Mark | None = None
    provided: Mark | None = None
    rejected: Mark | None = None
    problem: Mark | None = None
    undeliverable: Mark | None = None
    cancelled: Mark | None = None
    late: Mark | None = None
    cancel_asked: Mark | None = None
    refunded: Mark | None = None

    @property
    def state(self) -> State:
        """Its state in one word; `provided` may hold beside any of them."""
        for name in STATES:
            if getattr(self, name) is not None:
                return name
        if self.closed:
            return "cancelled"
        if self.placed is None:
            return "unknown"
        return "offered" if self.offered else "received"

    @property
    def touched(self) -> bool:
        """Whether anybody has said that it is being made, or was."""
        return self.accepted is not None or self.ready is not None or self.provided is not None

    @property
    def taken(self) -> bool:
        """Whether a device itself has said so."""
        return any(mark is not None and mark.device for mark in (self.accepted, self.ready, self.provided))

    @property
    def closed(self) -> bool:
        """Whether it is on its way back to the guest's money."""
        return self.rejected is not None or self.cancelled is not None or self.refunded is not None

    @property
    def by_hand(self) -> bool:
        """Whether no device will ever show it."""
        return self.problem is not None or self.undeliverable is not None


def fold(order: Order, fact: Fact) -> Order:
    """The order with one more fact. Of each kind the first one holds; the same fact twice is the same as once."""
    if fact.event and fact.actor not in order.offered:
        order = msgspec.structs.replace(order, offered=tuple(sorted({*order.offered, fact.actor})))
    match fact.kind:
        case "placed":
            return _with_content(order, fact.placed)
        case "offered":
            return msgspec.structs.replace(order, offered=tuple(sorted({*order.offered, fact.actor})))
        case "alerted":
            return _with_alert(order, fact)
        case "reject_refused":
            kept = tuple(one for one in order.refused if one != answer_key(fact.actor, fact.event))
            named = (*kept, answer_key(fact.actor, fact.event)) if fact.event else kept
            return msgspec.structs.replace(order, refused=named[-REFUSED_MAX:])
        case kind:
            if getattr(order, kind) is not None:
                return order
            mark = Mark(fact.actor, fact.at, bool(fact.event), fact.reason, fact.second_actor)
            return msgspec.structs.replace(order, **{kind: mark})


def record(fact: Fact) -> tuple[str, dict[str, Any]]:
    """A fact as a record of device `agent`: its type, and its data."""
    assert fact.kind in RECORDED, fact.kind
    data: dict[str, Any] = msgspec.to_builtins(fact)
    return PREFIX + data.pop("kind"), data


def recalled(type: str, data: dict[str, Any]) -> Fact | None:
    """The fact of a record that the box has written; None where it is no order's. Raises msgspec.ValidationError."""
    kind = type.removeprefix(PREFIX)
    return msgspec.convert({**data, "kind": kind}, Fact) if type.startswith(PREFIX) and kind in RECORDED else None


def answer_key(device: str, event: str) -> str:
    """What names a device's answer."""
    return f"{device}/{event}"


def _with_content(order: Order, told: Placed | None) -> Order:
    """The first content holds, but for one that was incomplete."""
    if told is None or (order.placed is not None and (not order.placed.incomplete or told.incomplete)):
        return order
    return msgspec.structs.replace(order, placed=told)


def _with_alert(order: Order, fact: Fact) -> Order:
    if fact.letter is None or any(alert.letter == fact.letter for alert in order.alerts):
        return order
    alerts = sorted((*order.alerts, Alert(fact.letter, fact.at)), key=lambda alert: (alert.at, alert.letter))
    return msgspec.structs.replace(order, alerts=tuple(alerts))
