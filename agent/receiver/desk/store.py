"""server ↔ [desk's file] → disk. The log of commands, the accounts and the answers, one transaction for each act.

What is answered or sent is durable first. It follows the ledger from where it stopped: each record counts once.
"""

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from agent.core.instants import to_text
from agent.receiver.desk import accounts as rules
from agent.receiver.desk.accounts import Account, Answer
from agent.receiver.desk.orders import PREFIX as ORDERS
from agent.receiver.desk.orders import REFUNDED_BY_REJECT, OrderBook, OrdersAnswer
from agent.receiver.ledger.sqlite_file import BUSY_MAX_S, LedgerThread

AGENT: Final = "agent"
"""The device whose records are the box's own word."""
ANSWERS_KEEP_S: Final = 7 * 86_400
"""(device, id) names a request for so long."""
FOLLOWED: Final = (b'"pos.payment.captured"', b'"pos.loyalty.accrued"', b'"nightsafe.order.')
"""Records that concern the desk have one of these in them."""
COMMANDS_KEPT: Final = 10_000
"""So many commands of a venue are kept; a box that asks for older ones is reset."""


def _statements() -> dict[str, str]:
    text = files("agent.receiver.desk").joinpath("desk.sql").read_text(encoding="utf-8")
    parts = (part.partition("\n") for part in text.split("-- :")[1:])
    return {head.split()[0]: body.strip() for head, _, body in parts}


SQL: Final = _statements()


class Log(NamedTuple):
    """A venue's log: its name, and its first and last number; a log that holds nothing ends before it begins."""

    name: str
    first: int
    last: int


class Command(NamedTuple):
    """One entry of a venue's log; `data` is one line of JSON."""

    number: int
    event: str
    data: str


class Taken(msgspec.Struct):
    """What of a record's event concerns the desk."""

    id: str
    type: str
    data: dict[str, Any] = {}


class WireRecord(msgspec.Struct):
    """A record as the ledger has it."""

    device: str
    data: Taken | None = None


_record = msgspec.json.Decoder(WireRecord).decode


class Store:
    """The file. Made by `open_store`."""

    def __init__(self, path: Path, thread: LedgerThread) -> None:
        self._path = path
        self._thread = thread

    def _start(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_MAX_S)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        if not self._db.execute("select count(*) from sqlite_master").fetchone()[0]:
            with self._transaction():
                for statement in SQL["schema"].split(";\n"):
                    self._db.execute(statement)
        self._db.execute(SQL["orders_schema"])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise

    async def close(self) -> None:
        """Let go of the file; calls under way end first."""
        await self._thread.run(lambda: self._db.close())
        self._thread.end()

    # Commands ---------------------------------------------------------------------------------------------------------

    async def send(self, venue: str, event: str, business: str, data: str) -> int:
        """Add to the venue's log; returns its number."""
        return await self._thread.run(self._send, venue, event, business, data)

    def _send(self, venue: str, event: str, business: str, data: str) -> int:
        with self._transaction():
            OrderBook(self._db, SQL, venue).sent(event, business, msgspec.json.decode(data), _now())
            return self._add(venue, event, business, data)

    def _add(self, venue: str, event: str, business: str, data: str) -> int:
        (last,) = self._db.execute(SQL["last_number"], (venue,)).fetchone()
        self._db.execute(SQL["add_command"], (venue, last + 1, event, business, data, _now()))
        self._db.execute(SQL["trim_commands"], (venue, last + 1 - COMMANDS_KEPT))
        return int(last) + 1

    async def log(self, venue: str) -> Log:
        """The venue's log: a new one where it has none."""
        return await self._thread.run(self._log, venue)

    def _log(self, venue: str) -> Log:
        with self._transaction():
            self._db.execute(SQL["add_log"], (venue, secrets.token_hex(8)))
        (name,) = self._db.execute(SQL["log"], (venue,)).fetchone()
        (last,) = self._db.execute(SQL["last_number"], (venue,)).fetchone()
        (first,) = self._db.execute(SQL["first_number"], (venue,)).fetchone()
        return Log(str(name), int(last) + 1 if first is None else int(first), int(last))

    async def commands(self, venue: str, after: int, count: int) -> list[Command]:
        """A page of the log, without what a newer one has taken the place of."""
        values = (venue, after, count)
        return [
            Command(*row)
            for row in await self._thread.run(lambda: self._db.execute(SQL["page_commands"], values).fetchall())
        ]

    # Requests ---------------------------------------------------------------------------------------------------------

    async def answer(self, venue: str, service: str, id: str, device: str, args: Mapping[str, Any]) -> Answer:
        """Do what is asked, once for each (venue, device, id), and say the same to every repeat."""
        return await self._thread.run(self._answer, venue, service, id, device, args)

    def _answer(self, venue: str, service: str, id: str, device: str, args: Mapping[str, Any]) -> Answer:
        digest = sha256(msgspec.json.encode([service, args], order="sorted")).hexdigest()
        with self._transaction():
            known = self._db.execute(SQL["answer"], (venue, device, id)).fetchone()
            if known is not None:
                if known[0] != digest:
                    return Answer("error", {}, "id_used_for_another_request")
                return Answer(*msgspec.json.decode(known[1]))
            found = rules.answer(_Book(self._db, venue), service, args)
            now_s = time.time()
            self._db.execute(SQL["trim_answers"], (now_s - ANSWERS_KEEP_S,))
            text = msgspec.json.encode(list(found)).decode()
            self._db.execute(SQL["add_answer"], (venue, device, id, digest, text, now_s))
        return found

    async def set_account(self, venue: str, kind: str, id: str, account: Account) -> None:
        """An operator's act: this is the balance now."""

        def put() -> None:
            with self._transaction():
                _Book(self._db, venue).put(kind, id, account)

        await self._thread.run(put)

    # The ledger -------------------------------------------------------------------------------------------------------

    async def followed(self, venue: str, epoch: str) -> int:
        """The last sequence of the epoch that was looked at."""

        def read() -> int:
            row = self._db.execute(SQL["followed"], (venue, epoch)).fetchone()
            return int(row[0]) if row is not None else 0

        return await self._thread.run(read)

    async def take(self, venue: str, epoch: str, records: Sequence[tuple[int, bytes]]) -> bool:
        """Look at records of the ledger, in order; True where something is to be told to the venue."""
        return await self._thread.run(self._take, venue, epoch, records)

    def _take(self, venue: str, epoch: str, records: Sequence[tuple[int, bytes]]) -> bool:
        told = False
        with self._transaction():
            for _, text in records:
                if any(mark in text for mark in FOLLOWED):
                    told |= self._take_one(venue, text)
            self._db.execute(SQL["follow"], (venue, epoch, records[-1][0]))
        return told

    def _take_one(self, venue: str, text: bytes) -> bool:
        try:
            record = _record(text)
        except msgspec.DecodeError:
            return False
        event = record.data
        if event is None or not self._db.execute(SQL["count_once"], (venue, record.device, event.id)).rowcount:
            return False
        if event.type == "pos.loyalty.accrued":
            rules.accrue(_Book(self._db, venue), event.data)
            return False
        if event.type.startswith(ORDERS):
            return record.device == AGENT and self._take_order(venue, event)
        outcome = rules.payment_outcome(event.type, event.data)
        if outcome is None or self._db.execute(SQL["has_command"], (venue, outcome[0], outcome[1])).fetchone():
            return False
        command, payment, reason = outcome
        data = msgspec.json.encode({"payment_id": payment, "at": _now(), "reason": reason}).decode()
        self._add(venue, command, payment, data)
        return True

    # Orders -----------------------------------------------------------------------------------------------------------

    def _take_order(self, venue: str, event: Taken) -> bool:
        """What the box says of an order; True where money goes back, which the venue is told."""
        book = OrderBook(self._db, SQL, venue)
        order_id = book.recorded(event.type, event.data)
        if order_id is None:
            return False
        data = {"order_id": order_id, "reason": REFUNDED_BY_REJECT}
        book.sent("order.refunded", order_id, data, _now())
        self._add(venue, "order.refunded", order_id, msgspec.json.encode(data).decode())
        return True

    async def orders(self, venue: str) -> OrdersAnswer:
        """What is known of the venue's latest orders."""
        return await self._thread.run(lambda: OrderBook(self._db, SQL, venue).all())


class _Book:
    """The accounts of one venue."""

    def __init__(self, db: sqlite3.Connection, venue: str) -> None:
        self._db = db
        self._venue = venue

    def get(self, kind: str, id: str) -> Account | None:
        """One account."""
        row = self._db.execute(SQL["account"], (self._venue, kind, id)).fetchone()
        return Account(*row) if row is not None else None

    def put(self, kind: str, id: str, account: Account) -> None:
        """Its new balance."""
        self._db.execute(SQL["put_account"], (self._venue, kind, id, *account))


def _now() -> str:
    return to_text(time.time_ns() // 1_000_000)


async def open_store(path: Path) -> Store:
    """Open or make the file."""
    thread = LedgerThread("desk")
    store = Store(path, thread)
    try:
        await thread.run(store._start)
    except BaseException:
        thread.end()
        raise
    return store
