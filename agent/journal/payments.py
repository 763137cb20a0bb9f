"""log → [journal: the index of payments] → payment.status, suspects, business day. Tables made from the log, and again.

Reads the log on a connection of its own that can only read, and checks the seal of each record that it takes. What the
log cannot give again, the cloud's word and people's, is kept as carefully as the log itself. Never judges a payment.
"""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.core.arrivals import Own
from agent.core.clock import Moment
from agent.core.errors import RecordDamaged
from agent.core.fates import Ended, Payment
from agent.core.lineage import Lineage
from agent.core.mend import Row, sound
from agent.core.payments import MARKS, TAKING, CheckDay, PaymentFact, Recorded, same_sale, told_in
from agent.journal.book import EpochBook
from agent.journal.database import SQL
from agent.journal.reading import Reading
from agent.journal.told import harmless
from agent.journal.writing import Writing

SAME_CARD_MAX: Final = 50
"""So many of the latest records of one card and amount are compared with a new one."""
TWINS_MAX: Final = 5
"""With so many of them, the latest, a payment is paired: enough to list all of one sale together."""
PAIRS_MAX: Final = 2_000
"""So many pairs that nobody has dismissed are looked at, the latest, and so many refunds."""
DAYS_KNOWN_MAX: Final = 10_000
FOUND_MAX: Final = 50
"""So many payments one search finds at most, the latest."""
DISMISSED: Final = "nightsafe.condition.cleared"
"""The record that says who dismissed a suspect, and why."""


class Slice(NamedTuple):
    """What was found behind a position: the log was looked through up to `upto`."""

    upto: int
    facts: tuple[PaymentFact, ...]
    days: tuple[CheckDay, ...] = ()


class Lookup(NamedTuple):
    """Payments, the positions whose records the cloud takes in no form, and when each was seen to be uploaded."""

    payments: tuple[Payment, ...]
    refused_up: frozenset[int]
    uploaded_at: dict[str, Moment]


class PaymentTables:
    """The tables of payments, read and written."""

    def __init__(
        self,
        directory: Path,
        cache_bytes: int,
        writing: Writing,
        lineage: Callable[[], Lineage],
        generation: Callable[[], int],
    ) -> None:
        """Opens nothing yet: the first call does."""
        self._reading = Reading(directory, cache_bytes, generation, self._forget)
        self._writing = writing
        self._lineage = lineage
        self._days: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Checks and their dates that are surely written: of one check many events come."""

    def _forget(self) -> None:
        self._days.clear()

    async def close(self) -> None:
        """Close the connection."""
        await self._reading.close()

    def closed(self) -> AbstractAsyncContextManager[None]:
        """While the block lasts there is no connection; calls wait."""
        return self._reading.closed()

    # The log ----------------------------------------------------------------------------------------------------------

    async def place(self) -> int:
        """How far the log has been looked through."""
        row = await self._reading.run(lambda connection: connection.execute(SQL["read_payments_place"]).fetchone())
        return row[0] if row is not None else 0

    async def slice(self, after: int, upto: int, records_max: int) -> Slice:
        """What up to `records_max` records behind `after` say of payments, none behind `upto`. Raises RecordDamaged
        where the first that may speak of one does not prove itself; it is never passed by."""
        found = await self._reading.run(lambda connection: self._slice(connection, after, upto, records_max))
        return found._replace(days=tuple(one for one in found.days if one[:2] not in self._days))

    def _slice(self, connection: sqlite3.Connection, after: int, upto: int, records_max: int) -> Slice:
        (end,) = connection.execute(SQL["find_slice_end"], (after, upto, records_max)).fetchone()
        if end is None:
            return Slice(upto, ())
        rows = [Row(*row) for row in connection.execute(SQL["read_payment_records"], (after, end, *MARKS))]
        owners = dict(connection.execute(SQL["read_epoch_devices"]).fetchall()) if rows else {}
        lineage, facts, days = self._lineage(), list[PaymentFact](), list[CheckDay]()
        for row in rows:
            device = owners.get(row.device_epoch)
            if device is None or not sound(row, row.position - lineage.of(row.position).base, device):
                if row.position == rows[0].position:
                    raise RecordDamaged(row.position)
                return Slice(row.position - 1, tuple(facts), tuple(days))
            at = Recorded(row.position, device, row.recorded_ms, row.uptime_ms, row.boot)
            match told_in(at, row.event):
                case PaymentFact() as fact:
                    facts.append(fact)
                case CheckDay() as day:
                    days.append(day)
        return Slice(end, tuple(facts), tuple(days))

    async def write(self, found: Slice, place: int, window_ms: int) -> None:
        """Take in what was found; `place` is how far the log has been looked through then."""
        await self._writing.change(lambda connection: self._write(connection, found, place, window_ms))
        self._days |= dict.fromkeys(one[:2] for one in found.days)
        while len(self._days) > DAYS_KNOWN_MAX:
            self._days.popitem(last=False)

    def _write(self, connection: sqlite3.Connection, found: Slice, place: int, window_ms: int) -> None:
        for fact in found.facts:
            connection.execute(SQL["add_payment_event"], fact)
            if fact.card_token is None or fact.kind not in TAKING or fact.training:
                continue
            near = (fact.card_token, fact.amount, fact.payment_id, SAME_CARD_MAX)
            others = (PaymentFact(*row) for row in connection.execute(SQL["find_same_card"], near).fetchall())
            twins = dict.fromkeys(one.payment_id for one in others if same_sale(fact, one, window_ms, self.true_ms))
            for twin in list(twins)[:TWINS_MAX]:
                connection.execute(SQL["add_payment_twins"], (*sorted((fact.payment_id, twin)), fact.position))
        for day in dict.fromkeys(found.days):
            connection.execute(SQL["add_check_day"], day)
        connection.execute(SQL["write_payments_place"], (place,))

    def true_ms(self, fact: PaymentFact) -> int:
        """When it was recorded, as well as is known."""
        return self._writing.book.instant_ms(Moment(fact.recorded_ms, fact.uptime_ms, fact.boot))

    def instant_ms(self, moment: Moment) -> int:
        """When a moment truly was, as well as is known."""
        return self._writing.book.instant_ms(moment)

    # How far the cloud is ---------------------------------------------------------------------------------------------

    async def mark_uploaded(self) -> None:
        """Note how far the cloud is by now, where a payment is newly uploaded, or the cloud lacks again what it had."""
        cursor = self._writing.book.cursor

        def due(connection: sqlite3.Connection) -> bool:
            (last,) = connection.execute(SQL["read_last_payment_mark"]).fetchone() or (0,)
            return cursor < last or bool(connection.execute(SQL["has_payment_between"], (last, cursor)).fetchone())

        def mark(connection: sqlite3.Connection) -> None:
            connection.execute(SQL["drop_payment_marks_above"], (cursor,))
            moment = self._writing.fold(connection).moment
            connection.execute(SQL["add_payment_mark"], (cursor, *moment))

        if await self._reading.run(due):
            await self._writing.change(mark)

    # What goes --------------------------------------------------------------------------------------------------------

    async def forget_lost(self) -> None:
        """What was set aside as damaged and is not at the cloud is no payment of ours, until it comes again."""
        await self._writing.change(
            lambda connection: connection.execute(SQL["forget_lost_payments"], (self._writing.book.cursor,)).rowcount
        )

    async def drop_old(self, rows_max: int) -> bool:
        """Let go of what the log has deleted, at most `rows_max` rows; False when nothing of it is left."""

        def first_kept(connection: sqlite3.Connection) -> int:
            return int((connection.execute(SQL["read_first"]).fetchone() or (0,))[0])

        first = await self._reading.run(first_kept)

        def old(connection: sqlite3.Connection) -> bool:
            return bool(connection.execute(SQL["has_payment_between"], (-1, first - 1)).fetchone())

        if not await self._reading.run(old):
            return False

        def drop(connection: sqlite3.Connection) -> bool:
            dropped = connection.execute(SQL["drop_old_payments"], (first, rows_max)).rowcount
            if dropped < rows_max:
                connection.execute(SQL["drop_old_payment_fates"], (rows_max, first))
                connection.execute(SQL["drop_old_check_days"], (first, rows_max))
                connection.execute(SQL["drop_old_twins"])
                connection.execute(SQL["drop_old_dismissals"])
                connection.execute(SQL["drop_payment_marks_below"], (first,))
            return dropped == rows_max

        return await self._writing.change(drop)

    # What is asked ----------------------------------------------------------------------------------------------------

    async def payments(self, ids: Collection[str]) -> Lookup:
        """All that is known of these payments, in the order given; those that nobody knows have no facts."""
        wanted = json.dumps(list(ids))

        def call(connection: sqlite3.Connection) -> Lookup:
            connection.execute("begin")  # facts and the cloud's word of one instant
            try:
                return look(connection)
            finally:
                connection.execute("commit")

        def look(connection: sqlite3.Connection) -> Lookup:
            facts: dict[str, list[PaymentFact]] = {id: [] for id in ids}
            ends: dict[str, list[Ended]] = {id: [] for id in ids}
            for row in connection.execute(SQL["read_payment"], (wanted,)):
                facts[row[1]].append(PaymentFact(*row))
            for id, *end in connection.execute(SQL["read_payment_fates"], (wanted,)):
                ends[id].append(Ended(*end))
            refused_up = frozenset(position for (position,) in connection.execute(SQL["find_refused_up"]))
            found = tuple(Payment(id, tuple(facts[id]), tuple(ends[id])) for id in facts)
            return Lookup(found, refused_up, _uploaded_at(connection, found))

        return await self._reading.run(call)

    async def of_check(self, check_id: str) -> list[str]:
        """Ids of the payments of a check, the latest first."""
        return await self._ids(SQL["find_payments_of_check"], (check_id, FOUND_MAX))

    async def of_sequence(self, device: str, sequence: int, epoch: str | None) -> list[str]:
        """Ids of the payments that a device told of by that sequence; in any of its epochs where none is named."""
        return await self._ids(SQL["find_payments_of_sequence"], (device, sequence, epoch, FOUND_MAX))

    async def by_last4(self, last4: str, amount: int, currency: str | None) -> list[PaymentFact]:
        """What was taken from cards that end so, in this amount, the latest first."""
        return await self._facts(SQL["find_payments_by_last4"], (last4, amount, currency, FOUND_MAX * 20))

    async def near_day(self, day: str, from_ms: int, to_ms: int) -> list[PaymentFact]:
        """What may belong to a business day by any of its times."""
        return await self._facts(SQL["find_payments_of_day"], (day, from_ms, to_ms))

    async def facts_of(self, ids: Collection[str]) -> list[PaymentFact]:
        """All records of these payments."""
        return await self._facts(SQL["read_payment"], (json.dumps(list(ids)),))

    async def check_days(self, checks: Collection[str]) -> dict[str, list[str]]:
        """The business dates that these checks' events have named."""
        wanted, found = json.dumps(list(checks)), dict[str, list[str]]()
        rows = await self._reading.run(
            lambda connection: connection.execute(SQL["read_check_days"], (wanted,)).fetchall()
        )
        for check_id, day in rows:
            found.setdefault(check_id, []).append(day)
        return found

    async def open_twins(self) -> list[tuple[str, str]]:
        """Pairs that look like one sale charged twice, and that nobody has dismissed, the latest last."""
        return await self._reading.run(
            lambda connection: connection.execute(SQL["read_open_twins"], (PAIRS_MAX,)).fetchall()
        )

    async def undone(self) -> list[str]:
        """Ids of payments that were voided, refunded or reversed, and that the cloud has not called posted."""
        return await self._ids(SQL["find_undone"], (PAIRS_MAX,))

    async def oldest_kept_ms(self) -> int | None:
        """When the first record that the log still has was recorded; None where it has deleted none."""

        def call(connection: sqlite3.Connection) -> Moment | None:
            (first,) = connection.execute(SQL["read_first"]).fetchone() or (0,)
            return Moment(*connection.execute(SQL["read_recorded"], (first - 1,)).fetchone()) if first > 1 else None

        moment = await self._reading.run(call)
        return self.instant_ms(moment) if moment is not None else None

    async def _ids(self, statement: str, values: Sequence[Any]) -> list[str]:
        rows = await self._reading.run(lambda connection: connection.execute(statement, values).fetchall())
        return [id for (id,) in rows]

    async def _facts(self, statement: str, values: Sequence[Any]) -> list[PaymentFact]:
        rows = await self._reading.run(lambda connection: connection.execute(statement, values).fetchall())
        return [PaymentFact(*row) for row in rows]

    # What the log cannot give again -----------------------------------------------------------------------------------

    async def end(self, payment_id: str, fate: str, at: str, reason: str | None) -> None:
        """The cloud's word on a payment; returns when it is durable. What it said before of the same kind stands."""
        await self._writing.change(lambda connection: self.note_end(connection, payment_id, fate, at, reason))

    def note_end(self, connection: sqlite3.Connection, payment_id: str, fate: str, at: str, reason: str | None) -> None:
        """The same in the transaction that runs on the writer's thread."""
        book = self._writing.book
        said = harmless(reason) if reason is not None else None
        row = (payment_id, fate, harmless(at), said, book.cursor, book.position)
        connection.execute(SQL["add_payment_fate"], row)

    async def dismiss(self, pairs: Sequence[tuple[str, str]], actor: str, reason: str) -> None:
        """A person has looked at these pairs; returns when that is durable, with who and why on record."""

        def work(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            fold = self._writing.fold(connection)
            who, why = harmless(actor), harmless(reason)
            for one, other in pairs:
                connection.execute(SQL["dismiss_twins"], (one, other, who, why, *fold.moment))
            ids = sorted({harmless(id) for pair in pairs for id in pair})
            fold.take(Own(DISMISSED, {"condition": "payments_suspect", "payments": ids, "actor": who, "reason": why}))
            return None, fold.write()

        await self._writing.transact(work)
        self._writing.tell()


def _uploaded_at(connection: sqlite3.Connection, payments: Sequence[Payment]) -> dict[str, Moment]:
    """When the cloud was first seen to have all of what each payment took."""
    found = {}
    for one in payments:
        taken = [fact.position for fact in one.facts if fact.kind in TAKING] or [fact.position for fact in one.facts]
        row = connection.execute(SQL["read_payment_mark"], (max(taken),)).fetchone() if taken else None
        if row is not None:
            found[one.payment_id] = Moment(*row)
    return found
