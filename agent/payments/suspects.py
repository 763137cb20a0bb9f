"""index → [suspected payments] → people. Which payments look as if they were taken twice, or given back too soon.

They are listed, and told as one condition for the venue. Never holds, refunds or drops a payment.
"""

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from agent.core import fates
from agent.core.errors import Rejected
from agent.core.fates import Payment
from agent.core.payment_answers import Suspect, Suspects
from agent.core.sentence import count
from agent.payments.index import Index, Telling
from agent.payments.shown import Lookup, Showing, Told

SHOWN_MAX: Final = 200
"""So many suspected sales are shown, the latest, and so many refunds."""
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
        groups, untimely = await self._groups(), await self._untimely()
        return Suspects(
            tuple(Suspect(tuple(one.shown for one in group), _why(group)) for group in groups[:SHOWN_MAX]),
            len(groups),
            tuple(one.shown for one in untimely[:SHOWN_MAX]),
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

    async def _groups(self) -> list[list[Told]]:
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
        lists = {id(group): group for group in groups.values()}
        told = [
            [self._showing.told(one, found) for one in sorted((known[id] for id in group), key=_position)]
            for group in lists.values()
        ]
        return sorted(told, key=lambda group: group[-1].shown.times["edge_durable"], reverse=True)

    async def _untimely(self) -> list[Told]:
        ids = await self._tables.undone()
        found = await self._tables.payments(ids) if ids else None
        if found is None:
            return []
        open_ones = [one for one in found.payments if fates.untimely(one)]
        return [self._showing.told(one, found) for one in sorted(open_ones, key=_position, reverse=True)]


def _position(payment: Payment) -> int:
    return payment.facts[-1].position


def _why(group: Sequence[Told]) -> str:
    checks, devices = {one.shown.check_id for one in group}, {one.shown.device for one in group}
    where = f"on check {next(iter(checks))}" if len(checks) == 1 and None not in checks else "by one device"
    where = where if len(devices) > 1 or len(checks) == 1 else f"by {next(iter(devices))}"
    return f"Same card and amount {where}, under different payment ids."
