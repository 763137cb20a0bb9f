"""What simulated tills say: real to a vendor, the same for the same seed, and never a card number."""

import json
from collections import Counter

import pytest

from agent.core import events
from agent.core.instants import to_ms
from agent.tills.basket import Basket, Moment, business_date, envelope

AT_MS = to_ms("2026-11-22T19:15:00.120Z")


def trade(seed: str, count: int, *, payments_held: bool = False) -> list[Moment]:
    basket = Basket("till-1", seed)
    return [basket.next_moment(AT_MS + 100 * n, payments_held=payments_held) for n in range(count)]


def as_events(seed: str, count: int) -> list[bytes]:
    basket = Basket("till-1", seed)
    made = []
    for n in range(1, count + 1):
        moment, id = basket.next_moment(AT_MS), basket.uuid7(AT_MS)
        made.append(envelope(moment, id=id, device="till-1", epoch="e-1", sequence=n, at_ms=AT_MS))
    return made


def test_the_same_seed_makes_the_same_bytes() -> None:
    assert as_events("a", 300) == as_events("a", 300)


def test_another_seed_makes_another_trade() -> None:
    assert as_events("a", 300) != as_events("b", 300)


def test_every_event_is_fit_to_be_stored() -> None:
    for event in as_events("schema", 5000):
        verdict = events.judge("till-1", event, 262_144, 64, 4096)
        assert isinstance(verdict, events.Event), verdict
        assert verdict.body == event


def test_a_trade_has_all_that_a_bar_has() -> None:
    kinds = Counter(moment.type for moment in trade("kinds", 6000))
    expected = {
        "pos.menu.loaded", "pos.shift.opened", "pos.shift.closed",
        "pos.cash.float_declared", "pos.cash.counted", "pos.cash.paid_out",
        "pos.check.opened", "pos.check.updated", "pos.check.closed", "pos.check.voided",
        "pos.payment.authorized", "pos.payment.captured", "pos.payment.voided", "pos.payment.refunded",
        "pos.loyalty.accrued",
    }  # fmt: skip
    assert expected <= kinds.keys()


def test_events_are_compact_as_json_stringify_writes_them() -> None:
    for event in as_events("compact", 500):
        again = json.dumps(json.loads(event), separators=(",", ":"), ensure_ascii=False).encode()
        assert event == again


def test_ids_are_unique() -> None:
    ids = [json.loads(event)["id"] for event in as_events("ids", 5000)]
    assert len(set(ids)) == len(ids)


def test_a_closed_check_is_paid_to_the_penny() -> None:
    paid: Counter[str] = Counter()
    voided: set[str] = set()
    for moment in trade("pennies", 5000):
        if moment.type == "pos.payment.captured":
            paid[moment.data["check_id"]] += moment.data["amount"]["amount"]
        if moment.type == "pos.check.voided":
            voided.add(moment.data["check_id"])
        if moment.type == "pos.check.closed":
            lines = moment.data["lines"]
            total = sum(
                line["quantity"]
                * (line["unit_amount"]["amount"] + sum(one["unit_amount"]["amount"] for one in line["modifiers"]))
                for line in lines
            )
            assert total == moment.data["total"]["amount"] == paid.pop(moment.data["check_id"])
    assert voided


def test_money_is_whole_minor_units() -> None:
    def amounts(value: object) -> list[object]:
        if isinstance(value, dict):
            own = [value["amount"]] if "currency" in value else []
            return own + [found for inner in value.values() for found in amounts(inner)]
        return [found for inner in value for found in amounts(inner)] if isinstance(value, list) else []

    assert all(type(amount) is int for moment in trade("money", 2000) for amount in amounts(moment.data))


def test_a_card_is_a_token_and_four_digits() -> None:
    cards = [moment.data["card"] for moment in trade("cards", 3000) if "card" in moment.data]
    assert cards
    assert all(card.keys() == {"token", "last4", "brand"} for card in cards)
    assert all(len(card["last4"]) == 4 and not any(char.isdigit() for char in card["token"]) for card in cards)


def test_held_payments_stop_payments_and_nothing_else() -> None:
    kinds = Counter(moment.type for moment in trade("held", 2000, payments_held=True))
    assert not [kind for kind in kinds if kind.startswith("pos.payment.")]
    assert kinds["pos.check.opened"]


@pytest.mark.parametrize(
    ("instant", "date"), [("2026-11-22T03:59:59Z", "2026-11-21"), ("2026-11-22T04:00:00Z", "2026-11-22")]
)
def test_the_business_day_ends_in_the_small_hours(instant: str, date: str) -> None:
    assert business_date(to_ms(instant)) == date
