"""Who may try to log in again."""

from agent.core.lockout import ADDRESS_FACTOR, ENTRIES_MAX, Lockout, Terms

TERMS = Terms(tries_max=3, window_s=60, lockout_s=30)


def refused(lockout: Lockout, times: int, name: str, now_s: float = 0.0, address: str = "10.0.0.7") -> list[bool]:
    return [lockout.refused(address, name, now_s) for _ in range(times)]


def test_the_refusal_that_reaches_the_bound_locks_out_and_only_that_one_is_told() -> None:
    lockout = Lockout(TERMS)
    assert refused(lockout, 4, "till-1") == [False, False, True, False]
    assert lockout.locked("10.0.0.7", "till-1", 29.9)
    assert not lockout.locked("10.0.0.7", "till-1", 30.0)


def test_refusals_that_lie_far_apart_lock_nobody_out() -> None:
    lockout = Lockout(TERMS)
    assert not any(lockout.refused("10.0.0.7", "till-1", 61.0 * n) for n in range(50))


def test_another_address_and_another_device_are_not_locked_out() -> None:
    lockout = Lockout(TERMS)
    refused(lockout, 3, "till-1")
    assert not lockout.locked("10.0.0.8", "till-1", 1)
    assert not lockout.locked("10.0.0.7", "till-2", 1)


def test_somebody_who_tries_many_names_locks_out_his_address_but_no_device_that_logged_in_from_there() -> None:
    lockout = Lockout(TERMS)
    lockout.let_in("10.0.0.7", "till-2", 0)
    told = [lockout.refused("10.0.0.7", f"name-{n}", 1.0) for n in range(3 * ADDRESS_FACTOR)]
    assert told == [False] * (3 * ADDRESS_FACTOR - 1) + [True]
    assert lockout.locked("10.0.0.7", "name-99", 2)
    assert not lockout.locked("10.0.0.7", "till-2", 2)


def test_a_device_that_logged_in_is_locked_out_by_its_own_refusals() -> None:
    lockout = Lockout(TERMS)
    lockout.let_in("10.0.0.7", "till-1", 0)
    assert refused(lockout, 3, "till-1", 1.0)[-1]
    assert lockout.locked("10.0.0.7", "till-1", 2)


def test_what_was_known_of_a_revoked_device_is_forgotten() -> None:
    lockout = Lockout(TERMS)
    refused(lockout, 3, "till-1")
    lockout.forget("till-1")
    assert not lockout.locked("10.0.0.7", "till-1", 1)


def test_memory_is_bounded_whoever_comes() -> None:
    lockout = Lockout(TERMS)
    for n in range(3 * ENTRIES_MAX):
        lockout.refused(f"fd00::{n:x}", "till-1", 0)
    assert len(lockout._tries) == ENTRIES_MAX


def test_how_long_a_lock_out_lasts_is_told() -> None:
    lockout = Lockout(TERMS)
    assert lockout.left_s("10.0.0.7", "till-1", 5) == 0
    refused(lockout, 3, "till-1", now_s=10)
    assert lockout.left_s("10.0.0.7", "till-1", 15) == 25
    assert lockout.left_s("10.0.0.7", "till-2", 15) == 0
    assert lockout.left_s("10.0.0.7", "till-1", 40) == 0


def test_names_of_any_length_cost_no_more_memory_than_a_devices() -> None:
    lockout = Lockout(TERMS)
    for number in range(ENTRIES_MAX):
        lockout.refused("10.0.0.7", "x" * 65_000 + str(number), float(number))
    assert sum(len(name) for _, name in lockout._tries) < ENTRIES_MAX * 65


def test_a_login_without_a_name_counts_once_and_for_the_address_alone() -> None:
    lockout = Lockout(TERMS)
    assert not any(refused(lockout, 3 * ADDRESS_FACTOR - 1, ""))
    assert not lockout.locked("10.0.0.7", "till-2", 1)
    assert refused(lockout, 1, "") == [True]


def test_the_first_refusal_of_a_window_is_told_from_those_that_follow() -> None:
    lockout = Lockout(TERMS)
    assert lockout.fresh("10.0.0.7", "till-1", 0.0)
    lockout.refused("10.0.0.7", "till-1", 0.0)
    assert not lockout.fresh("10.0.0.7", "till-1", 1.0)
    assert lockout.fresh("10.0.0.7", "till-1", 61.0)
