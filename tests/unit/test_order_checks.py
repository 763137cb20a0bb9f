"""Whether an order can be shown: what menus lack is named, what is incomplete is told, what is twice is flagged."""

import json
from hashlib import sha256
from typing import Any

import pytest

from agent.core.order_checks import (
    DeviceMenu,
    Menu,
    Missing,
    Product,
    content_sha256,
    drift,
    fit,
    incomplete,
    menu_sha256,
    possible_duplicate,
    sold,
)
from agent.core.placed import Option, PlacedOrder, Unreadable, read

LINES: list[dict[str, Any]] = [
    {
        "product_id": "p1",
        "name": "Flat white",
        "quantity": 2,
        "unit_amount": {"amount": 350, "currency": "GBP"},
        "options": [{"option_id": "o1", "name": "Oat milk"}],
        "note": "no sugar",
    },
    {"product_id": "p2", "name": "Bun", "quantity": 1, "unit_amount": {"amount": 200, "currency": "GBP"}},
]


def data(**changes: Any) -> dict[str, Any]:
    return {
        "order_id": "A-1009",
        "placed_at": "2026-11-22T10:15:00.000Z",
        "prepaid": True,
        "customer": {"name": "Kim Lee", "phone": "+44 7700 900123"},
        "fulfilment": {"kind": "pickup", "at": "2026-11-22T10:30:00Z"},
        "lines": LINES,
        "line_count": 2,
        "total": {"amount": 900, "currency": "GBP"},
        "menu_version": "m1",
        **changes,
    }


def order(**changes: Any) -> PlacedOrder:
    found = read(json.dumps(data(**changes)))
    assert isinstance(found, PlacedOrder), found
    return found


PLATFORM = Menu("m1", (Product("p1", "Flat white", (Option("o1", "Oat milk"),)), Product("p2", "Bun")))
KNOWS_ALL = DeviceMenu("m1", frozenset({"p1", "p2"}), frozenset({"o1"}))
NO_BUN = DeviceMenu("m0", frozenset({"p1"}), frozenset({"o1"}))
NO_OAT = DeviceMenu("m0", frozenset({"p1", "p2"}), frozenset())


def test_lines_go_on_as_the_cloud_wrote_them() -> None:
    assert json.loads(bytes(order().lines_told))[0]["note"] == "no sugar"
    assert order().placed_ms == 1_795_342_500_000


@pytest.mark.parametrize(
    ("text", "order_id"),
    [
        ("{", ""),
        ('{"order_id":7}', ""),
        (json.dumps(data(lines="none")), "A-1009"),
        (json.dumps(data(placed_at="now")), "A-1009"),
        (json.dumps(data(placed_at="2026-11-22T10:15:00")), "A-1009"),
        (json.dumps(data(total=None)), "A-1009"),
        (json.dumps(data(respond_within_s=0)), "A-1009"),
        (json.dumps(data())[:-1] + ',"prepaid":false}', "A-1009"),
        (json.dumps(data())[:-1] + ',"note":1e999}', "A-1009"),
    ],
)
def test_an_order_that_cannot_be_read_says_so_with_its_id(text: str, order_id: str) -> None:
    found = read(text)
    assert isinstance(found, Unreadable)
    assert (found.order_id, bool(found.reason)) == (order_id, True)


def test_A6_3_an_order_that_all_menus_know_is_no_problem() -> None:
    found = fit(order(), PLATFORM, {"till-1": KNOWS_ALL}, ["till-1"])
    assert (found.problem, found.able, found.missing) == (False, ("till-1",), ())


def test_A6_3_a_product_that_the_platform_removed_is_named() -> None:
    found = fit(order(), Menu("m2", PLATFORM.products[:1]), {"till-1": KNOWS_ALL}, ["till-1"])
    assert found.problem
    assert found.missing == (Missing("platform", "product", "p2", "Bun"),)
    assert str(found.missing[0]) == "product Bun (p2) is not in the platform's menu"


def test_A6_3_an_option_counts_for_its_own_product_only() -> None:
    moved = Menu("m2", (Product("p1", "Flat white"), Product("p2", "Bun", (Option("o1", "Oat milk"),))))
    assert fit(order(), moved, {}, []).missing == (Missing("platform", "option", "o1", "Oat milk"),)


def test_A6_3_what_no_till_knows_is_a_problem_and_each_till_says_what_it_lacks() -> None:
    found = fit(order(), PLATFORM, {"till-1": NO_BUN, "till-2": NO_OAT}, ["till-1", "till-2"])
    assert found.problem
    assert [(one.menu, one.id) for one in found.missing] == [("till-1", "p2"), ("till-2", "o1")]


def test_A6_3_one_till_that_knows_it_all_is_enough() -> None:
    found = fit(order(), PLATFORM, {"till-1": NO_BUN, "till-2": KNOWS_ALL}, ["till-1", "till-2"])
    assert (found.problem, found.able) == (False, ("till-2",))


def test_a_till_that_told_nothing_of_its_menu_is_no_reason_to_keep_an_order_back() -> None:
    assert not fit(order(), None, {}, ["till-1"]).problem
    found = fit(order(), PLATFORM, {"till-1": NO_BUN}, ["till-1", "till-2"])
    assert (found.problem, found.able, found.unheard) == (False, (), ("till-2",))


def test_menus_of_tills_that_take_no_orders_do_not_count() -> None:
    found = fit(order(), PLATFORM, {"till-1": NO_BUN, "till-9": KNOWS_ALL}, ["till-1"])
    assert found.problem
    assert {one.menu for one in found.missing} == {"till-1"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"total": {"amount": 900, "currency": "GBP"}, "line_count": 2},
        {"lines": [], "line_count": 0, "total": {"amount": 0, "currency": "GBP"}},
        {"lines": [{**LINES[1], "quantity": 0.5}], "line_count": 1, "total": {"amount": 100, "currency": "GBP"}},
    ],
)
def test_A6_5_a_complete_order_is_complete(changes: dict[str, Any]) -> None:
    assert incomplete(order(**changes)) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lines": LINES[:1]}, ["2 lines were announced, 1 came", "come to 700, the total is 900"]),
        ({"line_count": 3}, ["3 lines were announced, 2 came"]),
        ({"total": {"amount": 901, "currency": "GBP"}}, ["come to 900, the total is 901"]),
        ({"total": {"amount": 900, "currency": "EUR"}}, ["not in EUR"]),
        ({"content_sha256": "0" * 64}, ["does not match its seal"]),
    ],
)
def test_A6_5_what_disagrees_is_named(changes: dict[str, Any], words: list[str]) -> None:
    found = incomplete(order(**changes))
    assert len(found) == len(words)
    assert all(word in said for word, said in zip(words, found, strict=True))


def test_A6_5_the_seal_is_over_the_canonical_form_without_itself() -> None:
    plain = '{"b":[1,"é"],"order_id":"A-1"}'.encode()
    assert content_sha256({"order_id": "A-1", "content_sha256": "x", "b": [1.0, "é"]}) == sha256(plain).hexdigest()
    sealed = order(content_sha256=content_sha256(data()))
    assert incomplete(sealed) == ()
    assert incomplete(order(content_sha256=content_sha256(data()), menu_version="m2")) != ()
    shouted = content_sha256(data())
    assert shouted is not None
    assert incomplete(order(content_sha256=shouted.upper())) == ()


def test_A6_9_an_equal_order_of_the_same_guest_is_a_possible_duplicate() -> None:
    again = order(order_id="A-1010", placed_at="2026-11-22T10:25:00.000Z", lines=LINES[::-1])
    first = sold(order())
    assert first is not None
    assert possible_duplicate(again, [first]) == ("A-1009",)
    assert possible_duplicate(order(), [first]) == (), "an order is no duplicate of itself"


@pytest.mark.parametrize(
    "changes",
    [
        {"customer": {"name": "Kim Lee", "phone": "+44 7700 900124"}},
        {"placed_at": "2026-11-22T10:45:00.001Z"},
        {"lines": [LINES[0], {**LINES[1], "quantity": 3}]},
        {"lines": [{**LINES[0], "options": []}, LINES[1]]},
        {"total": {"amount": 800, "currency": "GBP"}},
    ],
)
def test_A6_9_what_differs_is_no_duplicate(changes: dict[str, Any]) -> None:
    first = sold(order())
    assert first is not None
    assert possible_duplicate(order(order_id="A-1010", **changes), [first]) == ()


def test_A6_9_without_a_guest_nothing_is_called_a_duplicate() -> None:
    assert sold(order(customer={})) is None
    assert (
        possible_duplicate(order(order_id="A-2", customer={"name": " "}), [sold(order()) or pytest.fail("none")]) == ()
    )


def test_A6_9_a_guest_without_a_phone_is_known_by_name_and_the_nearest_comes_first() -> None:
    named = {"customer": {"name": "Kim  LEE"}}
    early = sold(order(order_id="A-1", placed_at="2026-11-22T10:00:00Z", **named))
    near = sold(order(order_id="A-2", placed_at="2026-11-22T10:14:00Z", customer={"name": "kim lee"}))
    assert early is not None
    assert near is not None
    assert possible_duplicate(order(**named), [early, near]) == ("A-2", "A-1")


def test_A6_19_drift_is_seen_before_an_order_fails() -> None:
    found = drift(PLATFORM, {"till-2": NO_OAT, "till-1": KNOWS_ALL, "till-3": NO_BUN})
    assert [(one.device, [missing.id for missing in one.missing]) for one in found] == [
        ("till-2", ["o1"]),
        ("till-3", ["p2"]),
    ]
    assert (found[0].platform_version, found[0].device_version) == ("m1", "m0")
    assert found[0].platform_sha256 == menu_sha256(KNOWS_ALL.product_ids, KNOWS_ALL.option_ids)
    assert found[0].device_sha256 != found[0].platform_sha256


def test_A6_19_a_menu_under_another_name_is_no_drift() -> None:
    assert drift(PLATFORM, {"till-1": DeviceMenu("other", KNOWS_ALL.product_ids, KNOWS_ALL.option_ids)}) == ()
