"""The index of payments over a real journal on real files: damage, the cloud's word, what is deleted, and haste."""

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.app.payments_side import PaymentsJournal
from agent.core.arrivals import Item
from agent.core.conditions import Severity
from agent.core.errors import Rejected
from agent.core.events import Event, judge
from agent.journal import salvage
from agent.journal.database import FILE_NAME
from agent.journal.payments import PaymentTables
from agent.payments import index as following
from agent.payments.index import Index
from agent.payments.inquiry import Inquiry
from agent.payments.shown import Showing
from agent.payments.suspects import Suspicions
from tests.property.journal_rig import QUICK, Rig, Ticking
from tests.sales import event, payment


class Told(dict[str, str]):
    """What people are told, by condition."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None:
        self[id] = text

    def lift(self, id: str) -> None:
        self.pop(id, None)


class Limits:
    duplicate_window_s = 600.0


class Shop:
    """A journal, its index and who asks it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        journal = rig.journal
        self.tables = PaymentTables(
            rig.folder, 1_048_576, journal.writing, lambda: journal.book.lineage, lambda: journal.generation
        )
        side = PaymentsJournal(journal)
        self.index = Index(self.tables, side, Limits)
        self.showing = Showing(self.tables, side)
        self.inquiry = Inquiry(self.tables, self.index, self.showing)
        self.told = Told()
        self.suspicions = Suspicions(self.tables, self.index, self.showing, self.told)
        journal.mending.on_repaired(
            lambda done: self.index.repaired([position for position, _ in done.mended], bool(done.positions))
        )

    async def sell(self, *bodies: bytes) -> None:
        await self.rig.append([item(body) for body in bodies])

    async def fate(self, payment_id: str) -> tuple[str, str]:
        told = await self.inquiry.status({"payment_id": payment_id})
        return told.fate, told.re_charge_safe

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        stop, ready = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.index.run(ready.set, stop))
            await ready.wait()
            yield
            stop.set()


def item(body: bytes) -> Item:
    found = judge("till-1", body, 65_536, 16, 4_096)
    assert isinstance(found, Event), found
    return found


def paid(payment_id: str, kind: str = "captured", **changes: Any) -> bytes:
    return event(type=f"pos.payment.{kind}", time=None, data=payment(payment_id=payment_id, **changes))


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        rig = await Rig(Path(folder), Ticking()).open()
        made = Shop(rig)
        async with asyncio.timeout(20):
            yield made
        await made.tables.close()
        await rig.close()


async def test_A2_10_the_clouds_word_is_durable_once_and_a_posted_payment_stays_posted(shop: Shop) -> None:
    await shop.sell(paid("a"), paid("b"))
    async with shop.following():
        assert await shop.fate("a") == ("edge_durable", "no")
        await shop.rig.advance(2)
        assert await shop.fate("a") == ("uploaded", "no")
        said = {"payment_id": "a", "at": "2026-11-22T11:00:00.000Z", "reason": "insufficient funds"}
        for _ in range(2):
            await shop.inquiry.on_command("payment.declined", said)
        assert await shop.fate("a") == ("declined", "yes")
        assert await shop.inquiry.fate_of("b") == "uploaded"
        await shop.inquiry.on_command("payment.posted", said)
        await shop.inquiry.on_command("payment.declined", said)
        assert await shop.fate("a") == ("posted", "no")
        for kind, data in (("payment.lost", said), ("order.placed", said), ("payment.posted", {"payment_id": "a"})):
            with pytest.raises(Rejected):
                await shop.inquiry.on_command(kind, data)


async def test_A2_10_while_the_index_is_behind_nothing_is_safe_and_the_wait_is_bounded(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "CAUGHT_UP_S", 0.1)
    await shop.sell(paid("a"))
    async with shop.following():
        await shop.rig.advance(1)
        await shop.inquiry.on_command("payment.declined", {"payment_id": "a", "at": "2026-11-22T11:00:00Z"})
        assert await shop.fate("a") == ("declined", "yes")
    await shop.sell(paid("b"))
    told = await shop.inquiry.status({"payment_id": "a"})
    assert (told.re_charge_safe, "ask again soon" in told.reason) == ("no", True)


async def test_A3_4_a_refund_is_flagged_until_the_payments_fate_is_final(shop: Shop) -> None:
    await shop.sell(paid("a"), paid("b"), paid("a", "refunded"), paid("b", "voided"), paid("c", "reversed"))
    async with shop.following():
        found = await shop.suspicions.suspects()
        assert [one.payment_id for one in found.untimely] == ["c", "b", "a"]
        await shop.sell(paid("d", "authorized"), paid("d", "voided"))
        assert [one.payment_id for one in (await shop.suspicions.suspects()).untimely] == ["d", "c", "b", "a"]
        await shop.suspicions.tell()
        assert "2 payments" in shop.told["payments_untimely"], "of which something was captured"
        said = {"at": "2026-11-22T11:00:00Z"}
        await shop.inquiry.on_command("payment.posted", {"payment_id": "a"} | said)
        await shop.inquiry.on_command("payment.declined", {"payment_id": "b"} | said)
        assert [one.payment_id for one in (await shop.suspicions.suspects()).untimely] == ["d", "c"]
        await shop.suspicions.tell()
        assert "payments_untimely" not in shop.told


async def test_A3_3_many_payments_of_one_card_and_amount_are_one_sale_and_few_pairs(shop: Shop) -> None:
    for at in range(0, 600, 50):
        await shop.sell(*(paid(f"p{at + number}") for number in range(50)))
    async with shop.following():
        found = await shop.suspicions.suspects()
        assert (found.count, len(found.suspects[0].payments)) == (1, 200)
        assert len(await shop.tables.open_twins()) <= 5 * 600


async def test_a_payment_whose_type_is_written_with_escapes_is_one(shop: Shop) -> None:
    body = paid("a").replace(b'"pos.payment.captured"', b'"pos\\u002epayment.captured"')
    assert b"pos.payment" not in body
    await shop.sell(event(type="vendor.thing", time=None, data={"says": '"pos.payment.captured"'}), body)
    async with shop.following():
        assert await shop.fate("a") == ("edge_durable", "no")


@pytest.mark.parametrize("flip", ["one bit", "many bytes"])
async def test_a_damaged_record_is_never_passed_by(shop: Shop, flip: str) -> None:
    await shop.sell(paid("a"), paid("b", authorization_code="123456"), paid("c"))
    await shop.rig.close()
    with sqlite3.connect(shop.rig.folder / FILE_NAME) as connection:
        (body,) = connection.execute("select event from records where position = 2").fetchone()
        wrong = body.replace(b"123456", b"123457" if flip == "one bit" else b"999888")
        connection.execute("update records set event = ? where position = 2", (wrong,))
        connection.execute("update journal set watermark = 3")
    connection.close()
    await shop.rig.open()
    again = Shop(shop.rig)
    async with again.following():
        assert (await again.fate("c"))[0] == "edge_durable"
        found = await again.inquiry.status({"payment_id": "b"})
    if flip == "one bit":
        assert found.payments[0].authorization_code == "123456", "mended, and then taken"
    else:
        assert found.fate == "unknown", "set aside: the till is asked for it again"
    await again.tables.close()


async def test_what_was_set_aside_and_is_not_at_the_cloud_is_no_payment_any_more(shop: Shop) -> None:
    await shop.sell(paid("a"), paid("b"), paid("c"))
    async with shop.following():
        assert await shop.fate("b") == ("edge_durable", "no")
        await shop.rig.advance(1)
        for at in (1, 2):
            await shop.rig.journal.writing.change(
                lambda connection, at=at: connection.execute(  # type: ignore[misc]
                    "update records set event = ? where position = ?", (b'{"gone":"gone"}', at)
                )
            )
        assert await shop.rig.journal.mending.repair_all((1, 2))
        await shop.sell(paid("d"))
        assert await shop.fate("d") == ("edge_durable", "no")
        assert await shop.fate("a") == ("uploaded", "no"), "the cloud has it"
        assert await shop.fate("b") == ("unknown", "no")


async def test_payments_go_with_the_records_that_they_were_read_from(shop: Shop) -> None:
    await shop.sell(paid("a"), paid("b"), paid("c"))
    async with shop.following():
        await shop.fate("c")
        assert (await shop.suspicions.suspects()).count == 1
        await shop.inquiry.on_command("payment.posted", {"payment_id": "a", "at": "2026-11-22T11:00:00Z"})
        await shop.sell(paid("d", card=None, tender="cash"), paid("e", card=None, tender="cash"))
        await shop.fate("e")
    await shop.rig.journal.writing.change(
        lambda connection: connection.execute("delete from records where position < 5")
    )
    assert await shop.tables.drop_old(2) is True
    assert await shop.tables.drop_old(5) is False
    left = await shop.tables.payments(["a", "b", "c", "d", "e"])
    assert [one.payment_id for one in left.payments if one.facts] == ["e"]
    assert await shop.tables.open_twins() == []
    assert not any(one.finals for one in left.payments), "nor what the cloud said of them"
    assert await shop.tables.oldest_kept_ms() is not None


async def test_what_the_log_cannot_give_again_survives_a_rebuild_and_the_rest_is_made_again(shop: Shop) -> None:
    await shop.sell(paid("a"), paid("b"))
    async with shop.following():
        assert (await shop.suspicions.suspects()).count == 1
        await shop.rig.advance(1)
        await shop.inquiry.on_command("payment.declined", {"payment_id": "a", "at": "2026-11-22T11:00:00Z"})
        await shop.suspicions.dismiss("b", "Ann", "two rounds")
    await shop.rig.close()
    salvage.demand(shop.rig.folder, "a test asks for it")
    await shop.rig.open()
    again = Shop(shop.rig)
    async with again.following():
        assert await again.fate("a") == ("declined", "yes")
        assert await again.fate("b") == ("edge_durable", "no")
        assert (await again.suspicions.suspects()).count == 0
    await again.tables.close()
