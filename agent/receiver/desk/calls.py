"""box ──HTTPS──► server → [desk's calls] → store. Commands as server-sent events, an operator's commands, requests.

A stream begins behind the box's cursor, or with `reset` where that is not known here. Each is bounded in what it holds:
it reads page by page what it sends, and a box that reads nothing is let go.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final

import msgspec
import structlog
from aiohttp import web

from agent.cloud import wire
from agent.receiver.desk.orders import OrdersAnswer
from agent.receiver.desk.store import Store
from agent.receiver.ledger import LedgerReader
from agent.receiver.problems import refused

log = structlog.get_logger()

COMMENT_INTERVAL_S: Final = 10.0
"""A comment line stands in for silence, in seconds; the contract says 15 at most."""
WRITE_S_MAX: Final = 30.0
"""A box that takes nothing for so long is let go, in seconds."""
PAGE_COMMANDS: Final = 100
COMMAND_BYTES_MAX: Final = 256 * 1024
REQUEST_BYTES_MAX: Final = 64 * 1024
_CURSOR: Final = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})", re.ASCII)

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]

BUSINESS: Final = {
    "order.placed": "order_id",
    "order.cancelled": "order_id",
    "order.refunded": "order_id",
    "menu.updated": "menu_version",
    "platform.status": "level",
    "payment.posted": "payment_id",
    "payment.declined": "payment_id",
    "ping": "ping_id",
}
"""The commands, and the member that names what each is about."""


class Sent(msgspec.Struct):
    """An operator's command."""

    event: str
    data: dict[str, Any]


class Asked(msgspec.Struct):
    """A request in real time."""

    id: Text
    device: Text
    args: dict[str, Any] = {}


class Replied(msgspec.Struct):
    """Its answer."""

    status: str
    result: dict[str, Any]
    reason: str | None


class Numbered(msgspec.Struct):
    """Where a command stands."""

    id: str


class Desk:
    """The calls over one store. `reader` is the ledger's, which is followed while the server runs."""

    def __init__(self, store: Store, reader: LedgerReader) -> None:
        self._store = store
        self._reader = reader
        self._changed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._dirty: dict[tuple[str, str], None] = {}
        self._wake = asyncio.Event()
        self._ended = False

    async def end(self, _: web.Application) -> None:
        """The server stops: so do the streams."""
        self._ended = True
        for venue in list(self._changed):
            self._tell(venue)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the ledger while the context lasts."""
        for venue, epoch in await self._reader.streams():  # what a kill kept it from
            self.appended(venue, epoch)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._follow(), name="desk-follow")
            try:
                yield
            finally:
                task.cancel()

    def appended(self, venue: str, epoch: str) -> None:
        """The ledger has more of this stream."""
        self._dirty[venue, epoch] = None
        self._wake.set()

    async def _follow(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty:
                venue, epoch = next(iter(self._dirty))
                del self._dirty[venue, epoch]
                after = await self._store.followed(venue, epoch)
                async for page in self._reader.records_after(venue, epoch, after):
                    if await self._store.take(venue, epoch, page):
                        self._tell(venue)

    def _tell(self, venue: str) -> None:
        self._changed.pop(venue, asyncio.Event()).set()

    # Calls ------------------------------------------------------------------------------------------------------------

    async def send(self, venue: str, body: Sent) -> Numbered:
        """An operator's command, durable when it is answered."""
        member = BUSINESS.get(body.event)
        if member is None:
            raise refused("malformed", f"There is no command {body.event!r}; known: {', '.join(BUSINESS)}.")
        business = body.data.get(member)
        if not isinstance(business, str) or not business:
            raise refused("malformed", f"{body.event} needs {member}, as text.")
        number = await self._store.send(venue, body.event, business, msgspec.json.encode(body.data).decode())
        self._tell(venue)
        name = (await self._store.log(venue)).name
        log.info("command_sent", venue=venue, command=body.event, number=number)
        return Numbered(f"{name}-{number}")

    async def orders(self, venue: str) -> OrdersAnswer:
        """What the platform knows of the venue's latest orders."""
        return await self._store.orders(venue)

    async def ask(self, venue: str, service: str, body: Asked) -> Replied:
        """A request in real time, durable when it is answered."""
        return Replied(*await self._store.answer(venue, service, body.id, body.device, body.args))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The venue's commands behind its cursor, and then as they come."""
        venue = request.match_info["venue"]
        name, first, last = await self._store.log(venue)
        match = _CURSOR.fullmatch(request.headers.get("Last-Event-ID", ""))
        known = match is not None and match[1] == name and first - 1 <= int(match[2]) <= last
        response = web.StreamResponse(headers={"Content-Type": wire.EVENTS_TYPE, "Cache-Control": "no-store"})
        await response.prepare(request)
        after = int(match[2]) if known and match is not None else 0
        if not known:
            await _write(response, _event("reset", "{}", f"{name}-0"))
        while not self._ended:
            changed = self._changed[venue]
            page = await self._store.commands(venue, after, PAGE_COMMANDS)
            for number, event, data in page:
                after = number
                if known or event != "ping" or number > last:  # an old ping is nothing that still holds
                    await _write(response, _event(event, data, f"{name}-{number}"))
            if page:
                continue
            try:
                async with asyncio.timeout(COMMENT_INTERVAL_S):
                    await changed.wait()
            except TimeoutError:
                await _write(response, b": still here\n\n")
        return response


def _event(event: str, data: str, id: str) -> bytes:
    return f"id: {id}\nevent: {event}\ndata: {data}\n\n".encode()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Raises ConnectionError where the box is gone or takes nothing."""
    try:
        async with asyncio.timeout(WRITE_S_MAX):
            await response.write(data)
    except TimeoutError as error:
        with suppress(Exception):
            response.force_close()
        raise ConnectionResetError("it takes nothing") from error
