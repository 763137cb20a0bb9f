"""When no card is taken offline whatever is asked, and what tills read of it (A4.10)."""

from types import SimpleNamespace

import pytest

from agent.core.policy import Reservation, closed
from agent.core.requests import Breaker, capabilities

LIMITS = SimpleNamespace(
    floor_limit=100, card_limit=100, device_limit=100, venue_limit=300, queued_age_max_s=60.0, declines_per_day_max=2
)


def reserved(*amounts: int, at_s: float = 0.0) -> list[Reservation]:
    return [Reservation("till-1", f"p{number}", "t", amount, "GBP", at_s) for number, amount in enumerate(amounts)]


@pytest.mark.parametrize(
    ("amounts", "now_s", "declines", "why"),
    [
        ((100, 199), 60.0, 1, None),
        ((100, 200), 60.0, 1, "venue_limit"),
        ((400,), 0.0, 0, "venue_limit"),
        ((1,), 60.1, 0, "queued_age"),
        ((), 0.0, 2, "declines"),
    ],
)
def test_A4_10_cards_are_closed_where_none_could_be_taken(
    amounts: tuple[int, ...], now_s: float, declines: int, why: str | None
) -> None:
    assert closed(reserved(*amounts), LIMITS, now_s, declines) == why


def test_A4_10_used_up_limits_matter_only_while_the_cloud_is_away_and_where_cards_are_queued() -> None:
    def told(offline: bool, queues: bool, why: str | None) -> tuple[bool, str | None]:
        found = capabilities(("card.authorize",), True, offline, Breaker(), queues, why)["card.authorize"]
        return found.available, found.reason

    assert told(offline=True, queues=True, why=None) == (True, None)
    assert told(offline=True, queues=True, why="venue_limit") == (False, "venue_limit")
    assert told(offline=False, queues=True, why="venue_limit") == (True, None)
    assert told(offline=True, queues=False, why=None) == (False, "uplink_down")
