"""[sim: network] Connections in memory that behave like TCP on a bad day: late, in pieces, cut, silent, half closed.

Bytes of one direction arrive in order or not at all; a sender that nobody reads from is told to pause; whoever writes
to a socket that is gone gets a reset. A killed process's sockets are closed by its kernel; a machine without power
says nothing, and its peers learn of it when they knock on it later. Never looks into what is sent.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from itertools import count
from random import Random
from typing import Any, Final

from tests.sim.loop import PROCESS, Process, SimLoop, here, kept_context

Address = tuple[str, int] | str

READ_BYTES: Final = 262_144
"""What one read takes at most."""
HIGH_WATER_BYTES: Final = 131_072
"""Unread bytes at which a sender is told to pause: its own buffer and the kernels' on the way."""
LOW_WATER_BYTES: Final = 32_768
GIVE_UP_S: Final = 900.0
"""How long a kernel sends again what nobody confirms."""
CONNECT_MAX_S: Final = 127.0
"""How long a kernel knocks at a door where nobody answers."""


class Link:
    """A way between machines, as it is right now. Changed by the faults; `latency_s` is a range."""

    def __init__(self, latency_s: tuple[float, float], chance: Random) -> None:
        self.latency_s = latency_s
        self.bytes_per_s = 1e9
        self.split = 0.0
        """Share of the deliveries that arrive in two pieces."""
        self.silent = False
        """Nothing gets through, and nobody is told."""
        self.refuses = False
        """New connections are refused on the way."""
        self.watch: Callable[[End, bytes], None] | None = None
        """Sees what clients write on this way, before it is sent."""
        self.chance = chance
        self.connections: dict[Connection, None] = {}
        self._silences = 0

    def delay_s(self, size: int) -> float:
        return self.chance.uniform(*self.latency_s) + size / self.bytes_per_s

    def hush(self) -> None:
        """Nothing gets through from now on."""
        self.silent = True
        self._silences += 1
        for connection in tuple(self.connections):
            for end in connection.ends:
                end.heed_silence(self._silences)

    def still_silent(self, silence: int) -> bool:
        """Whether it has not been heard of since then."""
        return self.silent and self._silences == silence

    def cut(self) -> None:
        """Every connection on this way is reset, at both ends."""
        for connection in tuple(self.connections):
            connection.cut()

    def heal(self) -> None:
        """What was held back goes on."""
        self.silent = False
        for connection in tuple(self.connections):
            for end in connection.ends:
                end.pump()


class Connection:
    """Two ends and what is on its way between them."""

    def __init__(self, loop: SimLoop, link: Link, number: int) -> None:
        self.loop = loop
        self.link = link
        self.number = number
        self.ends: tuple[End, End] = (End(self, 0), End(self, 1))
        link.connections[self] = None

    def __hash__(self) -> int:
        return self.number

    def cut(self) -> None:
        """A box on the way forgot this connection."""
        for end in self.ends:
            self.loop.call_exactly(self.loop.now_s + self.link.delay_s(0), end.reset)

    def settle(self) -> None:
        """Forget it once both ends are gone."""
        if all(end.lost for end in self.ends):
            self.link.connections.pop(self, None)


class End(asyncio.Transport):
    """One end: a transport for its protocol. `outbox` is what the other end has not taken yet."""

    def __init__(self, connection: Connection, side: int) -> None:
        super().__init__()
        self.connection = connection
        self._side = side
        self.loop = connection.loop
        self.protocol: Any = None
        self.context = Context()
        self.process: Process | None = None
        self.names: dict[str, Any] = {}
        self._outbox: deque[bytes | None] = deque()  # None is the end of the stream
        self._unread_bytes = 0
        self._inbox: deque[bytes | None] = deque()
        self._due = False
        self._arrives_s = 0.0
        self._stuck_since_s: float | None = None
        self._reading = True
        self._paused_writing = False
        self._closing = False
        self._ended = False
        self.lost = False
        self.powerless = False
        self._proxied = False
        self.silence_max_s: float | None = None

    def __hash__(self) -> int:
        return 2 * self.connection.number + self._side

    @property
    def other(self) -> "End":
        return self.connection.ends[1 - self._side]

    def belong(self) -> None:
        """To the process that is running."""
        self.context = kept_context()
        self.process = here()
        self.process.parts.setdefault("connections", {})[self] = None

    def attach(self, protocol: Any) -> None:
        """From here on the protocol hears what comes."""
        self.protocol = protocol
        self._tell(protocol.connection_made, self)
        self.loop.call_exactly(self.loop.now_s, self._read)

    # A transport's calls ----------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.names.get(name, default)

    def is_closing(self) -> bool:
        return self._closing or self.lost

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def is_reading(self) -> bool:
        return self._reading and not self.is_closing()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        if not self._closing:
            self.loop.call_exactly(self.loop.now_s, self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return max(0, self._unread_bytes - LOW_WATER_BYTES)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return LOW_WATER_BYTES, HIGH_WATER_BYTES

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.lost or self._ended or self._closing or not self._alive or not data:
            return
        watch = self.connection.link.watch
        if watch is not None and self._side == 0:
            watch(self, bytes(data))
        self._send(bytes(data))
        if self._unread_bytes > HIGH_WATER_BYTES and not self._paused_writing:
            self._paused_writing = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not (self._ended or self.lost or self._closing) and self._alive:
            self._ended = True
            self._send(None)

    def close(self) -> None:
        if self.is_closing() or not self._alive:
            return
        self._closing = True
        if self._inbox:  # a kernel that throws away what nobody read says so to the sender
            self._hang_up(reset=True)
        elif not self._ended:
            self._ended = True
            self._send(None)
        if not self._paused_writing:
            self._lose_soon(None)

    def abort(self) -> None:
        if self.lost or not self._alive:
            return
        self._closing = True
        self._hang_up(reset=True)
        self._lose_soon(None)

    # What the world does to it ----------------------------------------------------------------------------------------

    def reset(self) -> None:
        """The kernel tells this end that the connection is no more."""
        self._outbox.clear()
        self._inbox.clear()
        self._closing = True
        self._lose(ConnectionResetError(104, "Connection reset by peer"))

    def killed(self) -> None:
        """The process is gone; its kernel closes what it had."""
        if self.lost:
            return
        if self._inbox:
            self._hang_up(reset=True)
        elif not self._ended:
            self._send(None)
        self.lost = True
        self.connection.settle()

    def unplugged(self) -> None:
        """The machine is gone, and says nothing."""
        if not self.lost:
            self.lost = self.powerless = True
            self._outbox.clear()

    def plugged_in(self) -> None:
        """The machine is there again and knows nothing of this: who still sends to it is told so."""
        if self.powerless:
            self.powerless = False
            if self.other._outbox and not self.other.lost:
                self._hang_up(reset=True)
            self.connection.settle()

    def stall(self, delay_s: float) -> None:
        """A proxy on the way sits on what is sent from now on, and delivers it whatever becomes of the sender."""
        self._proxied = True
        self._arrives_s = max(self._arrives_s, self.loop.now_s + delay_s)

    @property
    def _alive(self) -> bool:
        return self.process is None or self.process.alive

    def _hang_up(self, reset: bool) -> None:
        assert reset
        link = self.connection.link
        if not link.silent and not self._proxied:
            self.loop.call_exactly(self.loop.now_s + link.delay_s(0), self.other.reset)

    def _send(self, data: bytes | None) -> None:
        self._outbox.append(data)
        if data:
            self._unread_bytes += len(data)
        self.pump()

    def pump(self) -> None:
        """Bring what waits on its way, one delivery after another."""
        if self._due or not self._outbox:
            return
        if self.connection.link.silent or self.other.powerless:
            if self._stuck_since_s is None:
                self._stuck_since_s = self.loop.now_s
                self.loop.call_exactly(self.loop.now_s + GIVE_UP_S, self._give_up, self.loop.now_s)
            return
        self._stuck_since_s = None
        self._due = True
        size = sum(len(data) for data in self._outbox if data)
        self._arrives_s = max(self._arrives_s, self.loop.now_s + self.connection.link.delay_s(min(size, READ_BYTES)))
        self.loop.call_exactly(self._arrives_s, self._arrive)

    def heed_silence(self, silence: int) -> None:
        """The way has fallen silent: a kernel that was asked to notice ends the connection after a while."""
        if self.silence_max_s is not None:
            due_s = self.loop.now_s + self.silence_max_s
            self.loop.call_exactly(due_s, lambda: self._time_out() if self.connection.link.still_silent(silence) else 0)

    def _give_up(self, since_s: float) -> None:
        if self._stuck_since_s == since_s:
            self._time_out()

    def _time_out(self) -> None:
        if not self.lost:
            self._closing = True
            self._outbox.clear()
            self._lose(TimeoutError(110, "Connection timed out"))

    def _arrive(self) -> None:
        self._due = False
        if not self._outbox or self.connection.link.silent or self.other.powerless:
            self.pump()
            return
        data = self._outbox.popleft()
        while data and self._outbox and self._outbox[0] and len(data) < READ_BYTES:
            data += self._outbox.popleft() or b""
        chance = self.connection.link.chance
        if data and len(data) > 1 and chance.random() < self.connection.link.split:
            at = chance.randrange(1, len(data))
            self._outbox.appendleft(data[at:])
            data = data[:at]
        other = self.other
        if other.lost or other._closing:
            if data and not self.lost and not other.powerless:
                other._hang_up(reset=True)
        else:
            other._inbox.append(data)
            other._read()
        self.pump()

    def _read(self) -> None:
        """Hand what has arrived to the protocol, as long as it reads."""
        while self._inbox and self._reading and self.protocol is not None and not self.is_closing() and self._alive:
            data = self._inbox.popleft()
            if data is None:
                self._take_end()
                return
            while self._inbox and self._inbox[0] and len(data) < READ_BYTES:
                data += self._inbox.popleft() or b""
            self.other._taken(len(data))
            self._note_read(data)
            self._tell(self.protocol.data_received, data)

    note: Callable[["End", bytes], None] = staticmethod(lambda end, data: None)
    """Told what each end reads, for the hash of the run."""

    def _note_read(self, data: bytes) -> None:
        End.note(self, data)

    def _take_end(self) -> None:
        if not self._tell(self.protocol.eof_received):
            self._tell(self.close)

    def _taken(self, size: int) -> None:
        self._unread_bytes -= size
        if self._paused_writing and self._unread_bytes <= LOW_WATER_BYTES and not self.lost:
            self._paused_writing = False
            if self._closing:
                self._lose_soon(None)
            elif self._alive:
                self.loop.call_exactly(self.loop.now_s, self._tell_resumed)

    def _tell_resumed(self) -> None:
        if not self.lost and not self._paused_writing:
            self._tell(self.protocol.resume_writing)

    def _lose_soon(self, error: Exception | None) -> None:
        self.loop.call_exactly(self.loop.now_s, self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        if self.lost:
            return
        self.lost = True
        if self.process is not None:
            self.process.parts["connections"].pop(self, None)
        if self.protocol is not None and self._alive:
            self._tell(self.protocol.connection_lost, error)
        self.connection.settle()

    def _tell(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call the protocol as its process; what it raises goes where a loop would put it."""
        if PROCESS.get() is self.process and self.process is not None:
            return call(*args)
        try:
            return self.context.run(call, *args)
        except Exception as error:
            self.context.run(self.loop.call_exception_handler, {"message": "protocol", "exception": error})
            return None


class Listener:
    """A listening socket, with the shape of asyncio's Server."""

    def __init__(self, network: "Network", address: Address, factory: Callable[[], Any]) -> None:
        self._network = network
        self.address = address
        self.factory = factory
        self.process = here()
        self.context = kept_context()
        self.serving = False
        self.silence_max_s: float | None = None
        """How long a connection lives on a silent way; None: as long as nothing is sent."""
        self.sockets = [self]

    def getsockname(self) -> Address:
        return self.address

    async def start_serving(self) -> None:
        self.serving = True

    def is_serving(self) -> bool:
        return self.serving

    def close(self) -> None:
        self.serving = False
        self._network.release(self)

    async def wait_closed(self) -> None: ...


class Pending:
    """A connected socket that no protocol reads from yet."""

    def __init__(self, end: End) -> None:
        self.end = end

    def close(self) -> None:
        self.end.abort()


class Network:
    """Who listens where. `links` says which way leads to an address."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._listeners: dict[Address, Listener] = {}
        self._numbers = count(1)
        self.links: dict[Address, Link] = {}
        self.dark: dict[Address, bool] = {}
        """Addresses of machines without power."""

    def listen(self, address: Address, factory: Callable[[], Any]) -> Listener:
        """Bind the address for the running process."""
        if address in self._listeners:
            raise OSError(98, "Address already in use")
        made = self._listeners[address] = Listener(self, address, factory)
        return made

    def release(self, listener: Listener) -> None:
        """The address is free again."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def listens(self, address: Address) -> bool:
        """Whether a connection would be taken there."""
        listener = self._listeners.get(address)
        return listener is not None and listener.serving and listener.process.alive

    async def connect(self, address: Address, way: Link | None = None) -> Pending:
        """A connection of the running process to `address`, by its link or another `way`. OSError as of a kernel."""
        link = way or self.links[address]
        began_s = self._loop.now_s
        while link.silent or self.dark.get(address, False):
            if self._loop.now_s - began_s > CONNECT_MAX_S:
                raise TimeoutError(110, "Connection timed out")
            await asyncio.sleep(1.0)
        await asyncio.sleep(link.delay_s(0) * 2)
        listener = self._listeners.get(address)
        if link.refuses or listener is None or not self.listens(address):
            raise ConnectionRefusedError(111, "Connection refused")
        connection = Connection(self._loop, link, next(self._numbers))
        ours, theirs = connection.ends
        ours.names = {"peername": address, "sockname": ("client", connection.number)}
        theirs.names = {"peername": ("client", connection.number), "sockname": address}
        ours.belong()
        self._loop.call_exactly(self._loop.now_s, self._accept, listener, theirs)
        return Pending(ours)

    def _accept(self, listener: Listener, end: End) -> None:
        if not listener.process.alive or not listener.serving:
            end.other.reset()
            return

        def take() -> None:
            end.belong()
            end.silence_max_s = listener.silence_max_s
            end.attach(listener.factory())

        listener.context.copy().run(take)

    def process_died(self, process: Process, power: bool) -> None:
        """Its listeners are gone, and its connections as the kernel leaves them: closed, or silent without power."""
        for address, listener in tuple(self._listeners.items()):
            if listener.process is process:
                del self._listeners[address]
        for end in tuple(process.parts.get("connections", ())):
            if power:
                end.unplugged()
            else:
                end.killed()

    def machine_up(self, ends: tuple[End, ...]) -> None:
        """A machine has power again: what was connected to it before is told when it knocks."""
        for end in ends:
            end.plugged_in()
