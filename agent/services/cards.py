"""desk → [offline cards] → journal. Takes card payments on trust, within the venue's limits, one after the other.

What is approved is reserved durably before it is said, and stays reserved until the payment's fate is final or a person
releases it. Never forgets a reservation whose commit it is not sure about.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from agent.core import policy
from agent.core.commands import Command
from agent.core.conditions import Severity
from agent.core.errors import NightsafeError, Rejected
from agent.core.policy import Ask, CardPayment, Reservation
from agent.core.requests import Reply, Request

log = structlog.get_logger()

LOOK_INTERVAL_S: Final = 2.0
UNSEEN_S: Final = 600.0
"""A reservation whose payment never came is told after so long, in seconds that the box runs."""
TIDY_S: Final = 3_600.0
"""How often it is looked whether something that has ended is to be forgotten."""
AWAITED_S: Final = 30.0
"""So long a payment that was approved is awaited before its day counts as incomplete."""
OLD: Final = "offline_payments_old"
NAMED_MAX: Final = 5
"""So many payments are named in words."""
COMMANDS: Final = {"payment.posted": "posted", "payment.declined": "declined"}


class Kept(Protocol):
    """The durable reservations. Raises NightsafeError."""

    def lived_s(self) -> float: ...
    async def open(self) -> Sequence[Reservation]: ...
    async def fated(self) -> Sequence[tuple[str, str]]: ...
    async def unaccounted(self) -> Sequence[CardPayment]: ...
    async def declined_on(self, day: str) -> int: ...
    async def reserve(self, wanted: Ask, request: Request, reply: Reply, overridden: bool) -> Reservation: ...
    async def against(self, one: Reservation) -> bool: ...
    async def stored(self, one: Reservation) -> None: ...
    async def grow(self, one: Reservation, amount: int) -> None: ...
    async def end(self, payment_id: str, how: str, day: str, by: tuple[str, str] | None = None) -> None: ...
    async def forget(self, ended_before_s: float) -> int: ...


class Telling(Protocol):
    """Where it is said what holds, and what has happened."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def happened(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def lift(self, id: str) -> None: ...


class Terms(NamedTuple):
    """What holds for one device now: whether cards are queued, whether its payments are held; the venue's limits."""

    queue: bool
    held: bool
    limits: policy.Limits
    override: Sequence[str]


class Cards:
    """The stage. `today` is the business date."""

    def __init__(
        self,
        kept: Kept,
        telling: Telling,
        terms: Callable[[str], Terms],
        today: Callable[[], str],
        keep_s: Callable[[], float],
    ) -> None:
        """`keep_s` is for how long what has ended is remembered, in seconds that the box runs."""
        self.name = "cards"
        self._keep_s = keep_s
        self._tidied_s = float("-inf")
        self._kept = kept
        self._telling = telling
        self._terms = terms
        self._today = today
        self._open: dict[tuple[str, str], Reservation] = {}
        self._declines: tuple[str, int] | None = None
        self._loaded = False
        self._one = asyncio.Lock()
        self._due: list[CardPayment | Command] = []

    @property
    def exposure(self) -> int:
        """All that is reserved now, in minor units."""
        return sum(one.amount for one in self._open.values())

    def closed(self, limits: policy.Limits) -> policy.Reason | None:
        """Why no card at all is taken offline now, by what is known this moment; None where some are."""
        today = self._declines[1] if self._declines is not None and self._declines[0] == self._today() else 0
        return policy.closed(self._open.values(), limits, self._kept.lived_s(), today)

    async def offline(self, request: Request) -> Reply:
        """Whether this payment is taken on trust. Raises Transient and JournalDamaged where nothing can be written."""
        try:
            wanted = policy.ask(request.device, request.args)
        except policy.Malformed as wrong:
            return Reply(request.id, "error", {}, "malformed", f"{wrong}.")
        terms = self._terms(request.device)
        if terms.held:
            return _declined(request, "payments_held")
        if not terms.queue:
            return _declined(request, "offline_refused")
        async with self._one:
            await self._load()
            return await self._take(request, wanted, terms)

    async def _take(self, request: Request, wanted: Ask, terms: Terms) -> Reply:
        open_, now_s = list(self._open.values()), self._kept.lived_s()
        declines = await self._declined_today()
        strict = policy.decide(wanted._replace(override=None), open_, terms.limits, now_s, declines)
        why = policy.decide(wanted, open_, terms.limits, now_s, declines, terms.override)
        if why is not None:
            return _declined(request, why)
        result = {
            "payment_id": wanted.payment_id,
            "amount": {"amount": wanted.amount, "currency": wanted.currency},
            "store_and_forward": True,
            "authorization_code": None,
        }
        reply = Reply(request.id, "ok", result, "store_and_forward", "Taken offline: it is charged later.")
        sure = Reservation(wanted.device, wanted.payment_id, wanted.token, wanted.amount, wanted.currency, now_s)
        key = (wanted.device, wanted.payment_id)
        if key in self._open:
            return Reply(request.id, "declined", {}, "payment_id_used", "This payment_id is reserved already.")
        self._open[key] = sure  # until the disk is known to say otherwise, it counts
        try:
            self._open[key] = await self._kept.reserve(wanted, request, reply, overridden=strict is not None)
        except Rejected as refused:
            del self._open[key]
            return Reply(request.id, "declined", {}, refused.code, refused.text)
        except NightsafeError:
            self._loaded = False  # nobody knows whether it landed: the disk is asked before the next decision
            raise
        return reply

    def reopened(self) -> None:
        """The journal was opened anew: what it has is asked before the next decision."""
        self._loaded = False

    async def _load(self) -> None:
        """Know what the disk has; Transient and JournalDamaged where it cannot be asked."""
        if not self._loaded:
            for payment_id, fate in await self._kept.fated():  # heard by a start that was killed right behind
                await self._kept.end(payment_id, fate, self._today())
            self._open = {(one.device, one.payment_id): one for one in await self._kept.open()}
            self._declines = None
            self._due += await self._kept.unaccounted()  # stored before a start that was killed right behind
            self._loaded = True

    async def _declined_today(self) -> int:
        today = self._today()
        if self._declines is None or self._declines[0] != today:
            self._declines = today, await self._kept.declined_on(today)
        return self._declines[1]

    # What becomes of them ---------------------------------------------------------------------------------------------

    def paid(self, payment: CardPayment) -> None:
        """A payment's own event is stored."""
        if payment.offline or self._reserved(payment) is not None:
            self._due.append(payment)

    def command(self, command: Command) -> None:
        """The cloud tells of a payment's final fate."""
        if command.event in COMMANDS:
            self._due.append(command)

    def reserved(self) -> tuple[Reservation, ...]:
        """All that was approved or taken offline and has no final fate, as known now; the oldest first."""
        return tuple(sorted(self._open.values(), key=lambda one: one.at_s))

    def unseen(self) -> tuple[str, ...] | None:
        """Ids of the payments that were approved and whose own event has not come for a while, the oldest first; None
        where that is not known yet."""
        if not self._loaded:
            return None
        late_s = self._kept.lived_s() - AWAITED_S
        return tuple(one.payment_id for one in self.reserved() if not one.stored and one.at_s <= late_s)

    async def release(self, payment_id: str, actor: str, reason: str, taken: bool = False) -> None:
        """A person ends a reservation; `taken`: they know that the payment was taken, and what became of it. Raises
        Rejected where there is none, or it was taken and they did not say so; and what the journal raises."""
        async with self._one:
            await self._load()
            found = [key for key in self._open if key[1] == payment_id]
            if not found:
                hint = "See `nightsafe payments reservations`."
                raise Rejected("reservation_none", f"Nothing is reserved for {payment_id}.", hint)
            if not taken and any(self._open[key].stored for key in found):
                raise Rejected(
                    "reservation_taken",
                    f"Payment {payment_id} was taken: its record is stored on this box, and the cloud has not said "
                    "what became of it.",
                    "Ask who settles your cards. Once you know what became of it, repeat this with --taken.",
                )
            await self._end(payment_id, "released", (actor, reason))
        log.warning("reservation_released", payment=payment_id, taken=taken, actor=actor, reason=reason)

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Follow what becomes of reservations until `stop`."""
        ready()
        while not stop.is_set():
            try:
                async with self._one:
                    await self._load()
                    await self._settle()
                    await self._declined_today()
                    await self._tidy()
            except NightsafeError as error:
                log.debug("reservations_put_off", code=error.code)
            self._tell()
            try:
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _tidy(self) -> None:
        """Forget what ended long ago, some at each look while there is more."""
        now_s = self._kept.lived_s()
        if now_s - self._tidied_s >= TIDY_S and not await self._kept.forget(now_s - self._keep_s()):
            self._tidied_s = now_s

    async def _settle(self) -> None:
        while self._due:
            one = self._due[0]
            if isinstance(one, Command):
                if any(key[1] == one.business for key in self._open):
                    await self._end(one.business, COMMANDS[one.event])
            else:
                await self._note_paid(one)
            del self._due[0]

    async def _end(self, payment_id: str, how: str, by: tuple[str, str] | None = None) -> None:
        today = self._today()
        await self._kept.end(payment_id, how, today, by)
        if how == "declined" and self._declines is not None:
            self._declines = self._declines[0], self._declines[1] + 1
        for key in [key for key in self._open if key[1] == payment_id]:
            del self._open[key]
            self._telling.lift(f"reservation_unseen:{payment_id}")

    async def _note_paid(self, payment: CardPayment) -> None:
        reserved = self._reserved(payment)
        if reserved is not None:
            await self._note_stored(reserved, payment)
            return
        if not payment.offline:
            return
        key, at_s = (payment.device, payment.payment_id), self._kept.lived_s()
        token = payment.token or ""
        one = Reservation(*key, token, payment.amount, payment.currency, at_s, stored=True, against=True)
        if not await self._kept.against(one):
            return
        self._open[key] = one
        self._tell_against(payment, "without asking this box")

    def _reserved(self, payment: CardPayment) -> Reservation | None:
        """What is reserved for it; also where another device sends what this box approved to its neighbour."""
        own = self._open.get((payment.device, payment.payment_id))
        if own is not None:
            return own
        return next((one for key, one in self._open.items() if key[1] == payment.payment_id and not one.stored), None)

    async def _note_stored(self, reserved: Reservation, payment: CardPayment) -> None:
        key = (reserved.device, reserved.payment_id)
        if not reserved.stored:
            await self._kept.stored(reserved)
            reserved = self._open[key] = reserved._replace(stored=True)
            self._telling.lift(f"reservation_unseen:{payment.payment_id}")
        if payment.amount > reserved.amount:
            await self._kept.grow(reserved, payment.amount)
            self._open[key] = reserved._replace(amount=payment.amount)
            self._tell_against(payment, "with a higher amount than this box had approved")

    def _tell_against(self, payment: CardPayment, how: str) -> None:
        self._telling.happened(
            f"offline_against_policy:{payment.device}",
            "warning",
            f"{payment.device} took a card offline by itself",
            f"{payment.device} has taken payment {payment.payment_id} offline {how}. It is stored and uploaded as "
            "ever, and counts towards the venue's limits.",
            "Look at the app's own offline setting; call its vendor.",
        )

    def _tell(self) -> None:
        now_s = self._kept.lived_s()
        self._tell_old([one for one in self._open.values() if self._is_old(one, now_s)])
        for one in self._open.values():
            if not one.stored and now_s - one.at_s >= UNSEEN_S:
                self._telling.hold(
                    f"reservation_unseen:{one.payment_id}",
                    "warning",
                    "An offline card payment never came",
                    f"{one.device} was allowed to take payment {one.payment_id} offline, and has not sent it.",
                    "Look at the device. If the payment was not taken, release it: nightsafe payments release "
                    f"{one.payment_id} --actor NAME --reason TEXT",
                )

    def _is_old(self, one: Reservation, now_s: float) -> bool:
        return now_s - one.at_s > self._terms(one.device).limits.queued_age_max_s

    def _tell_old(self, old: Sequence[Reservation]) -> None:
        """While a payment has waited for too long, no card is taken offline at all: people are told which."""
        if not old:
            self._telling.lift(OLD)
            return
        named = ", ".join(f"{one.payment_id} ({one.device})" for one in old[:NAMED_MAX])
        more = f" and {len(old) - NAMED_MAX} more" if len(old) > NAMED_MAX else ""
        self._telling.hold(
            OLD,
            "warning",
            "No more cards are taken offline",
            f"These offline payments wait for the cloud's word for longer than the venue allows: {named}{more}.",
            "See that uploads run. Ask who settles your cards what became of them; once a person knows: nightsafe "
            "payments release ID --taken --actor NAME --reason TEXT",
        )


def _declined(request: Request, why: policy.Reason) -> Reply:
    return Reply(request.id, "declined", {}, why, policy.WORDS[why])
