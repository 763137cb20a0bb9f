"""box → [the bytes of a request] → server. Reads a body within its limits and undoes its encoding.

Never trusts a length that it is told, never unpacks more than a limit, never waits for a byte for ever.
"""

import asyncio
import zlib
from typing import Final

from aiohttp import web

STALL_MAX_S: Final = 60.0
"""How long a sender may be silent within a body, in seconds."""
MEMBERS_MAX: Final = 1024
"""Gzip members in one body."""


class TooLong(Exception):
    """The body is longer than its limit, encoded or decoded."""


class CutShort(Exception):
    """The sender went away or fell silent within the body."""


async def read(request: web.Request, bytes_max: int) -> bytes:
    """The body as it travelled. Raises TooLong, CutShort."""
    if (request.content_length or 0) > bytes_max:
        raise TooLong
    parts: list[bytes] = []
    size_bytes = 0
    try:
        while True:
            async with asyncio.timeout(STALL_MAX_S):
                part = await request.content.readany()
            if not part:
                break
            size_bytes += len(part)
            if size_bytes > bytes_max:
                raise TooLong
            parts.append(part)
    except (TimeoutError, ConnectionError, web.RequestPayloadError) as error:
        raise CutShort from error
    if request.content_length is not None and size_bytes != request.content_length:
        raise CutShort
    return b"".join(parts)


def gunzip(packed: bytes, bytes_max: int) -> bytes:
    """What `packed` holds (RFC 1952). Raises TooLong as soon as it passes the limit, ValueError when broken."""
    parts: list[bytes] = []
    left_bytes = bytes_max
    for _ in range(MEMBERS_MAX):
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(packed, left_bytes + 1)
        except zlib.error as error:
            raise ValueError(f"the gzip encoding is broken: {error}") from error
        left_bytes -= len(part)
        if left_bytes < 0:
            raise TooLong
        parts.append(part)
        if not member.eof:
            raise ValueError("the gzip encoding is cut short")
        packed = member.unused_data
        if not packed:
            return b"".join(parts)
    raise ValueError(f"the gzip encoding has more than {MEMBERS_MAX} members")
