"""index → [payments as people see them] → inquiry, suspects. One payment with its fate, its times and its records.

Of a card only the last four digits are shown. Decides nothing: the fate is core's.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

from agent.core import fates
from agent.core.clock import Moment
from agent.core.events import Money
from agent.core.fates import Fate, Payment
from agent.core.instants import to_text
from agent.core.payment_answers import PaymentEvent, PaymentShown
from agent.core.payments import PREFIX, TAKING, PaymentFact
from agent.payments.index import Journal


class Lookup(Protocol):
    """Payments; where the cloud takes their records in no form; when they were seen to be uploaded."""

    @property
    def payments(self) -> tuple[Payment, ...]: ...
    @property
    def refused_up(self) -> frozenset[int]: ...
    @property
    def uploaded_at(self) -> Mapping[str, Moment]: ...


class Tables(Protocol):
    """The tables of the index. Raises NightsafeError."""

    async def payments(self, ids: Collection[str]) -> Lookup: ...
    def true_ms(self, fact: PaymentFact) -> int: ...
    def instant_ms(self, moment: Moment) -> int: ...


class Told(NamedTuple):
    """A payment's fate, and the payment; `stuck`: the cloud takes a record of it in no form; `doubt`: the cloud's word
    may be about another attempt under its id."""

    fate: Fate
    shown: PaymentShown
    stuck: bool
    doubt: bool


class Showing:
    """Payments of the index, as they stand now."""

    def __init__(self, tables: Tables, journal: Journal) -> None:
        self._tables = tables
        self._journal = journal

    async def look(self, ids: Collection[str]) -> list[Told]:
        """These payments, in the order given."""
        if not ids:
            return []
        found = await self._tables.payments(ids)
        return [self.told(one, found) for one in found.payments]

    def told(self, payment: Payment, found: Lookup) -> Told:
        """One of what was looked up."""
        fate = fates.fate_of(payment, self._journal.cursor, found.refused_up)
        stuck = any(fact.position in found.refused_up for fact in payment.facts)
        times = self._times(payment, fate, found.uploaded_at.get(payment.payment_id))
        return Told(fate, self._shown(payment, fate, times), stuck, not fates.is_about_all(payment))

    def _times(self, payment: Payment, fate: Fate, uploaded: Moment | None) -> dict[str, str]:
        times: dict[str, str] = {}
        fact = _main(payment)
        if fact is not None:
            if fact.device_ms is not None:
                times["till"] = to_text(fact.device_ms)
            times["edge_durable"] = to_text(self._tables.true_ms(fact))
            if uploaded is not None and fate != "edge_durable":
                times["uploaded"] = to_text(self._tables.instant_ms(uploaded))
        final = fates.final_of(payment)
        return times | ({final.fate: final.at} if final is not None else {})

    def _shown(self, payment: Payment, fate: Fate, times: dict[str, str]) -> PaymentShown:
        fact = _main(payment)
        if fact is None:
            return PaymentShown(payment.payment_id, fate, times, "", Money(0, "   "), "other")
        return PaymentShown(
            payment.payment_id,
            fate,
            times,
            fact.device,
            Money(fact.amount, fact.currency),
            fact.tender,
            fact.check_id,
            fact.last4,
            bool(fact.offline),
            bool(fact.training),
            fact.authorization_code,
            tuple(self._event(one) for one in payment.facts),
        )

    def _event(self, fact: PaymentFact) -> PaymentEvent:
        return PaymentEvent(
            PREFIX + fact.kind,
            fact.device,
            Money(fact.amount, fact.currency),
            to_text(self._tables.true_ms(fact)),
            to_text(fact.device_ms) if fact.device_ms is not None else None,
            fact.epoch,
            str(fact.sequence) if fact.sequence is not None else None,
        )


def _main(payment: Payment) -> PaymentFact | None:
    """The record that tells most of a payment: what was captured, else authorized, else whatever there is."""
    ranked = sorted(payment.facts, key=lambda one: (one.kind != "captured", one.kind not in TAKING, -one.position))
    return ranked[0] if ranked else None
