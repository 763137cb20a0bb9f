"""Receipts of single events wait for a broker that is away, in order and up to a bound; nothing else waits."""

import asyncio
import json
from collections.abc import Callable, Sequence

import msgspec
import pytest

from agent.core.arrivals import Outcome, Receipt
from agent.core.errors import Rejected, Transient
from agent.core.events import Reason, Refusal
from agent.ingest.receipts import ANSWERS_A_ROUND, Receipts


class Limits(msgspec.Struct, frozen=True):
    receipt_interval_s: float = 0.001
    gaps_shown_max: int = 100
    refused_shown_max: int = 100
    answers_waiting_max: int = 300


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


def ask(receipts: Receipts, id: str, topic: str = "pos/v1/till-1/replies", device: str = "till-1") -> None:
    item = Refusal(device, Reason.SCHEMA, "no", id, "e", 1, "", 0, "", None)
    receipts.answer(device, topic, id.encode(), item, Outcome.REFUSED)


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


async def test_no_more_of_a_device_wait_than_the_bound_and_what_is_left_out_is_counted(journal: Journal) -> None:
    broker, bound = Broker(takes=0), Limits().answers_waiting_max
    receipts = Receipts(journal, broker, Limits)
    for number in range(bound + 5):
        ask(receipts, str(number))
    await run(receipts, lambda: broker.refused_count == 3)
    ask(receipts, "late")
    ask(receipts, "another's", device="till-2")
    broker.takes = 10_000
    await run(receipts, lambda: len(broker.answers) == bound + 1)
    assert [id for id in broker.answers if id != "another's"] == [str(number) for number in range(bound)]
    assert broker.answers.index("another's") == 1
    assert receipts.counts()["answers_left_out"] == 6


async def test_answers_without_end_hold_up_no_devices_own_receipt(journal: Journal) -> None:
    broker = Broker(takes=10_000)
    receipts = Receipts(journal, broker, Limits)
    for number in range(ANSWERS_A_ROUND + 50):
        ask(receipts, str(number))
    await run(receipts, lambda: len(broker.answers) == ANSWERS_A_ROUND + 50)
    assert [topic for topic, _, _ in broker.taken].index("pos/v1/till-1/receipt") == ANSWERS_A_ROUND


async def test_an_answer_that_can_never_be_sent_holds_up_no_other(journal: Journal) -> None:
    broker = Broker(takes=1_000)
    receipts = Receipts(journal, broker, Limits)
    ask(receipts, "a", topic="pos/v1/till-1/replies/bad")
    ask(receipts, "b")
    await run(receipts, lambda: broker.told)
    assert broker.answers == ["b"]
    assert receipts.counts()["answers_left_out"] == 1
