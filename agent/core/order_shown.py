"""life of an order → [what people see of it] → page, command line. Orders as the venue lists them, and its words.

Pure. Guests' names and phones are in it: it is for who may see them, never for conditions, logs or metrics.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Protocol

import msgspec

from agent.core import order_offers
from agent.core.facts import DeviceState
from agent.core.instants import to_text
from agent.core.order_facts import STATES, Alert, Mark, Order, State
from agent.core.placed import Customer, Fulfilment, PlacedOrder
from agent.core.sentence import count

NAMED_MAX: Final = 5
"""So many orders or devices are named in one text; the list has them all."""
MARKS: Final = (*STATES, "awaiting_venue", "late", "cancel_asked", "refunded")
"""Who has said what of an order is told by these names."""

_WAYS: Final[dict[DeviceState, str]] = {
    "ready": "has it and has not answered",
    "asleep": "is asleep",
    "background": "has another app open",
    "offline": "is not connected",
    "unresponsive": "is connected but does not answer",
    "unknown": "has not said that it is ready",
}


class OrderShown(msgspec.Struct, frozen=True):
    """An order with its true state. What was ordered is null where the box has never received it.

    `by_hand`: no device will ever show it. `proposed` is what a till should still be brought to say.
    """

    order_id: str
    state: State
    provided: bool
    awaiting: bool
    by_hand: bool
    late: bool
    age_s: int | None
    placed_at: str | None
    alerted_at: str | None
    prepaid: bool | None
    customer: Customer | None
    fulfilment: Fulfilment | None
    lines: tuple[dict[str, Any], ...]
    total: dict[str, Any] | None
    menu_version: str | None
    incomplete: tuple[str, ...]
    offered_to: tuple[str, ...]
    alerts: tuple[Alert, ...]
    proposed: tuple[Literal["accepted", "ready"], ...]
    marks: dict[str, Mark]


class OrdersShown(msgspec.Struct, frozen=True):
    """The venue's orders, the latest first."""

    orders: tuple[OrderShown, ...]


class Device(Protocol):
    """How a device is."""

    @property
    def state(self) -> DeviceState: ...


def shown(order: Order, content: PlacedOrder | None, age_s: int, response_timeout_s: float) -> OrderShown:
    """An order for people."""
    placed = order.placed
    marks = {name: mark for name in MARKS if isinstance(mark := getattr(order, name), Mark)}
    lines = content.told.get("lines") if content is not None else None
    return OrderShown(
        order_id=order.order_id,
        state=order.state,
        provided=order.provided is not None,
        awaiting=order_offers.awaits(order),
        by_hand=order.by_hand,
        late=order_offers.is_late(order, age_s, response_timeout_s) and not order.closed,
        age_s=age_s if placed is not None else None,
        placed_at=content.placed_at if content is not None else to_text(placed.placed_ms) if placed else None,
        alerted_at=order.alerts[0].at if order.alerts else None,
        prepaid=content.prepaid if content is not None else None,
        customer=content.customer if content is not None else None,
        fulfilment=content.fulfilment if content is not None else None,
        lines=tuple(lines) if isinstance(lines, list) else (),
        total=msgspec.to_builtins(content.total) if content is not None else None,
        menu_version=content.menu_version if content is not None else None,
        incomplete=placed.incomplete if placed is not None else (),
        offered_to=order.offered,
        alerts=order.alerts,
        proposed=order_offers.proposed(order),
        marks=marks,
    )


def waiting_title(orders: int) -> str:
    """What is wrong while orders wait."""
    return f"{count(orders, 'order')} without an answer"


def waiting_text(orders: Iterable[Order], devices: Mapping[str, Device]) -> str:
    """Which orders wait for somebody, and why no device has taken them. The internet has no part in it: they are here.
    No guest is named: everybody may read it."""
    waiting = sorted(orders, key=lambda one: one.order_id)
    kept_back = [one for one in waiting if one.by_hand or (one.placed is not None and one.placed.incomplete)]
    others = [one for one in waiting if one not in kept_back]
    parts = []
    if others:
        parts.append(f"{_named([one.order_id for one in others])}: no device has taken it. {_why(devices)}")
    if kept_back:
        parts.append(f"{_named([one.order_id for one in kept_back])}: no device can show it. Make it by hand.")
    return " ".join(parts)


def _why(devices: Mapping[str, Device]) -> str:
    if not devices:
        return "No device that takes orders has ever been connected."
    ways = [f"{name} {_WAYS[one.state]}" for name, one in sorted(devices.items())]
    more = len(ways) - NAMED_MAX
    return "; ".join(ways[:NAMED_MAX]) + (f"; and {count(more, 'more device')}" if more > 0 else "") + "."


def _named(ids: list[str]) -> str:
    more = len(ids) - NAMED_MAX
    return f"Order {', '.join(ids[:NAMED_MAX])}" + (f" and {more} more" if more > 0 else "")
