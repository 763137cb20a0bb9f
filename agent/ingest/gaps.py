"""journal → [gaps] → broker → devices. Asks a device for sequences that never came, and tells people when that fails.

A hole is never waited for: everything behind it is stored. A request is repeated with the same id after each `ready` of
the device until its state names it as applied. Never declares a loss; the journal does, when the device starts anew.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import structlog

from agent.core.errors import Transient

log = structlog.get_logger()

LOOK_S = 0.5
"""How often open holes are looked at."""


class OpenGap(NamedTuple):
    """A hole in one device's counting."""

    device: str
    epoch: str
    first: int
    last: int


class Journal(Protocol):
    """The holes as of the last commit."""

    def open_gaps(self) -> Sequence[tuple[str, str, int, int]]: ...


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

    def hold(
        self, id: str, severity: Literal["info", "warning", "critical"], title: str, text: str, hint: str
    ) -> None: ...
    def lift(self, id: str) -> None: ...


class _Asked:
    """What has been done about one hole. Instants are boottime in seconds."""

    __slots__ = ("asks", "command", "next_s", "opened_s", "told")

    def __init__(self, opened_s: float, command: str, first_s: float) -> None:
        self.opened_s = opened_s
        self.command = command
        self.next_s = opened_s + first_s
        self.asks = 0
        self.told = False


class DeviceState(msgspec.Struct):
    """What of a device's state topic matters here; the rest is for others."""

    state: str
    applied: list[str] = []


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
        self._asked: dict[OpenGap, _Asked] = {}
        self._applied: dict[str, frozenset[str]] = {}

    def heard(self, device: str, payload: bytes) -> None:
        """A device's state: `ready` after an absence is the moment to ask again; `applied` ends a request."""
        try:
            state = msgspec.json.decode(payload, type=DeviceState)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        self._applied[device] = frozenset(state.applied)
        if state.state == "ready":
            for gap, asked in self._asked.items():
                if gap.device == device and asked.asks and asked.command not in self._applied[device]:
                    asked.next_s = self._now_s()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Look after holes until `stop`."""
        ready()
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await stop.wait()
            await self._look()

    async def _look(self) -> None:
        now_s, limits = self._now_s(), self._limits()
        gaps = {OpenGap(*gap) for gap in self._journal.open_gaps()}
        for gone in sorted(self._asked.keys() - gaps):
            self._end(gone)
        for gap in sorted(gaps):
            asked = self._asked.get(gap)
            if asked is None:
                asked = self._asked[gap] = _Asked(now_s, self._new_id(), limits.gap_resend_s)
            if now_s >= asked.next_s:
                await self._ask(gap, asked, now_s, limits)
            if not asked.told and now_s - asked.opened_s >= limits.gap_attention_s:
                self._tell(gap, asked)

    async def _ask(self, gap: OpenGap, asked: _Asked, now_s: float, limits: Limits) -> None:
        if asked.command in self._applied.get(gap.device, ()):
            asked.command = self._new_id()  # it said done, and the hole is still there: ask anew
        body: dict[str, Any] = {
            "id": asked.command,
            "command": "resend",
            "args": {"epoch": gap.epoch, "from": str(gap.first), "to": str(gap.last)},
        }
        try:
            await self._publisher.publish(f"pos/v1/{gap.device}/commands", msgspec.json.encode(body))
        except Transient:
            return
        asked.asks += 1
        asked.next_s = now_s + min(limits.resend_backoff_max_s, limits.gap_resend_s * 2.0 ** min(asked.asks, 30))
        log.info("resend_asked", device=gap.device, epoch=gap.epoch, first=gap.first, last=gap.last, times=asked.asks)

    def _tell(self, gap: OpenGap, asked: _Asked) -> None:
        asked.told = True
        self._telling.hold(
            _condition(gap),
            "warning",
            f"Events of {gap.device} are missing",
            f"{gap.device} never delivered its events {gap.first} to {gap.last}; it was asked {asked.asks} times.",
            f"Open the app on {gap.device} and leave it open until the number of missing events is 0.",
        )

    def _end(self, gap: OpenGap) -> None:
        asked = self._asked.pop(gap)
        if asked.told:
            self._telling.lift(_condition(gap))


def _condition(gap: OpenGap) -> str:
    return f"gap:{gap.device}:{gap.epoch}:{gap.first}"
