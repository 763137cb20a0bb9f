"""[runtime] Listening sockets, and the door that speaks TLS on one: gate and page accept through it.

A connection whose handshake is under way counts from its first packet, for all and for each address it comes from, so
that nobody can take the box's descriptors by beginning handshakes. Never looks at what is said behind the handshake.
"""

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

log = structlog.get_logger()

SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
SHORT_PAUSE_S: Final = 0.1
"""Pause before the next connection is accepted where the system has no room for it."""


class HandshakeLimits(NamedTuple):
    """Bounds of handshakes under way. More in all wait in the kernel's queue; more from one address are closed."""

    seconds_max: float
    count_max: int
    count_per_address_max: int


class TlsDoor:
    """Accepts on one bound, listening socket and hands each connection over when its handshake is done.

    `welcome` is asked with the peer's address before anything is read; `count` hears "handshakes_failed" and
    "handshakes_over_limit".
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        limits: HandshakeLimits,
        welcome: Callable[[str], bool] = lambda address: True,
        count: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._listener = listener
        self._context = context
        self._protocol = protocol
        self._limits = limits
        self._welcome = welcome
        self._count = count
        self._under_way: Counter[str] = Counter()

    async def run(self) -> None:
        """Accept until cancelled; handshakes that are under way then are dropped."""
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(self._limits.count_max)
        async with asyncio.TaskGroup() as group:
            while True:
                await room.acquire()
                try:
                    accepted, peer = await loop.sock_accept(self._listener)
                except OSError as error:
                    room.release()
                    if error.errno in SHORT:
                        log.warning("accept_failed", reason=error.strerror)
                        await asyncio.sleep(SHORT_PAUSE_S)
                    continue
                address = str(peer[0]) if isinstance(peer, tuple) else "local"
                if self._under_way[address] >= self._limits.count_per_address_max or not self._welcome(address):
                    self._count("handshakes_over_limit")
                    accepted.close()
                    room.release()
                    continue
                self._under_way[address] += 1
                group.create_task(self._greet(accepted, address, room), name=f"handshake-{address}")

    async def _greet(self, accepted: socket.socket, address: str, room: asyncio.Semaphore) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.seconds_max,
                ssl_shutdown_timeout=self._limits.seconds_max,
            )
        except OSError:  # ssl.SSLError and ConnectionError among them
            self._count("handshakes_failed")
            accepted.close()
        finally:
            self._under_way[address] -= 1
            if not self._under_way[address]:
                del self._under_way[address]
            room.release()


async def bind(host: str, port: int) -> list[socket.socket]:
    """Bound sockets for every address that `host` means, not listening yet. Raises OSError when one cannot be had."""
    loop = asyncio.get_running_loop()
    bound: list[socket.socket] = []
    try:
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, proto, _, address in dict.fromkeys(infos):
            one = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, proto)
            bound.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
    except OSError:
        for one in bound:
            one.close()
        raise
    return bound
