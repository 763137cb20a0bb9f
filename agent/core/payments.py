"""records → [payments as facts] → index, fates, business day. What one record says of a payment, and when it happened.

Of a card only the token and the last four digits are ever taken. Pure: the same bytes always give the same fact.
"""

import re
from collections.abc import Callable, Iterable
from datetime import date, time, tzinfo
from typing import Any, Final, Literal, NamedTuple

import msgspec

from agent.core.business_day import business_date
from agent.core.clock import PLAUSIBLE_FROM_MS
from agent.core.events import Card, Money
from agent.core.instants import to_ms

PREFIX: Final = "pos.payment."
CHECK_PREFIX: Final = "pos.check."
MARKS: Final = (b'"pos.payment.', b"\\u", b'"pos.check.', b'"business_date"')
"""An event of a payment has the first, that of a check with its date the last two; or some character of it is written
as an escape, the second."""
AHEAD_MAX_MS: Final = 300_000
"""A device's time that is later than its record by more is not believed."""
BEHIND_MAX_MS: Final = 31 * 86_400_000
"""Nor one that is earlier by more: no till keeps a sale for so long."""

Kind = Literal["authorized", "captured", "voided", "refunded", "reversed"]
TAKING: Final[tuple[Kind, ...]] = ("authorized", "captured")
"""What takes a guest's money, or holds it."""
UNDOING: Final[tuple[Kind, ...]] = ("voided", "refunded", "reversed")
"""What gives it back."""

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


class Recorded(NamedTuple):
    """Where and when a record stands: its position, whose it is, and the clocks of its commit."""

    position: int
    device: str
    recorded_ms: int
    uptime_ms: int
    boot: int


class PaymentFact(NamedTuple):
    """One `pos.payment.*` record. Amounts are minor units; `device_ms` is the device's own time, where it gave one;
    `business_date` is the device's own word."""

    position: int
    payment_id: str
    kind: Kind
    device: str
    event_id: str
    epoch: str | None
    sequence: int | None
    check_id: str | None
    amount: int
    currency: str
    tender: str
    card_token: str | None
    last4: str | None
    offline: bool
    training: bool
    authorization_code: str | None
    business_date: str | None
    device_ms: int | None
    recorded_ms: int
    uptime_ms: int
    boot: int


class _Payment(msgspec.Struct):
    payment_id: str
    amount: Money
    tender: str
    check_id: str | None = None
    card: Card | None = None
    offline: bool = False
    authorization_code: str | None = None
    training: bool = False
    business_date: Any = None


class CheckDay(NamedTuple):
    """The business date that an event of a check names."""

    check_id: str
    business_date: str
    position: int


class _CheckData(msgspec.Struct):
    check_id: str
    business_date: Any = None


class _CheckEvent(msgspec.Struct):
    data: _CheckData


class _Typed(msgspec.Struct):
    type: str


class _Event(msgspec.Struct):
    id: str
    type: str
    data: _Payment
    time: str | None = None
    epoch: str | None = None
    sequence: str | None = None


_typed = msgspec.json.Decoder(_Typed).decode
_event = msgspec.json.Decoder(_Event).decode
_check = msgspec.json.Decoder(_CheckEvent).decode
_KINDS: Final = {f"{PREFIX}{kind}": kind for kind in (*TAKING, *UNDOING)}


def told_in(record: Recorded, body: bytes) -> PaymentFact | CheckDay | None:
    """What a record says of a payment, or of a check's business date; None where it says nothing of either."""
    try:
        type_ = _typed(body).type
        if type_.startswith(CHECK_PREFIX):
            data = _check(body).data
            day = day_text(data.business_date)
            return CheckDay(data.check_id, day, record.position) if day is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    kind = _KINDS.get(type_)
    return _payment_in(record, body, kind) if kind is not None else None


def _payment_in(record: Recorded, body: bytes, kind: Kind) -> PaymentFact | None:
    try:
        found = _event(body)
        sequence = int(found.sequence) if found.sequence is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None
    data = found.data
    card = data.card or Card()
    return PaymentFact(
        record.position,
        data.payment_id,
        kind,
        record.device,
        found.id,
        found.epoch,
        sequence,
        data.check_id,
        data.amount.amount,
        data.amount.currency,
        data.tender,
        card.token,
        card.last4,
        data.offline,
        data.training,
        data.authorization_code,
        day_text(data.business_date),
        _instant(found.time),
        record.recorded_ms,
        record.uptime_ms,
        record.boot,
    )


def day_text(value: Any) -> str | None:
    """A date as `2026-11-22`, None where it is none."""
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return None
    try:
        date.fromisoformat(value)
    except ValueError:
        return None
    return value


def happened_ms(fact: PaymentFact, true_ms: int) -> int:
    """When it happened at the till: by the device's time where that can be, else when it was recorded, `true_ms`."""
    said = fact.device_ms
    if said is None or said < PLAUSIBLE_FROM_MS:
        return true_ms
    if true_ms < PLAUSIBLE_FROM_MS or true_ms - BEHIND_MAX_MS <= said <= true_ms + AHEAD_MAX_MS:
        return said
    return true_ms


def date_of(fact: PaymentFact, true_ms: int, zone: tzinfo, day_starts: time) -> str:
    """Its business date: the device's own word, else by when it happened."""
    return fact.business_date or business_date(happened_ms(fact, true_ms), zone, day_starts).isoformat()


def same_sale(one: PaymentFact, other: PaymentFact, window_ms: int, true_ms: Callable[[PaymentFact], int]) -> bool:
    """Whether two payments look like one sale that was charged twice: same card and amount, on the same check or by the
    same device, within the window, under different payment ids."""
    if one.payment_id == other.payment_id or one.card_token is None or one.training or other.training:
        return False
    if one.kind not in TAKING or other.kind not in TAKING:
        return False
    if (one.card_token, one.amount, one.currency) != (other.card_token, other.amount, other.currency):
        return False
    if one.device != other.device and (one.check_id is None or one.check_id != other.check_id):
        return False
    apart_ms = abs(happened_ms(one, true_ms(one)) - happened_ms(other, true_ms(other)))
    return apart_ms <= window_ms


def joined(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Who belongs together by any chain of pairs; in the order in which they are first named."""
    root: dict[str, str] = {}

    def root_of(name: str) -> str:
        root.setdefault(name, name)
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for one, other in pairs:
        root[root_of(other)] = root_of(one)
    groups: dict[str, list[str]] = {}
    for name in list(root):
        groups.setdefault(root_of(name), []).append(name)
    return list(groups.values())


def _instant(text: str | None) -> int | None:
    """A device's time, None where it is none, or no column could hold it."""
    try:
        return to_ms(text) if text is not None else None
    except (ValueError, OverflowError):
        return None
