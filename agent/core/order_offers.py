"""life of an order → [what is told of it] → devices, mail, page. Offers, late marks, wanted letters, proposals.

Pure. A late order is never shown as fresh, one that was answered never as new, and one that no device can show never
at all. Whether a device has room or ears for it is the courier's business.
"""

from typing import Any, Final, Literal

import msgspec

from agent.core.order_facts import Letter, Order, State
from agent.core.placed import PlacedOrder

Ask = Literal["none", "check_whether_already_provided"]

ASK: Final[Ask] = "check_whether_already_provided"


class Offer(msgspec.Struct, frozen=True):
    """What a device is told of an order; the device contract names its members."""

    order_id: str
    state: State
    prepaid: bool
    placed_at: str
    late: bool
    age_s: int
    alerted_at: str | None
    provided: bool
    customer: dict[str, Any]
    lines: msgspec.Raw
    total: dict[str, Any]
    menu_version: str
    ask: Ask


def age_s(placed_ms: int, now_ms: int, lived_s: float) -> int:
    """How old an order is: by the wall clock, but never younger than the box itself has had it, in whole seconds."""
    return max(0, int(lived_s), (now_ms - placed_ms) // 1000)


def time_to_respond_s(order: Order, response_timeout_s: float) -> float:
    """How long somebody has to respond to it; its own time wins."""
    own_s = order.placed.respond_within_s if order.placed is not None else None
    return own_s if own_s is not None else response_timeout_s


def due(order: Order, age_s: int, response_timeout_s: float) -> bool:
    """Whether its time to respond is over."""
    return order.placed is not None and age_s >= time_to_respond_s(order, response_timeout_s)


def is_late(order: Order, age_s: int, response_timeout_s: float) -> bool:
    """Whether to show it as late: it once was, or people had to be alerted, or time ran out before a device took it."""
    if order.late is not None:
        return True
    return not order.taken and (bool(order.alerts) or due(order, age_s, response_timeout_s))


def offerable(order: Order, device: str) -> bool:
    """Whether this device may be told of it. What is over goes only to devices that have it on their screen."""
    if order.placed is None or order.by_hand or order.placed.incomplete:
        return False
    return device in order.offered or not order.closed


def offer(order: Order, content: PlacedOrder, device: str, age_s: int, response_timeout_s: float) -> Offer | None:
    """The offer as it must look now; None where this device is not told. `orders.offered` comes before it goes."""
    if not offerable(order, device):
        return None
    late = is_late(order, age_s, response_timeout_s)
    state = order.state
    return Offer(
        order_id=order.order_id,
        state="offered" if state == "received" else state,
        prepaid=content.prepaid,
        placed_at=content.placed_at,
        late=late,
        age_s=age_s,
        alerted_at=order.alerts[0].at if order.alerts else None,
        provided=order.provided is not None,
        customer={"name": content.customer.name},
        lines=content.lines_told,
        total=msgspec.to_builtins(content.total),
        menu_version=content.menu_version,
        ask=ASK if late and not order.touched and not order.closed else "none",
    )


def letter(order: Order) -> Letter | None:
    """The letter that is wanted and was not sent yet; one per order and kind, and none once somebody has it in hand."""
    if order.touched or order.closed:
        return None
    kept_back = order.placed is not None and bool(order.placed.incomplete)
    kind: Letter | None = "problem" if order.by_hand or kept_back else None
    if kind is None and order.awaiting_venue is not None:
        kind = "awaiting"
    return kind if kind is not None and all(alert.letter != kind for alert in order.alerts) else None


def awaits(order: Order) -> bool:
    """Whether a person has to see to it, because nobody has it in hand."""
    return not order.touched and not order.closed and (order.by_hand or order.awaiting_venue is not None)


def resting(order: Order) -> bool:
    """Whether the box has nothing left to do about it; what is said of it later is heard all the same."""
    if order.closed:
        return True
    if order.placed is None or order.by_hand:
        return order.provided is not None
    return order.touched and not proposed(order)


def proposed(order: Order) -> tuple[Literal["accepted", "ready"], ...]:
    """What a till should still be brought to say of an order that was provided without it."""
    if order.provided is None or order.closed or order.by_hand or order.placed is None:
        return ()
    if order.ready is not None and order.ready.device:
        return ()
    return ("ready",) if order.accepted is not None and order.accepted.device else ("accepted", "ready")
