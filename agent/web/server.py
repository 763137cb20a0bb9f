"""status → [web server] → people, scrapers, command line. The listeners: addresses, and a Unix socket for the CLI.

The same status on all, plain or by the venue's TLS. Each bounds its connections, their waiting and their life, so that
nobody can take the box down from here. The Unix socket acts for whoever may open it, the pages for who knows the PIN.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from agent.core.errors import Held
from agent.core.status import SOCKET_NAME
from agent.runtime.doors import HandshakeLimits, TlsDoor, bind
from agent.web.acts import Acts, Post
from agent.web.body import peer_of
from agent.web.devices_pages import DevicesPages
from agent.web.guard import Terms
from agent.web.orders import OrdersFace
from agent.web.payments import PaymentsFace
from agent.web.routes import Get, Source, make_app
from agent.web.uplink_page import Changes

log = structlog.get_logger()

SOCKET_MODE: Final = 0o600

CONNECTIONS_MAX: Final = 64
"""Connections at once, each listener; the next one is closed at once."""
CONNECTIONS_PER_ADDRESS_MAX: Final = 16
"""Of them from one address, this machine's own apart: no host takes the places of all the others."""
BACKLOG_MAX: Final = 64
"""Connections that wait to be taken, each listener."""
IDLE_S_MAX: Final = 10.0
"""How long a connection may take for its next request, the first included, in seconds."""
LIFE_S_MAX: Final = 60.0
"""How long a connection may last in all, in seconds; a caller that reads nothing cannot stay."""
TEND_INTERVAL_S: Final = 5.0
"""How often old connections are ended, and an address that could not be had is tried again, in seconds."""
CLOSE_S_MAX: Final = 1.0
"""How long closing waits for answers under way, in seconds."""
LINE_BYTES_MAX: Final = 4_096
"""Longest request line or header line."""
HEADERS_MAX: Final = 64
"""Header lines in a request."""


HANDSHAKES: Final = HandshakeLimits(seconds_max=IDLE_S_MAX, count_max=32, count_per_address_max=16)
"""TLS handshakes under way."""


class Place(NamedTuple):
    """Where the page is served; port 0 lets the system choose. With a context it speaks TLS."""

    host: str
    port: int
    context: ssl.SSLContext | None = None


class Web:
    """The stage that serves `source`.

    `state_directory` holds the Unix socket; `names` are further host names that this box answers to right now.
    `addresses` is where it listens right now, by scheme. While an address cannot be had, `condition` is told (name,
    words), the others and the Unix socket serve, and it is tried again.
    """

    def __init__(
        self,
        source: Source,
        places: Sequence[Place],
        state_directory: Path,
        names: Callable[[], frozenset[str]] = frozenset,
        condition: Callable[[str, str | None], None] = lambda name, words: None,
        acts: Acts | None = None,
        posts: Mapping[str, Post] | None = None,
        people: DevicesPages | None = None,
        gets: Mapping[str, Get] | None = None,
        payments: PaymentsFace | None = None,
        changes: Changes = tuple,
        orders: OrdersFace | None = None,
    ) -> None:
        self.name = "web"
        self.addresses: list[tuple[str, str, int]] = []
        """Scheme, host and port."""
        self._source = source
        self._places = places
        self._socket_path = state_directory / SOCKET_NAME
        self._names = names
        self._condition = condition
        self._acts = acts
        self._posts = posts or {}
        self._people = people
        self._gets = gets or {}
        self._payments = payments
        self._changes = changes
        self._orders = orders
        self._refused: set[Place] = set()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Serve until `stop`. Raises Held, naming the remedy, when the Unix socket cannot be made."""
        self.addresses = []
        async with AsyncExitStack() as stack:
            here = bind_socket(self._socket_path)
            stack.callback(self._socket_path.unlink, missing_ok=True)
            doors = await stack.enter_async_context(asyncio.TaskGroup())
            terms = Terms(names=None, plain_api=True, acts=True)
            app = make_app(
                self._source,
                terms,
                self._acts,
                payments=self._payments,
                gets=self._gets,
                changes=self._changes,
                orders=self._orders,
            )
            servers = [await serve(stack, app, [here])]
            seen_s: dict[web.RequestHandler, float] = {}
            waiting = [one for one in self._places if not await self._open(one, stack, doors, servers)]
            ready()
            while not stop.is_set():
                seen_s = _end_old_connections(servers, seen_s)
                waiting = [one for one in waiting if not await self._open(one, stack, doors, servers)]
                with suppress(TimeoutError):
                    async with asyncio.timeout(TEND_INTERVAL_S):
                        await stop.wait()

    def port_of(self, scheme: str) -> int | None:
        """Where it listens with this scheme, None where it does not."""
        return next((port for one, _, port in self.addresses if one == scheme), None)

    async def _open(
        self, place: Place, stack: AsyncExitStack, doors: asyncio.TaskGroup, servers: list[web.Server]
    ) -> bool:
        """Serve there; False when the address cannot be had now."""
        host, port, context = place
        try:
            sockets = await bind_address(host, port)
        except Held as held:
            tell = log.debug if place in self._refused else log.warning
            tell("web_address_refused", code=held.code, reason=held.text, hint=held.hint)
            self._refused.add(place)
            self._condition(self.name, str(held))
            return False
        posts = bool(self._posts) or self._people is not None
        own = {"localhost", host.lower()}
        terms = Terms(names=lambda: self._names() | own, plain_api=False, posts=posts)
        app = make_app(
            self._source,
            terms,
            posts=self._posts,
            people=self._people,
            payments=self._payments,
            gets=self._gets,
            changes=self._changes,
            orders=self._orders,
        )
        if context is None:
            servers.append(await serve(stack, app, sockets))
        else:
            servers.append(await serve_tls(stack, doors, app, sockets, context))
        scheme = "http" if context is None else "https"
        bound = [(scheme, *one.getsockname()[:2]) for one in sockets]
        self.addresses += bound
        log.info("web_listening", addresses=[f"{scheme}://{host}:{port}" for scheme, host, port in bound])
        if place in self._refused:
            self._refused.discard(place)
            if not self._refused:
                self._condition(self.name, None)
        return True


async def serve(stack: AsyncExitStack, app: web.Application, sockets: list[socket.socket]) -> web.Server:
    """Serve the pages on bound sockets until `stack` closes; it owns the sockets from now on."""
    server = await _server(stack, app, sockets)
    loop = asyncio.get_running_loop()
    for one in sockets:
        listener = await loop.create_server(partial(_Entrance, server), sock=one, backlog=BACKLOG_MAX)
        stack.callback(listener.close)
    return server


async def serve_tls(
    stack: AsyncExitStack,
    doors: asyncio.TaskGroup,
    app: web.Application,
    sockets: list[socket.socket],
    context: ssl.SSLContext,
) -> web.Server:
    """The same behind TLS: who is in its handshake takes none of the places."""
    server = await _server(stack, app, sockets)
    for one in sockets:
        one.listen(BACKLOG_MAX)
        door = TlsDoor(one, context, partial(_Entrance, server), HANDSHAKES)
        stack.callback(doors.create_task(door.run(), name="web-door").cancel)
    return server


async def _server(stack: AsyncExitStack, app: web.Application, sockets: list[socket.socket]) -> web.Server:
    for one in sockets:
        stack.callback(one.close)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=IDLE_S_MAX,
        lingering_time=0,
        max_line_size=LINE_BYTES_MAX,
        max_field_size=LINE_BYTES_MAX,
        max_headers=HEADERS_MAX,
        auto_decompress=False,
        shutdown_timeout=CLOSE_S_MAX,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    assert runner.server is not None
    return runner.server


async def bind_address(host: str, port: int) -> list[socket.socket]:
    """Bound sockets for every address that `host` means. Raises Held when one cannot be had."""
    try:
        return await bind(host, port)
    except OSError as error:
        raise _not_bound(f"{host}:{port}", port, error) from error


def bind_socket(path: Path) -> socket.socket:
    """The Unix socket for the command line, 0600; what an earlier process left behind is replaced."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        mask = os.umask(0o777 & ~SOCKET_MODE)
        try:
            one.bind(str(path))
        finally:
            os.umask(mask)
    except OSError as error:
        one.close()
        reason = error.strerror or str(error)
        hint = "Choose a [state] directory with a shorter path that this user may write to."
        raise Held("web_socket", f"The socket {path} cannot be made: {reason}.", hint) from error
    return one


class _Entrance(asyncio.Protocol):
    """Hands a new connection to aiohttp, while there is room for its address and in all; else ends it."""

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has come."""
        assert isinstance(transport, asyncio.Transport)
        if not self._has_room(peer_of(transport)):
            transport.abort()
            return
        protocol = self._server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _has_room(self, address: str) -> bool:
        here = self._server.connections
        if len(here) >= CONNECTIONS_MAX:
            return False
        if address == "local" or ip_address(address).is_loopback:
            return True
        return sum(peer_of(one.transport) == address for one in here) < CONNECTIONS_PER_ADDRESS_MAX


def _end_old_connections(
    servers: list[web.Server], seen_s: dict[web.RequestHandler, float]
) -> dict[web.RequestHandler, float]:
    """End every connection that has been there for too long; returns since when the others have been seen."""
    now_s = asyncio.get_running_loop().time()
    open_now = {one: seen_s.get(one, now_s) for server in servers for one in server.connections}
    for one, first_s in open_now.items():
        if now_s - first_s > LIFE_S_MAX:
            one.force_close()
    return open_now


def _not_bound(address: str, port: int, error: OSError) -> Held:
    if error.errno == errno.EADDRINUSE:
        text = f"The page's address {address} is in use by another program."
        hint = f"See which with: ss -ltnp 'sport = :{port}'. End it, or set [web] listen to a free port."
        return Held("web_port_occupied", text, hint)
    if error.errno == errno.EACCES:
        text = f"This user may not listen on {address}."
        return Held("web_port_refused", text, "Set [web] listen to a port above 1023.")
    text = f"The page cannot listen on {address}: {error.strerror or error}."
    return Held("web_address", text, "Set [web] listen to an address of this machine, or to 127.0.0.1:8080.")
