"""[sim: cloud] The reference cloud: its real server and ledger, on simulated sockets, with bad days.

Between the server and the network stands a middleware that answers as proxies and overloaded clouds answer, or loses an
answer after the commit. The ledger's thread is made in line. Never changes what the ledger is given.
"""

import asyncio
import concurrent.futures
import gzip
import json
import os
import sqlite3
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
from aiohttp import web

from agent.cloud import wire
from agent.receiver.ledger.sqlite import SqliteLedger, open_ledger
from agent.receiver.problems import refused, response
from agent.receiver.server import Receiver, serving
from tests.sim.loop import Killed, Process, SimLoop, here
from tests.sim.network import Network
from tests.sim.story import Story

AGENT: Final = "agent"
ADDRESS: Final = ("127.0.0.1", 9800)
URL: Final = "http://127.0.0.1:9800"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Mood(Enum):
    """How a request is answered that is not answered well."""

    BUSY = "503 with Retry-After"
    BUSY_SILENT = "503 without a word"
    TOO_MANY = "429 with Retry-After"
    FAILED = "500"
    GATEWAY = "502 of a proxy, as a page"
    TOO_LARGE = "413 with limits"
    MALFORMED = "400 malformed"
    LOST = "the answer is lost after the commit"
    FAILED_LATE = "500 after the commit"
    CUT = "cut before anything is read"
    PORTAL = "200 with a page: a captive portal"
    LOGIN = "401"
    SLOW = "a long wait"


class SimPool:
    """In the place of a ledger's thread pool: calls run in line, in order, each a moment later."""

    def __init__(self, max_workers: int, thread_name_prefix: str) -> None:
        self._process = here()
        self._free_at_s = 0.0

    def submit(self, call: Callable[..., Any], *args: Any) -> concurrent.futures.Future[Any]:
        """The future of `call`."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        process, loop = self._process, self._process.loop
        owner = getattr(call, "__self__", None)
        if isinstance(owner, SqliteLedger):
            process.parts["ledger"] = owner
        begins_s = max(loop.time(), self._free_at_s) + process.chance.uniform(0.0002, 0.003)
        self._free_at_s = begins_s + process.chance.uniform(0.0002, 0.003)
        context = process.context()

        def run() -> None:
            try:
                result, error = call(*args), None
            except Killed:
                return
            except Exception as raised:
                result, error = None, raised
            loop.call_exactly(self._free_at_s, lambda: context.run(settle, result, error))

        def settle(result: Any, error: Exception | None) -> None:
            if not process.alive:
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        loop.call_exactly(begins_s, lambda: context.run(run) if process.alive else None)
        return future

    def shutdown(self, wait: bool = True) -> None:
        """Nothing is left behind."""


class Cloud:
    """The cloud's machine: `start`, `kill`, `forget`."""

    def __init__(self, loop: SimLoop, network: Network, seed: str, directory: Path, story: Story) -> None:
        self._loop = loop
        self._network = network
        self._seed = seed
        self._story = story
        self._lives = 0
        self._process: Process | None = None
        self.path = directory / "ledger.sqlite"
        self.chance = Random(f"{seed}/cloud")
        self.moods: tuple[Mood, ...] = ()
        self.mood_share = 0.0
        self.poison_share = 0.0
        """Of the devices' events, those that the server takes in no form and at no time."""
        self.limits = wire.Limits(records=5000, bytes=8 * 1024 * 1024, min_interval_s=0)
        self._older: list[bytes] = []
        self.requests_count = 0

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the server, unless it runs."""
        if self._process is None:
            self._lives += 1
            self._story.tell("cloud", "starts", life=self._lives)
            self._process = Process(self._loop, f"cloud-{self._lives}", self._seed)
            self._process.spawn(self._serve(), "cloud")

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is None:
            return
        self._story.tell("cloud", "is killed")
        process.die()
        self._network.process_died(process, power=False)
        ledger: Any = process.parts.get("ledger")
        for close in (lambda: ledger._db.close(), lambda: os.close(ledger._lock)):
            with suppress(AttributeError, OSError):
                close()

    def remember(self) -> None:
        """Make a backup of the ledger, to be restored by `forget`."""
        if not self.path.exists():
            return
        source, copy = sqlite3.connect(self.path), sqlite3.connect(":memory:")
        source.backup(copy)
        self._older.append(copy.serialize())
        source.close()
        copy.close()

    def close_stream(self) -> None:
        """An operator closes the latest stream: the box has to open another one."""
        ledger = self._process.parts.get("ledger") if self._process is not None else None
        if ledger is None or self._process is None:
            return
        found = ledger._db.execute("select venue, epoch from streams order by number desc limit 1").fetchone()
        if found is not None:
            self._story.tell("cloud", "closes a stream", epoch=found[1])
            self._process.spawn(ledger.close_stream(*found, None), "close-stream")

    def forget(self) -> None:
        """An older backup is restored, while the server is down. One that knows only an earlier start of the box fences
        it, until a person says that it is the only one."""
        assert self._process is None
        if not self._older:
            return
        older = self.chance.choice(self._older)
        self._story.tell("cloud", "is restored from a backup", bytes=len(older))
        for path in self.path.parent.glob("ledger.sqlite*"):
            path.unlink()
        self.path.write_bytes(older)

    async def _serve(self) -> None:
        ledger = await open_ledger(self.path)
        cloud = self

        class Faulty:
            """The server with the middleware put in."""

            def app(self) -> web.Application:
                app = Receiver(ledger, None, cloud.limits).app()
                app.middlewares.append(cloud._middleware)
                return app

        async with serving(Faulty(), *ADDRESS):  # type: ignore[arg-type]
            await asyncio.Event().wait()

    @property
    def _middleware(self) -> Any:
        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.requests_count += 1
            mood = None
            if self.moods and self.chance.random() < self.mood_share:
                mood = self.chance.choice(self.moods)
                self._story.tell("cloud", "answers badly", request=f"{request.method} {request.path}", mood=mood.name)
            return await self._answer(request, handler, mood)

        return answer

    def is_poison(self, device: str, id: str) -> bool:
        """Whether the server chokes on this event."""
        return device != AGENT and sha256(f"{self._seed}/{device}/{id}".encode()).digest()[0] < 256 * self.poison_share

    async def _chokes(self, request: web.Request) -> bool:
        body = await request.content.read()
        with warnings.catch_warnings(action="ignore"):
            request.content.unread_data(body)
        with suppress(OSError, EOFError, msgspec.DecodeError):
            plain = gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body
            records = msgspec.json.decode(plain, type=list[wire.WireRecord])
            return any(self.is_poison(one.device, json.loads(wire.event_of(one))["id"]) for one in records)
        return False

    async def _answer(self, request: web.Request, handler: Handler, mood: Mood | None) -> web.StreamResponse:
        seconds = str(self.chance.choice((0, 1, 5, 20)))
        records = request.method == "PUT" and "/records/" in request.path
        match mood:
            case Mood.BUSY:
                return response(refused("unavailable", "busy", {"Retry-After": seconds}))
            case Mood.BUSY_SILENT:
                return web.Response(status=503)
            case Mood.TOO_MANY:
                return web.Response(status=429, headers={"Retry-After": seconds})
            case Mood.FAILED:
                return response(refused("internal", "failed"))
            case Mood.GATEWAY:
                return web.Response(status=502, text="<h1>Bad gateway</h1>", content_type="text/html")
            case Mood.TOO_LARGE if records and _span(request) > 1:
                limits = wire.Limits(max(1, _span(request) // 2), 8_388_608, 0)
                return response(refused("too-large", "too large", limits=limits))
            case Mood.MALFORMED if records and _span(request) > 1:
                return response(refused("malformed", "not today"))
            case Mood.LOST | Mood.FAILED_LATE:
                await handler(request)
                if mood is Mood.LOST and request.transport is not None:
                    request.transport.abort()
                return response(refused("internal", "failed late"))
            case Mood.CUT:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=500)
            case Mood.PORTAL:
                return web.Response(text="<h1>Welcome to our free WiFi</h1>", content_type="text/html")
            case Mood.LOGIN:
                return response(refused("unauthorized", "who are you?"))
            case Mood.SLOW:
                await asyncio.sleep(self.chance.uniform(5, 150))
        if records and self.poison_share and await self._chokes(request):
            self._story.tell("cloud", "chokes", request=f"{request.method} {request.path}")
            return response(refused("malformed", "cannot be read here"))
        return await handler(request)


def _span(request: web.Request) -> int:
    first, _, last = request.path.rpartition("/")[2].partition("-")
    return int(last) - int(first) + 1
