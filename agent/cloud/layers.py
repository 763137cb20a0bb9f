"""uplink, netcheck → [layers] → kernel, router, names, hosts, cloud. Looks at each layer of the way to the cloud.

Each look is bounded in time, and whatever it meets becomes what was seen. Reads only what any user may read, sends
nothing about the venue, and never decides what it means (`core/diagnosis.py`).
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp

from agent.cloud.lookup import Lookup
from agent.cloud.probe import read_whole, words_of
from agent.core.diagnosis import Layer, Verdict
from agent.core.facts import Finding
from agent.core.uplink import ProbeOutcome, ProbeResult

DISCARD_PORT: Final = 9
"""Where a datagram to the router goes that only makes the kernel ask for its hardware address."""
GATEWAY_PORT: Final = 53
"""A router mostly serves names: whether it takes the connection or refuses it, it answers."""
POLL_S: Final = 0.1
ROUTE_GATEWAY: Final = 0x2
"""RTF_GATEWAY of a route."""
ARP_COMPLETE: Final = 0x2
"""ATF_COM: the neighbour's hardware address is known."""
PORTAL_BYTES_MAX: Final = 4_096
CLOCK_OFF_MAX_S: Final = 86_400.0
"""How far another host's Date may be from this box's clock before that is called wrong."""
LOGIN_STATUSES: Final = (407, 511)
ANSWERED: Final = (0, errno.ECONNREFUSED)
"""How a connection to a host ends that is there: it is taken, or the host itself refuses it."""
NEIGHBOUR_SETTLED_S: Final = 60.0
"""So long the kernel may go on naming the hardware address of a router that is gone: 1.5 times its
`base_reachable_time`, then its last questions (arp(7))."""

_PROBED: Final[Mapping[ProbeOutcome, Finding]] = {
    "unreachable": "unreachable",
    "refused": "refused",
    "no_answer": "no_answer",
    "server_error": "server_error",
    "not_health": "not_health",
}


class Host(Protocol):
    """Where a connection is tried."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def layer_timeout_s(self) -> float: ...
    @property
    def portal_url(self) -> str: ...
    @property
    def portal_answer(self) -> str: ...
    @property
    def other_hosts(self) -> Sequence[Host]: ...


class Clock(Protocol):
    """The wall clock, and whether something disciplines it."""

    def wall_ms(self) -> int: ...
    def synced(self) -> bool: ...


class Portal(NamedTuple):
    """What a plain question on the internet brought: the layer, and how far its Date is from our clock, in seconds."""

    layer: Layer
    off_s: float | None


class Layers:
    """The layers between this box and the cloud. `addresses` are its own, without link-local ones; `proc` and `sys` are
    where the kernel's facts are read."""

    def __init__(
        self,
        cloud_url: str,
        clock: Clock,
        limits: Callable[[], Limits],
        addresses: Callable[[], Sequence[str]],
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
    ) -> None:
        parts = urlsplit(cloud_url)
        self._host = parts.hostname or ""
        self._clock = clock
        self._limits = limits
        self._addresses = addresses
        self._proc = proc
        self._sys = sys
        self._lookup = Lookup()
        self._answering = ""
        """The router that has answered by itself when it was last asked."""
        self._silent_since_s: float | None = None

    async def examine(self, probed: ProbeResult) -> tuple[Layer, ...]:
        """Every layer, after a probe that ended so; over within about twice `layer_timeout_s`. Raises nothing."""
        if _is_loopback(self._host):
            beside: tuple[Layer, ...] = (Layer("link", "skipped", "the cloud is on this machine"),)
            return (*beside, *_of_probe(probed, Layer("clock", "skipped")))
        limits = self._limits()
        below = (self._link(), self._address())
        gateway, dns, portal, others = await asyncio.gather(
            self._gateway(limits.layer_timeout_s),
            self._dns(limits.layer_timeout_s),
            self._portal(limits),
            self._others(limits),
        )
        clock = self._clock_layer(portal.off_s)
        return (*below, gateway, dns, portal.layer, others, *_of_probe(probed, clock))

    # The box's own side -----------------------------------------------------------------------------------------------

    def _link(self) -> Layer:
        """Whether any interface has a carrier."""
        seen = []
        for folder in sorted((self._sys / "class" / "net").iterdir()):
            if folder.name == "lo":
                continue
            carrier = _read(folder / "carrier").strip()
            seen.append(f"{folder.name} {'connected' if carrier == '1' else 'not connected'}")
            if carrier == "1":
                return Layer("link", "ok", ", ".join(seen))
        return Layer("link", "failed", ", ".join(seen) or "no network interface", "no_carrier")

    def _address(self) -> Layer:
        """Whether it has an address that others reach."""
        found = [one for one in self._addresses() if not ip_address(one).is_loopback]
        if not found:
            return Layer("address", "failed", "no address", "no_address")
        return Layer("address", "ok", ", ".join(found[:4]))

    async def meet_router(self) -> None:
        """While all is well: learn whether the router answers by itself, so that its silence says something later."""
        if not _is_loopback(self._host):
            await self._gateway(self._limits().layer_timeout_s)

    async def _gateway(self, timeout_s: float) -> Layer:
        """Whether the router of the default route answers by TCP, or else by its hardware address."""
        gateways = self._gateways()
        if not gateways:
            return self._without_gateway()
        gateway = gateways[0]
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
            ask.setblocking(False)
            ask.sendto(b"", (gateway, DISCARD_PORT))
        if await _connect(gateway, GATEWAY_PORT, timeout_s) in ANSWERED:
            self._answering, self._silent_since_s = gateway, None
            return Layer("gateway", "ok", f"{gateway} answers")
        if not self._just_fell_silent(gateway) and self._is_neighbour(gateway):
            return Layer("gateway", "ok", f"{gateway} is there")
        return Layer("gateway", "failed", f"{gateway} does not answer", "gateway_silent")

    def _just_fell_silent(self, gateway: str) -> bool:
        """Whether it used to answer, and the kernel may not have noticed yet that it is gone."""
        if gateway != self._answering:
            return False
        now_s = asyncio.get_running_loop().time()
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        if now_s - self._silent_since_s < NEIGHBOUR_SETTLED_S:
            return True
        self._answering, self._silent_since_s = "", None
        return False

    def _without_gateway(self) -> Layer:
        if _read(self._proc / "net" / "ipv6_route") and self._has_ipv6_default():
            return Layer("gateway", "unknown", "the way out is IPv6: its router is not asked")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
                way.connect((str(ip_address(self._host)), DISCARD_PORT))
        except ValueError:
            return Layer("gateway", "failed", "no default route", "no_route")
        except OSError as error:
            return Layer("gateway", "failed", f"no route: {error.strerror}", "no_route")
        return Layer("gateway", "skipped", "the cloud is on this network")

    def _gateways(self) -> list[str]:
        """Routers of IPv4 default routes, the best first."""
        found = []
        for line in _read(self._proc / "net" / "route").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 7 and fields[1] == fields[7] == "00000000" and int(fields[3], 16) & ROUTE_GATEWAY:
                packed = bytes.fromhex(fields[2])[::-1]
                found.append((int(fields[6]), str(ip_address(packed))))
        return [address for _, address in sorted(found)]

    def _has_ipv6_default(self) -> bool:
        for line in _read(self._proc / "net" / "ipv6_route").splitlines():
            fields = line.split()
            if fields[:2] == ["0" * 32, "00"] and int(fields[8], 16) & ROUTE_GATEWAY:
                return True
        return False

    def _is_neighbour(self, address: str) -> bool:
        for line in _read(self._proc / "net" / "arp").splitlines()[1:]:
            fields = line.split()
            if fields[0] == address and int(fields[2], 16) & ARP_COMPLETE:
                return True
        return False

    # The internet's side ----------------------------------------------------------------------------------------------

    async def _dns(self, timeout_s: float) -> Layer:
        with suppress(ValueError):
            return Layer("dns", "skipped", f"{ip_address(self._host)} needs no look-up")
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._lookup.resolve(self._host, 0, socket.AF_UNSPEC)
        except TimeoutError:
            return Layer("dns", "failed", f"no answer about {self._host} within {timeout_s:g} s", "lookup_failed")
        except OSError as error:
            return Layer("dns", "failed", f"{self._host}: {error.strerror or error}", "lookup_failed")
        return Layer("dns", "ok", f"{self._host} is {', '.join(one['host'] for one in found[:4])}")

    async def _portal(self, limits: Limits) -> Portal:
        """A plain question: to `portal_url`, whose answer is known, else to the cloud's host, where only a detour to
        another host counts."""
        url = limits.portal_url or f"http://{_bracketed(self._host)}/"
        timeout = aiohttp.ClientTimeout(total=limits.layer_timeout_s)
        connector = aiohttp.TCPConnector(resolver=self._lookup, use_dns_cache=False, force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as ask,
                ask.get(url, allow_redirects=False, headers={"User-Agent": "nightsafe"}) as answer,
            ):
                body = await read_whole(answer.content, PORTAL_BYTES_MAX)
                off_s = self._off_s(answer.headers.get("Date"))
                where = urlsplit(answer.headers.get("Location", "")).hostname
                return Portal(self._judge_portal(answer.status, body, where, limits), off_s)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Portal(Layer("portal", "unknown", f"no plain answer: {words_of(error)}"), None)

    def _judge_portal(self, status: int, body: bytes | None, where: str | None, limits: Limits) -> Layer:
        if status in LOGIN_STATUSES:
            return Layer("portal", "failed", f"status {status}: a login is wanted", "captive_portal")
        if limits.portal_url:
            asked = urlsplit(limits.portal_url).hostname
            if status in (200, 204) and (body or b"").strip() == limits.portal_answer.strip().encode():
                return Layer("portal", "ok", f"{asked} answers as it should")
            if status >= 500 or status == 429:
                return Layer("portal", "unknown", f"{asked} fails itself: status {status}")
            return Layer("portal", "failed", f"something else answers for {asked}: status {status}", "captive_portal")
        if 300 <= status < 400 and where is not None and not _related(where, self._host):
            return Layer("portal", "failed", f"plain requests are sent to {where}", "captive_portal")
        return Layer("portal", "unknown", f"status {status}; no portal_url is set to compare with")

    async def _others(self, limits: Limits) -> Layer:
        """Whether any other host on the internet takes a connection, or refuses it itself."""
        hosts = limits.other_hosts
        if not hosts:
            return Layer("others", "unknown", "no other_hosts are set to compare with")
        codes = await asyncio.gather(*(self._reach(one.host, one.port, limits.layer_timeout_s) for one in hosts))
        seen = ", ".join(
            f"{one.host}:{one.port} {'answers' if code in ANSWERED else 'does not'}"
            for one, code in zip(hosts, codes, strict=True)
        )
        verdict: Verdict = "ok" if any(code in ANSWERED for code in codes) else "failed"
        return Layer("others", verdict, seen, "" if verdict == "ok" else "provider")

    async def _reach(self, host: str, port: int, timeout_s: float) -> int:
        with suppress(ValueError):
            ip_address(host)
            return await _connect(host, port, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._lookup.resolve(host, port, socket.AF_UNSPEC)
        except (TimeoutError, OSError):
            return errno.EHOSTUNREACH
        return await _connect(found[0]["host"], port, timeout_s)

    def _off_s(self, date: str | None) -> float | None:
        try:
            said = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, OverflowError):
            return None
        return abs(said - self._clock.wall_ms() / 1000)

    def _clock_layer(self, off_s: float | None) -> Layer:
        if off_s is not None and off_s > CLOCK_OFF_MAX_S:
            return Layer("clock", "failed", f"another host's clock is {off_s / 86_400:.0f} days off", "clock_wrong")
        if self._clock.synced():
            return Layer("clock", "ok", "synchronised")
        return Layer("clock", "unknown", "not synchronised")


def _of_probe(probed: ProbeResult, clock: Layer) -> tuple[Layer, ...]:
    """What the probe itself says of TLS and of the cloud; a certificate of another time counts against a clock that
    nobody vouches for."""
    outcome, seen = probed.outcome, probed.detail
    if outcome == "passed":
        return clock, Layer("tls", "ok"), Layer("cloud", "ok", seen or "answers")
    if outcome == "tls_not_now":
        if clock.verdict == "unknown":
            seen = f"{clock.seen}, and the cloud's certificate is of another time"
            clock = Layer("clock", "failed", seen, "clock_wrong")
        return clock, Layer("tls", "failed", "the certificate is not valid at this time", "tls_failed")
    if outcome == "tls_failed":
        return clock, Layer("tls", "failed", seen, "tls_failed")
    if outcome == "lookup_failed":
        return clock, Layer("cloud", "unknown", "not asked: its name is not known")
    return clock, Layer("cloud", "failed", seen, _PROBED[outcome])


async def _connect(host: str, port: int, timeout_s: float) -> int:
    """0, or the errno of a TCP connection that was tried."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or errno.EIO
    writer.transport.abort()
    return 0


def _related(host: str, other: str) -> bool:
    """Whether two names are of one site: equal, or one below the other, or below the same name of two parts."""
    one, two = host.lower().rstrip("."), other.lower().rstrip(".")
    return one == two or one.split(".")[-2:] == two.split(".")[-2:]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
