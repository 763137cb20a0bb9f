"""snapshot → [broadcast] → broker → tills. Keeps the retained `pos/v1/venue/status` true.

Looks at the snapshot itself every half second, so that no change waits for somebody to report it. Never holds up what
it looks at, and keeps nothing for a broker that is away: it publishes afresh when the broker is back.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import structlog

from agent.core.errors import Transient
from agent.core.status import Snapshot, VenueStatus

log = structlog.get_logger()

STATUS_TOPIC: Final = "pos/v1/venue/status"
STATUS_QOS: Final = 1

LOOK_INTERVAL_S: Final = 0.5
"""How often the status is looked at, and so the shortest time between two publications, in seconds."""
REPEAT_INTERVAL_S: Final = 30.0
"""How often an unchanged status is published, in seconds."""
PUBLISH_S_MAX: Final = 5.0
"""How long one publication may take, in seconds."""


class Source(Protocol):
    """The one read model."""

    def snapshot(self) -> Snapshot: ...


class Publisher(Protocol):
    """The agent's own session with the broker. Raises Transient while there is none."""

    async def publish(self, topic: str, payload: bytes, *, retain: bool, qos: int) -> None: ...


class Clock(Protocol):
    """Boottime for pauses."""

    def boottime_s(self) -> float: ...


class Broadcast:
    """The stage that publishes the venue's status within a second of a change, and every half minute."""

    def __init__(self, source: Source, publisher: Publisher, clock: Clock) -> None:
        self.name = "broadcast"
        self._source = source
        self._publisher = publisher
        self._clock = clock
        self._published: VenueStatus | None = None
        self._published_s = float("-inf")
        self._failing = False

    def republish(self) -> None:
        """The broker came back and remembers nothing: publish again. Called by whoever holds the session."""
        self._published = None

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Publish until `stop`."""
        self._published = None
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(self._keep_publishing(), name="broadcast-status")
            ready()
            await stop.wait()
            publishing.cancel()

    async def _keep_publishing(self) -> None:
        while True:
            await self._publish_if_due()
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _publish_if_due(self) -> None:
        status = self._source.snapshot().status
        due = self._clock.boottime_s() - self._published_s >= REPEAT_INTERVAL_S
        if not due and self._published is not None and _same(status, self._published):
            return
        self._published = status
        try:
            async with asyncio.timeout(PUBLISH_S_MAX):
                await self._publisher.publish(STATUS_TOPIC, msgspec.json.encode(status), retain=True, qos=STATUS_QOS)
        except (Transient, TimeoutError) as error:
            self._published = None
            tell = log.debug if self._failing else log.warning
            tell("status_not_published", error=str(error) or type(error).__name__)
            self._failing = True
            return
        self._published_s = self._clock.boottime_s()
        if self._failing:
            self._failing = False
            log.info("status_published_again")


def _same(status: VenueStatus, other: VenueStatus) -> bool:
    """Whether nobody would read anything new."""
    return msgspec.structs.replace(status, time=other.time) == other
