"""[web: body] → HTTP door, pairing. Who calls, and what it sends: read within bounds, whatever length it claims."""

import asyncio
from typing import Final

from aiohttp import web

BODY_S_MAX: Final = 30.0
"""How long a body may take in all, in seconds, however often a part of it comes."""


class Unreadable(Exception):
    """A body that cannot be used; carries the answer's status, and words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def address_of(request: web.Request) -> str:
    """Where the caller is; "local" on a Unix socket."""
    return peer_of(request.transport)


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The address at a connection's other end; "local" on a Unix socket, or when it has gone."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) else "local"


async def read(request: web.Request, bytes_max: int, stall_s_max: float) -> bytes:
    """The body, which may come in pieces with pauses up to `stall_s_max`, within `BODY_S_MAX`. Raises Unreadable."""
    if (request.content_length or 0) > bytes_max:
        raise _too_long(bytes_max)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S_MAX):
            while True:
                async with asyncio.timeout(stall_s_max):
                    part = await request.content.readany()
                if not part:
                    return bytes(body)
                body += part
                if len(body) > bytes_max:
                    raise _too_long(bytes_max)
    except (TimeoutError, ConnectionError, web.RequestPayloadError) as error:
        raise Unreadable(400, "The body did not come whole: send it again.") from error


def _too_long(bytes_max: int) -> Unreadable:
    return Unreadable(413, f"The body has more than {bytes_max} bytes: send less at once.")
