"""snapshot → [heartbeat] → cloud. Says how the box is, each minute and when it is asked with a ping.

One at a time, on a connection beside the uploads': it delays none. What cannot be sent is not kept: the next one says
how the box is then.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec
import structlog

from agent.core.errors import NightsafeError
from agent.core.health import Check, health
from agent.core.status import Snapshot

log = structlog.get_logger()

SEND_S_MAX: Final = 30.0
"""How long one heartbeat may take, in seconds."""
PINGS_MAX: Final = 20
"""So many pings wait for their answer; of more, the oldest go."""


class Source(Protocol):
    """The one read model."""

    def snapshot(self) -> Snapshot: ...
    def ready(self) -> tuple[Check, ...]: ...


class Cloud(Protocol):
    """Takes a heartbeat, and says what time it is there. Raises NightsafeError."""

    async def put_health(self, body: bytes) -> str: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def heartbeat_interval_s(self) -> float: ...


class Heartbeat:
    """The stage. `last_at` is the cloud's own time at the last heartbeat that it took."""

    def __init__(self, source: Source, cloud: Cloud, limits: Callable[[], Limits]) -> None:
        self.name = "heartbeat"
        self.last_at: str | None = None
        self.sent_count = 0
        self._source = source
        self._cloud = cloud
        self._limits = limits
        self._pings: OrderedDict[str, None] = OrderedDict()
        self._now = asyncio.Event()
        self._failing = False

    def ping(self, ping_id: str) -> None:
        """The cloud asks: answer at once, with this id."""
        self._pings[ping_id] = None
        while len(self._pings) > PINGS_MAX:
            self._pings.popitem(last=False)
        self._now.set()

    def reached(self) -> None:
        """The cloud answers again: do not wait for the next minute."""
        self._now.set()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Send until `stop`; one under way is given up then."""
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(self._keep_beating(), name="heartbeat-send")
            ready()
            await stop.wait()
            beating.cancel()

    async def _keep_beating(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits().heartbeat_interval_s):
                    await self._now.wait()
            self._now.clear()
            await self._beat()

    async def _beat(self) -> None:
        pings = tuple(self._pings)
        try:
            async with asyncio.timeout(SEND_S_MAX):
                self.last_at = await self._cloud.put_health(self._body(pings))
        except (NightsafeError, TimeoutError) as error:
            tell = log.debug if self._failing else log.info
            tell("heartbeat_not_sent", reason=getattr(error, "code", type(error).__name__))
            self._failing = True
            return
        self._failing = False
        self.sent_count += 1
        for ping_id in pings:
            self._pings.pop(ping_id, None)

    def _body(self, pings: tuple[str, ...]) -> bytes:
        """`/health`'s body, with what the venue's status says and the pings that it answers."""
        snapshot = self._source.snapshot()
        body: dict[str, Any] = health(snapshot, self._source.ready())
        body["nightsafe"] = {
            "status": msgspec.to_builtins(snapshot.status),
            "conditions": [one.id for one in snapshot.details.conditions],
            "ping_ids": list(pings),
        }
        if pings:
            body["ping_id"] = pings[-1]
        return msgspec.json.encode(body)
