"""No refund for food that was handed over: every interleaving of tills, page, cloud and kills, until nothing is new.

The search ends by itself where every world that can be reached was seen; so it holds for walks of any length. Then the
same with each safeguard taken away: a search that finds nothing there would prove nothing.
"""

import gc
import json
import random
from collections.abc import Iterator
from functools import reduce

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core import order_offers, orders
from agent.core.order_facts import RECORDED, Fact, Order, fold, recalled, record
from agent.core.orders import Override, Step
from tests.model import orders_world
from tests.model.orders_world import ALL, AT_MS, ID, ONCE, START, Way, World, explore, moves

DEPTH_MIN = 12
DEPTH_MAX = 40
"""Far beyond the depth at which the searches end."""
REJECTS = ("provided", "reject", "reject with a second person")
TWO_TILLS = Way(clicks=REJECTS, commands=("places",), others=())
GIVEN_BACK = Way(tills=("till-1",), clicks=REJECTS[1:], commands=("places", "cancels", "refunds"), others=())
KEPT_BACK = Way(
    tills=("till-1",),
    clicks=("reject",),
    commands=("places", "places incomplete"),
    others=("problem", "letter"),
)
REFUNDED = "a refund was requested of what was provided or ready"


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Tens of thousands of small values without a cycle: looking for cycles doubles the time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("two tills, the page, kills, late delivery, answers said twice", TWO_TILLS),
        ("one till, the page, kills, cancelled and refunded by the cloud", GIVEN_BACK),
        ("one till, the page, kills, letters, orders that no till can show, incomplete orders", KEPT_BACK),
    ],
)
def test_A6_15_no_interleaving_refunds_a_provided_order(
    name: str, way: Way, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explore(DEPTH_MAX, way)
    with capsys.disabled():
        print(f"\n{name}: {found.states_count} states, {found.moves_count} moves, all of them at depth {found.depth}")
    assert found.broken is None, (found.promise, found.broken)
    assert found.whole
    assert found.depth >= DEPTH_MIN


def test_A6_15_with_the_guard_removed_the_search_finds_the_refund(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "guard", lambda order: None)
    found = explore(DEPTH_MIN, TWO_TILLS)
    assert found.promise == REFUNDED
    assert found.broken is not None
    assert len(found.broken) < DEPTH_MIN


@pytest.mark.parametrize(
    "way",
    [
        TWO_TILLS._replace(hear_before_acting=False),
        TWO_TILLS._replace(hear_together=False),
        TWO_TILLS._replace(hear_together=False, clicks=()),
    ],
)
def test_a_venue_that_hears_its_tills_too_late_is_found(way: Way) -> None:
    assert explore(DEPTH_MIN, way).promise == REFUNDED


def test_an_override_of_one_person_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    way = TWO_TILLS._replace(clicks=("provided", "reject with oneself"))
    assert explore(4, way).broken is None
    monkeypatch.setattr(orders, "_agreed", lambda actor, override: Override("Ann", "agreed"))
    assert explore(4, way).promise == REFUNDED


def test_A6_7_a_box_that_rejects_by_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def rejecting(order: Order, at_ms: int) -> Step:
        return orders.acted(order, "rejected", "agent", at_ms)

    monkeypatch.setattr(orders, "unanswered", rejecting)
    assert explore(4, TWO_TILLS).promise == "the box rejected by itself"


def test_A6_12_a_late_order_shown_as_fresh_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_offers, "is_late", lambda order, age_s, timeout_s: False)
    assert explore(4, TWO_TILLS).promise == "a late order was offered as fresh"


def test_A6_11_a_problem_that_is_injected_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_offers, "offerable", lambda order, device: order.placed is not None)
    assert explore(4, KEPT_BACK).promise == "an order that no device can show was offered"


def test_A6_14_two_refund_requests_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetting(order: Order, fact: Fact) -> Order:
        return order if fact.kind == "rejected" else fold(order, fact)

    monkeypatch.setattr(orders, "fold", forgetting)
    assert explore(5, TWO_TILLS).promise == "rejected was recorded twice"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(choices=st.lists(st.integers(0, 2**16), min_size=DEPTH_MIN, max_size=60), seed=st.integers(0, 2**32))
def test_A6_15_longer_walks_of_everybody_keep_every_promise(choices: list[int], seed: int) -> None:
    """All that anybody can do, far beyond the exhaustive depth; then the order is known anew from what was durable."""
    world = START
    for choice in choices:
        world = _chosen(world, choice)
    told = [_as_recorded(fact) for fact in world.log if fact.kind in RECORDED]
    commands = [fact for fact in world.log if fact.kind not in RECORDED]
    assert reduce(fold, _merged(told, commands, seed), Order(ID)) == world.kept
    assert reduce(fold, told + commands + told, Order(ID)) == world.kept, "hearing it all again changes nothing"
    for kind in ONCE:
        assert sum(fact.kind == kind for fact in world.log) <= 1, kind


def _chosen(world: World, choice: int) -> World:
    possible = list(moves(world, ALL))
    return possible[choice % len(possible)][1]


def _as_recorded(fact: Fact) -> Fact:
    """The fact as it is read from the journal."""
    type_, data = record(fact)
    found = recalled(type_, json.loads(json.dumps(data)))
    assert found is not None
    return found


def _merged(one: list[Fact], other: list[Fact], seed: int) -> list[Fact]:
    """Both in their own order, mixed by chance."""
    chance = random.Random(seed)
    left, right, mixed = list(one), list(other), []
    while left or right:
        source = left if not right or (left and chance.random() < 0.5) else right
        mixed.append(source.pop(0))
    return mixed


def test_what_a_kill_leaves_is_never_more_than_was_known() -> None:
    """The model itself: a world after a kill has nothing that was not durable."""
    step = orders.offered(orders.placed(Order(ID), orders_world.COMPLETE, AT_MS).order, "till-1", False, 5, AT_MS)
    assert [fact.kind for fact in step.facts] == ["offered"]
    assert not any(orders_world.durable(fact) for fact in step.facts)
