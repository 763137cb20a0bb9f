"""devices → [gate] → ingest → journal. The listener: every device connects here, and nowhere else.

Event PUBLISHes go to ingest and are acknowledged after their commit; everything else is spliced to Mosquitto over its
Unix socket. TLS will wrap the listening sockets here and change nothing behind them. Never stores, never judges.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import msgspec
import structlog

from agent.core import cards
from agent.core.arrivals import Item, Outcome, Settle
from agent.core.errors import Held
from agent.core.events import RESERVED_DEVICES, device_allowed
from agent.lan import packets
from agent.lan.connection import DeviceConnection
from agent.lan.phases import Hold
from agent.lan.sockets import connected, notice_silence
from agent.lan.stream import is_events_topic
from agent.lan.upstream import Upstream

log = structlog.get_logger()

PACKET_OVERHEAD_BYTES = 65_536
"""Room for topic and properties around the largest event."""
RESPONSE_TOPIC_CHARS_MAX = 200
"""A longer Response Topic is not heeded; brokers bound a topic's levels, too."""
BACKLOG = 512
"""New connections that the kernel holds for the gate."""
COUNTED = (
    "connections_total",
    "connections_over_limit",
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
    refuse_delay_s: float
    linger_s: float
    keepalive_idle_s: int
    keepalive_interval_s: int
    keepalive_probes_max: int

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


class Gate:
    """The listener for devices: a stage that accepts from `ready` until `stop`."""

    name = "gate"

    def __init__(
        self,
        listen: tuple[tuple[str, int], ...],
        broker_socket: Path,
        open_to_all: bool,
        limits: Limits,
        intake: Intake,
        listeners: Listeners,
    ) -> None:
        self._listen = listen
        self._broker_socket = broker_socket
        self._open_to_all = open_to_all
        self.limits = limits
        self._intake = intake
        self._listeners = listeners
        self._connections: dict[DeviceConnection, None] = {}  # in the order in which they came
        self._starved: dict[DeviceConnection, None] = {}
        self._joins: asyncio.TaskGroup | None = None
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._present: dict[str, DeviceConnection] = {}
        """The latest open connection of each device."""
        self._displacing: dict[DeviceConnection, str] = {}
        """Who is being let in while another connection of the same device is open, and where from that one comes."""
        self.partial_bytes = 0
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

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Accept devices until `stop`; then commit and acknowledge what was read, and close."""
        async with AsyncExitStack() as stack:
            servers = [await self._bound(host, port, stack) for host, port in self._listen]
            self._joins = await stack.enter_async_context(asyncio.TaskGroup())
            for server in servers:
                await server.start_serving()
            self.addresses = [listener.getsockname()[:2] for server in servers for listener in server.sockets]
            log.info("gate_listening", addresses=[f"{host}:{port}" for host, port in self.addresses])
            ready()
            await stop.wait()
            for server in servers:
                server.close()
            for connection in tuple(self._connections):
                connection.hold(Hold.STOPPING)
            while any(not connection.idle for connection in self._connections):
                self.settled.clear()
                await self.settled.wait()
            for connection in tuple(self._connections):
                connection.stop()

    async def _bound(self, host: str, port: int, stack: AsyncExitStack) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(self._accept, host, port, backlog=BACKLOG, start_serving=False)
        except OSError as error:
            raise Held(
                "gate_address",
                f"The gate cannot listen on {host}:{port}: {error.strerror or error}.",
                f"See what holds the port with `ss -ltnp 'sport = :{port}'` and stop it (often Debian's own mosquitto: "
                "`systemctl disable --now mosquitto`), or change [gate] listen.",
            ) from error
        stack.callback(server.close)
        limits = self.limits
        for listener in server.sockets:
            notice_silence(listener, limits.keepalive_idle_s, limits.keepalive_interval_s, limits.keepalive_probes_max)
        return server

    def _accept(self) -> asyncio.Protocol:
        self._counts["connections_total"] += 1
        return DeviceConnection(self)

    # For the connections ----------------------------------------------------------------------------------------------

    def joined(self, connection: DeviceConnection) -> None:
        """A connection was accepted; one too many is closed."""
        self._connections[connection] = None
        if len(self._connections) > self.limits.connections_max:
            self._counts["connections_over_limit"] += 1
            connection.close()

    def left(self, connection: DeviceConnection) -> None:
        """A connection is gone."""
        self._connections.pop(connection, None)
        self._starved.pop(connection, None)
        self._displacing.pop(connection, None)
        if self._present.get(connection.device) is connection:
            del self._present[connection.device]
        self.settled.set()

    def opened(self, connection: DeviceConnection) -> None:
        """The broker let the device in."""
        log.debug("device_connected", device=connection.device, peer=connection.peer)
        before = self._displacing.pop(connection, None)
        if before is not None:
            self._counts["takeovers"] += 1
            self._listeners.taken_over(connection.device, before, connection.peer)
        if connection.device:
            self._present[connection.device] = connection

    def count(self, name: str) -> None:
        """Count one of what the counters call `name`."""
        self._counts[name] += 1

    def name_of(self, connect: packets.Connect, peer: str) -> tuple[str, bytes]:
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
