"""What became of a payment, and when it may be charged again: never without proof."""

from itertools import product
from typing import Any

import pytest

from agent.core.fates import Ended, Fate, Payment, answer, fate_of, is_about_all, least_certain, settled, untimely
from agent.core.payments import Kind, PaymentFact, Recorded, happened_ms, same_sale, told_in
from tests.sales import event, payment

NOW_MS = 1_795_342_500_000


def fact(position: int, kind: Kind = "captured", **changes: Any) -> PaymentFact:
    body = event(type=f"pos.payment.{kind}", time=None, data=payment(payment_id="p"))
    found = told_in(Recorded(position, "till-1", NOW_MS, 1000, 1), body)
    assert isinstance(found, PaymentFact)
    return found._replace(**changes)


def ended(fate: Any, committed: int, cursor: int | None = None) -> Ended:
    return Ended(fate, "2026-11-22T11:00:00.000Z", None, committed if cursor is None else cursor, committed)


@pytest.mark.parametrize(
    ("payment_", "cursor", "fate"),
    [
        (Payment("p"), 10, "unknown"),
        (Payment("p", (fact(5),)), 4, "edge_durable"),
        (Payment("p", (fact(5),)), 5, "uploaded"),
        (Payment("p", (fact(5, "authorized"), fact(6))), 5, "edge_durable"),
        (Payment("p", (fact(5), fact(9, "refunded"))), 5, "uploaded"),
        (Payment("p", (fact(5),), (ended("posted", 5),)), 5, "posted"),
        (Payment("p", (fact(5),), (ended("declined", 5),)), 5, "declined"),
        (Payment("p", (), (ended("declined", 5),)), 5, "declined"),
        (Payment("p", (fact(5),), (ended("declined", 5), ended("posted", 6))), 5, "posted"),
        (Payment("p", (fact(5),), (ended("posted", 5), ended("declined", 6))), 5, "posted"),
        (Payment("p", (fact(5), fact(8)), (ended("declined", 7),)), 9, "uploaded"),
        (Payment("p", (fact(5), fact(8)), (ended("declined", 9, cursor=6),)), 6, "edge_durable"),
        (Payment("p", (fact(8),), (ended("declined", 9, cursor=6),)), 9, "declined"),
        (Payment("p", (fact(5), fact(8, "voided")), (ended("declined", 7),)), 9, "declined"),
    ],
)
def test_A2_10_the_fate_of_a_payment(payment_: Payment, cursor: int, fate: Fate) -> None:
    assert fate_of(payment_, cursor) == fate


def test_a_record_that_the_cloud_takes_in_no_form_is_not_uploaded() -> None:
    assert fate_of(Payment("p", (fact(5),)), 9, refused_up=[5]) == "edge_durable"
    assert "quarantine" in answer("edge_durable", "payment_id", stuck=True).reason


def test_A2_10_only_a_declined_payment_asked_for_by_its_id_may_be_charged_again() -> None:
    fates: tuple[Fate, ...] = ("unknown", "edge_durable", "uploaded", "posted", "declined")
    both = (False, True)
    for fate, way, behind, stuck, doubt in product(fates, ("payment_id", "search"), both, both, both):
        said = answer(fate, way, behind=behind, stuck=stuck, doubt=doubt)  # type: ignore[arg-type]
        safe = (fate, way, behind, doubt) == ("declined", "payment_id", False, False)
        assert said.re_charge_safe == ("yes" if safe else "no")
        assert ("ot charge again" in said.reason) == (not safe)


@pytest.mark.parametrize(
    ("facts", "finals", "sure"),
    [
        ((fact(5, "authorized"), fact(6)), (ended("declined", 6),), True),
        ((), (ended("declined", 6),), True),
        ((fact(5), fact(8, "voided")), (ended("declined", 9, cursor=6),), True),
        ((fact(8),), (ended("declined", 9, cursor=6),), False),
        ((fact(5), fact(6)), (ended("declined", 6),), False),
        ((fact(5, "authorized"), fact(7, "authorized"), fact(9)), (ended("declined", 9),), False),
        ((fact(5, "authorized"), fact(6, device="till-2")), (ended("declined", 6),), False),
        ((fact(5),), (), False),
    ],
)
def test_A2_10_a_decline_frees_the_guest_only_where_it_can_be_about_nothing_else(
    facts: tuple[PaymentFact, ...], finals: tuple[Ended, ...], sure: bool
) -> None:
    """A decline may have waited at the cloud since an attempt before, while the till has taken the money since."""
    assert is_about_all(Payment("p", facts, finals)) is sure


def test_of_several_payments_the_least_certain_is_told() -> None:
    assert least_certain(["posted", "uploaded", "declined"]) == "uploaded"
    assert least_certain(["declined", "posted"]) == "posted"
    assert least_certain([]) == "unknown"


def test_A3_4_a_refund_is_untimely_until_the_fate_is_final_and_cash_never_is() -> None:
    refunded = (fact(5), fact(6, "refunded"))
    assert [one.kind for one in untimely(Payment("p", refunded))] == ["refunded"]
    assert untimely(Payment("p", refunded, (ended("posted", 6),))) == ()
    declined = Payment("p", (*refunded, fact(7, "voided")), (ended("declined", 7),))
    assert [one.kind for one in untimely(declined)] == ["refunded"], "nothing was taken that could be given back"
    assert untimely(Payment("p", tuple(one._replace(tender="cash") for one in refunded))) == ()
    assert untimely(Payment("p", tuple(one._replace(training=True) for one in refunded))) == ()


def test_A3_3_what_was_voided_declined_or_refunded_whole_suspects_nobody() -> None:
    assert not settled(Payment("p", (fact(5),)))
    assert settled(Payment("p", (fact(5), fact(6, "voided"))))
    assert settled(Payment("p", (fact(5),), (ended("declined", 5),)))
    assert not settled(Payment("p", (fact(5), fact(6, "refunded", amount=1))))
    assert settled(Payment("p", (fact(5), fact(6, "refunded"))))
    assert not settled(Payment("p", (fact(5), fact(6, "voided", amount=1))))
    assert settled(Payment("p", (fact(5), fact(6, "voided", amount=0))))
    assert settled(Payment("p", (fact(5), fact(6, "voided", amount=1), fact(7, "refunded", amount=fact(5).amount - 1))))


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"payment_id": "p"}, False),
        ({"card_token": "tok-x"}, False),
        ({"amount": 1}, False),
        ({"currency": "EUR"}, False),
        ({"kind": "refunded"}, False),
        ({"training": True}, False),
        ({"device": "till-2"}, True),
        ({"check_id": "7"}, True),
        ({"device": "till-2", "check_id": "7"}, False),
        ({"device": "till-2", "check_id": None}, False),
        ({"recorded_ms": NOW_MS + 600_000}, True),
        ({"recorded_ms": NOW_MS + 600_001}, False),
        ({"recorded_ms": NOW_MS + 7_200_000, "device_ms": NOW_MS + 1000}, True),
    ],
)
def test_A3_3_which_payments_look_like_one_sale(changes: dict[str, Any], same: bool) -> None:
    other = fact(6, payment_id="q")._replace(**changes)
    for pair in ((fact(5), other), (other, fact(5))):
        assert same_sale(*pair, window_ms=600_000, true_ms=lambda one: one.recorded_ms) is same


@pytest.mark.parametrize(
    ("device_ms", "true_ms", "at"),
    [
        (None, NOW_MS, "box"),
        (NOW_MS - 3_600_000, NOW_MS, "till"),
        (NOW_MS + 300_000, NOW_MS, "till"),
        (NOW_MS + 300_001, NOW_MS, "box"),
        (NOW_MS - 32 * 86_400_000, NOW_MS, "box"),
        (0, NOW_MS, "box"),
        (NOW_MS, 0, "till"),
    ],
)
def test_a_tills_time_is_believed_where_it_can_be(device_ms: int | None, true_ms: int, at: str) -> None:
    wanted = true_ms if at == "box" else device_ms
    assert happened_ms(fact(5, device_ms=device_ms), true_ms) == wanted


def test_of_a_card_only_the_token_and_the_last_four_digits_are_taken() -> None:
    card = {"token": "tok-a", "last4": "4242", "brand": "visa", "holder": "A N OTHER", "expiry": "12/29"}
    body = event(data=payment(payment_id="p", card=card, note="window table"))
    found = told_in(Recorded(1, "till-1", NOW_MS, 0, 1), body)
    assert isinstance(found, PaymentFact)
    assert not {"visa", "A N OTHER", "12/29", "window table"} & {value for value in found if isinstance(value, str)}
