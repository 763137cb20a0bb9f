"""tills, people → [inquiry] → index, core. What became of a payment, and which look as if they were taken twice.

Answers from this box alone, also while the cloud is away. Waits a short while for what was stored just before it was
asked; whatever it cannot know says no.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from agent.core import fates
from agent.core.clock import Moment
from agent.core.errors import Rejected
from agent.core.events import Money
from agent.core.fates import Fate, Payment
from agent.core.instants import to_ms, to_text
from agent.core.payments import PREFIX, TAKING, PaymentFact, happened_ms
from agent.core.sentence import count
from agent.payments.index import Index, Journal, Telling

CAUGHT_UP_S: Final = 2.0
"""How long a question waits for what was stored before it was asked, in seconds."""
AROUND_S: Final = 1_800.0
"""How far from the time that people name a payment may lie, unless they say, in seconds."""
AROUND_S_MAX: Final = 86_400.0 * 31
TEXT_MAX: Final = 256
SHOWN_MAX: Final = 20
"""So many payments are shown of one search, the latest."""
SUSPECTS_SHOWN_MAX: Final = 200
SUSPECT: Final = "payments_suspect"
UNTIMELY: Final = "payments_untimely"


class Tables(Protocol):
    """The tables of the index. Raises NightsafeError."""

    async def payments(self, ids: Collection[str]) -> Any: ...
    async def of_check(self, check_id: str) -> list[str]: ...
    async def of_sequence(self, device: str, sequence: int, epoch: str | None) -> list[str]: ...
    async def by_last4(self, last4: str, amount: int, currency: str | None) -> list[PaymentFact]: ...
    async def open_twins(self) -> list[tuple[str, str]]: ...
    async def undone(self) -> list[str]: ...
    async def end(self, payment_id: str, fate: str, at: str, reason: str | None) -> None: ...
    async def dismiss(self, pairs: Sequence[tuple[str, str]], actor: str, reason: str) -> None: ...
    def true_ms(self, fact: PaymentFact) -> int: ...
    def instant_ms(self, moment: Moment) -> int: ...


class PaymentEvent(msgspec.Struct, frozen=True):
    """One record of a payment. `time` is the device's own."""

    type: str
    device: str
    amount: Money
    recorded_at: str
    time: str | None = None
    epoch: str | None = None
    sequence: str | None = None


class PaymentShown(msgspec.Struct, frozen=True):
    """A payment as people know it. Of a card only the last four digits are shown."""

    payment_id: str
    fate: Fate
    times: dict[str, str]
    device: str
    amount: Money
    tender: str
    check_id: str | None = None
    last4: str | None = None
    offline: bool = False
    training: bool = False
    authorization_code: str | None = None
    events: tuple[PaymentEvent, ...] = ()


class PaymentStatus(msgspec.Struct, frozen=True):
    """What became of a payment, or of those that a search found: then the one told is the least certain of them.

    `times` are instants by what they tell of: `till`, `edge_durable`, `uploaded` (seen at the latest then), `posted`,
    `declined`.
    """

    fate: Fate
    times: dict[str, str]
    re_charge_safe: str
    reason: str
    payments: tuple[PaymentShown, ...] = ()


class Suspect(msgspec.Struct, frozen=True):
    """Payments that look like one sale that was charged more than once."""

    payments: tuple[PaymentShown, ...]
    reason: str


class Suspects(msgspec.Struct, frozen=True):
    """What people have to look at. `untimely`: refunded, voided or reversed before its fate was final."""

    suspects: tuple[Suspect, ...]
    count: int
    untimely: tuple[PaymentShown, ...]
    untimely_count: int
    up_to_date: bool


class Query(msgspec.Struct):
    """How a payment is asked for: by its id; or by what people remember."""

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


class _Told(NamedTuple):
    fate: Fate
    shown: PaymentShown
    stuck: bool


HOW: Final = (
    "Give payment_id; or check_id; or last4 with amount and at, or from and to; or device and sequence. Instants are "
    "RFC 3339, amounts minor units."
)


class Inquiry:
    """Whoever is asked about payments."""

    def __init__(self, tables: Tables, index: Index, journal: Journal, telling: Telling) -> None:
        self._tables = tables
        self._index = index
        self._journal = journal
        self._telling = telling
        index.on_news(self.tell)

    # payment.status ---------------------------------------------------------------------------------------------------

    async def status(self, args: Mapping[str, Any]) -> PaymentStatus:
        """The answer to `payment.status`. Raises Rejected for arguments that say nothing."""
        query = _query(args)
        current = await self._caught_up()
        if query.payment_id is not None:
            (one,) = await self._look([query.payment_id])
            return self._answer(one, "payment_id", not current)
        found = await self._look(await self._search(query))
        if not found:
            return PaymentStatus(*_said(fates.answer("unknown", "search", behind=not current)))
        told = fates.least_certain(one.fate for one in found)
        first = next(one for one in found if one.fate == told)
        return msgspec.structs.replace(
            self._answer(first, "search", not current), payments=tuple(one.shown for one in found[:SHOWN_MAX])
        )

    def _answer(self, told: _Told, way: fates.Way, behind: bool) -> PaymentStatus:
        said = fates.answer(told.fate, way, behind=behind, stuck=told.stuck)
        status = PaymentStatus(*_said(said, told.shown.times))
        return msgspec.structs.replace(status, payments=(told.shown,)) if told.shown.device else status

    async def _caught_up(self) -> bool:
        """Whether all that was stored when it was asked is known by now."""
        return await self._index.reached(self._journal.committed, CAUGHT_UP_S)

    async def _search(self, query: Query) -> list[str]:
        if query.check_id is not None:
            return await self._tables.of_check(query.check_id)
        if query.device is not None and query.sequence is not None:
            return await self._tables.of_sequence(query.device, int(query.sequence), query.epoch)
        money = query.amount
        assert query.last4 is not None
        assert money is not None
        amount, currency = (money.amount, money.currency) if isinstance(money, Money) else (money, query.currency)
        from_ms, upto_ms = _window(query)
        found = await self._tables.by_last4(query.last4, amount, currency)
        return list(dict.fromkeys(one.payment_id for one in found if self._between(one, from_ms, upto_ms)))

    def _between(self, fact: PaymentFact, from_ms: int, upto_ms: int) -> bool:
        """By either clock: people read the till's, support the box's."""
        true_ms = self._tables.true_ms(fact)
        return from_ms <= true_ms <= upto_ms or from_ms <= happened_ms(fact, true_ms) <= upto_ms

    async def _look(self, ids: Collection[str]) -> list[_Told]:
        if not ids:
            return []
        found, cursor = await self._tables.payments(ids), self._journal.cursor
        return [self._told(one, found, cursor) for one in found.payments]

    def _told(self, payment: Payment, found: Any, cursor: int) -> _Told:
        fate = fates.fate_of(payment, cursor, found.refused_up)
        stuck = any(fact.position in found.refused_up for fact in payment.facts)
        times = self._times(payment, fate, found.uploaded_at.get(payment.payment_id))
        return _Told(fate, self._shown(payment, fate, times), stuck)

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
        (one,) = await self._look([payment_id])
        return one.fate

    # Who has to look --------------------------------------------------------------------------------------------------

    async def suspects(self) -> Suspects:
        """Payments that look as if they were charged twice, and those that were given back before their fate was
        final. They are listed only: nothing holds, refunds or drops them."""
        current = await self._caught_up()
        groups, untimely = await self._groups(), await self._untimely()
        return Suspects(
            tuple(Suspect(tuple(one.shown for one in group), _why(group)) for group in groups[:SUSPECTS_SHOWN_MAX]),
            len(groups),
            tuple(one.shown for one in untimely[:SUSPECTS_SHOWN_MAX]),
            len(untimely),
            current,
        )

    async def dismiss(self, payment_id: str, actor: str, reason: str) -> None:
        """A person has looked at a payment and all that looks like it. Raises Rejected where nothing does."""
        await self._caught_up()
        pairs = [pair for pair in await self._tables.open_twins() if payment_id in pair]
        if not pairs:
            text = f"The payment {payment_id} is not suspected, or not any more."
            raise Rejected("payment_not_suspect", text, "See `nightsafe payments suspects`.")
        await self._tables.dismiss(pairs, actor, reason)
        self._index.news()

    async def tell(self) -> None:
        """Tell people how many there are, as one condition for the venue."""
        suspects, untimely = len(await self._groups()), len(await self._untimely())
        if suspects:
            self._telling.hold(
                SUSPECT,
                "warning",
                "Payments may have been charged twice",
                f"{count(suspects, 'sale')} may have been charged twice: same card and amount within minutes, on the "
                "same check or by the same device. Nothing was held or refunded.",
                "See `nightsafe payments suspects`, compare with the tills, and ask support before you refund. Then "
                "dismiss each with `nightsafe payments dismiss`.",
            )
        else:
            self._telling.lift(SUSPECT)
        if untimely:
            self._telling.hold(
                UNTIMELY,
                "warning",
                "Refunds of payments that are not settled",
                f"{count(untimely, 'payment')} refunded, voided or reversed before the cloud said whether the payment "
                "was posted. The records go up in order, so nothing is lost.",
                "See `nightsafe payments suspects`, and ask support before you refund more.",
            )
        else:
            self._telling.lift(UNTIMELY)

    async def _groups(self) -> list[list[_Told]]:
        """Suspected payments, those of one sale together, the latest sale first; what is settled suspects nobody."""
        pairs = await self._tables.open_twins()
        found = await self._tables.payments({id: None for pair in pairs for id in pair}) if pairs else None
        if found is None:
            return []
        known = {one.payment_id: one for one in found.payments if not fates.settled(one) and one.facts}
        groups: dict[str, list[str]] = {}
        for one, other in pairs:
            if one not in known or other not in known:
                continue
            both = [*groups.get(one, [one]), *groups.get(other, [other])]
            both = list(dict.fromkeys(both))
            groups |= dict.fromkeys(both, both)
        cursor, lists = self._journal.cursor, {id(group): group for group in groups.values()}
        told = [
            [self._told(one, found, cursor) for one in sorted((known[id] for id in group), key=_position)]
            for group in lists.values()
        ]
        return sorted(told, key=lambda group: group[-1].shown.times["edge_durable"], reverse=True)

    async def _untimely(self) -> list[_Told]:
        ids = await self._tables.undone()
        found = await self._tables.payments(ids) if ids else None
        if found is None:
            return []
        cursor = self._journal.cursor
        open_ones = [one for one in found.payments if fates.untimely(one)]
        return [self._told(one, found, cursor) for one in sorted(open_ones, key=_position, reverse=True)]


def _query(args: Mapping[str, Any]) -> Query:
    try:
        query = msgspec.convert(dict(args), Query, strict=False)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise Rejected("payment_query", f"That cannot be looked up: {error}.", HOW) from error
    given = [query.payment_id, query.check_id, query.last4, query.device]
    texts = [*given, query.currency, query.at, query.from_, query.to, query.epoch]
    if any(text is not None and not _is_text(text) for text in texts) or sum(one is not None for one in given) != 1:
        raise Rejected("payment_query", "Ask for a payment in one way.", HOW)
    if query.device is not None and not _is_sequence(query.sequence):
        raise Rejected("payment_query", "With a device goes the sequence of its event.", HOW)
    if query.last4 is not None:
        if query.amount is None:
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
    return isinstance(value, str) and 0 < len(value) <= TEXT_MAX


def _is_sequence(value: int | str | None) -> bool:
    text = str(value)
    return text.isascii() and text.isdigit() and len(text) <= 18


def _said(said: fates.Answer, times: dict[str, str] | None = None) -> tuple[Fate, dict[str, str], str, str]:
    return said.fate, times or {}, said.re_charge_safe, said.reason


def _main(payment: Payment) -> PaymentFact | None:
    """The record that tells most of a payment: what was captured, else authorized, else whatever there is."""
    ranked = sorted(payment.facts, key=lambda one: (one.kind != "captured", one.kind not in TAKING, -one.position))
    return ranked[0] if ranked else None


def _position(payment: Payment) -> int:
    return payment.facts[-1].position


def _why(group: Sequence[_Told]) -> str:
    checks, devices = {one.shown.check_id for one in group}, {one.shown.device for one in group}
    where = f"on check {next(iter(checks))}" if len(checks) == 1 and None not in checks else "by one device"
    where = where if len(devices) > 1 or len(checks) == 1 else f"by {next(iter(devices))}"
    return f"Same card and amount {where}, under different payment ids."
