"""The reference cloud's order desk: what it knows of orders, and when it gives money back."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agent.receiver.desk.store import Store, open_store

numbers = count(1)


def record(kind: str, device: str = "agent", **data: Any) -> tuple[int, bytes]:
    number = next(numbers)
    said = {"order_id": "A-1", "actor": "Ann", "at": "2026-11-22T10:15:00.000Z"} | data
    event = {"id": f"e{number}", "type": f"nightsafe.order.{kind}", "data": said}
    return number, json.dumps({"device": device, "data": event}, separators=(",", ":")).encode()


async def desk(path: Path) -> Store:
    store = await open_store(path / "desk")
    await store.send("demo", "order.placed", "A-1", '{"order_id":"A-1"}')
    return store


async def marks(store: Store) -> list[str]:
    (one,) = (await store.orders("demo")).orders
    return [each.mark for each in one.marks]


async def sent(store: Store) -> list[str]:
    return [one.event for one in await store.commands("demo", 0, 100)]


async def test_A6_14_a_rejected_order_is_refunded_once(tmp_path: Path) -> None:
    store = await desk(tmp_path)
    assert await store.take("demo", "e", [record("rejected")])
    assert not await store.take("demo", "e", [record("rejected"), record("rejected")])
    assert await marks(store) == ["placed", "rejected", "refunded"]
    assert await sent(store) == ["order.placed", "order.refunded"]
    assert (await store.orders("demo")).orders[0].state == "refunded"
    assert (await store.orders("other")).orders == []
    await store.close()


async def test_what_the_operator_has_refunded_is_not_refunded_again(tmp_path: Path) -> None:
    store = await desk(tmp_path)
    await store.send("demo", "order.refunded", "A-1", '{"order_id":"A-1","reason":"by phone"}')
    assert not await store.take("demo", "e", [record("rejected")])
    assert (await sent(store)).count("order.refunded") == 1
    await store.close()


@pytest.mark.parametrize("made", ["ready", "provided"])
async def test_A6_15_what_was_made_is_refunded_only_by_two(tmp_path: Path, made: str) -> None:
    store = await desk(tmp_path)
    assert not await store.take("demo", "e", [record(made), record("rejected")])
    assert await marks(store) == ["placed", made, "rejected", "refund_withheld"]
    assert await sent(store) == ["order.placed"]
    await store.close()


async def test_with_a_second_person_it_is_refunded(tmp_path: Path) -> None:
    store = await desk(tmp_path)
    assert await store.take("demo", "e", [record("provided"), record("rejected", second_actor="Bea", reason="back")])
    assert await sent(store) == ["order.placed", "order.refunded"]
    await store.close()


async def test_only_the_box_itself_says_what_becomes_of_orders(tmp_path: Path) -> None:
    store = await desk(tmp_path)
    for one in (record("rejected", device="till-1"), record("invented"), record("rejected", order_id=7)):
        assert not await store.take("demo", "e", [one])
    assert await marks(store) == ["placed"]
    await store.close()
