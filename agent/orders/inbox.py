"""downlink → [inbox] → journal → those whom commands concern. Hears what the cloud tells the venue.

Each command is durable before the cursor passes it, and told on only then; after a kill in between, whoever it concerns
looks into the journal. What this version cannot use is counted and told, and blocks nothing. Uploads never wait for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import structlog

from agent.core import backoff
from agent.core.commands import PING, RESET, Command, Unusable, read
from agent.core.conditions import Severity
from agent.core.errors import NightsafeError

log = structlog.get_logger()

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
"""Pauses before the stream is opened again, in seconds."""
SETTLED_S: Final = 15.0
"""A stream that has lived for so long was no failure: the pauses begin anew, in seconds."""
ABSENT_RETRY_S: Final = 300.0
"""A cloud without this call is asked again after so long, in seconds."""
WAIT_MAX_S: Final = 3_600.0
"""The longest wait that the cloud may ask for, in seconds."""
ABSENT: Final = (404, 405, 501)
REFUSED_S: Final = 900.0
"""People are told of a cloud that has refused the stream for so long, in seconds."""
REFUSED: Final = "commands_refused"


class Stream(Protocol):
    """The cloud's stream; see `cloud/downlink.py`. Raises NightsafeError."""

    async def listen(self, cursor: str, take: Callable[[list[Any]], Awaitable[None]]) -> Any: ...


class Kept(Protocol):
    """The durable inbox. Raises NightsafeError."""

    async def cursor(self) -> str: ...
    async def keep(self, commands: Sequence[Command], cursor: str) -> Sequence[Command]: ...


class Telling(Protocol):
    """Where it is said what holds, and what has happened."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def happened(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def lift(self, id: str) -> None: ...


class Inbox:
    """The stage. `refused` is called when the cloud answers 401: the token is to be read again."""

    def __init__(
        self,
        stream: Stream,
        kept: Kept,
        telling: Telling,
        chance: Callable[[], float],
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = "inbox"
        self.connected = False
        self.unusable_count = 0
        self._stream = stream
        self._kept = kept
        self._telling = telling
        self._chance = chance
        self._refused = refused
        self._listeners: list[Callable[[Command], None]] = []
        self._pause_s = 0.0
        self._failures_count = 0
        self._refused_s: float | None = None
        """Since when the cloud has refused the stream, and nothing else."""
        self._again = asyncio.Event()

    def on_command(self, listener: Callable[[Command], None]) -> None:
        """Call `listener` with each new command once it is durable, with each ping, and with `reset`."""
        self._listeners.append(listener)

    def reached(self) -> None:
        """The cloud answers again: do not sit out a pause."""
        self._again.set()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Hear until `stop`."""
        async with asyncio.TaskGroup() as group:
            hearing = group.create_task(self._keep_hearing(), name="inbox-hear")
            ready()
            await stop.wait()
            hearing.cancel()

    async def _keep_hearing(self) -> None:
        while True:
            self._pause_s = 0.0
            began_s = asyncio.get_running_loop().time()
            try:
                await self._hear()
            except NightsafeError as error:
                log.debug("downlink_lost", code=error.code, reason=error.text)
            finally:
                settled = self.connected and asyncio.get_running_loop().time() - began_s >= SETTLED_S
                self._note(False)
            if settled:
                self._failures_count = 0
            self._failures_count += 1
            pause_s = backoff.pause_s(self._failures_count, self._chance(), BACKOFF_FIRST_S, BACKOFF_MAX_S)
            await self._rest(max(self._pause_s, pause_s))

    async def _rest(self, pause_s: float) -> None:
        self._again.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._again.wait()

    async def _hear(self) -> None:
        refused = await self._stream.listen(await self._kept.cursor(), self._take)
        if refused is not None:
            self._put_off(refused)

    def _put_off(self, refused: Any) -> None:
        if refused.status == 401:
            self._refused()
        self._look_at_refusal(refused.status)
        wait_s = ABSENT_RETRY_S if refused.status in ABSENT else min(refused.wait_s or 0.0, WAIT_MAX_S)
        self._pause_s = wait_s
        log.debug("downlink_refused", status=refused.status, wait_s=wait_s)

    def _look_at_refusal(self, status: int) -> None:
        """A cloud that answers and says no for long is told: nobody would miss what never comes."""
        now_s = asyncio.get_running_loop().time()
        if status in ABSENT or not 400 <= status < 500 or status == 429:
            return
        if self._refused_s is None:
            self._refused_s = now_s
        if now_s - self._refused_s >= REFUSED_S:
            self._telling.hold(
                REFUSED,
                "warning",
                "The cloud sends this box no orders and no news of payments",
                f"It answers, and refuses the box's stream of commands with status {status}.",
                "Tell support: the box may need a new token.",
            )

    def _note(self, connected: bool) -> None:
        if connected == self.connected:
            return
        self.connected = connected
        if connected:
            self._refused_s = None
            self._telling.lift(REFUSED)
        log.info("downlink_open" if connected else "downlink_closed")

    async def _take(self, messages: list[Any]) -> None:
        """Keep what has come, then tell of it."""
        self._note(True)
        if not messages:
            return
        found = [read(one.event, one.data) if one.whole else Unusable(one.event, "too long") for one in messages]
        for one in found:
            if isinstance(one, Unusable):
                self._set_aside(one)
        commands = [one for one in found if isinstance(one, Command)]
        lasting = [one for one in commands if one.event not in (PING, RESET)]
        new = set(await self._kept.keep(lasting, messages[-1].cursor))
        for one in commands:
            if one in new or one.event in (PING, RESET):
                log.debug("command_heard", event_name=one.event)
                for listener in self._listeners:
                    listener(one)

    def _set_aside(self, one: Unusable) -> None:
        self.unusable_count += 1
        log.warning("command_unusable", event_name=one.event[:100], reason=one.reason)
        self._telling.happened(
            "command_unusable",
            "warning",
            "The cloud sent something that this box cannot use",
            f'A command "{one.event[:100]}" was set aside: {one.reason}.',
            "Look whether this box needs a newer version of Nightsafe; else call support.",
        )
