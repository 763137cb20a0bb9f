"""index → [suspected payments] → people. Which payments look as if they were taken twice, or given back too soon.

They are listed, and told as one condition for the venue. Never holds, refunds or drops a payment.
"""

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from agent.core import fates
from agent.core.errors import Rejected
from agent.core.fates import Payment
from agent.core.payment_answers import PaymentShown, Suspect, Suspects
from agent.core.payments import joined
from agent.core.sentence import count
from agent.payments.index import Index, Telling
from agent.payments.shown import Lookup, Showing

SHOWN_MAX: Final = 200
"""So many suspected sales are shown, the latest, so many payments of each, and so many refunds."""
SUSPECT: Final = "payments_suspect"
UNTIMELY: Final = "payments_untimely"


class Tables(Protocol):
    """The tables of the index. Raises NightsafeError."""

    async def payments(self, ids: Collection[str]) -> Lookup: ...
    async def open_twins(self) -> list[tuple[str, str]]: ...
    async def undone(self) -> list[str]: ...
    async def dismiss(self, pairs: Sequence[tuple[str, str]], actor: str, reason: str) -> None: ...


class Suspicions:
    """Whoever is asked which payments people have to look at."""

    def __init__(self, tables: Tables, index: Index, showing: Showing, telling: Telling) -> None:
        self._tables = tables
        self._index = index
        self._showing = showing
        self._telling = telling
        index.on_news(self.tell)

    async def suspects(self) -> Suspects:
        """Payments that look as if they were charged twice, and those that were given back before their fate was
        final. They are listed only: nothing holds, refunds or drops them."""
        current = await self._index.caught_up()
        groups, of_groups = await self._groups()
        untimely, of_untimely = await self._untimely()
        shown = [self._shown(group[:SHOWN_MAX], of_groups) for group in groups[:SHOWN_MAX]]
        return Suspects(
            tuple(Suspect(group, _why(group)) for group in shown),
            len(groups),
            self._shown(untimely[:SHOWN_MAX], of_untimely),
            len(untimely),
            current,
        )

    async def dismiss(self, payment_id: str, actor: str, reason: str) -> None:
        """A person has looked at a payment and all that looks like it. Raises Rejected where nothing does."""
        await self._index.caught_up()
        pairs = [pair for pair in await self._tables.open_twins() if payment_id in pair]
        if not pairs:
            text = f"The payment {payment_id} is not suspected, or not any more."
            raise Rejected("payment_not_suspect", text, "See `nightsafe payments suspects`.")
        await self._tables.dismiss(pairs, actor, reason)
        self._index.news()

    async def tell(self) -> None:
        """Tell people how many there are, as one condition for the venue."""
        suspects = len((await self._groups())[0])
        untimely = sum(fates.moved_money(one) for one in (await self._untimely())[0])
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

    async def _groups(self) -> tuple[list[list[Payment]], Lookup | None]:
        """Suspected payments, those of one sale together, the latest sale first; what is settled suspects nobody."""
        pairs = await self._tables.open_twins()
        found = await self._tables.payments({id: None for pair in pairs for id in pair}) if pairs else None
        if found is None:
            return [], None
        known = {one.payment_id: one for one in found.payments if one.facts and not fates.settled(one)}
        groups = joined((one, other) for one, other in pairs if one in known and other in known)
        payments = [sorted((known[id] for id in group), key=_position) for group in groups]
        return sorted(payments, key=lambda group: _position(group[-1]), reverse=True), found

    async def _untimely(self) -> tuple[list[Payment], Lookup | None]:
        ids = await self._tables.undone()
        found = await self._tables.payments(ids) if ids else None
        if found is None:
            return [], None
        return sorted((one for one in found.payments if fates.untimely(one)), key=_position, reverse=True), found

    def _shown(self, payments: Sequence[Payment], found: Lookup | None) -> tuple[PaymentShown, ...]:
        return tuple(self._showing.told(one, found).shown for one in payments) if found is not None else ()


def _position(payment: Payment) -> int:
    return payment.facts[-1].position


def _why(group: Sequence[PaymentShown]) -> str:
    checks, devices = {one.check_id for one in group}, {one.device for one in group}
    where = f"on check {group[0].check_id}" if len(checks) == 1 and None not in checks else "by one device"
    where = f"by {group[0].device}" if len(devices) == 1 and len(checks) > 1 else where
    return f"Same card and amount {where}, under different payment ids."
