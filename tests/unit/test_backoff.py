"""Pauses after failures: full jitter, doubling up to a bound; and the pause that the other side asks for."""

import pytest

from agent.core.backoff import asked_pause_s, pause_s


def test_the_bound_doubles_up_to_the_longest() -> None:
    bounds = [pause_s(failures, 1.0, 1.0, 300.0) for failures in range(1, 12)]
    assert bounds == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert pause_s(10**6, 1.0, 1.0, 300.0) == 300


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.5, 0.999])
def test_chance_spreads_the_pause_over_all_of_it(chance: float) -> None:
    assert pause_s(4, chance, 1.0, 300.0) == chance * 8


@pytest.mark.parametrize(("asked", "waited"), [(0, 0), (-5, 0), (7, 7), (10_000, 3600), (float("inf"), 3600)])
def test_what_is_asked_for_is_kept_to_within_its_bound(asked: float, waited: float) -> None:
    assert asked_pause_s(asked, 0.0, 1.0, 3600.0) == waited
    assert asked_pause_s(asked, 0.5, 1.0, 3600.0) == waited + 0.5
