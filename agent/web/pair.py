"""devices → [pairing] → desk. `POST /api/v1/pair`: a code against a secret, over TLS or from this machine."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from agent.core.errors import NightsafeError, Rejected
from agent.core.events import strictly
from agent.core.pairing import GUESSES
from agent.web.body import Unreadable, address_of, read
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


class Asked(msgspec.Struct):
    """The code that the box shows, or the token of its QR code; `name` is the device's id, where the app knows it."""

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

    def there() -> bool:
        return request.transport is not None and not request.transport.is_closing()

    try:
        told = await pair(_plain(asked.code), asked.name, address_of(request), WAIT_S, there)
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


def _plain(code: str) -> str:
    """The code as it was made: digits may be typed as they are shown, in groups."""
    digits = code.replace(" ", "").replace("-", "")
    return digits if digits.isascii() and digits.isdigit() else code


async def _read(request: web.Request) -> Asked:
    """What the device says. Raises Unreadable."""
    body = await read(request, BODY_BYTES_MAX, STALL_S_MAX)
    try:
        wrong = strictly(body, DEPTH_MAX)
        if wrong is not None:
            raise Unreadable(400, f"The body is no strict JSON: {wrong}.")
        return _asked(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(400, f'Say {{"code","name"}}: {error}') from error
