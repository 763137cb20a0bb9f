"""How often the venue PIN can be tried, whatever the guesser does."""

from collections.abc import Iterator

import pytest

from agent.core.pin_tries import DAY_S, PinTries, Terms

TERMS = Terms(tries_max=5, lockout_s=600, day_max=100)


def most_in_a_day(tries: PinTries, addresses: list[str], pace_s: float, begin_s: float = 0.0) -> int:
    """A guesser who tries at every chance for a week: the most wrong PINs in any 24 hours."""
    taken = list(_guessed(tries, addresses, pace_s, begin_s))
    return max(sum(1 for at in taken if since <= at < since + DAY_S) for since in taken)


def _guessed(tries: PinTries, addresses: list[str], pace_s: float, begin_s: float) -> Iterator[float]:
    now_s, turn = begin_s, 0
    while now_s < begin_s + 7 * DAY_S:
        address = addresses[turn % len(addresses)]
        turn += 1
        if tries.left_s(address, now_s) == 0:
            tries.refused(address, now_s)
            yield now_s
        now_s += pace_s


@pytest.mark.parametrize("pace_s", [7, 61, 130, 870])
def test_from_one_address_a_pin_is_tried_fifty_times_in_a_day_at_most(pace_s: float) -> None:
    assert most_in_a_day(PinTries(TERMS), ["10.0.0.7"], pace_s) <= 50


@pytest.mark.parametrize("pace_s", [7, 61, 130, 430, 870])
def test_from_any_number_of_addresses_a_pin_is_tried_two_hundred_times_in_a_day_at_most(pace_s: float) -> None:
    many = [f"10.0.{n // 250}.{n % 250}" for n in range(5_000)]
    assert 90 <= most_in_a_day(PinTries(TERMS), many, pace_s) <= 200


def test_who_has_logged_in_is_not_shut_out_by_guessers_elsewhere() -> None:
    tries = PinTries(TERMS)
    tries.let_in("10.0.0.2", 0)
    for n in range(100):
        tries.refused(f"10.0.1.{n}", n)
    assert tries.left_s("10.0.2.1", 101) > DAY_S - 200
    assert tries.left_s("10.0.0.2", 101) == 0


def test_own_wrong_pins_shut_out_also_who_has_logged_in() -> None:
    tries = PinTries(TERMS)
    tries.let_in("10.0.0.2", 0)
    assert [tries.refused("10.0.0.2", n) for n in range(5)] == [False] * 4 + [True]
    assert tries.left_s("10.0.0.2", 4) == 600


def test_the_right_pin_forgets_the_wrong_ones_before_it() -> None:
    tries = PinTries(TERMS)
    for n in range(40):
        tries.refused("10.0.0.2", n)
        tries.let_in("10.0.0.2", n)
    assert tries.left_s("10.0.0.2", 40) == 0
