"""log, commands → [journal: orders] → courier, desk. Facts of orders, kept with the records that say the same.

A step is decided by whoever hands it in, and written whole: its facts, its records and what people are told of it stand
in one transaction. What devices have stored is heard in one, and before any person acts. Never judges an order.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from agent.core import orders
from agent.core.arrivals import Own
from agent.core.commands import Command
from agent.core.conditions import Words
from agent.core.errors import JournalDamaged, RecordDamaged, Transient
from agent.core.lineage import Lineage
from agent.core.mend import Row, sound
from agent.core.order_commands import EVENTS, PLACED, commanded
from agent.core.order_events import MARKS, Told, told_in
from agent.core.order_facts import RECORDED, Order, record
from agent.core.order_offers import resting
from agent.core.orders import Step
from agent.journal import told
from agent.journal.book import AGENT, EpochBook
from agent.journal.database import SQL
from agent.journal.fold import Fold
from agent.journal.known_orders import order_of
from agent.journal.reading import Reading
from agent.journal.writing import Writing

SEARCHED_MAX: Final = 5_000
"""So many of the latest orders are looked through for a guest's name."""
ROWS_MAX: Final = 2_000
"""Records behind what was looked through that one transaction reads at most; more are looked through first."""

T = TypeVar("T")
Take = Callable[[Order, int], Step]
"""What is done to an order, at an instant in milliseconds of wall time."""

_customer = msgspec.json.Decoder(dict[str, Any]).decode


class KeptOrder(NamedTuple):
    """An order, the data of the command that placed it, and when that was heard: in seconds that the box had run."""

    order: Order
    data: str | None
    heard_s: float


class OrderSlice(NamedTuple):
    """What devices said of orders behind position `after`; the log was looked through up to `upto`."""

    after: int
    upto: int
    told: tuple[Told, ...] = ()


class Heard(NamedTuple):
    """What came of hearing: a step for each order that somebody spoke of, and the person's own, where one acted."""

    steps: tuple[Step, ...]
    acted: Step | None


class OrderTables:
    """The tables of orders, read and written."""

    def __init__(
        self,
        directory: Path,
        cache_bytes: int,
        writing: Writing,
        lineage: Callable[[], Lineage],
        generation: Callable[[], int],
    ) -> None:
        """Opens nothing yet: the first call does."""
        self._reading = Reading(directory, cache_bytes, generation)
        self._writing = writing
        self._lineage = lineage

    async def close(self) -> None:
        """Close the connection."""
        await self._reading.close()

    def closed(self) -> AbstractAsyncContextManager[None]:
        """While the block lasts there is no connection; calls wait."""
        return self._reading.closed()

    async def _read(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `call` on the connection that reads; where that finds the database damaged, on the one that
        writes: it has the journal built anew."""
        try:
            return await self._reading.run(call)
        except JournalDamaged as error:
            if error.code != "journal_corrupt":
                raise
        return await self._writing.change(call)

    # What is known ----------------------------------------------------------------------------------------------------

    async def get(self, order_id: str) -> KeptOrder | None:
        """One order; None where nobody has spoken of it."""

        def read(connection: sqlite3.Connection) -> KeptOrder | None:
            known = connection.execute(SQL["has_order"], (order_id,)).fetchone()
            return _kept(connection, order_id) if known is not None else None

        return await self._read(read)

    async def in_hand(self, changed_after_s: float, count_max: int) -> list[KeptOrder]:
        """Orders that are not at rest, or have changed since; the latest at most, the oldest first."""
        return await self._listed(SQL["find_orders_open"], (changed_after_s, count_max))

    async def latest(self, count_max: int) -> list[KeptOrder]:
        """The latest orders, the oldest of them first."""
        return await self._listed(SQL["find_orders_latest"], (count_max,))

    async def named(self, words: str, count_max: int) -> list[KeptOrder]:
        """Orders with this number, or of guests whose name has these words in it, the oldest first."""
        wanted = words.casefold()

        def read(connection: sqlite3.Connection) -> list[KeptOrder]:
            found = {}
            if connection.execute(SQL["has_order"], (words,)).fetchone() is not None:
                found[words] = _kept(connection, words)
            for order_id, data in connection.execute(SQL["find_orders_named"], (SEARCHED_MAX,)):
                if len(found) < count_max and (order_id.casefold() == wanted or wanted in _name_in(data).casefold()):
                    found[order_id] = _kept(connection, order_id)
            return list(reversed(found.values()))

        return await self._read(read)

    async def _listed(self, statement: str, values: Sequence[Any]) -> list[KeptOrder]:
        def read(connection: sqlite3.Connection) -> list[KeptOrder]:
            ids = [order_id for (order_id,) in connection.execute(statement, values)]
            return [_kept(connection, order_id) for order_id in reversed(ids)]

        return await self._read(read)

    # The log ----------------------------------------------------------------------------------------------------------

    async def place(self) -> int:
        """How far the log has been looked through."""
        row = await self._read(lambda connection: connection.execute(SQL["read_orders_place"]).fetchone())
        return int(row[0])

    async def slice(self, after: int, upto: int, records_max: int) -> OrderSlice:
        """What up to `records_max` records behind `after` say of orders, none behind `upto`. Raises RecordDamaged where
        the first that may speak of one does not prove itself; it is never passed by."""
        return await self._read(lambda connection: self._slice(connection, after, upto, records_max))

    def _slice(self, connection: sqlite3.Connection, after: int, upto: int, records_max: int) -> OrderSlice:
        (end,) = connection.execute(SQL["find_slice_end"], (after, upto, records_max)).fetchone()
        if end is None:
            return OrderSlice(after, upto)
        rows = [Row(*row) for row in connection.execute(SQL["read_order_records"], (after, end, *MARKS))]
        owners = dict(connection.execute(SQL["read_epoch_devices"]).fetchall()) if rows else {}
        lineage, found = self._lineage(), list[Told]()
        for row in rows:
            device = owners.get(row.device_epoch)
            if device is None or not sound(row, row.position - lineage.of(row.position).base, device):
                if row.position == rows[0].position:
                    raise RecordDamaged(row.position)
                return OrderSlice(after, row.position - 1, tuple(found))
            if device != AGENT and (one := told_in(device, row.event)) is not None:
                found.append(one)
        return OrderSlice(after, end, tuple(found))

    async def write_place(self, place: int) -> None:
        """Up to there nobody has said anything of orders that was not heard."""
        await self._writing.change(lambda connection: connection.execute(SQL["write_orders_place"], (place,)))

    # Steps ------------------------------------------------------------------------------------------------------------

    async def step(self, order_id: str, take: Take) -> Step:
        """What the box does by itself; durable when this returns. Raises Transient, JournalDamaged."""

        def work(connection: sqlite3.Connection) -> tuple[Step, set[EpochBook]]:
            fold = self._writing.fold(connection)
            step = self._take(fold, order_id, take)
            return step, fold.write()

        return await self._written(work)

    async def hear(self, found: OrderSlice, who: tuple[str, Take] | None = None) -> Heard:
        """Hear what was found, and whatever is stored behind it by now, all of one order at once; then a person acts,
        `who` is on which order and how. Durable when this returns.

        Raises Transient where the log has grown too much since, or somebody else has heard: look through it again.
        """
        if await self.place() != found.after or self._writing.book.committed - found.upto > ROWS_MAX:
            raise behind()  # before there is a transaction to be undone

        def work(connection: sqlite3.Connection) -> tuple[Heard, set[EpochBook]]:
            place, _ = connection.execute(SQL["read_orders_place"]).fetchone()
            end = self._writing.book.position
            if place != found.after:
                raise behind()
            part, said = found, found.told
            while part.upto < end:
                part = self._slice(connection, part.upto, end, end - part.upto)
                said += part.told
            fold = self._writing.fold(connection)
            answers = dict[str, list[orders.Answer]]()
            for order_id, answer in said:
                answers.setdefault(order_id, []).append(answer)
            steps = tuple(self._take(fold, order_id, _hearing(words)) for order_id, words in answers.items())
            acted = self._take(fold, *who) if who is not None else None
            connection.execute(SQL["write_orders_place"], (end,))
            return Heard(steps, acted), fold.write()

        return await self._written(work)

    async def _written(self, work: Callable[[sqlite3.Connection], tuple[T, set[EpochBook]]]) -> T:
        done = await self._writing.transact(work, must=True)
        self._writing.tell()
        return done

    def _take(self, fold: Fold, order_id: str, take: Take) -> Step:
        """One step, in the transaction that runs."""
        step = take(order_of(fold.connection, order_id), fold.stamp.wall_ms)
        run = fold.connection.execute
        for fact in step.facts:
            run(SQL["add_order_fact"], (fact.order_id, msgspec.json.encode(fact).decode()))
            if fact.kind in RECORDED:
                fold.take(Own(*record(fact)))
        if step.facts:
            run(SQL["write_order"], (order_id, int(resting(step.order)), fold.stamp.lived_s))
        for one in step.attentions:
            told.put(fold, told.Told(one.id, words_of(one)))
        return step

    # Commands ---------------------------------------------------------------------------------------------------------

    def command(self, fold: Fold, command: Command, new: bool) -> tuple[bool, tuple[told.Told, ...]]:
        """What a command does, in the transaction that keeps it: whether that is something, and what people are to be
        told. Of an order that is told again the first content stands, but for one that was incomplete."""
        if command.event not in EVENTS:
            return False, ()
        order_id = command.business
        step = self._take(fold, order_id, lambda order, at_ms: commanded(order, command.event, command.data, at_ms))
        if command.event == PLACED and not new and any(fact.kind == "placed" for fact in step.facts):
            fold.connection.execute(SQL["write_order_told"], (command.data, command.business))
        return bool(step.facts), tuple(told.Told(one.id, words_of(one)) for one in step.attentions)

    async def take_in(self) -> None:
        """Take in what was kept of the cloud's commands before there were orders here, or before the journal was built
        anew; each does nothing the second time."""

        def taken(connection: sqlite3.Connection) -> bool:
            return bool(connection.execute(SQL["read_orders_place"]).fetchone()[1])

        def work(connection: sqlite3.Connection) -> tuple[None, set[EpochBook]]:
            fold = self._writing.fold(connection)
            for row in connection.execute(SQL["read_order_commands"]).fetchall():
                self.command(fold, Command(*row), new=True)
            connection.execute(SQL["write_orders_taken"])
            return None, fold.write()

        if not await self._read(taken):
            await self._written(work)

    # What goes --------------------------------------------------------------------------------------------------------

    async def forget_old(self, changed_before_s: float, orders_max: int) -> None:
        """Let go of orders that have been at rest since, at most `orders_max`; their records go with the log."""
        values = (changed_before_s, orders_max)

        def find(connection: sqlite3.Connection) -> list[str]:
            return [order_id for (order_id,) in connection.execute(SQL["find_orders_old"], values)]

        old = await self._read(find)

        def forget(connection: sqlite3.Connection) -> None:
            for order_id in old:
                for name in ("forget_order", "forget_order_facts", "forget_order_commands"):
                    connection.execute(SQL[name], (order_id,))

        if old:
            await self._writing.change(forget)


def behind() -> Transient:
    """Nobody may act yet."""
    return Transient("orders_behind", "The box is still looking through its records.", "Repeat it in a moment.")


def words_of(one: orders.Attention) -> Words:
    """What people are told of an attention."""
    return Words("warning", one.title, one.text, one.hint)


def _hearing(said: Sequence[orders.Answer]) -> Take:
    return lambda order, at_ms: orders.heard(order, said, at_ms)


def _kept(connection: sqlite3.Connection, order_id: str) -> KeptOrder:
    data, heard_s = connection.execute(SQL["read_order_told"], (order_id,)).fetchone() or (None, 0.0)
    return KeptOrder(order_of(connection, order_id), data, heard_s)


def _name_in(data: str) -> str:
    try:
        customer = _customer(data).get("customer")
    except msgspec.DecodeError:
        return ""
    name = customer.get("name") if isinstance(customer, dict) else None
    return name if isinstance(name, str) else ""
