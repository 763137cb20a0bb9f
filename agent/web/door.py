"""devices without MQTT → [HTTP door] → ingest → journal. The same store path and the same answers as through the gate.

One event or a batch; the answer is given after the commit of all of them. Whoever asks again gets the same answer: the
journal knows what it has. Never judges an event itself, and reads no body of a caller whom nobody knows.
"""

import asyncio
import binascii
import math
import re
from base64 import b64decode
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakValueDictionary

import msgspec
import structlog
from aiohttp import web

from agent.core.arrivals import Item, Outcome, Settle
from agent.core.events import Event, Refusal, device_allowed
from agent.core.lockout import Lockout
from agent.web.body import Unreadable, address_of, read
from agent.web.guard import problem

log = structlog.get_logger()

PATH: Final = "/api/v1/devices/{device}/events"
READING_MAX: Final = 8
"""Bodies that are read or waited for at once; further callers wait for their turn."""
READING_PER_DEVICE_MAX: Final = 2
"""Of them of one device: its further requests wait, and nobody else's."""
STALL_S_MAX: Final = 10.0
"""How long a caller may be silent within its body."""
CONFLICT: Final = "the id was stored before with other content"
RETRY_S: Final = 1
"""After so many seconds a caller may come again when there is no room, or nothing can be stored."""


class Intake(Protocol):
    """Where events go."""

    @property
    def has_room(self) -> bool: ...
    def offer(self, device: str, payload: bytes, settle: Settle) -> bool: ...


class Limits(NamedTuple):
    """Of one request: events in a batch, and bytes of its body."""

    events_max: int
    bytes_max: int


class Door:
    """`knows` says whether a device has this password; `count` counts the logins that are refused as the gate
    counts its own; `locked_out` hears where from somebody keeps trying, as whom; `spoofed` which device tried to store
    events at another's topic."""

    def __init__(
        self,
        intake: Intake,
        knows: Callable[[str, str], bool],
        limits: Limits,
        lockout: Lockout,
        count: Callable[[str], None],
        locked_out: Callable[[str, str], None],
        spoofed: Callable[[str, str], None] = lambda device, topic: None,
    ) -> None:
        self._intake = intake
        self._knows = knows
        self._limits = limits
        self._lockout = lockout
        self._count = count
        self._locked_out = locked_out
        self._spoofed = spoofed
        self._turn = asyncio.Semaphore(READING_MAX)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def post(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/v1/devices/{device}/events`."""
        device = request.match_info["device"]
        refused = self._stranger(request, device)
        if refused is not None:
            return refused
        own = self._turns.setdefault(device, asyncio.Semaphore(READING_PER_DEVICE_MAX))
        async with own, self._turn:
            if not self._intake.has_room:
                return _later(request, "Too many events wait to be stored.")
            try:
                payloads = _events_in(await self._body(request), self._limits.events_max)
            except Unreadable as error:
                return problem(request, error.status, "The body cannot be read", str(error), kind="malformed")
            name, password = _credentials(request)
            if not self._knows(name, password):  # it was removed while it spoke
                return _unauthorized(request)
            results = await asyncio.gather(*(self._offer(device, payload) for payload in payloads))
        if any(outcome is Outcome.UNSTORED for _, outcome in results):
            return _later(request, "Nothing can be stored right now: keep your events.")
        return _answer(results)

    def _offer(self, device: str, payload: bytes) -> asyncio.Future[tuple[Item, Outcome]]:
        future: asyncio.Future[tuple[Item, Outcome]] = asyncio.get_running_loop().create_future()
        self._intake.offer(device, payload, partial(_settle, future))
        return future

    def _stranger(self, request: web.Request, device: str) -> web.Response | None:
        """Why this caller is not heard, or None."""
        address = address_of(request)
        name, password = _credentials(request)
        now_s = asyncio.get_running_loop().time()
        if self._lockout.locked(address, name, now_s):
            self._count("logins_locked_out")
            answer = problem(request, 429, "Too Many Requests", "Too many logins were refused: wait.")
            answer.headers["Retry-After"] = str(math.ceil(self._lockout.terms.lockout_s))
            return answer
        if not device_allowed(name) or not self._knows(name, password):
            self._count("logins_refused")
            self._note_refused(address, name, now_s)
            return _unauthorized(request)
        self._lockout.let_in(address, name, now_s)
        if name != device:
            self._spoofed(name, f"pos/v1/{device}/events" if device_allowed(device) else "another's address")
            return problem(request, 403, "Forbidden", f"{name} may store events of its own only.", kind="spoofed")
        return None

    def _note_refused(self, address: str, name: str, now_s: float) -> None:
        if not name:
            return
        shown = name if device_allowed(name) else "no device's name"
        fresh = self._lockout.fresh(address, name, now_s)
        if self._lockout.refused(address, name, now_s):
            log.warning("login_locked_out", address=address, device=shown, door="http")
            self._locked_out(address, shown)
        elif fresh:
            log.info("login_refused", address=address, device=shown, door="http")

    async def _body(self, request: web.Request) -> bytes:
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise Unreadable(415, "send the body without an encoding")
        return await read(request, self._limits.bytes_max, STALL_S_MAX)


_raw_events = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _events_in(body: bytes, events_max: int) -> list[bytes]:
    """The bytes of each event, as the caller wrote them; a body that is no list is one event, judged like any.

    A list of which one event is broken is cut all the same, so that it keeps none of the others out; what cannot be cut
    is one event, which is refused and kept.
    """
    if body.lstrip(b" \t\r\n")[:1] != b"[":
        return [body]
    try:
        found = [bytes(raw) for raw in _raw_events(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = _cut(body) or [body]
    if len(found) > events_max:
        raise Unreadable(413, f"a batch has at most {events_max} events")
    return found


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


def _cut(body: bytes) -> list[bytes]:
    """The elements of an array, by brackets and strings alone; empty where it is none."""
    text, found, depth, begin = body.strip(b" \t\r\n"), [], 0, 1
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                found.append(text[begin : token.start()].strip(b" \t\r\n"))
                return found if token.end() == len(text) and all(found) else []
        elif mark == b"," and depth == 1:
            found.append(text[begin : token.start()].strip(b" \t\r\n"))
            begin = token.end()
    return []


def _unauthorized(request: web.Request) -> web.Response:
    answer = problem(request, 401, "Unauthorized", "Give the device's name and password (Basic).")
    answer.headers["WWW-Authenticate"] = 'Basic realm="nightsafe", charset="UTF-8"'
    return answer


def _credentials(request: web.Request) -> tuple[str, str]:
    """Name and password of the caller; empty where it gives none."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "", ""
    return name, password


def _settle(future: asyncio.Future[tuple[Item, Outcome]], item: Item, outcome: Outcome) -> None:
    if not future.done():
        future.set_result((item, outcome))


def _answer(results: list[tuple[Item, Outcome]]) -> web.Response:
    stored: list[str] = []
    refused: list[dict[str, Any]] = []
    for item, outcome in results:
        assert isinstance(item, Event | Refusal)
        if outcome in (Outcome.STORED, Outcome.DUPLICATE):
            stored.append(item.id or "")
            continue
        reason, detail = (outcome.value, CONFLICT) if isinstance(item, Event) else (item.reason.value, item.detail)
        sequence = str(item.sequence) if item.sequence is not None else None
        refused.append({"id": item.id, "sequence": sequence, "reason": reason, "detail": detail})
    body = msgspec.json.encode({"stored": stored, "refused": refused})
    return web.Response(body=body, content_type="application/json")


def _later(request: web.Request, words: str) -> web.Response:
    answer = problem(request, 503, "Service Unavailable", words, kind="unavailable")
    answer.headers["Retry-After"] = str(RETRY_S)
    return answer
