"""Around the life of an order: what commands and events say of it, when it waits for a person, and in which words."""

import json
from typing import Any, cast

import pytest

from agent.core import orders
from agent.core.facts import DeviceState, PresenceFacts
from agent.core.order_commands import commanded
from agent.core.order_events import MARKS, told_in
from agent.core.order_facts import Order, Placed
from agent.core.order_offers import awaits, resting
from agent.core.order_shown import shown, waiting_text
from agent.core.orders import Answer, Said, acted, heard
from tests.model.orders_world import AT_MS, CONTENT, ID
from tests.sales import event

BLANK = Order(ID)
PLACED = orders.placed(BLANK, Placed(AT_MS), AT_MS).order
GOOD: dict[str, Any] = CONTENT.told


def told(event: str, order: Order = BLANK, **changes: Any) -> orders.Step:
    return commanded(order, event, json.dumps(GOOD | changes), AT_MS)


def by(order: Order, *said: Said, device: str = "") -> Order:
    for word in said:
        if device:
            order = heard(order, [Answer(device, f"e-{word}", word)], AT_MS).order
        else:
            order = acted(order, word, "Ann", AT_MS).order
    return order


def test_a_command_places_cancels_and_refunds_an_order() -> None:
    placed = told("order.placed", respond_within_s=30).order
    assert placed.placed == Placed(CONTENT.placed_ms, 30.0)
    cancelled = told("order.cancelled", placed, reason="guest").order
    assert cancelled.cancelled is not None
    assert cancelled.cancelled.reason == "guest"
    assert told("order.refunded", placed, reason=7).order.refunded is not None
    assert told("order.invented", placed).facts == ()


def test_A6_5_a_command_that_disagrees_with_itself_places_an_order_that_is_kept_back() -> None:
    step = told("order.placed", line_count=3)
    assert step.order.placed is not None
    assert step.order.placed.incomplete
    assert awaits(step.order)
    whole = told("order.placed", step.order).order
    assert whole.placed is not None
    assert whole.placed.incomplete == ()


def test_A6_4_what_cannot_be_read_is_made_by_hand_but_takes_nothing_from_what_was_read_before() -> None:
    step = told("order.placed", lines="two coffees")
    assert (step.order.state, awaits(step.order)) == ("undeliverable", True)
    assert told("order.placed", PLACED, lines="two coffees").order == PLACED
    assert told("order.placed", step.order).order.state == "undeliverable"


@pytest.mark.parametrize("said", ["accepted", "ready", "provided", "rejected"])
def test_an_event_of_an_order_is_an_answer(said: Said) -> None:
    body = event(id="e-1", type=f"pos.order.{said}", data={"order_id": ID})
    found = told_in("till-1", body)
    assert found is not None
    assert (found.order_id, found.answer) == (ID, Answer("till-1", "e-1", said))
    assert any(mark in body for mark in MARKS)
    escaped = body.replace(b'"pos.', b'"\\u0070os.')
    assert told_in("till-1", escaped) == found
    assert any(mark in escaped for mark in MARKS)


def test_other_events_are_no_answers() -> None:
    for type_ in ("pos.order.eaten", "pos.payment.captured", "vendor.pos.order.accepted"):
        assert told_in("till-1", event(type=type_, data={"order_id": ID})) is None
    assert told_in("till-1", b'{"type":"pos.order.ready","id":"e","data":{}}') is None
    assert told_in("till-1", b"\xff") is None


def test_an_order_waits_for_a_person_until_somebody_has_it_in_hand() -> None:
    late = orders.unanswered(PLACED, AT_MS).order
    assert (awaits(PLACED), awaits(late)) == (False, True)
    for word in ("accepted", "ready", "provided", "rejected"):
        assert not awaits(by(late, cast(Said, word)))


def test_an_order_is_at_rest_when_the_box_has_nothing_left_to_do_about_it() -> None:
    assert not resting(PLACED)
    assert not resting(orders.unanswered(PLACED, AT_MS).order)
    assert not resting(by(PLACED, "provided")), "a till should still say so"
    for order in (
        by(PLACED, "accepted", device="till-1"),
        by(PLACED, "provided", "ready", device="till-1"),
        by(PLACED, "rejected"),
        by(BLANK, "provided"),
        by(told("order.placed", lines=7).order, "provided"),
    ):
        assert resting(order), order
    assert not resting(told("order.placed", lines=7).order)


def test_A6_2_the_words_say_why_no_device_has_taken_an_order() -> None:
    late = orders.unanswered(PLACED, AT_MS).order
    states: tuple[DeviceState, ...] = ("asleep", "background", "offline", "unresponsive", "unknown")
    text = waiting_text([late], {f"till-{number}": PresenceFacts(state=state) for number, state in enumerate(states)})
    for words in (
        f"Order {ID}: no device has taken it",
        "till-0 is asleep",
        "till-1 has another app open",
        "till-2 is not connected",
        "till-3 is connected but does not answer",
        "till-4 has not said that it is ready",
    ):
        assert words in text
    assert "No device that takes orders" in waiting_text([late], {})
    assert "make it by hand" in waiting_text([told("order.placed", lines=7).order], {}).lower()
    many = [orders.unanswered(told("order.placed").order, AT_MS).order for _ in range(9)]
    assert "and 4 more" in waiting_text(many, {})
    assert "Kim" not in waiting_text([late], {}), "no guest is named where everybody reads"


def test_an_order_is_shown_with_who_said_what_and_what_a_till_should_still_say() -> None:
    seen = shown(by(PLACED, "provided"), CONTENT, 7_200, 120.0)
    assert (seen.state, seen.provided, seen.late, seen.proposed) == ("provided", True, True, ("accepted", "ready"))
    assert seen.marks["provided"].actor == "Ann"
    assert seen.lines[0]["name"] == "Flat white"
    unknown = shown(by(BLANK, "provided"), None, 0, 120.0)
    assert (unknown.state, unknown.age_s, unknown.lines, unknown.customer) == ("provided", None, (), None)
