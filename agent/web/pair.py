"""devices → [pairing] → desk. `POST /api/v1/pair`: a code against a secret, over TLS or from this machine."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from agent.core.errors import NightsafeError, Rejected
from agent.web.guard import problem

PATH: Final = "/api/v1/pair"
WAIT_S: Final = 25.0
"""How long a device waits for a person in one request; then it asks again with the same code."""
BODY_BYTES_MAX: Final = 4_096

Pair = Callable[[str, str, str, float], Awaitable[Any | None]]
"""Code, wanted name, address of the caller, seconds to wait: what the device is told, None while nobody has decided."""


class Asked(msgspec.Struct):
    """What a device says."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    name: Annotated[str, msgspec.Meta(max_length=100)] = ""


_asked = msgspec.json.Decoder(Asked).decode


async def post(pair: Pair, fingerprint_shown: str, request: web.Request) -> web.StreamResponse:
    """201 with the secret; 202 while a person has to compare fingerprints; 403 after a wrong or spent code."""
    if (request.content_length or 0) > BODY_BYTES_MAX:
        return problem(request, 413, "Content Too Large", f"The body has at most {BODY_BYTES_MAX} bytes.")
    try:
        asked = _asked(await request.content.read(BODY_BYTES_MAX))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return problem(request, 400, "Bad Request", f'Say {{"code","name"}}: {error}', kind="malformed")
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    try:
        told = await pair(asked.code, asked.name, str(peer[0]) if isinstance(peer, tuple) else "local", WAIT_S)
    except Rejected as refused:
        if refused.code == "name_differs":
            return problem(request, 409, "Conflict", str(refused), kind="name-differs")
        if refused.code == "code":
            return problem(request, 403, "Forbidden", str(refused), kind="wrong-code")
        return problem(request, 409, "Conflict", str(refused))
    except NightsafeError as error:
        return problem(request, 503, "Service Unavailable", str(error))
    if told is None:
        body = {"status": "waiting", "fingerprint_shown": fingerprint_shown}
        return web.Response(status=202, body=msgspec.json.encode(body), content_type="application/json")
    return web.Response(status=201, body=msgspec.json.encode(told), content_type="application/json")
