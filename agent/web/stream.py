"""status → [web: stream] → pages, whoever follows the box. The venue's status as server-sent events, at each change.

One look serves all streams. Each ends by itself before its connection would be ended, and the browser opens it again:
no follower stays for ever, and a stop waits for none. Never keeps what a slow reader has missed: it reads the latest.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

import msgspec
from aiohttp import web

from agent.core.status import Snapshot, VenueStatus

PATH: Final = "/api/v1/events/stream"
EVENTS_TYPE: Final = "text/event-stream"
LOOK_INTERVAL_S: Final = 0.5
"""How often the status is looked at while anybody follows it, in seconds."""
COMMENT_INTERVAL_S: Final = 10.0
"""A comment stands in for silence, in seconds."""
STREAM_S_MAX: Final = 45.0
"""A stream ends after so long, in seconds; below what a connection may last."""
STREAMS_MAX: Final = 16
"""Streams at once, each listener: the rest of its connections stay free for others."""
RETRY_MS: Final = 1_000


class Source(Protocol):
    """Whoever knows how the box is."""

    def snapshot(self) -> Snapshot: ...


class Stream:
    """The streams of one listener."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._count = 0
        self._stopping = asyncio.Event()
        self._seen: tuple[VenueStatus, bytes] | None = None
        self._looked_s = float("-inf")

    async def stop(self, _app: web.Application) -> None:
        """The listener closes: every stream ends."""
        self._stopping.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One stream: the status at once, and then at each change; what only time changes is none."""
        if self._count >= STREAMS_MAX:
            raise web.HTTPServiceUnavailable
        return web.Response(body=self._follow(), content_type=EVENTS_TYPE)

    async def _follow(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        began_s = said_s = loop.time()
        told: VenueStatus | None = None
        self._count += 1
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            while not self._stopping.is_set() and loop.time() - began_s < STREAM_S_MAX:
                now, body = self._look(loop.time())
                if now != told:
                    told, said_s = now, loop.time()
                    yield b"event: status\ndata: %s\n\n" % body
                elif loop.time() - said_s >= COMMENT_INTERVAL_S:
                    said_s = loop.time()
                    yield b":\n\n"
                await self._rest()
        finally:
            self._count -= 1

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(LOOK_INTERVAL_S):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _look(self, now_s: float) -> tuple[VenueStatus, bytes]:
        """The status without its time of day, and as JSON."""
        if self._seen is None or now_s - self._looked_s >= LOOK_INTERVAL_S:
            status = self._source.snapshot().status
            self._seen = msgspec.structs.replace(status, time=""), msgspec.json.encode(status)
            self._looked_s = now_s
        return self._seen
