"""downlink → [what a command does to an order] → life of an order. From the cloud's words to one step.

Pure. Which menus know what was ordered is not asked here. It never rejects: what cannot be read is made by hand.
"""

from typing import Any, Final

import msgspec

from agent.core import orders
from agent.core.order_checks import incomplete
from agent.core.order_facts import Order, Placed
from agent.core.orders import Step
from agent.core.placed import PlacedOrder, Unreadable, read

PLACED: Final = "order.placed"
CANCELLED: Final = "order.cancelled"
REFUNDED: Final = "order.refunded"
EVENTS: Final = frozenset({PLACED, CANCELLED, REFUNDED})

_object = msgspec.json.Decoder(dict[str, Any]).decode


def commanded(order: Order, event: str, data: str, at_ms: int) -> Step:
    """What one command does, told once or again. Of an order that is known already nothing unreadable is believed."""
    if event == PLACED:
        return _placed(order, read(data), at_ms)
    reason = _reason(data)
    if event == CANCELLED:
        return orders.cancelled(order, reason, at_ms)
    return orders.refunded(order, reason, at_ms) if event == REFUNDED else Step(order)


def _placed(order: Order, told: PlacedOrder | Unreadable, at_ms: int) -> Step:
    if isinstance(told, PlacedOrder):
        placed = Placed(told.placed_ms, told.respond_within_s, incomplete(told))
        return orders.placed(order, placed, at_ms)
    if order.placed is not None:
        return Step(order)
    return orders.unfit(order, "undeliverable", f"it cannot be read: {told.reason}", at_ms)


def _reason(data: str) -> str:
    try:
        found = _object(data).get("reason")
    except msgspec.DecodeError:
        return ""
    return found if isinstance(found, str) else ""
