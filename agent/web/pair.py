"""devices → [pairing] → desk. `POST /api/v1/pair`: a code against a secret, over TLS or from this machine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from agent.core.errors import NightsafeError, Rejected
from agent.core.events import strictly
from agent.core.pairing import GUESSES
from agent.web.guard import problem

PATH: Final = "/api/v1/pair"
WAIT_S: Final = 25.0
"""How long a device waits for a person in one request; then it asks again with the same code."""
BODY_BYTES_MAX: Final = 4_096
DEPTH_MAX: Final = 4
STALL_S_MAX: Final = 5.0
"""How long the next bytes of the body may take."""

Pair = Callable[[str, str, str, float, Callable[[], bool]], Awaitable[Any | None]]
"""Code, wanted name, address of the caller, seconds to wait, whether the caller is still there: what the device is
told, None while nobody has decided, or for nobody."""


class Unreadable(Exception):
    """The body is none; `status` says how."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Asked(msgspec.Struct):
    """What a device says."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    name: Annotated[str, msgspec.Meta(max_length=100)] = ""


_asked = msgspec.json.Decoder(Asked).decode


async def post(pair: Pair, fingerprint_shown: str, request: web.Request) -> web.StreamResponse:
    """201 with the secret; 202 while a person has to compare fingerprints; 403 after a wrong or spent code."""
    try:
        asked = await _read(request)
    except Unreadable as error:
        title = "Content Too Large" if error.status == 413 else "Bad Request"
        return problem(request, error.status, title, str(error), kind="malformed")
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    address = str(peer[0]) if isinstance(peer, tuple) else "local"

    def there() -> bool:
        return request.transport is not None and not request.transport.is_closing()

    try:
        told = await pair(asked.code, asked.name, address, WAIT_S, there)
    except Rejected as refused:
        if refused.code == "name_differs":
            return problem(request, 409, "Conflict", str(refused), kind="name-differs")
        if refused.code == "code":
            return problem(request, 403, "Forbidden", str(refused), kind="wrong-code")
        if refused.code == "locked_out":
            later = problem(request, 429, "Too Many Requests", str(refused), kind="slow-down")
            later.headers["Retry-After"] = str(int(GUESSES.lockout_s))
            return later
        return problem(request, 409, "Conflict", str(refused))
    except NightsafeError as error:
        return problem(request, 503, "Service Unavailable", str(error))
    if told is None:
        body = {"status": "waiting", "fingerprint_shown": fingerprint_shown}
        return web.Response(status=202, body=msgspec.json.encode(body), content_type="application/json")
    return web.Response(status=201, body=msgspec.json.encode(told), content_type="application/json")


async def _read(request: web.Request) -> Asked:
    """What the device says; it may come in pieces. Raises Unreadable."""
    too_large = Unreadable(413, f"The body has at most {BODY_BYTES_MAX} bytes.")
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise too_large
    body = bytearray()
    try:
        while True:
            async with asyncio.timeout(STALL_S_MAX):
                part = await request.content.readany()
            if not part:
                break
            body += part
            if len(body) > BODY_BYTES_MAX:
                raise too_large
        wrong = strictly(bytes(body), DEPTH_MAX)
        if wrong is not None:
            raise Unreadable(400, f"The body is no strict JSON: {wrong}.")
        return _asked(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(400, f'Say {{"code","name"}}: {error}') from error
    except (TimeoutError, ConnectionError, web.RequestPayloadError) as error:
        raise Unreadable(400, "The body did not come whole.") from error
