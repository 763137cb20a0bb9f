"""payments of a day → [takings] → business day. What a business day took in, by tender, and whether it can be closed.

Pure, and blind to order: the same records give the same totals however they came, late or twice. Training never counts
as money.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, time, tzinfo
from typing import Final, NamedTuple

import msgspec

from agent.core.payments import TAKING, Kind, PaymentFact, date_of
from agent.core.sentence import count, natural

CHECK_DAYS_MAX: Final = 7
"""A check's own business date counts for payments at most so many days from it: check ids come again."""
CANCELLING: Final[tuple[Kind, ...]] = ("voided", "reversed")


class TenderTotal(msgspec.Struct, frozen=True):
    """One tender in one currency, in minor units: `net` is captured minus refunded, voided and reversed. The counts are
    records. What was only authorized is no money yet, and neither is its void."""

    tender: str
    currency: str
    net: int
    captured: int
    refunded: int
    voided: int
    reversed: int
    captured_count: int
    refunded_count: int
    voided_count: int
    reversed_count: int


class Takings(NamedTuple):
    """Totals of a day, real and training apart."""

    sales: tuple[TenderTotal, ...]
    training: tuple[TenderTotal, ...]


def day_of(fact: PaymentFact, true_ms: int, zone: tzinfo, day_starts: time, check_days: Iterable[str] = ()) -> str:
    """The business date that a payment's record counts for: the device's own word; for what takes money the date of its
    check, as the check's events say it; else when it happened. What gives money back counts when it was done."""
    own = date_of(fact, true_ms, zone, day_starts)
    if fact.business_date is not None or fact.kind not in TAKING:
        return own
    here = date.fromisoformat(own)
    near = sorted((abs((date.fromisoformat(day) - here).days), day) for day in check_days)
    return near[0][1] if near and near[0][0] <= CHECK_DAYS_MAX else own


def takings(payments: Iterable[Sequence[PaymentFact]], day: str, day_of: Callable[[PaymentFact], str]) -> Takings:
    """The totals of `day`. Each payment comes with all of its records, also those of other days."""
    sums: dict[tuple[bool, str, str], dict[str, int]] = {}
    for facts in payments:
        for fact, amount in _counted(facts, day_of):
            if day_of(fact) == day:
                into = sums.setdefault((bool(fact.training), fact.tender, fact.currency), {})
                into[fact.kind] = into.get(fact.kind, 0) + amount
                into[f"{fact.kind}_count"] = into.get(f"{fact.kind}_count", 0) + 1
    totals = {key: _total(*key[1:], found) for key, found in sorted(sums.items())}
    return Takings(
        tuple(total for key, total in totals.items() if not key[0]),
        tuple(total for key, total in totals.items() if key[0]),
    )


def _counted(facts: Sequence[PaymentFact], day_of: Callable[[PaymentFact], str]) -> list[tuple[PaymentFact, int]]:
    """Each record of a payment once, with what it moves: a void or a reversal undoes no more than was captured and not
    refunded, so that the void of what was only authorized moves nothing."""
    once = list({(one.device, one.event_id): one for one in facts}.values())
    once.sort(key=lambda one: (day_of(one), one.device, one.event_id))
    left: dict[tuple[bool, str], int] = {}
    for one in once:
        key = (bool(one.training), one.currency)
        left[key] = left.get(key, 0) + (one.amount if one.kind == "captured" else 0)
        left[key] -= abs(one.amount) if one.kind == "refunded" else 0
    counted = []
    for one in once:
        key = (bool(one.training), one.currency)
        if one.kind in CANCELLING:
            amount = max(0, min(abs(one.amount), left[key]))
            left[key] -= amount
            counted.append((one, amount))
        elif one.kind == "captured":
            counted.append((one, one.amount))
        elif one.kind == "refunded":
            counted.append((one, abs(one.amount)))
    return counted


def _total(tender: str, currency: str, found: dict[str, int]) -> TenderTotal:
    captured, *back = (found.get(kind, 0) for kind in ("captured", "refunded", "voided", "reversed"))
    kinds = ("captured", "refunded", "voided", "reversed")
    counts = (found.get(f"{kind}_count", 0) for kind in kinds)
    return TenderTotal(tender, currency, captured - sum(back), captured, *back, *counts)


class DeviceDay(msgspec.Struct, frozen=True):
    """One device, for one business day. `received` are its records of payments of that day, `uploaded` those of them
    that the cloud has. All else is how the device stands now, whichever day it may concern: events of it that the cloud
    has not got, open holes in its counting (latest), refused events that nobody has handled, events declared lost since
    the day began that nobody has acknowledged, and what it says it has not delivered."""

    device: str
    received: int = 0
    uploaded: int = 0
    waiting: int = 0
    gaps: tuple[tuple[str, str], ...] = ()
    refused: int = 0
    lost: int = 0
    unsent: int = 0


class Standing(NamedTuple):
    """How the box stands: whether the index is behind, whether nothing can be stored, whether records from before the
    day's end wait for the cloud, whether records of the day are not kept any more, whether the day has begun, and which
    card payments were allowed offline and have not come."""

    behind: bool = False
    limps: bool = False
    waiting: bool = False
    older_than_kept: bool = False
    begun: bool = True
    unseen: tuple[str, ...] = ()


def why_not(devices: Sequence[DeviceDay], standing: Standing) -> tuple[str, ...]:
    """Why a day is not safe to close, in words; nothing where it is."""
    reasons = []
    if not standing.begun:
        reasons.append("The business day has not begun.")
    if standing.limps:
        reasons.append("The box cannot store anything now: tills may hold sales.")
    if standing.behind:
        reasons.append("The box has not looked through all of its records yet: ask again soon.")
    if standing.unseen:
        named = ", ".join(standing.unseen[:5]) + (" and more" if len(standing.unseen) > 5 else "")
        reasons.append(
            f"{count(len(standing.unseen), 'card payment')} allowed offline has not come: {named}. See `nightsafe "
            "payments reservations`."
        )
    if standing.older_than_kept:
        reasons.append("The box does not keep all records of that day any more: ask the cloud.")
    for one in sorted(devices, key=lambda one: natural(one.device)):
        if one.gaps:
            spans = ", ".join(first if first == last else f"{first} to {last}" for first, last in one.gaps[:5])
            reasons.append(f"{one.device} has not delivered its events {spans}: open its app and leave it open.")
        if one.unsent:
            reasons.append(f"{one.device} says that it still holds {count(one.unsent, 'event')}.")
        if one.lost:
            reasons.append(
                f"{one.device} has lost {count(one.lost, 'event')}: compare its sales with these totals, then end the "
                f"attention gap_lost:{one.device}."
            )
        if one.refused:
            reasons.append(
                f"{count(one.refused, 'event')} of {one.device} refused and not handled: see `nightsafe queue "
                "quarantine list`."
            )
    left = sum(one.received - one.uploaded for one in devices)
    if left:
        reasons.append(f"{count(left, 'payment record')} of the day not at the cloud yet.")
    elif standing.waiting:
        reasons.append("Records from before the end of the day wait for the cloud.")
    return tuple(reasons)
