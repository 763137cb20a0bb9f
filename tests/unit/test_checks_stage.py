"""Telling the LAN of open checks: bounded in a second, what has changed before what is told again."""

import asyncio
import json
from pathlib import Path
from typing import Any

from agent.core.errors import Transient
from agent.core.events import Event, judge
from agent.ingest.checks import INTERVAL_S, Checks

PER_S = 40
LOOK = int(PER_S * INTERVAL_S)


class Journal:
    committed = 0
    epoch = "e"

    def lived_s(self) -> float:
        return 1.0

    def incomplete(self) -> set[tuple[str, str]]:
        return set()


class Empty:
    async def batch(self, after: int, records_max: int, bytes_max: int) -> list[Any]:
        return []


class Broker:
    """Retains what it is given, and remembers the order."""

    connected = True

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.away = False

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        assert retain
        if self.away:
            raise Transient("broker_away", "Away.")
        self.heard.append((topic.rpartition("/")[2], payload))


class Limits:
    checks_keep_h = 72
    checks_told_per_s = PER_S


def event(check: str, what: str = "updated") -> Event:
    data = {"check_id": check, "total": {"amount": 1250, "currency": "GBP"}}
    body = json.dumps({"specversion": "1.0", "source": "/x", "id": check, "type": f"pos.check.{what}", "data": data})
    found = judge("till-1", body.encode(), 65_536, 16, 4_096)
    assert isinstance(found, Event)
    return found


def stage(tmp_path: Path, broker: Broker) -> Checks:
    return Checks(tmp_path, Journal(), Empty(), broker, 1_000, Limits)


def look(checks: Checks) -> None:
    asyncio.run(checks._publish_due())


def test_no_look_publishes_more_than_its_share_and_the_rest_comes_later(tmp_path: Path) -> None:
    broker = Broker()
    checks = stage(tmp_path, broker)
    for number in range(LOOK * 2 + 1):
        checks.stored(event(f"c{number}"))
    for expected in (LOOK, LOOK * 2, LOOK * 2 + 1, LOOK * 2 + 1):
        look(checks)
        assert len(broker.heard) == expected
    assert [name for name, _ in broker.heard] == [f"c{number}" for number in range(LOOK * 2 + 1)]


def test_what_has_changed_goes_before_what_a_new_broker_is_told_again(tmp_path: Path) -> None:
    broker = Broker()
    checks = stage(tmp_path, broker)
    for number in range(LOOK):
        checks.stored(event(f"c{number}"))
    look(checks)
    broker.heard.clear()
    checks.republish()
    checks.stored(event("new"))
    look(checks)
    look(checks)
    assert [name for name, _ in broker.heard] == ["new", *(f"c{number}" for number in range(LOOK))]


def test_a_check_that_ends_before_anybody_was_told_is_never_published(tmp_path: Path) -> None:
    broker = Broker()
    checks = stage(tmp_path, broker)
    checks.stored(event("short"))
    checks.stored(event("short", "closed"))
    look(checks)
    assert broker.heard == []


def test_a_check_that_was_told_is_cleared_when_it_ends_even_if_the_broker_was_away(tmp_path: Path) -> None:
    broker = Broker()
    checks = stage(tmp_path, broker)
    checks.stored(event("told"))
    look(checks)
    broker.away = True
    checks.stored(event("told", "closed"))
    look(checks)
    broker.away = False
    checks.republish()
    look(checks)
    look(checks)
    assert [name for name, payload in broker.heard if not payload] == ["told"]
