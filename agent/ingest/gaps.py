"""journal → [gaps] → broker → devices. Asks a device for sequences that never came, and tells people when that fails.

A hole is never waited for: everything behind it is stored. A request is repeated with the same id after each `ready` of
the device until its state names it as applied. A device that says so twice and brings nothing cannot fill the hole:
then the journal names the loss. Ages count the time that the box has run, so a restart makes no hole young again.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog

from agent.core.arrivals import Announced, Asked, GivenUp, Item, Loss, OpenGap
from agent.core.conditions import Severity
from agent.core.errors import Transient
from agent.core.events import epoch_allowed
from agent.core.presence import sequence_said
from agent.core.sentence import count

log = structlog.get_logger()

LOOK_S: Final = 0.5
"""How often open holes are looked at."""
FRUITLESS_MAX: Final = 2
"""So many requests that a device calls done without having brought anything, and the loss is named."""
ANNOUNCED_MAX: Final = 1_000
"""So many devices' own counts are remembered until they are looked at; the one heard first makes room."""
LOSS_TOLD_S: Final = 7 * 86_400.0
"""How long people are told of a loss, in seconds that the box has run; status and journal keep it."""
RANGES_TOLD_MAX: Final = 3
"""Ranges that a condition's text names; status has them all."""


class Journal(Protocol):
    """The holes as of the last commit, and what is to be kept about them."""

    def open_gaps(self) -> Sequence[OpenGap]: ...
    def losses(self) -> Sequence[Loss]: ...
    def highest(self, device: str, epoch: str) -> int: ...
    def lived_s(self) -> float: ...
    async def store(self, item: Item) -> bool: ...


class Publisher(Protocol):
    """The agent's own session. Raises Transient while the broker is away."""

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def gap_resend_s(self) -> float: ...
    @property
    def gap_attention_s(self) -> float: ...
    @property
    def resend_backoff_max_s(self) -> float: ...


class Telling(Protocol):
    """Where people are told."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def happened(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def ended_s(self, id: str) -> float | None: ...
    def lift(self, id: str) -> None: ...


class DeviceState(msgspec.Struct):
    """What of a device's state topic matters here; the rest is for others."""

    state: str
    applied: list[Any] = []
    epoch: Any = None
    last: Any = None
    pending: Any = None


class Count(NamedTuple):
    """How far a device says it has counted, with nothing under way; heard at `heard_s`."""

    epoch: str
    last: int
    heard_s: float


class _Request:
    """What this process has done about one hole. Instants are boottime in seconds."""

    __slots__ = ("applied_s", "asks", "came_count", "done", "fruitless", "next_s", "told")

    def __init__(self, next_s: float) -> None:
        self.next_s = next_s
        self.asks = 0
        self.fruitless = 0
        self.applied_s: float | None = None
        self.done = False
        self.came_count = 0
        self.told = False


Key = tuple[str, str, int]
"""A hole by device, epoch and its first sequence as it was found."""


class Gaps:
    """The stage that asks after holes."""

    name = "gaps"

    def __init__(
        self,
        journal: Journal,
        publisher: Publisher,
        telling: Telling,
        now_s: Callable[[], float],
        new_id: Callable[[], str],
        limits: Callable[[], Limits],
    ) -> None:
        self._journal = journal
        self._publisher = publisher
        self._telling = telling
        self._now_s = now_s
        self._new_id = new_id
        self._limits = limits
        self._requests: dict[Key, _Request] = {}
        self._counts: dict[str, Count] = {}
        self._losses: dict[str, tuple[Loss, ...]] = {}

    def heard(self, device: str, payload: bytes) -> None:
        """A device's state. `ready` after an absence is the moment to ask again, `applied` ends a request, `last` with
        nothing pending tells of events that are missing behind all that came."""
        try:
            state = msgspec.json.decode(payload, type=DeviceState)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        now_s = self._now_s()
        self._note_count(device, state, now_s)
        for gap in self._journal.open_gaps():
            if gap.device == device and gap.command is not None:
                self._note_word(self._request(gap, now_s), gap.command in state.applied, state.state == "ready", now_s)

    def _note_word(self, request: _Request, applied: bool, ready: bool, now_s: float) -> None:
        if request.done:
            return
        if applied:
            request.applied_s = now_s if request.applied_s is None else request.applied_s
        elif ready and request.asks:
            request.next_s = now_s

    def _note_count(self, device: str, state: DeviceState, now_s: float) -> None:
        self._counts.pop(device, None)
        last, all_told = sequence_said(state.last), type(state.pending) is int and state.pending == 0
        if last is None or not all_told or not isinstance(state.epoch, str) or not epoch_allowed(state.epoch):
            return
        self._counts[device] = Count(state.epoch, last, now_s)
        if len(self._counts) > ANNOUNCED_MAX:
            del self._counts[next(iter(self._counts))]

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Look after holes until `stop`."""
        ready()
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await stop.wait()
            await self._look()

    async def _look(self) -> None:
        now_s, lived_s, limits = self._now_s(), self._journal.lived_s(), self._limits()
        await self._look_at_counts(now_s, limits)
        gaps = {(gap.device, gap.epoch, gap.first): gap for gap in self._journal.open_gaps()}
        for gone in sorted(self._requests.keys() - gaps.keys()):
            self._end(gone)
        for key, gap in sorted(gaps.items()):
            request = self._request(gap, now_s)
            if request.applied_s is not None and now_s >= request.applied_s + limits.gap_resend_s:
                await self._judge(gap, request)
            if now_s >= request.next_s:
                await self._ask(gap, request, now_s, limits)
            if lived_s - gap.opened_s >= limits.gap_attention_s:
                self._tell(key, gap, request)
        self._tell_losses(lived_s)

    def _request(self, gap: OpenGap, now_s: float) -> _Request:
        key = (gap.device, gap.epoch, gap.first)
        if key not in self._requests:
            self._requests[key] = _Request(now_s + self._limits().gap_resend_s)
        return self._requests[key]

    async def _look_at_counts(self, now_s: float, limits: Limits) -> None:
        """What a device has counted and did not come in a while is missing; later events are not waited for."""
        for device, said in list(self._counts.items()):
            if now_s < said.heard_s + limits.gap_resend_s:
                continue
            behind = self._journal.highest(device, said.epoch) < said.last
            if behind and not await self._journal.store(Announced(device, said.epoch, said.last)):
                continue  # the disk is full: it stays missing
            if self._counts.get(device) is said:
                del self._counts[device]

    async def _judge(self, gap: OpenGap, request: _Request) -> None:
        """The device said that the request is done, what it brought has had time to arrive, and the hole is there."""
        fruitless = request.fruitless + 1 if gap.came_count == request.came_count else 0
        if fruitless >= FRUITLESS_MAX:
            first, last = gap.missing_first, gap.missing_last
            log.warning("gap_given_up", device=gap.device, epoch=gap.epoch, first=first, last=last)
            if await self._journal.store(GivenUp(gap.device, gap.epoch, gap.first)):
                request.next_s = float("inf")  # it is none any more
            return
        request.fruitless, request.applied_s, request.done = fruitless, None, True

    async def _ask(self, gap: OpenGap, request: _Request, now_s: float, limits: Limits) -> None:
        command = gap.command
        if command is None or request.done:
            command = self._new_id()
            if not await self._journal.store(Asked(gap.device, gap.epoch, gap.first, command)):
                return
            request.done = False
            request.came_count = gap.came_count
        body: dict[str, Any] = {
            "id": command,
            "command": "resend",
            "args": {"epoch": gap.epoch, "from": str(gap.missing_first), "to": str(gap.missing_last)},
        }
        try:
            await self._publisher.publish(f"pos/v1/{gap.device}/commands", msgspec.json.encode(body))
        except Transient:
            return
        request.asks += 1
        pause_s = limits.gap_resend_s * 2.0 ** min(request.asks, 30)
        request.next_s = now_s + min(limits.resend_backoff_max_s, pause_s)
        first, last = gap.missing_first, gap.missing_last
        log.info("resend_asked", device=gap.device, epoch=gap.epoch, first=first, last=last, times=request.asks)

    def _tell(self, key: Key, gap: OpenGap, request: _Request) -> None:
        request.told = True
        asked = f" It was asked {count(request.asks, 'time')} since the box started." if request.asks else ""
        self._telling.hold(
            _condition(key),
            "warning",
            f"Events of {gap.device} are missing",
            f"{gap.device} never delivered its events {_span(gap.missing_first, gap.missing_last)}.{asked}",
            f"Open the app on {gap.device} and leave it open until the number of missing events is 0.",
        )

    def _end(self, key: Key) -> None:
        if self._requests.pop(key).told:
            self._telling.lift(_condition(key))

    def _tell_losses(self, lived_s: float) -> None:
        """One attention a device, of the losses that nobody has acknowledged. The journal knows when each was declared,
        so what a kill has kept from being told is told by the next start."""
        fresh: dict[str, tuple[Loss, ...]] = {}
        losses = self._journal.losses()
        for loss in losses:
            ended_s = self._telling.ended_s(_loss_condition(loss.device))
            if lived_s - loss.at_s < LOSS_TOLD_S and (ended_s is None or loss.at_s > ended_s):
                fresh[loss.device] = (*fresh.get(loss.device, ()), loss)
        for device in sorted(self._losses.keys() - {loss.device for loss in losses}):
            self._tell_found(device)
        for device, losses in fresh.items():
            if self._losses.get(device) != losses:
                self._tell_loss(device, losses)
        self._losses = fresh

    def _tell_found(self, device: str) -> None:
        self._telling.happened(
            _loss_condition(device),
            "info",
            f"Lost events of {device} have come after all",
            f"All events of {device} that had been called lost are stored now.",
            "Nothing needs to be done.",
        )

    def _tell_loss(self, device: str, losses: tuple[Loss, ...]) -> None:
        ranges = [(loss.epoch, gap) for loss in losses for gap in loss.latest][-RANGES_TOLD_MAX:]
        named = ", ".join(f"{_span(gap.first, gap.last)} of epoch {epoch}" for epoch, gap in ranges)
        left = sum(loss.ranges_count for loss in losses) - len(ranges)
        more = f" and {count(left, 'more range')}" if left else ""
        events = count(sum(loss.events_count for loss in losses), "event")
        self._telling.happened(
            _loss_condition(device),
            "warning",
            f"Events of {device} are lost",
            f"{device} had counted {events} that it could not deliver: {named}{more}.",
            f"Compare the sales on {device} with the day's totals; a late event is still stored if it comes.",
        )


def _condition(key: Key) -> str:
    device, epoch, first = key
    return f"gap:{device}:{epoch}:{first}"


def _loss_condition(device: str) -> str:
    return f"gap_lost:{device}"


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"
