"""downlink → [what was ordered] → checks, offers, letters. The data of `order.placed`, read once.

Pure. Lines go on as the cloud wrote them, whatever else stands in them: a kitchen needs every word. It never says
whether an order is right; that is for the checks.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from agent.core.events import Money, strictly
from agent.core.instants import to_ms

DEPTH_MAX: Final = 32
"""Levels of nesting that an order may have."""
LINES_MAX: Final = 1_000
RESPOND_WITHIN_MAX_S: Final = 86_400.0
"""An order's own time to respond is not taken to be longer, in seconds."""

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Option(msgspec.Struct, frozen=True):
    """What a guest chose to go with a product."""

    option_id: _Id
    name: str = ""


class Line(msgspec.Struct, frozen=True):
    """One line; `unit_amount` is the price of one, its options in it."""

    product_id: _Id
    quantity: int | float
    unit_amount: Money
    name: str = ""
    options: tuple[Option, ...] = ()


class Customer(msgspec.Struct, frozen=True):
    """Who ordered."""

    name: str = ""
    phone: str = ""


class Fulfilment(msgspec.Struct, frozen=True):
    """How the guest gets it."""

    kind: Literal["pickup", "table"]
    at: str | None = None
    table: str | None = None


class PlacedOrder(msgspec.Struct, frozen=True):
    """An order as the platform told it. `lines_told` are its lines byte for byte, `told` is all of it."""

    order_id: str
    placed_ms: int
    placed_at: str
    prepaid: bool
    customer: Customer
    fulfilment: Fulfilment | None
    lines: tuple[Line, ...]
    line_count: int
    total: Money
    menu_version: str
    respond_within_s: float | None
    content_sha256: str | None
    lines_told: msgspec.Raw
    told: dict[str, Any]


class Unreadable(msgspec.Struct, frozen=True):
    """It can be shown nowhere, and why. `order_id` is empty where not even that can be read."""

    order_id: str
    reason: str


class _Placed(msgspec.Struct):
    order_id: _Id
    placed_at: str
    prepaid: bool
    lines: msgspec.Raw
    line_count: int
    total: Money
    menu_version: str
    customer: Customer = Customer()
    fulfilment: Fulfilment | None = None
    respond_within_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    content_sha256: str | None = None


class _Named(msgspec.Struct):
    order_id: str = ""


_named = msgspec.json.Decoder(_Named).decode
_placed = msgspec.json.Decoder(_Placed).decode
_lines = msgspec.json.Decoder(Annotated[tuple[Line, ...], msgspec.Meta(max_length=LINES_MAX)]).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode


def read(data: str) -> PlacedOrder | Unreadable:
    """The data of one `order.placed`."""
    body = data.encode("utf-8", "surrogatepass")
    order_id = ""
    try:
        order_id = _named(body).order_id
        told = _object(body)
        wrong = strictly(body, DEPTH_MAX)
        if wrong is not None:
            return Unreadable(order_id, wrong)
        found = _placed(body)
        lines = _lines(found.lines)
        placed_ms = to_ms(found.placed_at)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, OverflowError) as error:
        return Unreadable(order_id, str(error))
    within_s = found.respond_within_s
    return PlacedOrder(
        order_id=found.order_id,
        placed_ms=placed_ms,
        placed_at=found.placed_at,
        prepaid=found.prepaid,
        customer=found.customer,
        fulfilment=found.fulfilment,
        lines=lines,
        line_count=found.line_count,
        total=found.total,
        menu_version=found.menu_version,
        respond_within_s=min(within_s, RESPOND_WITHIN_MAX_S) if within_s is not None else None,
        content_sha256=found.content_sha256,
        lines_told=found.lines.copy(),
        told=told,
    )
