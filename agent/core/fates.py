"""payments, cloud's word → [fates] → payment.status, page, command line. What became of a payment, and what to do.

Only a declined payment that was asked for by its id may be charged again, and only where the word can be about nothing
else; whatever is not known says no. Pure.
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from agent.core.payments import TAKING, UNDOING, PaymentFact

Fate = Literal["unknown", "edge_durable", "uploaded", "posted", "declined"]
FinalFate = Literal["posted", "declined"]
Way = Literal["payment_id", "search"]
"""How a payment was found: by its own id, or by what people remember of it."""

LEAST_CERTAIN_FIRST: Final[tuple[Fate, ...]] = ("edge_durable", "uploaded", "posted", "declined", "unknown")

WORDS: Final[dict[Fate, str]] = {
    "unknown": "This box knows no such payment. A till may still hold its last sale, so do not charge again: look at "
    "the till first.",
    "edge_durable": "The payment is stored on this box and has not reached the cloud yet: it may still be taken. Do "
    "not charge again.",
    "uploaded": "The cloud has the payment and has not said yet whether it was posted or declined. Do not charge "
    "again.",
    "posted": "The payment was posted: the guest has paid. Do not charge again.",
    "declined": "The payment was declined: nothing was taken. It may be charged again.",
}
DECLINED_FOUND: Final = (
    "What was found was declined, but another payment may belong to the same sale. Do not charge again before it was "
    "looked up by its payment id."
)
DECLINED_IN_DOUBT: Final = (
    "The payment was declined, but that may be about another attempt under the same id: it was taken more than once, "
    "or by several devices, or the cloud had not seen all of it when it said so. Do not charge again: ask your "
    "payment provider whether money was taken."
)
REFUSED_UP: Final = (
    "The payment is stored on this box, and the cloud has not taken its record into its books: it waits in "
    "quarantine. Do not charge again; call support."
)
BEHIND: Final = "The box has not looked through all of its records yet: ask again soon. Do not charge again before."


class Ended(NamedTuple):
    """The cloud's word on a payment, when it was given, and where the journal was then: `cursor` is the last position
    that the cloud was known to have, `committed` the last of all."""

    fate: FinalFate
    at: str
    reason: str | None
    cursor: int
    committed: int


class Payment(NamedTuple):
    """All that is known of one payment, its facts in the order of the log."""

    payment_id: str
    facts: tuple[PaymentFact, ...] = ()
    finals: tuple[Ended, ...] = ()


class Answer(NamedTuple):
    """What is told of a payment; `re_charge_safe` is never yes without proof."""

    fate: Fate
    re_charge_safe: Literal["no", "yes"]
    reason: str


def final_of(payment: Payment) -> Ended | None:
    """The cloud's word that holds. What was posted once has been paid; a decline says nothing of what the box recorded
    after it."""
    posted = next((one for one in payment.finals if one.fate == "posted"), None)
    if posted is not None:
        return posted
    declined = max((one for one in payment.finals), key=lambda one: one.committed, default=None)
    if declined is None:
        return None
    taken = [fact.position for fact in payment.facts if fact.kind in TAKING]
    # what the cloud speaks of may still be under way back here: then none of it lies before the cursor
    seen_upto = declined.cursor if any(position <= declined.cursor for position in taken) else declined.committed
    return declined if all(position <= seen_upto for position in taken) else None


def fate_of(payment: Payment, cursor: int, refused_up: Iterable[int] = ()) -> Fate:
    """Its fate. `cursor` is the last position that the cloud has; records at `refused_up` it takes in no form."""
    final = final_of(payment)
    if final is not None:
        return final.fate
    if not payment.facts:
        return "unknown"
    stuck = set(refused_up)
    taken = [fact for fact in payment.facts if fact.kind in TAKING] or payment.facts
    there = all(fact.position <= cursor and fact.position not in stuck for fact in taken)
    return "uploaded" if there else "edge_durable"


def is_about_all(payment: Payment) -> bool:
    """Whether the word that holds can only be about what stands here: at most one authorization and one capture, by one
    device, and nothing that the cloud had not confirmed when the word came. A decline may have waited at the cloud
    since an attempt before."""
    final = final_of(payment)
    if final is None:
        return False
    taken = [fact for fact in payment.facts if fact.kind in TAKING]
    return (
        len({fact.kind for fact in taken}) == len(taken)
        and len({fact.device for fact in taken}) <= 1
        and all(fact.position <= final.cursor for fact in taken)
    )


def answer(fate: Fate, way: Way, *, behind: bool = False, stuck: bool = False, doubt: bool = False) -> Answer:
    """What to tell of it. `behind`: not everything that was stored when it was asked has been looked through; `stuck`:
    the cloud takes the record in no form; `doubt`: a decline may be about another attempt."""
    if behind:
        return Answer(fate, "no", f"{WORDS[fate]} {BEHIND}" if fate not in ("declined", "unknown") else BEHIND)
    if fate == "declined" and doubt:
        return Answer(fate, "no", DECLINED_IN_DOUBT)
    if fate == "declined":
        return Answer(fate, "yes", WORDS[fate]) if way == "payment_id" else Answer(fate, "no", DECLINED_FOUND)
    return Answer(fate, "no", REFUSED_UP if stuck and fate == "edge_durable" else WORDS[fate])


def least_certain(fates: Iterable[Fate]) -> Fate:
    """The one fate told of several payments: whatever is open comes before what is settled, paid before declined."""
    return min(fates, key=LEAST_CERTAIN_FIRST.index, default="unknown")


def untimely(payment: Payment) -> tuple[PaymentFact, ...]:
    """Refunds, voids and reversals of a payment whose fate is not final, and refunds of one that was declined: nothing
    was taken that could be given back. Cash is final when it is in the drawer."""
    final = final_of(payment)
    if final is not None and final.fate == "posted":
        return ()
    kinds = UNDOING if final is None else ("refunded",)
    return tuple(one for one in payment.facts if one.kind in kinds and one.tender != "cash" and not one.training)


def moved_money(payment: Payment) -> bool:
    """Whether it was captured, or refunded; the void of what was only authorized is every day's work."""
    return any(one.kind in ("captured", "refunded") for one in payment.facts)


def settled(payment: Payment) -> bool:
    """Whether nothing can be charged twice by it any more: declined, or given back whole."""
    final = final_of(payment)
    if final is not None and final.fate == "declined" and is_about_all(payment):
        return True
    undone = [one for one in payment.facts if one.kind in UNDOING]
    if any(one.amount == 0 and one.kind != "refunded" for one in undone):
        return True  # a void or reversal that names no amount is of the whole
    taken = max((abs(one.amount) for one in payment.facts if one.kind in TAKING), default=0)
    return bool(undone) and taken <= sum(abs(one.amount) for one in undone)
