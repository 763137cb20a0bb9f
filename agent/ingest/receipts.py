"""journal → [receipts] → broker → devices. Tells each device what is durable of its events.

Coalesced: at most one receipt a device and interval, whatever arrives meanwhile. Tells only what is committed, never
slows the intake, and for a broker that is away keeps nothing but the answers to single events, up to a bound.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from agent.core.arrivals import Item, Outcome, Receipt
from agent.core.errors import Rejected, Transient
from agent.core.events import Event, Refusal, epoch_allowed

log = structlog.get_logger()


class Journal(Protocol):
    """What changed since the last look, all of it durable."""

    def receipts_due(self) -> Sequence[Receipt]: ...
    def receipts_all_due(self) -> None: ...


class Publisher(Protocol):
    """The agent's own session. Raises Transient while the broker is away."""

    @property
    def connected(self) -> bool: ...
    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1, correlation: bytes | None = None
    ) -> None: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def receipt_interval_s(self) -> float: ...
    @property
    def gaps_shown_max(self) -> int: ...
    @property
    def refused_shown_max(self) -> int: ...
    @property
    def answers_waiting_max(self) -> int: ...


RECEIPT_BYTES_MAX = 65_536
"""Every broker and every device takes a message of this size; the oldest refusals make room for the latest."""
ANSWERS_A_ROUND = 200
"""So many receipts of single events are sent, by turns of the devices that asked, before each device's own is."""


class Answer(NamedTuple):
    """One event's own receipt, and where it goes."""

    topic: str
    payload: bytes
    correlation: bytes | None


class Receipts:
    """The stage that publishes receipts."""

    name = "receipts"

    def __init__(self, journal: Journal, publisher: Publisher, limits: Callable[[], Limits]) -> None:
        self._journal = journal
        self._publisher = publisher
        self._limits = limits
        self._answers: dict[str, deque[Answer]] = {}
        self._left_out_count = 0

    def counts(self) -> Mapping[str, int]:
        """Counters by name, which only grow: `answers_left_out` are receipts of single events that were not sent."""
        return {"answers_left_out": self._left_out_count}

    def answer(self, device: str, topic: str, correlation: bytes | None, item: Item, outcome: Outcome) -> None:
        """Queue one event's own receipt for `topic`; one too many is left out, the device's own receipt tells all."""
        waiting = self._answers.setdefault(device, deque())
        if len(waiting) < self._limits().answers_waiting_max:
            waiting.append(Answer(topic, own_receipt(item, outcome), correlation))
        else:
            self._left_out_count += 1

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Publish what changed, once an interval, until `stop`."""
        ready()
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits().receipt_interval_s):
                    await stop.wait()
            if self._publisher.connected:
                await self._publish_due()

    async def _publish_due(self) -> None:
        limits = self._limits()
        try:
            await self._publish_answers()
            for receipt in self._journal.receipts_due():
                await self._publish(receipt, limits)
        except Transient as away:
            self._journal.receipts_all_due()
            log.debug("receipts_wait", code=away.code)

    async def _publish_answers(self) -> None:
        """Send answers that wait, one of each device by turns; one that the broker did not take waits on."""
        for _ in range(ANSWERS_A_ROUND):
            if not self._answers:
                return
            device = next(iter(self._answers))
            waiting = self._answers[device]
            topic, payload, correlation = waiting[0]
            try:
                await self._publisher.publish(topic, payload, correlation=correlation)
            except Rejected as refused:
                self._left_out_count += 1
                log.warning("answer_left_out", device=device, code=refused.code)
            waiting.popleft()
            del self._answers[device]
            if waiting:
                self._answers[device] = waiting

    async def _publish(self, receipt: Receipt, limits: Limits) -> None:
        topic = topic_of(receipt)
        if topic is None:
            return
        try:
            payload = encode(receipt, limits.gaps_shown_max, limits.refused_shown_max)
            await self._publisher.publish(topic, payload, retain=True)
        except Rejected as refused:
            log.warning("receipt_left_out", device=receipt.device, code=refused.code)


def topic_of(receipt: Receipt) -> str | None:
    """Where a receipt is retained: the newest epoch's at the device's own topic, older ones below it.

    None where there is no place for it: events without an epoch, once the device has one.
    """
    base = f"pos/v1/{receipt.device}/receipt"
    if receipt.newest:
        return base
    return f"{base}/{receipt.epoch}" if receipt.epoch is not None and epoch_allowed(receipt.epoch) else None


def encode(receipt: Receipt, gaps_max: int, refused_max: int) -> bytes:
    """The receipt as devices read it: sequences are unpadded strings; at most `RECEIPT_BYTES_MAX` bytes."""
    counted = receipt.epoch is not None
    body: dict[str, Any] = {
        "epoch": receipt.epoch,
        "stored": str(receipt.stored) if counted else None,
        "uploaded": str(receipt.uploaded) if counted else None,
        "gaps": [[str(first), str(last)] for first, last in receipt.gaps[-gaps_max:]],
        "refused": [
            {"id": id, "sequence": str(sequence) if sequence is not None else None, "reason": reason, "detail": detail}
            for id, sequence, reason, detail in receipt.refused[-refused_max:]
        ],
    }
    while len(encoded := msgspec.json.encode(body)) > RECEIPT_BYTES_MAX and body["refused"]:
        body["refused"] = body["refused"][len(body["refused"]) // 2 + 1 :]
    return encoded


def own_receipt(item: Item, outcome: Outcome) -> bytes:
    """One event's own receipt: what became of it."""
    assert isinstance(item, Event | Refusal)
    stored = outcome in (Outcome.STORED, Outcome.DUPLICATE)
    body: dict[str, Any] = {
        "id": item.id,
        "epoch": item.epoch,
        "sequence": str(item.sequence) if item.sequence is not None else None,
        "status": "stored" if stored else "refused",
    }
    if not stored:
        body["reason"] = item.reason.value if isinstance(item, Refusal) else outcome.value
    return msgspec.json.encode(body)
