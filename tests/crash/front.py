"""box → [a cloud with a script] → the reference cloud. Gives answers that the real one never gives on its own.

Each upload, and each other call of the stream, takes the next line of the script; without one it is passed on as it
came. Everything is written down with its time.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import aiohttp
from aiohttp import web

from tests.crash.beside import Beside

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
PROBLEM = "application/problem+json"
BODY_BYTES_MAX = 64 * 1024 * 1024

Edit = Callable[[dict[str, Any]], dict[str, Any]]


class Say(NamedTuple):
    """An answer of the script's own. `body` is text, or the members of a problem."""

    status: int
    body: str | dict[str, Any]
    headers: Mapping[str, str] = NO_HEADERS


class Call(NamedTuple):
    """A call of the box: `size` is how many records an upload carries, 0 for any other call."""

    at_s: float
    method: str
    path: str
    size: int
    status: int


Line = Say | Edit | Literal["keep", "late"]
"""`keep`: the upload is kept and its connection cut; `late`: what was kept goes to the cloud first, then this one."""


def problem(status: int, kind: str = "", headers: Mapping[str, str] = NO_HEADERS, **members: Any) -> Say:
    """A problem as the contract has it."""
    body = {"type": f"urn:nightsafe:{kind}" if kind else "about:blank", "status": status, "detail": "by script"}
    return Say(status, body | members, headers)


class Front:
    """`uploads` and `others` are scripts; `standing` answers any call before they are asked, when it wants to."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.uploads: deque[Line] = deque()
        self.others: deque[Line] = deque()
        self.standing: Callable[[web.Request, int], Say | None] = lambda request, size: None
        self.calls: list[Call] = []
        self._kept: tuple[web.Request, bytes] | None = None
        self._beside = Beside("front")
        self._beside.call(self._start())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._beside.call(self._stop())
        self._beside.end()

    def uploads_seen(self, since: int = 0) -> list[Call]:
        """The uploads behind the first `since` calls."""
        return [call for call in self.calls[since:] if call.size]

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.Response:
        if request.path.endswith("/commands"):
            return web.Response(status=404)  # a stream without end would keep this from closing
        if request.method == "PUT" and request.path.endswith("/health"):
            return web.json_response({"time": "2026-11-22T10:15:00.000Z"})  # a heartbeat is no call of the stream
        body = await request.read()
        size = _size(request.path) if request.method == "PUT" else 0
        line: Line | None = self.standing(request, size)
        if line is None and request.path != "/v1/health":
            script = self.uploads if size else self.others
            line = script.popleft() if script else None
        if isinstance(line, Say):
            answer = _said(line)
        elif line == "keep":
            self._kept = request, body
            answer = web.Response(status=502)
            assert request.transport is not None
            request.transport.abort()
        else:
            if line == "late" and self._kept is not None:
                await self._pass_on(*self._kept)
            answer = await self._pass_on(request, body, line if callable(line) else None)
        self.calls.append(Call(time.monotonic(), request.method, request.path, size, answer.status))
        return answer

    async def _pass_on(self, request: web.Request, body: bytes, edit: Edit | None = None) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        url = self._target + request.path_qs
        async with self._session.request(request.method, url, data=body, headers=headers) as answer:
            content = await answer.read()
            if edit is not None and answer.status == 200:
                content = json.dumps(edit(json.loads(content))).encode()
            kept = {name: answer.headers[name] for name in ("Content-Type", "Retry-After") if name in answer.headers}
            return web.Response(status=answer.status, body=content, headers=kept)


def _size(path: str) -> int:
    place = path.rpartition("/records/")[2]
    first, _, last = place.partition("-")
    return int(last) - int(first) + 1 if first.isdigit() and last.isdigit() else 0


def _said(line: Say) -> web.Response:
    if isinstance(line.body, str):
        headers = {"Content-Type": "text/html", **line.headers}
        return web.Response(status=line.status, text=line.body, headers=headers)
    headers = {"Content-Type": PROBLEM, **line.headers}
    return web.Response(status=line.status, body=json.dumps(line.body).encode(), headers=headers)
