"""server → [accounts] → file. What a venue's request means for accounts of loyalty, gift cards, customers and stock.

Money is whole minor units, and currencies must match. Runs inside a transaction of its caller, which also keeps the
answer. A card token that holds `decline` is declined: that is how tests and demonstrations have a card refused.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

DECLINING: Final = "decline"
"""A card token with this in it is declined."""
WAITING: Final = "hold"
"""A payment with this in its card token waits until the operator says what became of it."""
POINTS: Final = "points"
"""The currency of loyalty accounts."""
CREDIT_LIMIT: Final = 100_000
"""What a customer may owe on account, in minor units, unless set otherwise."""


class Answer(NamedTuple):
    """An answer of the cloud contract: `status`, `result`, `reason`."""

    status: str
    result: dict[str, Any]
    reason: str | None = None


class Account(NamedTuple):
    """Balance in minor units, points or pieces; `bound` is the credit limit of a customer."""

    balance: int
    currency: str
    bound: int


class Accounts(Protocol):
    """The accounts of one venue, in the transaction that runs."""

    def get(self, kind: str, id: str) -> Account | None: ...
    def put(self, kind: str, id: str, account: Account) -> None: ...


class Wrong(Exception):
    """The arguments cannot be read; the words say why."""


def answer(accounts: Accounts, service: str, args: Mapping[str, Any]) -> Answer:
    """What the request brings about. An unknown service, and arguments that cannot be read, are `error`."""
    act = _SERVICES.get(service)
    if act is None:
        return Answer("error", {}, "unknown_service")
    try:
        return act(accounts, args)
    except Wrong as wrong:
        return Answer("error", {}, f"malformed: {wrong}")


def _text(args: Mapping[str, Any], name: str) -> str:
    found = args.get(name)
    if not isinstance(found, str) or not 0 < len(found) <= 200:
        raise Wrong(f"{name} must be text")
    return found


def _money(args: Mapping[str, Any], name: str = "amount") -> tuple[int, str]:
    found = args.get(name)
    amount = found.get("amount") if isinstance(found, Mapping) else None
    currency = found.get("currency") if isinstance(found, Mapping) else None
    if not isinstance(amount, int) or isinstance(amount, bool) or amount <= 0 or not isinstance(currency, str):
        raise Wrong(f"{name} must be money above nothing")
    return amount, currency


def _points(args: Mapping[str, Any]) -> int:
    found = args.get("points")
    if not isinstance(found, int) or isinstance(found, bool) or found <= 0:
        raise Wrong("points must be a whole number above nothing")
    return found


def _of(balance: int, currency: str) -> dict[str, Any]:
    return {"balance": {"amount": balance, "currency": currency}}


def _loyalty_balance(accounts: Accounts, args: Mapping[str, Any]) -> Answer:
    found = accounts.get("loyalty", _text(args, "customer_id"))
    return Answer("ok", {"points": found.balance if found is not None else 0})


def _loyalty_redeem(accounts: Accounts, args: Mapping[str, Any]) -> Answer:
    customer, points = _text(args, "customer_id"), _points(args)
    found = accounts.get("loyalty", customer)
    if found is None or found.balance < points:
        return Answer("declined", {"points": found.balance if found is not None else 0}, "not_enough_points")
    accounts.put("loyalty", customer, found._replace(balance=found.balance - points))
    return Answer("ok", {"points": found.balance - points})


def _gift_card(accounts: Accounts, args: Mapping[str, Any], change: Callable[[Account, int], int]) -> Answer:
    """Move the balance of a gift card by `change`; it is never below nothing."""
    card, (amount, currency) = _text(args, "card_id"), _money(args)
    found = accounts.get("gift_card", card)
    if found is None:
        return Answer("declined", {}, "unknown_card")
    if found.currency != currency:
        return Answer("declined", _of(found.balance, found.currency), "other_currency")
    balance = change(found, amount)
    if balance < 0:
        return Answer("declined", _of(found.balance, found.currency), "not_enough")
    accounts.put("gift_card", card, found._replace(balance=balance))
    return Answer("ok", _of(balance, currency))


def _gift_card_balance(accounts: Accounts, args: Mapping[str, Any]) -> Answer:
    found = accounts.get("gift_card", _text(args, "card_id"))
    return Answer("declined", {}, "unknown_card") if found is None else Answer("ok", _of(*found[:2]))


def _gift_card_sell(accounts: Accounts, args: Mapping[str, Any]) -> Answer:
    card, (amount, currency) = _text(args, "card_id"), _money(args)
    if accounts.get("gift_card", card) is None:
        accounts.put("gift_card", card, Account(amount, currency, 0))
        return Answer("ok", _of(amount, currency))
    return _gift_card(accounts, args, lambda account, added: account.balance + added)


def _gift_card_redeem(accounts: Accounts, args: Mapping[str, Any]) -> Answer:
    return _gift_card(accounts, args, lambda account, taken: account.balance - taken)


def _on_account(accounts: Accounts, args: Mapping[str, Any], sign: int) -> Answer:
    """A customer's debt grows by a charge and shrinks by a payment, up to the limit."""
    customer, (amount, currency) = _text(args, "customer_id"), _money(args)
    found = accounts.get("on_account", customer) or Account(0, currency, CREDIT_LIMIT)
    if found.currency != currency:
        return Answer("declined", _of(found.balance, found.currency), "other_currency")
    owed = found.balance + sign * amount
    if owed > found.bound:
        return Answer("declined", _of(found.balance, currency), "over_the_limit")
    accounts.put("on_account", customer, found._replace(balance=owed))
    return Answer("ok", _of(owed, currency))


def _availability(accounts: Accounts, args: Mapping[str, Any]) -> Answer:
    found = accounts.get("stock", _text(args, "product_id"))
    return Answer("declined", {}, "unknown_product") if found is None else Answer("ok", {"quantity": found.balance})


def _card_authorize(accounts: Accounts, args: Mapping[str, Any]) -> Answer:
    payment, (amount, currency) = _text(args, "payment_id"), _money(args)
    card = args.get("card")
    token = _text(card if isinstance(card, Mapping) else {}, "token")
    if DECLINING in token:
        return Answer("declined", {}, "card_declined")
    return Answer(
        "ok",
        {
            "payment_id": payment,
            "authorization_code": f"C{sum(payment.encode()) % 1_000_000:06}",
            "amount": {"amount": amount, "currency": currency},
            "store_and_forward": False,
        },
    )


_SERVICES: Final[Mapping[str, Callable[[Accounts, Mapping[str, Any]], Answer]]] = {
    "loyalty.balance": _loyalty_balance,
    "loyalty.redeem": _loyalty_redeem,
    "gift_card.balance": _gift_card_balance,
    "gift_card.sell": _gift_card_sell,
    "gift_card.redeem": _gift_card_redeem,
    "on_account.charge": lambda accounts, args: _on_account(accounts, args, 1),
    "on_account.pay": lambda accounts, args: _on_account(accounts, args, -1),
    "availability.lookup": _availability,
    "card.authorize": _card_authorize,
}


def accrue(accounts: Accounts, data: Mapping[str, Any]) -> None:
    """A stored `pos.loyalty.accrued`: points of a customer. What cannot be read changes nothing."""
    try:
        customer, points = _text(data, "customer_id"), _points(data)
    except Wrong:
        return
    found = accounts.get("loyalty", customer) or Account(0, POINTS, 0)
    accounts.put("loyalty", customer, found._replace(balance=found.balance + points))


def payment_outcome(kind: str, data: Mapping[str, Any]) -> tuple[str, str, str | None] | None:
    """What becomes of a stored card payment: command, payment id and reason; None where nothing is said of it."""
    payment = data.get("payment_id")
    if kind != "pos.payment.captured" or data.get("tender") != "card" or data.get("training") is True:
        return None
    if not isinstance(payment, str):
        return None
    card = data.get("card")
    token = str(card.get("token", "")) if isinstance(card, Mapping) else ""
    if WAITING in token:
        return None
    return ("payment.declined", payment, "card_declined") if DECLINING in token else ("payment.posted", payment, None)
