"""The life of an order: what each of those around it may do to it, what goes up, and what is refused in which words."""

from functools import reduce
from typing import Any, get_args

import msgspec
import pytest

from agent.core import orders
from agent.core.order_facts import RECORDED, REFUSED_MAX, Order, Placed, Recorded, fold, recalled
from agent.core.order_offers import age_s, due, letter, offer, proposed
from agent.core.orders import WORDS, Answer, Override, Said, Step, acted, heard
from tests.model.orders_world import AT_MS, CONTENT, ID

AT = "2026-11-22T10:15:00.000Z"
BLANK = Order(ID)
PLACED = orders.placed(BLANK, Placed(AT_MS), AT_MS).order
AGREED = Override("Bea", "the guest sent it back")
LATE_S, TIMEOUT_S = 7_200, 120.0


def said(order: Order, *words: Said, device: str = "till-1") -> Step:
    return heard(order, [Answer(device, f"e-{number}", word) for number, word in enumerate(words)], AT_MS)


def by(order: Order, *words: Said, person: str = "Ann") -> Order:
    return reduce(lambda known, word: acted(known, word, person, AT_MS).order, words, order)


def kinds(step: Step) -> list[str]:
    return [type.removeprefix("nightsafe.order.") for type, _ in step.records]


def offered_to(order: Order, device: str = "till-1", age: int = 5) -> Any:
    return offer(order, CONTENT, device, age, TIMEOUT_S)


def test_an_order_goes_its_way_and_each_state_goes_up() -> None:
    step = orders.offered(PLACED, "till-1", False, 5, AT_MS)
    assert (PLACED.state, step.order.state, step.records) == ("received", "offered", ())
    order = step.order
    for word in ("accepted", "ready", "provided"):
        step = said(order, word)
        assert (step.order.state, kinds(step), step.tell) == (word, [word], True)
        order = step.order


def test_a_record_says_who_and_when() -> None:
    (first,) = said(PLACED, "accepted").records
    assert first == ("nightsafe.order.accepted", {"order_id": ID, "actor": "till-1", "at": AT, "event": "e-0"})
    (second,) = acted(by(PLACED, "provided"), "rejected", "Ann", AT_MS, AGREED).records
    assert second == (
        "nightsafe.order.rejected",
        {"order_id": ID, "actor": "Ann", "at": AT, "reason": "the guest sent it back", "second_actor": "Bea"},
    )


def test_what_goes_up_is_the_list_of_the_cloud_contract() -> None:
    contract = (
        "awaiting_venue|alerted|accepted|ready|provided|rejected|reject_refused|problem|undeliverable|cancelled|late"
    )
    assert set(contract.split("|")) == RECORDED == set(get_args(Recorded))


def test_an_order_can_be_kept_as_text_and_read_again() -> None:
    order = said(orders.alerted(PLACED, "awaiting", AT_MS).order, "ready", "rejected").order
    assert msgspec.json.decode(msgspec.json.encode(order), type=Order) == order


def test_records_of_others_are_no_facts_of_orders() -> None:
    assert recalled("nightsafe.gap.opened", {}) is None
    assert recalled("nightsafe.order.placed", {}) is None
    with pytest.raises(msgspec.ValidationError):
        recalled("nightsafe.order.ready", {"order_id": 7})


@pytest.mark.parametrize("word", ["accepted", "ready", "provided"])
def test_A6_16_the_same_said_again_adds_nothing(word: Said) -> None:
    order = said(PLACED, word).order
    again = heard(order, [Answer("till-2", "e-9", word), Answer("till-1", "e-0", word)], AT_MS)
    assert (again.order.state, again.facts, again.refusals) == (word, (), ())


def test_A6_16_an_order_placed_again_changes_nothing() -> None:
    order = said(PLACED, "accepted").order
    assert orders.placed(order, Placed(AT_MS + 1), AT_MS) == Step(order)


def test_A6_13_provided_is_recorded_while_no_till_is_there() -> None:
    step = acted(PLACED, "provided", "Ann", AT_MS)
    assert (kinds(step), step.order.state, step.refusals) == (["provided"], "provided", ())
    assert proposed(step.order) == ("accepted", "ready")
    accepted = said(step.order, "accepted")
    assert (kinds(accepted), accepted.order.state, proposed(accepted.order)) == (["accepted"], "provided", ("ready",))
    assert proposed(said(accepted.order, "ready").order) == ()


def test_A6_13_provided_is_recorded_for_an_order_that_never_came() -> None:
    step = acted(BLANK, "provided", "Ann", AT_MS)
    assert (kinds(step), offered_to(step.order)) == (["provided"], None)
    came = orders.placed(step.order, Placed(AT_MS), AT_MS)
    shown = offered_to(came.order, age=LATE_S)
    assert (came.records, came.tell) == ((), True)
    assert (shown.state, shown.provided, shown.late, shown.ask) == ("provided", True, True, "none")
    assert [one.code for one in said(came.order, "rejected").refusals] == ["already_provided"]


def test_nothing_else_is_taken_from_a_person_for_an_order_that_never_came() -> None:
    for word in ("accepted", "ready", "rejected"):
        step = acted(BLANK, word, "Ann", AT_MS)
        assert [one.code for one in step.refusals] == ["unknown_order"]
        assert kinds(step) == (["reject_refused"] if word == "rejected" else [])


def test_what_a_till_says_of_an_order_that_the_box_lost_is_kept() -> None:
    order = said(BLANK, "ready").order
    refused = acted(orders.placed(order, Placed(AT_MS), AT_MS).order, "rejected", "Ann", AT_MS)
    assert [one.code for one in refused.refusals] == ["already_ready"]


@pytest.mark.parametrize("before", [(), ("accepted",)])
def test_A6_14_a_new_or_accepted_order_is_rejected_once(before: tuple[Said, ...]) -> None:
    step = said(by(PLACED, *before), "rejected", "rejected")
    assert (kinds(step), step.order.state, step.refusals) == (["rejected"], "rejected", ())
    assert acted(step.order, "rejected", "Ann", AT_MS, AGREED) == Step(step.order)


@pytest.mark.parametrize(("before", "code"), [("ready", "already_ready"), ("provided", "already_provided")])
def test_A6_15_what_is_ready_or_provided_is_not_rejected(before: Said, code: str) -> None:
    order = by(PLACED, before)
    by_page = acted(order, "rejected", "Ann", AT_MS)
    by_till = said(order, "rejected")
    assert [one.code for one in by_page.refusals + by_till.refusals] == [code, code]
    assert kinds(by_page) == kinds(by_till) == ["reject_refused"]
    assert [one.id for one in by_till.attentions] == [f"order_reject_refused:{ID}"]
    assert by_till.tell
    assert by_till.order.state == before
    assert said(by_till.order, "rejected").facts == (), "the same event heard again after a kill"


@pytest.mark.parametrize("before", ["ready", "provided"])
@pytest.mark.parametrize(
    ("override", "done"),
    [
        (AGREED, True),
        (Override("ANN ", "the guest sent it back"), False),
        (Override("", "the guest sent it back"), False),
        (Override("Bea", "  "), False),
    ],
)
def test_A6_15_only_a_second_person_with_a_reason_overrides(before: Said, override: Override, done: bool) -> None:
    step = acted(by(PLACED, before), "rejected", "Ann", AT_MS, override)
    assert kinds(step) == (["rejected"] if done else ["reject_refused"])
    assert [one.code for one in step.refusals] == ([] if done else ["second_actor_needed"])


@pytest.mark.parametrize("first", ["ready", "provided"])
def test_A6_15_a_reject_that_was_stored_before_the_food_was_made_waits_for_it(first: Said) -> None:
    step = heard(PLACED, [Answer("till-2", "a", "rejected"), Answer("till-1", "b", first)], AT_MS)
    assert kinds(step) == [first, "reject_refused"]


@pytest.mark.parametrize("kind", ["problem", "undeliverable"])
def test_A6_11_what_no_till_can_show_is_never_injected_later(kind: Any) -> None:
    step = orders.unfit(PLACED, kind, "product p1 is gone", AT_MS)
    assert (kinds(step), step.order.state, letter(step.order)) == ([kind], kind, "problem")
    again = orders.placed(step.order, Placed(AT_MS), AT_MS).order
    assert [offered_to(one) for one in (step.order, again, by(again, "accepted"), by(again, "provided"))] == [None] * 4
    assert by(step.order, "provided").provided is not None


def test_A6_11_what_may_have_been_made_by_hand_needs_a_second_person_to_be_refunded() -> None:
    order = orders.unfit(PLACED, "problem", "product p1 is gone", AT_MS).order
    assert [one.code for one in acted(order, "rejected", "Ann", AT_MS).refusals] == ["made_by_hand"]
    assert [one.code for one in said(order, "rejected").refusals] == ["made_by_hand"]
    assert kinds(acted(order, "rejected", "Ann", AT_MS, AGREED)) == ["rejected"]


def test_A6_11_an_order_that_a_till_has_becomes_no_problem() -> None:
    order = orders.offered(PLACED, "till-1", False, 5, AT_MS).order
    assert orders.unfit(order, "problem", "late menu", AT_MS) == Step(order)


def test_A6_8_an_order_that_nobody_answers_waits_for_the_venue_once() -> None:
    assert not due(PLACED, 119, TIMEOUT_S)
    assert due(PLACED, 120, TIMEOUT_S)
    step = orders.unanswered(PLACED, AT_MS)
    assert (kinds(step), letter(step.order)) == (["awaiting_venue"], "awaiting")
    assert orders.unanswered(step.order, AT_MS) == Step(step.order)
    for word in ("accepted", "ready", "provided", "rejected"):
        assert orders.unanswered(by(PLACED, word), AT_MS).facts == ()


def test_an_orders_own_time_to_respond_wins() -> None:
    hasty = orders.placed(BLANK, Placed(AT_MS, respond_within_s=30), AT_MS).order
    assert due(hasty, 30, TIMEOUT_S)
    assert not due(hasty, 29, TIMEOUT_S)
    assert not due(BLANK, LATE_S, TIMEOUT_S)


def test_A6_10_one_letter_for_an_order_and_kind_and_none_once_somebody_has_it() -> None:
    waiting = orders.unanswered(PLACED, AT_MS).order
    step = orders.alerted(waiting, "awaiting", AT_MS)
    assert (kinds(step), letter(step.order)) == (["alerted"], None)
    assert orders.alerted(step.order, "awaiting", AT_MS + 1) == Step(step.order)
    assert [letter(by(waiting, word)) for word in ("accepted", "provided", "rejected")] == [None] * 3


def test_A6_12_a_late_order_is_marked_and_asks() -> None:
    order = orders.alerted(orders.unanswered(PLACED, AT_MS).order, "awaiting", AT_MS).order
    shown = offered_to(order, age=LATE_S)
    assert (shown.state, shown.late, shown.age_s, shown.alerted_at) == ("offered", True, LATE_S, AT)
    assert shown.ask == "check_whether_already_provided"
    step = orders.offered(order, "till-1", shown.late, shown.age_s, AT_MS)
    assert [(type, data["age_s"]) for type, data in step.records] == [("nightsafe.order.late", LATE_S)]
    assert orders.offered(step.order, "till-2", True, LATE_S, AT_MS).records == ()
    assert offered_to(step.order, age=5).late, "once late, always late: a clock may go back"


def test_A6_12_an_order_taken_in_time_is_not_late_for_a_till_that_wakes() -> None:
    shown = offered_to(said(PLACED, "accepted").order, "till-2", LATE_S)
    assert (shown.state, shown.late, shown.ask) == ("accepted", False, "none")


def test_A6_12_an_age_is_never_less_than_the_box_has_had_it() -> None:
    assert age_s(AT_MS, AT_MS + 4_900, 1.0) == 4
    assert age_s(AT_MS, AT_MS - 86_400_000, 7_200.9) == 7_200
    assert age_s(AT_MS, AT_MS - 1, 0.0) == 0


def test_an_offer_is_as_the_device_contract_has_it() -> None:
    shown = msgspec.json.decode(msgspec.json.encode(offered_to(PLACED, age=4)))
    assert list(shown) == [
        *("order_id", "state", "prepaid", "placed_at", "late", "age_s", "alerted_at", "provided"),
        *("customer", "lines", "total", "menu_version", "ask"),
    ]
    assert (shown["state"], shown["customer"], shown["ask"]) == ("offered", {"name": "Kim"}, "none")


def test_A6_5_an_incomplete_order_is_kept_back_and_flagged_until_it_is_whole() -> None:
    step = orders.placed(BLANK, Placed(AT_MS, incomplete=("1 line is missing",)), AT_MS)
    assert (kinds(step), letter(step.order), offered_to(step.order)) == (["awaiting_venue"], "problem", None)
    assert step.records[0][1]["reason"] == "incomplete: 1 line is missing"
    whole = orders.placed(step.order, Placed(AT_MS), AT_MS)
    assert offered_to(whole.order).state == "offered"


def test_a_cancel_before_anybody_accepted_ends_the_order() -> None:
    known = orders.offered(PLACED, "till-1", False, 5, AT_MS).order
    step = orders.cancelled(known, "guest", AT_MS)
    assert (kinds(step), step.order.state, step.attentions) == (["cancelled"], "cancelled", ())
    assert offered_to(step.order).state == "cancelled"
    assert offered_to(step.order, "till-2") is None, "a till that never had it is not bothered"
    late = said(step.order, "accepted")
    assert ([one.code for one in late.refusals], late.tell, kinds(late)) == (["order_cancelled"], True, [])
    assert [one.code for one in acted(late.order, "rejected", "Ann", AT_MS, AGREED).refusals] == ["order_cancelled"]


@pytest.mark.parametrize("word", ["accepted", "ready", "provided"])
def test_a_cancel_after_accept_becomes_an_attention(word: Said) -> None:
    step = orders.cancelled(by(PLACED, word), "guest", AT_MS)
    assert (kinds(step), step.order.state) == ([], word)
    assert [one.id for one in step.attentions] == [f"order_cancelled:{ID}"]


def test_a_cancel_of_what_was_mailed_ends_it_and_tells_people() -> None:
    order = orders.alerted(orders.unanswered(PLACED, AT_MS).order, "awaiting", AT_MS).order
    step = orders.cancelled(order, "guest", AT_MS)
    assert (kinds(step), len(step.attentions)) == (["cancelled"], 1)


def test_a_cancel_or_refund_that_comes_before_the_order_holds() -> None:
    for back in (orders.cancelled, orders.refunded):
        order = orders.placed(back(BLANK, "guest", AT_MS).order, Placed(AT_MS), AT_MS).order
        assert (order.state, offered_to(order)) == ("cancelled", None)


def test_a_refund_of_the_platform_is_told_unless_the_venue_asked_for_it() -> None:
    asked = by(PLACED, "rejected")
    assert orders.refunded(asked, "as asked", AT_MS).attentions == ()
    step = orders.refunded(by(PLACED, "provided"), "by mistake", AT_MS)
    assert [one.id for one in step.attentions] == [f"order_refunded:{ID}"]
    again = acted(step.order, "rejected", "Ann", AT_MS, AGREED)
    assert [one.code for one in again.refusals] == ["already_refunded"]


def test_what_was_provided_after_a_refund_request_is_told_as_it_is() -> None:
    step = said(by(PLACED, "rejected"), "provided")
    assert (kinds(step), step.order.state, offered_to(step.order).provided) == (["provided"], "rejected", True)
    assert [one.id for one in step.attentions] == [f"order_provided_after:{ID}"]


def test_only_the_latest_refused_answers_are_remembered() -> None:
    order = by(PLACED, "provided")
    for number in range(REFUSED_MAX + 5):
        order = heard(order, [Answer("till-1", str(number), "rejected")], AT_MS).order
    assert order.refused == tuple(f"till-1/{number}" for number in range(5, REFUSED_MAX + 5))


def test_what_people_write_is_bounded_and_holds_no_card_number() -> None:
    step = acted(
        by(PLACED, "ready"), "rejected", "A" * 500, AT_MS, Override("Bea", "card 4111 1111 1111 1111 " + "x" * 900)
    )
    data = step.records[0][1]
    assert (len(data["actor"]), len(data["reason"])) == (100, 500)
    assert not any(digit in data["reason"] for digit in "14")


def test_every_refusal_has_a_sentence() -> None:
    assert set(WORDS) == set(get_args(orders.Code))
    assert all(text.endswith(".") for text in WORDS.values())


def test_a_fact_folded_again_changes_nothing() -> None:
    step = said(by(PLACED, "provided"), "accepted", "rejected")
    assert reduce(fold, step.facts, step.order) == step.order


def test_of_each_kind_the_first_fact_holds() -> None:
    first, second = (said(PLACED, "accepted", device=device).facts[0] for device in ("till-1", "till-2"))
    known = fold(fold(PLACED, first), second)
    assert known.accepted is not None
    assert (known.accepted.actor, known.offered) == ("till-1", ("till-1", "till-2"))


def test_A6_12_once_late_it_stays_late_though_a_clock_goes_back() -> None:
    order = orders.offered(PLACED, "till-1", True, LATE_S, AT_MS).order
    assert order.alerts == ()
    assert offered_to(order, age=5).late


@pytest.mark.parametrize("back", [orders.cancelled, orders.refunded])
def test_what_the_cloud_took_back_is_not_offered_as_new_though_a_kill_came_before_the_record(back: Any) -> None:
    order = orders.offered(PLACED, "till-1", False, 5, AT_MS).order
    step = back(order, "guest", AT_MS)
    torn = fold(order, step.facts[0])
    assert [fact.kind for fact in step.facts][1:] == ["cancelled"]
    assert kinds(back(torn, "guest", AT_MS)) == ["cancelled"], "the command heard again completes it"
    if back is orders.refunded:
        assert (torn.state, [one.code for one in said(torn, "accepted").refusals]) == (
            "cancelled",
            ["already_refunded"],
        )
