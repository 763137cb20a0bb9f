"""page, command line → [desk] → hearing. What people see of orders, and what they may do about them.

A person acts behind all that devices have stored. A refusal is told by its own code. Never decides by itself.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from agent.core import cards, order_offers, orders
from agent.core.errors import Rejected
from agent.core.order_shown import OrderShown, OrdersShown, shown
from agent.core.orders import Override, Said
from agent.core.placed import PlacedOrder, read
from agent.orders.courier import Clock, Kept, Limits
from agent.orders.hearing import Hearing

LISTED_MAX: Final = 200
"""So many orders are listed, the latest."""
ID_CHARS_MAX: Final = 256


class Tables(Protocol):
    """The orders in the journal. Raises NightsafeError."""

    async def get(self, order_id: str) -> Kept | None: ...
    async def latest(self, count_max: int) -> Sequence[Kept]: ...
    async def named(self, words: str, count_max: int) -> Sequence[Kept]: ...


class OrderDesk:
    """Orders for people."""

    def __init__(self, tables: Tables, hearing: Hearing, clock: Clock, limits: Callable[[], Limits]) -> None:
        self._tables = tables
        self._hearing = hearing
        self._clock = clock
        self._limits = limits

    async def all(self, find: str = "") -> OrdersShown:
        """The latest orders; with `find`, those of this number, or of guests with this in their name."""
        kept = await (self._tables.named(find, LISTED_MAX) if find else self._tables.latest(LISTED_MAX))
        return OrdersShown(tuple(self._shown(one) for one in reversed(kept)))

    async def one(self, order_id: str) -> OrderShown | None:
        """One order; None where nobody has spoken of it."""
        kept = await self._tables.get(order_id)
        return self._shown(kept) if kept is not None else None

    async def act(self, order_id: str, said: Said, actor: str, override: Override | None = None) -> OrderShown:
        """A person says something of an order; returns it as it is then, durably. Raises Rejected, with one of the
        codes of `orders.Code` where it was refused."""
        if not 0 < len(order_id) <= ID_CHARS_MAX or not order_id.isprintable() or not cards.text_clean(order_id):
            raise Rejected("order_id", "That is no order's number.", "See `nightsafe orders list`.")
        if not actor.strip():
            raise Rejected("actor_missing", "Say who you are: it is recorded with what you do.")
        step = await self._hearing.act(order_id, lambda order, at_ms: orders.acted(order, said, actor, at_ms, override))
        for refused in step.refusals:
            raise Rejected(refused.code, refused.text)
        found = await self.one(order_id)
        assert found is not None, order_id
        return found

    def _shown(self, kept: Kept) -> OrderShown:
        content = read(kept.data) if kept.data is not None else None
        placed = kept.order.placed
        lived_s = self._clock.lived_s() - kept.heard_s
        age_s = order_offers.age_s(placed.placed_ms, self._clock.now_ms(), lived_s) if placed is not None else 0
        found = content if isinstance(content, PlacedOrder) else None
        return shown(kept.order, found, age_s, self._limits().response_timeout_s)
