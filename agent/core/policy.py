"""desk → [offline card policy] → reservations. Whether a card payment may be taken on trust while the cloud is away.

Pure. Every limit is counted over the whole venue, across devices, over what is reserved and has no final fate yet.
Amounts are whole minor units of one currency: that of the first payment that was approved. What a device took in
another one without asking counts by its number, and keeps nobody from being approved.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple, Protocol

from agent.core import cards

Reason = Literal[
    "offline_refused",
    "payments_held",
    "other_currency",
    "floor_limit",
    "card_limit",
    "device_limit",
    "venue_limit",
    "queued_age",
    "declines",
]

WORDS: Final[dict[Reason, str]] = {
    "offline_refused": "Cards are not taken while the cloud cannot be reached.",
    "payments_held": "Payments of this device are held.",
    "other_currency": "Payments of another currency wait already.",
    "floor_limit": "The amount is above what may be taken offline at once.",
    "card_limit": "Too much waits already for this card.",
    "device_limit": "Too much waits already from this device.",
    "venue_limit": "Too much waits already in this venue.",
    "queued_age": "The oldest offline payment has waited for too long.",
    "declines": "Too many offline payments were declined today.",
}
OVERRIDES: Final = ("floor_limit", "card_limit", "device_limit")
"""Limits that a venue may let its managers override; never the venue's own exposure, its age and its declines."""


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def floor_limit(self) -> int: ...
    @property
    def card_limit(self) -> int: ...
    @property
    def device_limit(self) -> int: ...
    @property
    def venue_limit(self) -> int: ...
    @property
    def queued_age_max_s(self) -> float: ...
    @property
    def declines_per_day_max(self) -> int: ...


class Override(NamedTuple):
    """Who lets a limit be passed, and why."""

    manager: str
    reason: str


class Ask(NamedTuple):
    """A card payment to be taken on trust."""

    device: str
    payment_id: str
    token: str
    amount: int
    currency: str
    override: Override | None = None


class Reservation(NamedTuple):
    """What is reserved: `at_s` in seconds that the box had run, `stored` once the payment's event is in the journal.
    `against` tells of a capture that was taken offline without being asked for."""

    device: str
    payment_id: str
    token: str
    amount: int
    currency: str
    at_s: float
    stored: bool = False
    against: bool = False


class CardPayment(NamedTuple):
    """A card payment whose event is stored, as far as it matters here; `offline` says that no provider approved it."""

    device: str
    payment_id: str
    token: str | None
    amount: int
    currency: str
    offline: bool


class Malformed(Exception):
    """The arguments cannot be read."""


def ask(device: str, args: dict[str, Any]) -> Ask:
    """The arguments of `card.authorize`: `payment_id`, `amount` (money), `card` (`token`), and perhaps `override`
    (`manager`, `reason`). Raises Malformed."""
    payment, amount, card = args.get("payment_id"), args.get("amount"), args.get("card")
    if not isinstance(payment, str) or not 0 < len(payment) <= 200:
        raise Malformed("payment_id must be text")
    if not isinstance(amount, dict) or not isinstance(card, dict):
        raise Malformed("amount and card must be objects")
    minor, currency, token = amount.get("amount"), amount.get("currency"), card.get("token")
    if not isinstance(minor, int) or isinstance(minor, bool) or minor <= 0:
        raise Malformed("amount.amount must be whole minor units above nothing")
    if not isinstance(currency, str) or len(currency) != 3:
        raise Malformed("amount.currency must be a currency code")
    if not isinstance(token, str) or not 0 < len(token) <= 200:
        raise Malformed("card.token must be text")
    if not (cards.text_clean(token) and cards.text_clean(payment)):
        raise Malformed("card.token and payment_id must not be a card's number")
    return Ask(device, payment, token, minor, currency, _override(args.get("override")))


def _override(given: Any) -> Override | None:
    if given is None:
        return None
    manager, reason = (given.get(name) if isinstance(given, dict) else None for name in ("manager", "reason"))
    if not (isinstance(manager, str) and isinstance(reason, str) and manager.strip() and reason.strip()):
        raise Malformed("override needs manager and reason")
    return Override(manager.strip()[:100], reason.strip()[:500])


def decide(
    wanted: Ask,
    reserved: Iterable[Reservation],
    limits: Limits,
    now_s: float,
    declines_count: int,
    overridable: Iterable[str] = (),
) -> Reason | None:
    """Why it is not taken; None where it is. `reserved` is all that has no final fate; an override passes only limits
    that the venue lets its managers pass."""
    open_ = list(reserved)
    passed = frozenset(overridable) & frozenset(OVERRIDES) if wanted.override is not None else frozenset()
    if any(one.currency != wanted.currency and not one.against for one in open_):
        return "other_currency"
    if declines_count >= limits.declines_per_day_max:
        return "declines"
    if any(now_s - one.at_s > limits.queued_age_max_s for one in open_):
        return "queued_age"
    sums: tuple[tuple[Reason, int, int], ...] = (
        ("floor_limit", 0, limits.floor_limit),
        ("card_limit", _sum(one for one in open_ if one.token == wanted.token), limits.card_limit),
        ("device_limit", _sum(one for one in open_ if one.device == wanted.device), limits.device_limit),
        ("venue_limit", _sum(open_), limits.venue_limit),
    )
    for reason, reserved_already, limit in sums:
        if reserved_already + wanted.amount > limit and reason not in passed:
            return reason
    return None


def closed(reserved: Iterable[Reservation], limits: Limits, now_s: float, declines_count: int) -> Reason | None:
    """Why nothing at all is taken now, whatever is asked; None where something is."""
    open_ = list(reserved)
    if declines_count >= limits.declines_per_day_max:
        return "declines"
    if any(now_s - one.at_s > limits.queued_age_max_s for one in open_):
        return "queued_age"
    return "venue_limit" if _sum(open_) >= limits.venue_limit else None


def _sum(reservations: Iterable[Reservation]) -> int:
    return sum(one.amount for one in reservations)
