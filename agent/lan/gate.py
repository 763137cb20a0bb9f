"""devices → [gate] → ingest → journal. The listener: every device connects here, and nowhere else.

Event PUBLISHes go to ingest and are acknowledged after their commit; everything else is spliced to Mosquitto over its
Unix socket, which also says who may log in. TLS ends at the door and changes nothing behind it. Never stores or judges.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

import msgspec
import structlog

from agent.core import cards
from agent.core.arrivals import Item, Outcome, Settle
from agent.core.errors import Held
from agent.core.events import RESERVED_DEVICES, device_allowed
from agent.core.lockout import Lockout, Terms
from agent.core.presence import Line
from agent.lan import packets
from agent.lan.connection import DeviceConnection
from agent.lan.phases import Hold, LockedOut
from agent.lan.sockets import connected, notice_silence
from agent.lan.strangers import Strangers
from agent.lan.stream import is_events_topic
from agent.lan.subscriptions import Subscriptions
from agent.lan.upstream import Upstream
from agent.runtime.doors import HandshakeLimits, TlsDoor, bind

log = structlog.get_logger()

PACKET_OVERHEAD_BYTES = 65_536
"""Room for topic and properties around the largest event."""
RESPONSE_TOPIC_CHARS_MAX = 200
"""A longer Response Topic is not heeded; brokers bound a topic's levels, too."""
TOPIC_SHOWN_BYTES = 200
"""So much of a topic that a device may not write stands in the log."""
BACKLOG = 512
"""New connections that the kernel holds for the gate."""
COUNTED = (
    "connections_total",
    "connections_over_limit",
    "connections_crowded_out",
    "connect_timeouts",
    "connects_refused",
    "card_number_names",
    "broker_unreachable",
    "malformed",
    "too_large",
    "partial_dropped",
    "events_total",
    "events_qos0",
    "events_shed",
    "spoofed",
    "takeovers",
    "handshakes_failed",
    "handshakes_over_limit",
    "logins_refused",
    "logins_locked_out",
    "foreign_topics",
    "messages_slowed",
    "subscriptions_over_limit",
    "connections_cut",
)
"""What the gate counts; each is told from the start, as 0, so that its first increase can be seen."""


class Limits(msgspec.Struct, frozen=True):
    """The gate's bounds, from the settings of the same names."""

    connections_max: int
    connect_timeout_s: float
    event_bytes_max: int
    inflight_max: int
    preconnack_bytes_max: int
    partial_bytes_max: int
    stranger_bytes_max: int
    refuse_delay_s: float
    linger_s: float
    keepalive_idle_s: int
    keepalive_interval_s: int
    keepalive_probes_max: int
    logins: Terms = Terms(10, 60.0, 60.0)
    messages_per_s_max: float = 50.0
    messages_at_once_max: float = 500.0
    subscriptions_max: int = 200
    handshakes_max: int = 256
    handshakes_per_address_max: int = 64

    @property
    def packet_bytes_max(self) -> int:
        """The largest packet that devices are told they may send."""
        return self.event_bytes_max + PACKET_OVERHEAD_BYTES

    @property
    def event_drop_bytes(self) -> int:
        """An event above this is no longer refused by name: whoever sends it is sent away."""
        return 4 * self.event_bytes_max

    @property
    def packet_drop_bytes(self) -> int:
        """A packet above this is not read at all."""
        return self.event_drop_bytes + PACKET_OVERHEAD_BYTES

    @property
    def connect_bytes_max(self) -> int:
        """The largest CONNECT: its will may be as large as a packet."""
        return self.packet_bytes_max


class Door(NamedTuple):
    """Where the gate listens; port 0 lets the system choose. With a context it speaks TLS."""

    host: str
    port: int
    context: ssl.SSLContext | None = None


class Intake(Protocol):
    """Where events go."""

    def offer(self, device: str, payload: bytes, settle: Settle) -> bool:
        """Take one event; its outcome goes to `settle` after the commit. False: read on only after `on_room`."""
        ...

    def on_room(self, call: Callable[[], None]) -> None: ...


class Listeners(Protocol):
    """Who hears what the gate alone sees."""

    def spoofed(self, device: str, topic: str) -> None:
        """A device published to another's events topic."""
        ...

    def answer(self, device: str, topic: str, correlation: bytes | None, item: Item, outcome: Outcome) -> None:
        """A device asked for its event's own receipt at `topic`."""
        ...

    def taken_over(self, device: str, before: str, now: str) -> None:
        """A device was let in from `now` while its connection from `before` was open: the broker ends that one."""
        ...

    def locked_out(self, address: str, device: str) -> None:
        """So many logins as `device` were refused that nobody is asked any more about those from `address`."""
        ...

    def crowded(self, address: str, count: int) -> None:
        """`count` connections from `address` log in as nobody and took the last room: the oldest are ended."""
        ...


class Gate:
    """The listener for devices: a stage that accepts from `ready` until `stop`."""

    name = "gate"

    def __init__(
        self,
        doors: tuple[Door, ...],
        broker_socket: Path,
        open_to_all: bool,
        limits: Limits,
        intake: Intake,
        listeners: Listeners,
    ) -> None:
        self._doors = doors
        self._broker_socket = broker_socket
        self._open_to_all = open_to_all
        self.limits = limits
        self._intake = intake
        self._listeners = listeners
        self._connections: dict[DeviceConnection, None] = {}  # in the order in which they came
        self._strangers = Strangers()
        self._starved: dict[DeviceConnection, None] = {}
        self._joins: asyncio.TaskGroup | None = None
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._present: dict[str, DeviceConnection] = {}
        """The latest open connection of each device."""
        self._displacing: dict[DeviceConnection, str] = {}
        """Who is being let in while another connection of the same device is open, and where from that one comes."""
        self.lockout = Lockout(limits.logins)
        """Who may try to log in again, at this door or at another of the box."""
        self.subscriptions = Subscriptions(limits.subscriptions_max)
        self.partial_bytes = 0
        """Half-received packets of devices that are let in."""
        self._stranger_bytes = 0
        """What those that are not let in yet have sent."""
        self.shedding = False
        """Whether room on the disk is so short that events with QoS 0 are left out; nobody was promised anything."""
        self.settled = asyncio.Event()
        """Set whenever a connection has acknowledged what was due, or is gone."""
        self.addresses: list[tuple[str, int]] = []
        intake.on_room(self._room)

    def counts(self) -> Mapping[str, int]:
        """Counters by name; `connections` is how many there are now, the others only grow."""
        return {**self._counts, "connections": len(self._connections)}

    def devices(self) -> frozenset[str]:
        """Names of the devices that are connected now."""
        return frozenset(connection.device for connection in self._connections if connection.device)

    def lines(self) -> Mapping[str, Line]:
        """Each device that is connected. What the gate itself leaves unread is no silence of the device."""
        now_s = asyncio.get_running_loop().time()
        return {
            device: Line(0.0 if one.holds & ~Hold.UNREAD else now_s - one.heard_s, one.keep_alive_s)
            for device, one in self._present.items()
        }

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Accept devices until `stop`; then commit and acknowledge what was read, and close."""
        async with AsyncExitStack() as stack:
            plain = [await self._bound_plain(door, stack) for door in self._doors if door.context is None]
            tls = [
                (door.context, listener)
                for door in self._doors
                if door.context is not None
                for listener in await self._bound_tls(door, stack)
            ]
            self._joins = await stack.enter_async_context(asyncio.TaskGroup())
            for server in plain:
                await server.start_serving()
            doors = [self._open(context, listener) for context, listener in tls]
            listeners = [*(listener for _, listener in tls), *(one for server in plain for one in server.sockets)]
            self.addresses = [one.getsockname()[:2] for one in listeners]
            log.info("gate_listening", addresses=[f"{host}:{port}" for host, port in self.addresses])
            ready()
            await stop.wait()
            for server in plain:
                server.close()
            for door in doors:
                door.cancel()
            for connection in tuple(self._connections):
                connection.hold(Hold.STOPPING)
            while any(not connection.idle for connection in self._connections):
                self.settled.clear()
                await self.settled.wait()
            for connection in tuple(self._connections):
                connection.stop()

    async def _bound_plain(self, door: Door, stack: AsyncExitStack) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(self._accept, door.host, door.port, backlog=BACKLOG, start_serving=False)
        except OSError as error:
            raise _not_bound(door, error) from error
        stack.callback(server.close)
        self._notice_silence(server.sockets)
        return server

    async def _bound_tls(self, door: Door, stack: AsyncExitStack) -> list[socket.socket]:
        try:
            listeners = await bind(door.host, door.port)
            for listener in listeners:
                stack.callback(listener.close)
                listener.listen(BACKLOG)
        except OSError as error:
            raise _not_bound(door, error) from error
        self._notice_silence(listeners)
        return listeners

    def _notice_silence(self, listeners: Iterable[socket.socket]) -> None:
        limits = self.limits
        for listener in listeners:
            notice_silence(listener, limits.keepalive_idle_s, limits.keepalive_interval_s, limits.keepalive_probes_max)

    def _open(self, context: ssl.SSLContext, listener: socket.socket) -> asyncio.Task[None]:
        """Accept with TLS, until cancelled."""
        limits = self.limits
        bounds = HandshakeLimits(limits.connect_timeout_s, limits.handshakes_max, limits.handshakes_per_address_max)
        door = TlsDoor(listener, context, self._accept, bounds, lambda address: self._has_room, self.count)
        assert self._joins is not None
        return self._joins.create_task(door.run(), name="gate-door")

    @property
    def _has_room(self) -> bool:
        return len(self._connections) <= self.limits.connections_max or bool(self._strangers)

    def _accept(self) -> asyncio.Protocol:
        self._counts["connections_total"] += 1
        return DeviceConnection(self)

    # For the connections ----------------------------------------------------------------------------------------------

    def joined(self, connection: DeviceConnection) -> None:
        """A connection was accepted. One too many ends one that has not logged in, if need be itself."""
        self._connections[connection] = None
        self._strangers.add(connection)
        if len(self._connections) > self.limits.connections_max:
            self._counts["connections_over_limit"] += 1
            self._crowd_out(self._strangers.take_oldest_of_most())

    def _crowd_out(self, found: tuple[DeviceConnection, int] | None) -> None:
        """Places or room are short: this one, of an address with so many that have not logged in, makes way."""
        if found is None:
            return
        connection, count = found
        if count > 1:
            self._counts["connections_crowded_out"] += 1
            self._listeners.crowded(connection.address, count)
        connection.close()

    def hear_stranger(self, change: int) -> None:
        """So many bytes more, or fewer, are kept of connections that have not logged in."""
        self._stranger_bytes += change
        while change > 0 and self._stranger_bytes > self.limits.stranger_bytes_max and self._strangers:
            self._counts["partial_dropped"] += 1
            self._crowd_out(self._strangers.take_largest_of_most_bytes())

    def left(self, connection: DeviceConnection) -> None:
        """A connection is gone."""
        self._connections.pop(connection, None)
        self._strangers.remove(connection)
        self._starved.pop(connection, None)
        self._displacing.pop(connection, None)
        if self._present.get(connection.device) is connection:
            del self._present[connection.device]
        self.settled.set()

    def opened(self, connection: DeviceConnection) -> None:
        """The broker let the device in."""
        self._strangers.remove(connection)
        self.lockout.let_in(connection.address, connection.device, asyncio.get_running_loop().time())
        log.debug("device_connected", device=connection.device, peer=connection.peer)
        before = self._displacing.pop(connection, None)
        if before is not None:
            self._counts["takeovers"] += 1
            self._listeners.taken_over(connection.device, before, connection.peer)
        if connection.device:
            self._present[connection.device] = connection

    def refused(self, connection: DeviceConnection, unknown: bool) -> None:
        """The broker did not let the device in; `unknown` where name or password were wrong."""
        self._counts["connects_refused"] += 1
        if not unknown:
            return
        self._counts["logins_refused"] += 1
        address, device = connection.address, connection.device
        if not device_allowed(device):
            device = "no device's name"
        now_s = asyncio.get_running_loop().time()
        fresh = self.lockout.fresh(address, connection.device, now_s)
        if self.lockout.refused(address, connection.device, now_s):
            log.warning("login_locked_out", address=address, device=device, for_s=self.limits.logins.lockout_s)
            self._listeners.locked_out(address, device)
        else:
            tell = log.info if fresh else log.debug
            tell("login_refused", address=address, device=device, door="mqtt")

    def locked_out(self, address: str, device: str) -> bool:
        """Whether the broker is not even asked about this login; counted."""
        locked = self.lockout.locked(address, device, asyncio.get_running_loop().time())
        self._counts["logins_locked_out"] += locked
        return locked

    def is_foreign(self, device: str, topic: bytes) -> bool:
        """Whether the broker refuses this topic to the device. Where any device may connect it refuses none."""
        if self._open_to_all:
            return False
        own = f"pos/v1/{device}/".encode()
        kind = topic.removeprefix(own) if topic.startswith(own) else b""
        return kind not in (b"state", b"events") and not (kind.startswith(b"requests/") and kind.count(b"/") == 1)

    def foreign(self, connection: DeviceConnection, topic: bytes, again: bool) -> None:
        """A device published, or has its will, where it may not; logged once for each connection."""
        self._counts["foreign_topics"] += 1
        if not again:
            shown = topic[:TOPIC_SHOWN_BYTES].decode("utf-8", "replace")
            log.warning("topic_denied", device=connection.device, peer=connection.peer, topic=shown)

    def cut(self, device: str, text: str) -> int:
        """End every connection of a device that may not connect any more, with words; returns how many there were."""
        self.lockout.forget(device)
        found = [connection for connection in self._connections if connection.device == device]
        for connection in found:
            self._counts["connections_cut"] += 1
            connection.cut(text)
        return len(found)

    def count(self, name: str) -> None:
        """Count one of what the counters call `name`."""
        self._counts[name] += 1

    def name_of(self, connect: packets.Connect, address: str, peer: str) -> tuple[str, bytes]:
        """Who connects, and the CONNECT to pass on. PermissionError, with words, for what must not reach the broker."""
        if connect.username is not None:
            name, forwarded = connect.username, packets.packet(packets.CONNECT << 4, connect.body)
        elif self._open_to_all:
            name = connect.client_id or f"guest-{uuid4().hex[:12]}"
            forwarded = packets.connect_as(connect, name)
        else:
            name, forwarded = "", packets.packet(packets.CONNECT << 4, connect.body)
        if name.lower() in RESERVED_DEVICES:
            raise PermissionError(f'the name "{name}" is the box\'s own: give the device another one')
        if not cards.text_clean(name):
            self._card_number_name(peer)
            raise PermissionError(
                "the name looks like a card number, and names are written down: give the device another"
            )
        if self.locked_out(address, name):
            raise LockedOut("too many logins were refused: wait, then try again with the right password")
        if self._open_to_all and connect.will_topic is not None:
            self._check_will(name, connect.will_topic)
        return name, forwarded

    def _check_will(self, name: str, topic: str) -> None:
        """Without an access list only the gate knows whose will this is: it would come as the other device's event."""
        if is_events_topic(topic.encode()) and not (device_allowed(name) and topic == events_topic(name)):
            self.spoofed(name, topic)
            raise PermissionError(f"{name} may leave a will with events at {events_topic(name)} only")

    def _card_number_name(self, peer: str) -> None:
        """A name that must not reach the disk, neither here nor in the broker's log."""
        say = log.debug if self._counts["card_number_names"] else log.warning
        self._counts["card_number_names"] += 1
        say("connect_refused", peer=peer, reason="card_number", hint="Give the device a name that is no card number.")

    def join(self, connection: DeviceConnection, connect: bytes) -> asyncio.Task[None]:
        """Open the device's way to the broker and send its CONNECT there."""
        assert self._joins is not None
        if (present := self._present.get(connection.device)) is not None:
            self._displacing[connection] = present.peer
        return self._joins.create_task(self._join(connection, connect), name=f"join-{connection.peer}")

    async def _join(self, connection: DeviceConnection, connect: bytes) -> None:
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                loop, broker = asyncio.get_running_loop(), await connected(self._broker_socket)
                _, upstream = await loop.create_unix_connection(lambda: Upstream(connection), sock=broker)
        except (OSError, TimeoutError):
            self._counts["broker_unreachable"] += 1
            connection.not_joined()
            return
        connection.joined_upstream(upstream)
        upstream.write(connect, asyncio.get_running_loop().time())

    @staticmethod
    def events_prefix(device: str) -> bytes:
        """How the body of a PUBLISH to the device's events topic begins; empty when it may not send events."""
        if not device_allowed(device):
            return b""
        topic = events_topic(device).encode()
        return len(topic).to_bytes(2, "big") + topic

    def offer(self, device: str, payload: bytes, settle: Settle) -> bool:
        """Hand one event to ingest; False when the device should be read from later."""
        self._counts["events_total"] += 1
        return self._intake.offer(device, payload, settle)

    def starve(self, connection: DeviceConnection) -> None:
        """Wake this connection when there is room again."""
        self._starved[connection] = None

    def spoofed(self, device: str, topic: str) -> None:
        """A device tried another's events topic, by publishing or in its will."""
        self._counts["spoofed"] += 1
        self._listeners.spoofed(device, topic if cards.text_clean(topic) else cards.masked(topic.encode()).decode())

    def answer(self, device: str, asked: packets.PublishProperties, item: Item, outcome: Outcome) -> None:
        """Send an event's own receipt where the device asked for it, if that is its own place."""
        topic = asked.response_topic or ""
        place = f"pos/v1/{device}/replies"
        fit = len(topic) <= RESPONSE_TOPIC_CHARS_MAX and topic.isprintable() and not set(topic) & {"+", "#"}
        if fit and (topic == place or topic.startswith(place + "/")):
            self._listeners.answer(device, topic, asked.correlation, item, outcome)

    def _room(self) -> None:
        starved, self._starved = self._starved, {}
        for connection in starved:
            connection.release(Hold.ROOM)


def events_topic(device: str) -> str:
    """Where this device's events go."""
    return f"pos/v1/{device}/events"


def _not_bound(door: Door, error: OSError) -> Held:
    host, port = door.host, door.port
    return Held(
        "gate_address",
        f"The gate cannot listen on {host}:{port}: {error.strerror or error}.",
        f"See what holds the port with `ss -ltnp 'sport = :{port}'` and stop it (often Debian's own mosquitto: "
        "`systemctl disable --now mosquitto`), or change [gate] listen.",
    )
