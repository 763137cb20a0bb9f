"""[lan: discovery] → the venue's network. Says by multicast DNS where gate and page are, so that an app finds the box.

It announces only: it reads no answers of others but those that hold a name already, decides nothing about who may come
in, and says nothing secret. Its host name is its own, so that it never disputes the machine's with avahi.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Final, NamedTuple

import structlog
from zeroconf import NonUniqueNameException, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from agent.core.errors import Transient

log = structlog.get_logger()
logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
"""An address that has gone takes no goodbye, and the library would tell that with a traceback."""

MQTT: Final = "_secure-mqtt._tcp.local."
PAGE: Final = "_nightsafe._tcp.local."
LOOK_INTERVAL_S: Final = 5.0
"""How often it is looked whether ports, names or addresses have changed, in seconds."""
NAMES_MAX: Final = 9
"""So many names are tried: the venue's own, then with " (2)" and so on."""
LABEL_BYTES_MAX: Final = 63
"""Bytes of one label of a DNS name (RFC 1035)."""
GOODBYE_MAX_S: Final = 2.0
"""How long taking the announcement back may take, in seconds."""


class NoName(Transient):
    """Every name that was tried is held by others."""


Service = tuple[str, int, tuple[tuple[str, str], ...]]
"""Type, port, TXT."""


class Announcement(NamedTuple):
    """What the network is told: `addresses` are where they listen, off loopback."""

    title: str
    host: str
    addresses: tuple[str, ...]
    services: tuple[Service, ...]


class Discovery:
    """The stage that announces what `wanted` returns, anew whenever that changes, and takes it back at the end."""

    name = "discovery"

    def __init__(self, wanted: Callable[[], Announcement | None]) -> None:
        """`wanted` returns None while there is nothing to announce."""
        self._wanted = wanted

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Announce until `stop`. Raises OSError where the network refuses, NoName where the names are taken."""
        ready()
        while not stop.is_set():
            now = self._wanted()
            if now is None:
                await self._while_same(None, stop)
                continue
            async with announced(now) as title:
                log.info("announced", name=title, host=now.host, addresses=",".join(now.addresses))
                await self._while_same(now, stop)

    async def _while_same(self, now: Announcement | None, stop: asyncio.Event) -> None:
        while not stop.is_set() and self._wanted() == now:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await stop.wait()


@asynccontextmanager
async def announced(what: Announcement) -> AsyncIterator[str]:
    """Announced on the interfaces of its addresses, by the name that is yielded; a goodbye is sent at the end."""
    zeroconf = AsyncZeroconf(interfaces=list(what.addresses))
    try:
        yield await _register(zeroconf, what)
    finally:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(GOODBYE_MAX_S):
                await zeroconf.async_unregister_all_services()
        await zeroconf.async_close()


async def _register(zeroconf: AsyncZeroconf, what: Announcement) -> str:
    """All services under the first name that is free for all of them."""
    for number in range(1, NAMES_MAX + 1):
        title = instance_name(what.title, number)
        held = [_info(what, title, *service) for service in what.services]
        try:
            for info in held:
                await (await zeroconf.async_register_service(info, strict=False))
        except NonUniqueNameException:
            log.info("name_taken", name=title)
            await zeroconf.async_unregister_all_services()
        else:
            return title
    raise NoName("name_taken", f"{NAMES_MAX} names from {what.title!r} on are announced by others.")


def instance_name(title: str, number: int) -> str:
    """The `number`th name to try, as one DNS label: no dots or control characters, 63 bytes of UTF-8 at most."""
    plain = " ".join("".join(one if one.isprintable() and one != "." else " " for one in title).split())
    suffix = f" ({number})" if number > 1 else ""
    room = LABEL_BYTES_MAX - len(suffix)
    return ((plain.encode()[:room].decode(errors="ignore").strip()) or "Nightsafe") + suffix


def _info(what: Announcement, title: str, kind: str, port: int, text: tuple[tuple[str, str], ...]) -> ServiceInfo:
    addresses = [ip_address(one).packed for one in what.addresses]
    return ServiceInfo(
        kind, f"{title}.{kind}", port=port, properties=dict(text), server=f"{what.host}.local.", addresses=addresses
    )
