"""snapshot → [broadcast] → broker → tills. Keeps the retained topics of the venue true: status, notices, capabilities.

Looks itself every half second, so that no change waits for somebody to report it. Never holds up what it looks at, and
keeps nothing for a broker that is away: it publishes afresh when the broker is back.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog

from agent.core.errors import Transient
from agent.core.status import Snapshot, VenueStatus

log = structlog.get_logger()

STATUS_TOPIC: Final = "pos/v1/venue/status"
NOTICES_TOPIC: Final = "pos/v1/venue/notices"
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


class Retained(NamedTuple):
    """A topic, what stands there now, and that without what changes by itself."""

    topic: str
    look: Callable[[], Any]
    essence: Callable[[Any], Any] = lambda told: told


def status_topic(source: Source) -> Retained:
    """The venue's status; that time goes by is no change."""
    return Retained(STATUS_TOPIC, lambda: source.snapshot().status, _timeless)


class Broadcast:
    """The stage that publishes each topic within a second of a change, and every half minute."""

    def __init__(self, topics: Sequence[Retained], publisher: Publisher, clock: Clock) -> None:
        self.name = "broadcast"
        self._topics = topics
        self._publisher = publisher
        self._clock = clock
        self._published: dict[str, tuple[Any, float]] = {}
        """What stands at each topic, and since when."""
        self._failing = False

    def republish(self) -> None:
        """The broker came back and remembers nothing: publish again. Called by whoever holds the session."""
        self._published.clear()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Publish until `stop`."""
        self._published.clear()
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(self._keep_publishing(), name="broadcast-publish")
            ready()
            await stop.wait()
            publishing.cancel()

    async def _keep_publishing(self) -> None:
        while True:
            for one in self._topics:
                await self._publish_if_due(one)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _publish_if_due(self, one: Retained) -> None:
        told = one.look()
        essence, at_s = one.essence(told), self._clock.boottime_s()
        before = self._published.get(one.topic)
        if before is not None and before[0] == essence and at_s - before[1] < REPEAT_INTERVAL_S:
            return
        self._published[one.topic] = essence, at_s
        try:
            async with asyncio.timeout(PUBLISH_S_MAX):
                await self._publisher.publish(one.topic, msgspec.json.encode(told), retain=True, qos=STATUS_QOS)
        except (Transient, TimeoutError) as error:
            self._published.pop(one.topic, None)
            tell = log.debug if self._failing else log.warning
            tell("status_not_published", topic=one.topic, error=str(error) or type(error).__name__)
            self._failing = True
            return
        if self._failing:
            self._failing = False
            log.info("status_published_again")


def _timeless(status: VenueStatus) -> VenueStatus:
    return msgspec.structs.replace(status, time="")
