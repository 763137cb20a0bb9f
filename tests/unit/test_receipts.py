"""Receipts of single events wait for a broker that is away, in order and up to a bound; nothing else waits."""

import asyncio
import json
from collections.abc import Callable, Sequence

import msgspec
import pytest

from agent.core.arrivals import Outcome, Receipt
from agent.core.errors import Rejected, Transient
from agent.core.events import Reason, Refusal
from agent.ingest.receipts import ANSWERS_MAX, Receipts


class Limits(msgspec.Struct, frozen=True):
    receipt_interval_s: float = 0.001
    gaps_shown_max: int = 100
    refused_shown_max: int = 100


class Journal:
    """A journal in which one device's receipt is due whenever all are."""

    def __init__(self) -> None:
        self.due = True

    def receipts_due(self) -> Sequence[Receipt]:
        due, self.due = self.due, False
        return [Receipt("till-1", "e", True, 3, 0, (), ())] if due else []

    def receipts_all_due(self) -> None:
        self.due = True


class Broker:
    """Takes messages, as many as it is told, and goes away before the next one; a bad topic it never takes."""

    def __init__(self, takes: int) -> None:
        self.connected = True
        self.takes = takes
        self.refused_count = 0
        self.taken: list[tuple[str, str | None, bytes | None]] = []

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1, correlation: bytes | None = None
    ) -> None:
        await asyncio.sleep(0)
        if "bad" in topic:
            raise Rejected("topic_invalid", "No.")
        if len(self.taken) == self.takes:
            self.refused_count += 1
            raise Transient("broker_away", "Away.")
        self.taken.append((topic, json.loads(payload).get("id"), correlation))

    @property
    def told(self) -> bool:
        """Whether the device's receipt was taken, which comes behind all answers."""
        return bool(self.taken) and self.taken[-1][0] == "pos/v1/till-1/receipt"

    @property
    def answers(self) -> list[str | None]:
        """The ids of the events that were answered."""
        return [id for topic, id, _ in self.taken if topic != "pos/v1/till-1/receipt"]


def ask(receipts: Receipts, id: str, topic: str = "pos/v1/till-1/replies") -> None:
    item = Refusal("till-1", Reason.SCHEMA, "no", id, "e", 1, "", 0, "", None)
    receipts.answer("till-1", topic, id.encode(), item, Outcome.REFUSED)


async def run(receipts: Receipts, done: Callable[[], bool]) -> None:
    """The stage until something is so, then stopped."""
    stop = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(receipts.run(lambda: None, stop))
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        stop.set()


@pytest.fixture
def journal() -> Journal:
    return Journal()


async def test_what_the_broker_did_not_take_is_sent_when_it_is_back_once_and_in_order(journal: Journal) -> None:
    broker = Broker(takes=2)
    receipts = Receipts(journal, broker, Limits)
    for id in "abcde":
        ask(receipts, id)
    await run(receipts, lambda: broker.refused_count == 3)
    assert broker.answers == ["a", "b"]
    ask(receipts, "f")
    broker.takes = 1_000
    await run(receipts, lambda: broker.told)
    assert broker.answers == list("abcdef")
    assert [correlation for _, _, correlation in broker.taken[:6]] == [b"a", b"b", b"c", b"d", b"e", b"f"]


async def test_no_more_wait_than_the_bound(journal: Journal) -> None:
    broker = Broker(takes=0)
    receipts = Receipts(journal, broker, Limits)
    for number in range(ANSWERS_MAX + 5):
        ask(receipts, str(number))
    await run(receipts, lambda: broker.refused_count == 3)
    ask(receipts, "late")
    broker.takes = 10_000
    await run(receipts, lambda: broker.told)
    assert broker.answers == [str(number) for number in range(ANSWERS_MAX)]


async def test_an_answer_that_can_never_be_sent_holds_up_no_other(journal: Journal) -> None:
    broker = Broker(takes=1_000)
    receipts = Receipts(journal, broker, Limits)
    ask(receipts, "a", topic="pos/v1/till-1/replies/bad")
    ask(receipts, "b")
    await run(receipts, lambda: broker.told)
    assert broker.answers == ["b"]
