"""How a device gets its secret: codes, tries, time, and whom a person has let in."""

import pytest

from agent.core.errors import Rejected
from agent.core.pairing import Pairings, State, Terms, Verdict, fingerprint_shown, to_facts

TERMS = Terms(open_s=600, tries_max=5, count_max=2)
CODE, TOKEN = "48317720", "a-long-token"


def opened(device: str = "till-1", now_s: float = 0.0, pairings: Pairings | None = None) -> Pairings:
    pairings = pairings or Pairings(TERMS)
    pairings.begin(device, "", False, CODE, TOKEN, now_s)
    return pairings


def test_the_token_is_served_at_once_and_the_digits_wait_for_a_person() -> None:
    assert opened().offer(TOKEN, "till-1", "10.0.0.7", 1)[0] is Verdict.RELEASE
    pairings = opened()
    assert pairings.offer(CODE, "till-1", "10.0.0.7", 1)[0] is Verdict.WAIT
    pairings.decide("till-1", True, 2)
    assert pairings.offer(CODE, "till-1", "10.0.0.7", 3)[0] is Verdict.RELEASE


def test_only_the_device_that_the_person_looked_at_is_let_in() -> None:
    pairings = opened()
    pairings.offer(CODE, "", "10.0.0.7", 1)
    assert pairings.offer(CODE, "", "10.0.0.66", 1)[0] is Verdict.WRONG
    pairings.decide("till-1", True, 2)
    assert pairings.offer(CODE, "", "10.0.0.66", 3)[0] is Verdict.WRONG


def test_a_declined_device_gets_nothing_whatever_it_says() -> None:
    pairings = opened()
    pairings.offer(CODE, "", "10.0.0.7", 1)
    pairings.decide("till-1", False, 2)
    assert pairings.offer(CODE, "", "10.0.0.7", 3)[0] is Verdict.WRONG
    assert pairings.offer(TOKEN, "", "10.0.0.7", 3)[0] is Verdict.WRONG


def test_nobody_can_be_confirmed_who_has_not_come() -> None:
    pairings = opened()
    with pytest.raises(Rejected, match="No device has come"):
        pairings.decide("till-1", True, 1)
    with pytest.raises(Rejected, match="not being paired"):
        pairings.decide("till-2", True, 1)


def test_a_pairing_ends_with_its_time() -> None:
    pairings = opened()
    assert pairings.offer(TOKEN, "", "10.0.0.7", 599.9)[0] is Verdict.RELEASE
    assert pairings.offer(TOKEN, "", "10.0.0.7", 600)[0] is Verdict.WRONG
    assert pairings.find("till-1", 600).state is State.EXPIRED


def test_wrong_codes_end_every_pairing_and_a_new_one_begins_afresh() -> None:
    pairings = opened("till-2", pairings=opened("till-1"))
    for _ in range(5):
        assert pairings.offer("00000000", "", "10.0.0.66", 1)[0] is Verdict.WRONG
    assert {pairings.find(name, 1).state for name in ("till-1", "till-2")} == {State.ENDED}
    opened("till-1", 2, pairings)
    assert pairings.tries_left == 5
    assert pairings.offer(TOKEN, "", "10.0.0.7", 3)[0] is Verdict.RELEASE


def test_wrong_codes_while_nothing_is_open_count_for_nothing() -> None:
    pairings = Pairings(TERMS)
    for _ in range(50):
        pairings.offer("00000000", "", "10.0.0.66", 0)
    assert pairings.tries_left == 5


def test_another_name_spends_nothing() -> None:
    pairings = opened()
    assert pairings.offer(TOKEN, "till-9", "10.0.0.7", 1)[0] is Verdict.NAME_DIFFERS
    assert pairings.offer(TOKEN, "till-1", "10.0.0.7", 1)[0] is Verdict.RELEASE


def test_so_many_are_open_at_once_and_a_second_begin_replaces_the_first() -> None:
    pairings = opened("till-2", pairings=opened("till-1"))
    with pytest.raises(Rejected, match="being paired already"):
        pairings.begin("till-3", "", False, CODE, TOKEN, 1)
    pairings.begin("till-1", "", False, "11112222", "another", 1)
    pairings.begin("till-3", "", False, CODE, TOKEN, 700)


def test_facts_hold_no_secret_and_the_fingerprint_is_shown_in_fours() -> None:
    facts = to_facts(opened().find("till-1", 10), 10)
    assert facts == {"device": "till-1", "state": "waiting", "left_s": 590.0, "peer": None}
    assert fingerprint_shown("12ab34cd56ef78901234deadbeef") == "12AB 34CD 56EF 7890 1234"
