"""[basket] → outbox → till → gate. Makes what a till says happened: checks, payments, cash, shifts, loyalty, menu.

Deterministic from a seed; the instant comes in as an argument. Card data is a token and the last four digits, never a
number. Nothing here keeps, sends or reads a clock.
"""

from collections.abc import Iterator
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from agent.core.ids import CHANCE_BYTES, uuid7
from agent.core.instants import to_text

CURRENCY: Final = "GBP"
BUSINESS_DAY_STARTS_H: Final = 4
"""Sales before this hour, in hours UTC, belong to the business date before."""
OPEN_CHECKS_MAX: Final = 8
"""Checks one till keeps open at a time; above it the oldest is paid first."""
LINES_MAX: Final = 12
"""Lines of one check; a longer one is paid."""
REFUNDABLE_MAX: Final = 20
"""Captured payments a till remembers for a refund."""
MENU_VERSION: Final = "2026-spring-3"

Data = dict[str, Any]


class Moment(NamedTuple):
    """One thing that happened, before it has an id and a sequence."""

    type: str
    subject: str | None
    data: Data


class Authorize(NamedTuple):
    """No event: a card that is to be asked about before anything is said to have happened."""

    payment_id: str
    amount: Data
    card: Data


class Product(NamedTuple):
    """What can be ordered; `unit_amount` in minor units, `options` as (option id, name, amount in minor units)."""

    product_id: str
    name: str
    unit_amount: int
    options: tuple[tuple[str, str, int], ...]


class Line(NamedTuple):
    """One line of a check; `options` are those chosen."""

    line_id: str
    product: Product
    quantity: int
    options: tuple[tuple[str, str, int], ...]


class Check(NamedTuple):
    """An open check: `lines` grows in place."""

    check_id: str
    table: str
    covers: int
    lines: list[Line]


class Captured(NamedTuple):
    """A payment that may still be refunded."""

    check_id: str
    payment: Data


MENU: Final = (
    Product("coffee-flat", "Flat white", 340, (("milk-oat", "Oat milk", 50), ("shot", "Extra shot", 60))),
    Product("coffee-filter", "Filter coffee", 290, ()),
    Product("tea-mint", "Fresh mint tea", 310, (("honey", "Honey", 0),)),
    Product("lager-pint", "Lager, pint", 595, (("half", "Half pint", -285), ("lime", "Dash of lime", 20))),
    Product("stout-pint", "Stout, pint", 620, (("half", "Half pint", -300),)),
    Product("gin-tonic", "Gin & tonic", 780, (("double", "Double", 350), ("slim", "Slimline", 0))),
    Product("burger", "House burger", 1450, (("rare", "Pink", 0), ("cheese", "Cheese", 150), ("bun-gf", "GF", 100))),
    Product("fish-chips", "Fish & chips", 1595, (("small", "Small", -300), ("peas", "Mushy peas", 250))),
    Product("salad", "Caesar salad", 1150, (("chicken", "Chicken", 350), ("no-anchovy", "No anchovies", 0))),
    Product("brulee", "Crème brûlée", 750, ()),
    Product("pie", "Apple pie", 695, (("custard", "Custard", 0), ("icecream", "Ice cream", 120))),
    Product("sunday-roast", "Sunday roast “all in”", 1895, (("beef", "Beef", 0), ("veg", "Nut roast", -200))),
)

LETTERS: Final = "bcdfghjkmnpqrstvwxyz"
"""Made-up tokens and names are of letters only, so that none can look like a card number."""
BRANDS: Final = ("visa", "mastercard", "amex")


class Basket:
    """One till's trade. `next_moment` yields what happens next; the same seed and instants give the same trade.

    A share `asks` of the cards, 0 to 1, is asked about: an `Authorize` comes in place of a moment, and `decided` must
    be called before the next one.
    """

    def __init__(self, device: str, seed: str, asks: float = 0.0) -> None:
        self._device = device
        self._random = Random(f"{seed}/{device}")
        self._asks = asks
        self._asked = Random(f"{seed}/{device}/asked")
        self._decided: Data | None = None
        self._open: list[Check] = []
        self._captured: list[Captured] = []
        self._numbers = 1000
        self._batch = "".join(self._random.choices(LETTERS, k=4))
        self._shift_id = ""
        self._shifts = 0
        self._due: Iterator[Moment | Authorize] = iter(())
        self._opened = False

    def next_moment(self, at_ms: int, *, payments_held: bool = False) -> Moment | Authorize:
        """What happens at `at_ms` (milliseconds UTC). Under `payments_held` nobody pays, all else goes on."""
        if not self._opened:
            self._opened = True
            self._due = self._start(at_ms)
        moment = next(self._due, None)
        if moment is None:
            self._due = self._episode(at_ms, payments_held)
            moment = next(self._due)
        return moment

    def decided(self, approved: Data | None) -> None:
        """What became of the card asked about: what the payment says of its approval, or None for no approval."""
        self._decided = approved

    def uuid7(self, at_ms: int) -> str:
        """An id that sorts by time, from this basket's own chance."""
        return uuid7(at_ms, self._random.randbytes(CHANCE_BYTES))

    def _start(self, at_ms: int) -> Iterator[Moment]:
        """What a till says when it is switched on."""
        yield Moment("pos.menu.loaded", None, menu_loaded())
        yield from self._open_shift(at_ms)

    def _open_shift(self, at_ms: int) -> Iterator[Moment]:
        self._shifts += 1
        self._shift_id = f"shift-{self._device}-{self._batch}-{self._shifts}"
        staff = f"staff-{self._random.randrange(1, 30)}"
        shift = {"shift_id": self._shift_id, "staff_id": staff, "business_date": business_date(at_ms)}
        yield Moment("pos.shift.opened", None, shift)
        yield Moment("pos.cash.float_declared", None, {"shift_id": self._shift_id, "amount": _money(15000)})

    def _change_shift(self, at_ms: int) -> Iterator[Moment]:
        """The drawer is counted, one shift closes, the next opens; open checks stay open."""
        counted = _money(15000 + self._random.randrange(80000))
        yield Moment("pos.cash.counted", None, {"shift_id": self._shift_id, "amount": counted})
        shift = {"shift_id": self._shift_id, "business_date": business_date(at_ms)}
        yield Moment("pos.shift.closed", None, shift)
        yield from self._open_shift(at_ms)

    def _episode(self, at_ms: int, payments_held: bool) -> Iterator[Moment | Authorize]:
        """One thing that staff do, as the moments it makes."""
        chance = self._random.random()
        full = len(self._open) >= OPEN_CHECKS_MAX
        if not self._open or (chance < 0.35 and not full):
            return self._open_check(at_ms)
        check = self._open[0] if full else self._random.choice(self._open)
        if chance < 0.70 and len(check.lines) < LINES_MAX:
            return self._order_more(check, at_ms)
        if payments_held:
            return self._drawer("no_sale")
        if chance > 0.985 and self._captured:
            return self._refund()
        if chance > 0.97:
            return self._void(check, at_ms)
        if chance > 0.955:
            return self._drawer("paid_out")
        if chance > 0.952:
            return self._change_shift(at_ms)
        return self._pay(check, at_ms)

    def _open_check(self, at_ms: int) -> Iterator[Moment]:
        self._numbers += 1
        table = f"T{self._random.randrange(1, 40)}"
        check = Check(f"{self._device}-{self._batch}-{self._numbers}", table, self._random.randrange(1, 7), [])
        self._add_lines(check)
        self._open.append(check)
        yield _moment("pos.check.opened", check, self._check_data(check, at_ms))

    def _order_more(self, check: Check, at_ms: int) -> Iterator[Moment]:
        self._add_lines(check)
        yield _moment("pos.check.updated", check, self._check_data(check, at_ms))

    def _void(self, check: Check, at_ms: int) -> Iterator[Moment]:
        self._open.remove(check)
        reason = self._random.choice(("walked out", "rung up twice", "training"))
        yield _moment("pos.check.voided", check, {**self._check_data(check, at_ms), "reason": reason})

    def _drawer(self, kind: str) -> Iterator[Moment]:
        data: Data = {"shift_id": self._shift_id}
        if kind == "paid_out":
            data["amount"] = _money(self._random.randrange(200, 4000))
            data["reason"] = "petty cash"
        yield Moment(f"pos.cash.{kind}", None, data)

    def _pay(self, check: Check, at_ms: int) -> Iterator[Moment | Authorize]:
        """The guest pays, now and then in two parts; the check closes, and points are earned."""
        self._open.remove(check)
        total = check_total(check)
        first = total // 2 if self._random.random() < 0.12 else total
        for amount in (first, total - first):
            if amount:
                yield from self._payment(check, amount, at_ms)
        yield _moment("pos.check.closed", check, self._check_data(check, at_ms))
        if self._random.random() < 0.25:
            member = f"member-{self._random.randrange(1, 5000)}"
            data = {"check_id": check.check_id, "member_id": member, "points": total // 100}
            yield _moment("pos.loyalty.accrued", check, data)

    def _payment(self, check: Check, amount: int, at_ms: int) -> Iterator[Moment | Authorize]:
        tender = self._random.choices(("card", "cash", "other"), (80, 17, 3))[0]
        payment = self._tendered(check, amount, tender, at_ms)
        if tender == "card":
            payment["card"] = self._card()
            payment["authorization_code"] = f"{self._random.randrange(1_000_000):06d}"
        payment |= {"offline": False, "training": False}
        if tender == "card" and self._asked.random() < self._asks:
            yield Authorize(payment["payment_id"], payment["amount"], payment["card"])
            if self._decided is None:
                cash = {**self._tendered(check, amount, "cash", at_ms), "offline": False, "training": False}
                yield self._captures(check, cash)
                return
            payment |= self._decided
        if tender == "card":
            yield _moment("pos.payment.authorized", check, payment)
            if self._random.random() < 0.02:
                yield _moment("pos.payment.voided", check, payment)
                yield from self._payment(check, amount, at_ms)
                return
        yield self._captures(check, payment)

    def _tendered(self, check: Check, amount: int, tender: str, at_ms: int) -> Data:
        return {
            "payment_id": self.uuid7(at_ms),
            "check_id": check.check_id,
            "amount": _money(amount),
            "tender": tender,
        }

    def _captures(self, check: Check, payment: Data) -> Moment:
        self._captured = [*self._captured[1 - REFUNDABLE_MAX :], Captured(check.check_id, payment)]
        return _moment("pos.payment.captured", check, payment)

    def _refund(self) -> Iterator[Moment]:
        captured = self._captured.pop(self._random.randrange(len(self._captured)))
        data = {**captured.payment, "reason": "guest not happy"}
        yield Moment("pos.payment.refunded", f"check/{captured.check_id}", data)

    def _card(self) -> Data:
        token = "tok_" + "".join(self._random.choices(LETTERS, k=20))
        return {"token": token, "last4": f"{self._random.randrange(10_000):04d}", "brand": self._random.choice(BRANDS)}

    def _add_lines(self, check: Check) -> None:
        for _ in range(self._random.randrange(1, 4)):
            product = self._random.choice(MENU)
            options = tuple(option for option in product.options if self._random.random() < 0.3)
            quantity = self._random.choices((1, 2, 3), (75, 20, 5))[0]
            check.lines.append(Line(f"l{len(check.lines) + 1}", product, quantity, options))

    def _check_data(self, check: Check, at_ms: int) -> Data:
        return {
            "check_id": check.check_id,
            "table": check.table,
            "covers": check.covers,
            "lines": [_line(line) for line in check.lines],
            "total": _money(check_total(check)),
            "business_date": business_date(at_ms),
        }


def envelope(moment: Moment, *, id: str, device: str, epoch: str, sequence: int, at_ms: int) -> bytes:
    """The event as the device says it: CloudEvents 1.0 in JSON, compact as JSON.stringify writes it."""
    event: Data = {
        "specversion": "1.0",
        "id": id,
        "source": f"/devices/{device}",
        "type": moment.type,
        "time": to_text(at_ms),
        "epoch": epoch,
        "sequence": f"{sequence:020d}",
    }
    if moment.subject is not None:
        event["subject"] = moment.subject
    event["data"] = moment.data
    return msgspec.json.encode(event)


def business_date(at_ms: int) -> str:
    """The trading day that an instant belongs to, YYYY-MM-DD."""
    return to_text(at_ms - BUSINESS_DAY_STARTS_H * 3_600_000)[:10]


def menu_loaded() -> Data:
    """`pos.menu.loaded`: what this till can sell."""
    return {
        "menu_version": MENU_VERSION,
        "product_ids": [product.product_id for product in MENU],
        "option_ids": sorted({option[0] for product in MENU for option in product.options}),
    }


def check_total(check: Check) -> int:
    """What the guest owes, in minor units."""
    return sum(line.quantity * (line.product.unit_amount + sum(o[2] for o in line.options)) for line in check.lines)


def _line(line: Line) -> Data:
    return {
        "id": line.line_id,
        "name": line.product.name,
        "quantity": line.quantity,
        "unit_amount": _money(line.product.unit_amount),
        "modifiers": [{"id": id, "name": name, "unit_amount": _money(amount)} for id, name, amount in line.options],
    }


def _moment(type: str, check: Check, data: Data) -> Moment:
    return Moment(type, f"check/{check.check_id}", data)


def _money(amount: int) -> Data:
    return {"amount": amount, "currency": CURRENCY}
