"""What a simulated till asks: every question ends in one way, is asked again with its id, and answers must add up."""

from random import Random
from typing import Any

import pytest

from agent.tills.basket import Authorize, Basket
from agent.tills.questions import (
    AGAIN_S,
    GIFT_CARD,
    PATIENCE_S,
    Answers,
    Question,
    Questions,
    Reply,
    add,
    asked_words,
    since,
)

CARD = Authorize("p-1", {"amount": 1000, "currency": "GBP"}, {"token": "tok_abc"})
UNKNOWN = "outcome_unknown"


def money(amount: int) -> dict[str, Any]:
    return {"amount": amount, "currency": "GBP"}


def asked(questions: Questions, service: str, now_s: float = 0.0) -> Question:
    """Let the till wonder until it asks for the service; everything else is refused."""
    for _ in range(1000):
        questions.wonder(now_s)
        for question in questions.due(now_s):
            if question.service == service:
                return question
            questions.hear(Reply(question.id, "requires_realtime"), now_s)
    raise AssertionError(f"never asked for {service}")


def with_gift_card() -> Questions:
    """A till whose gift card was sold."""
    questions = Questions(1.0, Random(7))
    sold = asked(questions, "gift_card.sell")
    questions.hear(Reply(sold.id, "ok", {"balance": money(GIFT_CARD)}), 0.0)
    return questions


def test_a_till_that_asks_nothing_asks_nothing() -> None:
    questions = Questions(0.0, Random(1))
    for number in range(500):
        questions.wonder(float(number))
    assert questions.due(500.0) == []
    assert questions.answers == Answers()


def test_every_question_ends_in_exactly_one_way() -> None:
    questions = Questions(1.0, Random(2))
    ends = [
        Reply("", "ok"), Reply("", "requires_realtime"), Reply("", "declined", reason="payments_held"),
        Reply("", "error", reason="malformed"), Reply("", "error", reason=UNKNOWN),
    ]  # fmt: skip
    for number in range(300):
        questions.wonder(float(number))
        for question in questions.due(float(number)):
            if not question.service.startswith("gift_card."):
                end = ends[number % len(ends)]
                questions.hear(Reply(question.id, end.status, {}, end.reason), float(number))
            else:
                questions.hear(Reply(question.id, "requires_realtime"), float(number))
    found = questions.answers
    assert found.asked == found.ok + found.refused + found.declined + found.failed + found.unknown > 200
    assert min(found.ok, found.refused, found.declined, found.failed, found.unknown) > 0
    assert (found.waiting, found.given_up, found.wrong) == (0, 0, 0)


def test_one_thing_is_asked_at_a_time() -> None:
    questions = Questions(1.0, Random(3))
    for _ in range(20):
        questions.wonder(0.0)
    assert len(questions.due(0.0)) == 1
    assert questions.answers.waiting == 1


def test_what_may_not_have_been_heard_is_asked_again_with_its_id() -> None:
    questions = Questions(1.0, Random(3))
    questions.wonder(0.0)
    (first,) = questions.due(0.0)
    assert questions.due(100.0) == []
    questions.connected(101.0)
    assert questions.due(101.0) == [first]


def test_an_approved_card_tells_its_payment_of_the_approval() -> None:
    questions = Questions(1.0, Random(4))
    questions.authorize(CARD, 0.0)
    (question,) = questions.due(0.0)
    assert question.service == "card.authorize"
    assert question.args == {"payment_id": "p-1", "amount": money(1000), "card": {"token": "tok_abc"}}
    assert questions.guest_waits
    questions.hear(Reply(question.id, "ok", {"authorization_code": "C1", "store_and_forward": False}), 0.2)
    assert questions.guest_waits, "until somebody has taken it"
    assert questions.taken() == [{"authorization_code": "C1", "offline": False}]
    assert not questions.guest_waits
    assert questions.answers.slowest_s == pytest.approx(0.2)


def test_a_card_taken_on_trust_is_told_as_offline_and_a_declined_one_is_not_taken() -> None:
    questions = Questions(1.0, Random(4))
    questions.authorize(CARD, 0.0)
    (question,) = questions.due(0.0)
    questions.hear(Reply(question.id, "ok", {"authorization_code": None, "store_and_forward": True}), 0.0)
    assert questions.taken() == [{"authorization_code": None, "offline": True}]
    questions.authorize(CARD, 1.0)
    (question,) = questions.due(1.0)
    questions.hear(Reply(question.id, "declined", {}, "offline_refused"), 1.0)
    assert questions.taken() == [None]


def test_a_guest_waits_for_a_card_only_so_long() -> None:
    questions = Questions(1.0, Random(4))
    questions.authorize(CARD, 0.0)
    questions.due(0.0)
    questions.lose_patience(PATIENCE_S)
    assert questions.taken() == []
    questions.lose_patience(PATIENCE_S + 0.1)
    assert questions.taken() == [None]
    assert (questions.answers.given_up, questions.answers.waiting) == (1, 0)


def test_an_unknown_outcome_is_asked_after_until_it_is_known_and_the_balance_with_it() -> None:
    questions = with_gift_card()
    redeem = asked(questions, "gift_card.redeem")
    questions.hear(Reply(redeem.id, "error", {}, UNKNOWN), 0.0)
    assert questions.answers.unknown == 1
    assert questions.due(AGAIN_S - 0.1) == []
    assert questions.due(AGAIN_S) == [redeem]
    for number in range(50):
        questions.wonder(0.0)
        assert all(not one.service.startswith("gift_card.") for one in questions.due(0.0)), number
    left = GIFT_CARD - redeem.args["amount"]["amount"]
    questions.hear(Reply(redeem.id, "ok", {"balance": money(left)}), 3.0)
    assert (questions.answers.unknown, questions.answers.wrong) == (0, 0)


@pytest.mark.parametrize("off_by", [0, -1, 1])
def test_a_gift_cards_balance_must_be_what_was_done_with_it(off_by: int) -> None:
    questions = with_gift_card()
    redeem = asked(questions, "gift_card.redeem")
    left = GIFT_CARD - redeem.args["amount"]["amount"]
    questions.hear(Reply(redeem.id, "ok", {"balance": money(left + off_by)}), 0.0)
    assert questions.answers.wrong == abs(off_by)


def test_a_repeat_with_another_answer_is_wrong_and_one_with_the_same_is_not() -> None:
    questions = Questions(1.0, Random(3))
    first = asked(questions, "loyalty.balance")
    questions.hear(Reply(first.id, "ok", {"points": 3}), 0.0)
    questions.hear(Reply(first.id, "ok", {"points": 3}), 0.1)
    assert questions.answers.wrong == 0
    questions.hear(Reply(first.id, "ok", {"points": 4}), 0.2)
    assert questions.answers.wrong == 1
    questions.hear(Reply("somebody-else", "ok"), 0.3)
    assert questions.answers.wrong == 1


def test_a_busy_box_is_asked_again() -> None:
    questions = Questions(1.0, Random(3))
    questions.wonder(0.0)
    (first,) = questions.due(0.0)
    questions.hear(Reply(first.id, "error", {}, "busy"), 0.0)
    assert questions.answers.waiting == 1
    assert questions.due(AGAIN_S) == [first]


def test_answers_add_up_over_tills_and_are_told_apart_by_time() -> None:
    one, other = Answers(asked=3, ok=2, waiting=1, slowest_s=0.5), Answers(asked=1, refused=1, slowest_s=2.0)
    both = add([one, other])
    assert both == Answers(asked=4, ok=2, refused=1, waiting=1, slowest_s=2.0)
    assert since(both, one) == Answers(asked=1, refused=1, waiting=1, slowest_s=2.0)
    assert add([]) == Answers()
    assert asked_words(both) == "4 questions asked: 2 answered, 1 refused for want of the cloud, 1 without an answer"
    assert asked_words(Answers()) == "0 questions asked"


def trade(asks: float, approved: dict[str, Any] | None) -> list[Any]:
    basket = Basket("till-1", "cards", asks)
    found: list[Any] = []
    for number in range(3000):
        found.append(basket.next_moment(1_795_342_500_000 + number))
        if isinstance(found[-1], Authorize):
            basket.decided(approved)
    return found


def test_a_card_that_is_not_approved_is_paid_otherwise_and_never_captured() -> None:
    found = trade(1.0, None)
    wanted = {one.payment_id for one in found if isinstance(one, Authorize)}
    payments = [one.data for one in found if not isinstance(one, Authorize) and one.type.startswith("pos.payment.")]
    assert len(wanted) > 100
    assert {one["tender"] for one in payments} == {"cash", "other"}
    assert not wanted & {one["payment_id"] for one in payments}


def test_an_approved_card_is_captured_under_the_id_and_amount_that_were_asked() -> None:
    found = trade(1.0, {"authorization_code": None, "offline": True})
    wanted = {one.payment_id: one.amount for one in found if isinstance(one, Authorize)}
    cards = [
        one.data
        for one in found
        if not isinstance(one, Authorize) and one.type == "pos.payment.captured" and one.data["tender"] == "card"
    ]
    assert len(cards) > 100
    for one in cards:
        assert wanted[one["payment_id"]] == one["amount"]
        assert (one["authorization_code"], one["offline"]) == (None, True)


def test_asking_a_share_leaves_the_other_cards_alone() -> None:
    found = trade(0.3, None)
    wanted = [one for one in found if isinstance(one, Authorize)]
    cards = [one for one in found if not isinstance(one, Authorize) and one.type == "pos.payment.authorized"]
    assert len(cards) > len(wanted) > 50
