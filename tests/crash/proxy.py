"""box → [a bad line] → cloud. Passes TCP on, and harms uploads in the way it is told to at the moment.

It looks at requests only so far as to know an upload when one begins; everything else goes through unharmed. What it
does to an upload it counts, so that a test can wait until the harm is done.
"""

import asyncio
import re
from contextlib import suppress
from typing import Literal, NamedTuple

from tests.crash.beside import Beside

Harm = Literal["none", "lose_request", "lose_answer", "half_body", "reset", "stall"]
"""The request vanishes; the answer vanishes; half a body, then a reset; a reset at once; it is held until `heal`."""

CHUNK_BYTES = 65_536
SLICE_S = 0.05
"""A slowed line passes so much of a second at once."""

_REQUEST = re.compile(rb"([A-Z]+) \S*/streams\S* HTTP/1\.1\r\n")
_UPLOAD = re.compile(rb"PUT \S*/records/(\d+)-(\d+) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Upload(NamedTuple):
    """A batch that the box began to send, and what was done to it."""

    first: int
    last: int
    harm: Harm


class Proxy:
    """Listens on loopback. `harm` and `bytes_per_s` may be changed at any time; `struck` counts the uploads harmed.

    `requests` are the methods of all requests about streams, with the harm done to each, in the order in which they
    began.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self.harm: Harm = "none"
        self.bytes_per_s = 0
        self.uploads: list[Upload] = []
        self.requests: list[tuple[str, Harm]] = []
        self.late = 0
        self._healed = asyncio.Event()
        self._beside = Beside("proxy")
        self._server = self._beside.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def struck(self) -> int:
        return sum(upload.harm != "none" for upload in self.uploads)

    def heal(self) -> None:
        """Harm no more; what was held goes on its way now, whoever waited for it is long gone."""
        self.harm = "none"
        self._beside.loop.call_soon_threadsafe(self._healed.set)

    def close(self) -> None:
        self._beside.loop.call_soon_threadsafe(self._server.close)
        self._beside.end()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        line = Line(self, (reader, writer), (far_reader, far_writer))
        with suppress(OSError, asyncio.CancelledError):
            await line.run()


class Line:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._near_reader, self._near = near
        self._far_reader, self._far = far
        self._harm: Harm = "none"
        self._left_bytes = 0

    async def run(self) -> None:
        """Until either end closes; a held request outlives the box's own end."""
        up, down = asyncio.ensure_future(self._up()), asyncio.ensure_future(self._down())
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if self._harm == "stall" and not up.done():
                await up
                await asyncio.wait({down}, timeout=2)  # the cloud works on what came late
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            self._near.transport.abort()
            self._far.transport.abort()

    async def _up(self) -> None:
        while data := await self._near_reader.read(CHUNK_BYTES):
            self._note_upload(data)
            if self._harm == "lose_request":
                await self._swallow()
                return
            if self._harm == "reset":
                return
            if self._harm == "half_body":
                await self._pass(self._far, data[: len(data) // 2] if self._left_bytes <= 0 else data)
                await self._half_of_the_rest()
                return
            if self._harm == "stall":
                held = data + await self._rest()
                await self._proxy._healed.wait()
                self._proxy.late += 1
                await self._pass(self._far, held)
                continue
            await self._pass(self._far, data)

    async def _down(self) -> None:
        while data := await self._far_reader.read(CHUNK_BYTES):
            if self._harm == "lose_answer":
                return
            if self._harm != "stall":
                await self._pass(self._near, data)

    def _note_upload(self, data: bytes) -> None:
        """Whether an upload begins here, and what becomes of it; `_left_bytes` is what of it is still to come."""
        found = _UPLOAD.match(data)
        if found is None:
            if (other := _REQUEST.match(data)) is not None:
                self._proxy.requests.append((other[1].decode(), "none"))
            self._left_bytes -= len(data)
            return
        head = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data[:head])
        self._left_bytes = int(length[1]) - (len(data) - head) if length else 0
        self._harm = self._proxy.harm
        if self._harm == "stall":
            self._proxy._healed.clear()
        self._proxy.uploads.append(Upload(int(found[1]), int(found[2]), self._harm))
        self._proxy.requests.append(("PUT", self._harm))

    async def _rest(self) -> bytes:
        """What of the upload has not been read yet."""
        rest = b""
        while self._left_bytes > 0 and (data := await self._near_reader.read(CHUNK_BYTES)):
            self._left_bytes -= len(data)
            rest += data
        return rest

    async def _swallow(self) -> None:
        await self._rest()
        await asyncio.sleep(0.01)

    async def _half_of_the_rest(self) -> None:
        wanted = self._left_bytes // 2
        while wanted > 0 and (data := await self._near_reader.read(min(wanted, CHUNK_BYTES))):
            wanted -= len(data)
            await self._pass(self._far, data)
        await asyncio.sleep(0.01)

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not self._proxy.bytes_per_s:
            writer.write(data)
            await writer.drain()
            return
        at = 0
        while at < len(data):
            size = max(1, int((self._proxy.bytes_per_s or CHUNK_BYTES * 20) * SLICE_S))
            writer.write(data[at : at + size])
            await writer.drain()
            at += size
            await asyncio.sleep(SLICE_S)


def sent_again(uploads: list[Upload]) -> int:
    """How many records went out more than once."""
    highest = again = 0
    for upload in uploads:
        again += max(0, min(highest, upload.last) - upload.first + 1)
        highest = max(highest, upload.last)
    return again
