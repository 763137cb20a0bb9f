"""tills, people → [inquiry] → index, core. What became of a payment, and whether it may be charged again.

Answers from this box alone, also while the cloud is away. Waits a short while for what was stored just before it was
asked; whatever it cannot know says no.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from agent.core import fates
from agent.core.errors import Rejected
from agent.core.events import Money
from agent.core.fates import Fate
from agent.core.instants import to_ms
from agent.core.payment_answers import PaymentShown, PaymentStatus
from agent.core.payments import PaymentFact, happened_ms
from agent.payments.index import Index
from agent.payments.shown import Showing, Told

AROUND_S: Final = 1_800.0
"""How far from the time that people name a payment may lie, unless they say, in seconds."""
AROUND_S_MAX: Final = 86_400.0 * 31
AMOUNT_MAX: Final = 2**53 - 1
TEXT_MAX: Final = 256
SHOWN_MAX: Final = 20
"""So many payments are shown of one search, the latest."""


class Tables(Protocol):
    """The tables of the index. Raises NightsafeError."""

    async def of_check(self, check_id: str) -> list[str]: ...
    async def of_sequence(self, device: str, sequence: int, epoch: str | None) -> list[str]: ...
    async def by_last4(self, last4: str, amount: int, currency: str | None) -> list[PaymentFact]: ...
    async def end(self, payment_id: str, fate: str, at: str, reason: str | None) -> None: ...
    def true_ms(self, fact: PaymentFact) -> int: ...


class Query(msgspec.Struct):
    """How a payment is asked for: by its id, or by what people remember; the first of payment_id, check_id, last4 and
    device that is given counts."""

    payment_id: str | None = None
    check_id: str | None = None
    last4: str | None = None
    amount: int | Money | None = None
    currency: str | None = None
    at: str | None = None
    within_s: float | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    device: str | None = None
    epoch: str | None = None
    sequence: int | str | None = None


HOW: Final = (
    "Give payment_id; or check_id; or last4 with amount and at, or from and to; or device and sequence. Instants are "
    "RFC 3339, amounts minor units."
)


class Inquiry:
    """Whoever is asked about payments."""

    def __init__(self, tables: Tables, index: Index, showing: Showing) -> None:
        self._tables = tables
        self._index = index
        self._showing = showing

    # payment.status ---------------------------------------------------------------------------------------------------

    async def status(self, args: Mapping[str, Any]) -> PaymentStatus:
        """The answer to `payment.status`. Raises Rejected for arguments that say nothing."""
        query = _query(args)
        current = await self._index.caught_up()
        if query.payment_id is not None:
            (one,) = await self._showing.look([query.payment_id])
            return self._answer(one, "payment_id", not current, [one])
        found = await self._showing.look(await self._search(query))
        if not found:
            return _status(fates.answer("unknown", "search", behind=not current), {}, ())
        told = fates.least_certain(one.fate for one in found)
        first = next(one for one in found if one.fate == told)
        return self._answer(first, "search", not current, found)

    def _answer(self, told: Told, way: fates.Way, behind: bool, found: Sequence[Told]) -> PaymentStatus:
        said = fates.answer(told.fate, way, behind=behind, stuck=told.stuck, doubt=told.doubt)
        return _status(said, told.shown.times, tuple(one.shown for one in found if one.shown.device)[:SHOWN_MAX])

    async def _search(self, query: Query) -> list[str]:
        if query.check_id is not None:
            return await self._tables.of_check(query.check_id)
        if query.last4 is None:
            return await self._tables.of_sequence(query.device or "", int(query.sequence or 0), query.epoch)
        money = query.amount
        assert money is not None
        amount, currency = (money.amount, money.currency) if isinstance(money, Money) else (money, query.currency)
        from_ms, upto_ms = _window(query)
        found = await self._tables.by_last4(query.last4, amount, currency)
        return list(dict.fromkeys(one.payment_id for one in found if self._between(one, from_ms, upto_ms)))

    def _between(self, fact: PaymentFact, from_ms: int, upto_ms: int) -> bool:
        """By either clock: people read the till's, support the box's."""
        true_ms = self._tables.true_ms(fact)
        return from_ms <= true_ms <= upto_ms or from_ms <= happened_ms(fact, true_ms) <= upto_ms

    # The cloud's word -------------------------------------------------------------------------------------------------

    async def on_command(self, event: str, data: Mapping[str, Any]) -> None:
        """`payment.posted` or `payment.declined` from the cloud; returns when it is durable. Raises Rejected where it
        cannot be read, Transient or JournalDamaged where nothing can be written now."""
        kind, _, fate = event.partition(".")
        payment_id, at, reason = data.get("payment_id"), data.get("at"), data.get("reason")
        if kind != "payment" or fate not in ("posted", "declined") or not _is_text(payment_id) or not _is_text(at):
            raise Rejected("payment_command", f"{event} names no payment, or not when.", "Call support.")
        assert isinstance(payment_id, str)
        assert isinstance(at, str)
        await self._tables.end(payment_id, fate, at, reason[:TEXT_MAX] if isinstance(reason, str) else None)
        self._index.news()

    async def fate_of(self, payment_id: str) -> Fate:
        """The fate of one payment, as the box knows it now."""
        (one,) = await self._showing.look([payment_id])
        return one.fate


def _query(args: Mapping[str, Any]) -> Query:
    try:
        query = msgspec.convert(dict(args), Query, strict=False)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise Rejected("payment_query", f"That cannot be looked up: {error}.", HOW) from error
    given = [query.payment_id, query.check_id, query.last4, query.device]
    texts = [*given, query.currency, query.at, query.from_, query.to, query.epoch]
    if any(text is not None and not _is_text(text) for text in texts) or not any(given):
        raise Rejected("payment_query", "That does not say which payment.", HOW)
    if query.payment_id is not None or query.check_id is not None:
        return query
    if query.last4 is None and not _is_sequence(query.sequence):
        raise Rejected("payment_query", "With a device goes the sequence of its event.", HOW)
    if query.last4 is not None:
        amount = query.amount.amount if isinstance(query.amount, Money) else query.amount
        if amount is None or abs(amount) > AMOUNT_MAX:
            raise Rejected("payment_query", "With the last four digits go amount and time.", HOW)
        _window(query)
    return query


def _window(query: Query) -> tuple[int, int]:
    """Between which instants, in milliseconds. Raises Rejected."""
    try:
        if query.at is not None and query.from_ is None and query.to is None:
            around_ms = int((AROUND_S if query.within_s is None else query.within_s) * 1000)
            if not 0 <= around_ms <= AROUND_S_MAX * 1000:
                raise ValueError("within_s is out of range")
            at_ms = to_ms(query.at)
            return at_ms - around_ms, at_ms + around_ms
        if query.at is None and query.from_ is not None and query.to is not None:
            return to_ms(query.from_), to_ms(query.to)
    except (ValueError, OverflowError) as error:
        raise Rejected("payment_query", f"That is no time: {error}.", HOW) from error
    raise Rejected("payment_query", "With the last four digits go amount and time.", HOW)


def _is_text(value: Any) -> bool:
    """Whether it is a text that may stand in an event: no half of a character, no U+0000."""
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_MAX or "\0" in value:
        return False
    return all(not 0xD800 <= ord(one) <= 0xDFFF for one in value)


def _is_sequence(value: int | str | None) -> bool:
    text = str(value)
    return text.isascii() and text.isdigit() and len(text) <= 18


def _status(said: fates.Answer, times: dict[str, str], payments: tuple[PaymentShown, ...]) -> PaymentStatus:
    return PaymentStatus(said.fate, times, said.re_charge_safe, said.reason, payments)
