"""desk → [journal: requests and reservations] → disk. What was answered, and what was promised on trust.

A promise is durable, with its reply, before it is said. Replies that promise nothing are written later. Never decides.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from agent.core import cards
from agent.core.arrivals import Own
from agent.core.errors import Rejected
from agent.core.policy import Ask, CardPayment, Reservation
from agent.core.requests import KEEP_S, Reply, Request
from agent.journal.book import EpochBook
from agent.journal.database import SQL
from agent.journal.told import harmless
from agent.journal.writing import Writing

FORGOTTEN_AT_ONCE: Final = 200
"""Rows that one step lets go of."""
KEPT_MAX: Final = 200_000
"""So many replies that promise nothing are kept, the latest; a promise is kept for its seven days."""

SURPLUS_NOTES: Final = 120
"""With every so-manyth note it is looked whether there are more: that goes through all that stay, and a sale waits."""

_reply = msgspec.json.Decoder(Reply).decode


class Known(NamedTuple):
    """What was replied to a request of this name, and the digest of what was asked."""

    digest: str
    reply: Reply


class Requests:
    """The two tables. Raises Transient and JournalDamaged where nothing can be read or written now."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._notes_count = 0

    def lived_s(self) -> float:
        """Seconds that the box has run."""
        return self._writing.lived().total_s

    async def known(self, device: str, id: str) -> Known | None:
        """What was replied before."""

        def read(connection: sqlite3.Connection) -> Known | None:
            row = connection.execute(SQL["read_request"], (device, id)).fetchone()
            return Known(row[0], _reply(row[1])) if row is not None else None

        return await self._writing.run(read)

    async def note(self, answered: Sequence[tuple[Request, Reply]]) -> None:
        """Remember what was replied."""
        lived_s = self.lived_s()
        self._notes_count += 1

        def write(connection: sqlite3.Connection) -> None:
            rows = (_row(request, reply, lived_s) for request, reply in answered if _clean(request, reply))
            connection.executemany(SQL["add_request"], rows)
            connection.execute(SQL["remove_requests"], (lived_s - KEEP_S,))
            if self._notes_count % SURPLUS_NOTES == 0:
                connection.execute(SQL["remove_requests_surplus"], (KEPT_MAX,))

        await self._writing.change(write)

    async def sent(self, request: Request, unknown: Reply) -> None:
        """Remember, before it goes out, that nobody knows what becomes of it. Somebody waits: nothing else is done."""
        if _clean(request, unknown):
            row = _row(request, unknown, self.lived_s())
            await self._writing.change(lambda connection: connection.execute(SQL["add_request"], row))

    async def open(self) -> tuple[Reservation, ...]:
        """All that was promised and has no final fate."""

        def read(connection: sqlite3.Connection) -> tuple[Reservation, ...]:
            rows = connection.execute(SQL["read_reservations_open"]).fetchall()
            return tuple(
                Reservation(device, payment, token, amount, currency, at_s, bool(stored), bool(against))
                for device, payment, token, amount, currency, at_s, stored, against in rows
            )

        return await self._writing.run(read)

    async def fated(self) -> tuple[tuple[str, str], ...]:
        """Promised payments that are open here, though the cloud has told what became of them."""
        rows = await self._writing.run(lambda connection: connection.execute(SQL["read_reservations_fated"]).fetchall())
        return tuple((str(payment_id), str(fate)) for payment_id, fate in rows)

    async def declined_on(self, day: str) -> int:
        """How many of the promised payments were declined on this day."""
        row = await self._writing.run(
            lambda connection: connection.execute(SQL["count_declined_on"], (day,)).fetchone()
        )
        return int(row[0])

    async def reserve(self, wanted: Ask, request: Request, reply: Reply, overridden: bool) -> Reservation:
        """Promise it, and remember the reply, in one step; who has overridden a limit goes into the log.

        Raises Rejected where the device has used the payment's id before.
        """
        at_s = self.lived_s()
        reserved = Reservation(wanted.device, wanted.payment_id, wanted.token, wanted.amount, wanted.currency, at_s)
        by = wanted.override if overridden else None

        def write(connection: sqlite3.Connection) -> tuple[Reservation, set[EpochBook]]:
            values = (*reserved[:6], 0, 0, by.manager if by else None, by.reason if by else None)
            fated = connection.execute(SQL["has_payment_fate"], (wanted.payment_id,)).fetchone() is not None
            if fated or not connection.execute(SQL["add_reservation"], values).rowcount:
                raise Rejected("payment_id_used", f"{wanted.device} has used this payment_id before.")
            connection.execute(SQL["add_request"], _row(request, reply, at_s, promised=1))
            if by is None:
                return reserved, set()
            fold = self._writing.fold(connection)
            data = {
                "condition": f"limit_overridden:{wanted.payment_id}",
                "actor": harmless(by.manager),
                "reason": harmless(by.reason),
                "device": wanted.device,
                "amount": {"amount": wanted.amount, "currency": wanted.currency},
            }
            fold.take(Own("nightsafe.condition.raised", data))
            fold.write()
            return reserved, fold.touched

        made = await self._writing.transact(write)
        self._writing.tell()
        return made

    async def against(self, one: Reservation) -> bool:
        """Count a capture that was taken offline without being asked for, or after a person had released it as one
        that never came; False where it was counted before, or its fate is final already."""
        values = (*one[:6], 1, 1, None, None)

        def write(connection: sqlite3.Connection) -> bool:
            if connection.execute(SQL["has_payment_fate"], (one.payment_id,)).fetchone() is not None:
                return False
            return connection.execute(SQL["add_reservation_against"], values).rowcount > 0

        return await self._writing.change(write)

    async def stored(self, one: Reservation) -> None:
        """Its own event is in the journal."""
        key = (one.device, one.payment_id)
        await self._writing.change(lambda connection: connection.execute(SQL["note_reservation_stored"], key))

    async def grow(self, one: Reservation, amount: int) -> None:
        """More was taken than was reserved, in minor units."""
        values = (amount, one.device, one.payment_id)
        await self._writing.change(lambda connection: connection.execute(SQL["grow_reservation"], values))

    async def unaccounted(self) -> tuple[CardPayment, ...]:
        """Payments of the index that open reservations, or the want of one, do not tell of yet."""
        rows = await self._writing.run(lambda connection: connection.execute(SQL["read_unaccounted"]).fetchall())
        return tuple(
            CardPayment(device, payment, token, amount, currency, bool(offline))
            for _, device, payment, token, amount, currency, offline in rows
        )

    async def forget(self, ended_before_s: float) -> int:
        """Let go of promises that ended before then, in seconds that the box had run; returns how many, of so many at
        once."""
        values = (ended_before_s, FORGOTTEN_AT_ONCE)
        return await self._writing.change(
            lambda connection: connection.execute(SQL["forget_reservations"], values).rowcount
        )

    async def end(self, payment_id: str, how: str, day: str, by: tuple[str, str] | None = None) -> None:
        """It has its final fate, or a person (`by`: who and why) has released it, which goes into the log."""
        values = (how, self.lived_s(), day, payment_id)

        def write(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            connection.execute(SQL["end_reservation"], values)
            if by is None:
                return None, set()
            fold = self._writing.fold(connection)
            data = {"condition": f"reservation:{payment_id}", "actor": harmless(by[0]), "reason": harmless(by[1])}
            fold.take(Own("nightsafe.condition.cleared", data))
            fold.write()
            return None, fold.touched

        await self._writing.transact(write, must=True)
        self._writing.tell()


def _row(request: Request, reply: Reply, lived_s: float, promised: int = 0) -> tuple[str, str, str, str, float, int]:
    return request.device, request.id, request.digest, msgspec.json.encode(reply).decode(), lived_s, promised


def _clean(request: Request, reply: Reply) -> bool:
    """Whether the disk may have it: what may hold a card number is remembered in memory alone."""
    return cards.text_clean(request.id) and cards.text_clean(msgspec.json.encode(reply).decode())
