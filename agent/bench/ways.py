"""box → [ways] → cloud. The way to the reference cloud at one address, and how it fails: three faults, a brown-out.

The cloud is the real one, and what stands between it and the box when all is well is nothing. Never changes what
travels.
"""

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Self

from agent.bench.programs import Cloud

State = Literal["up", "refused", "dropped", "silent"]
"""`refused`: nobody listens. `dropped`: packets that open a connection vanish without a word. `silent`: the cloud's
process stands still, so that connections, old and new, are taken and never answered."""
STATES: Final[tuple[State, ...]] = ("up", "refused", "dropped", "silent")

_FILLERS: Final = 4
"""Connections that fill the queue of a listener which never accepts: from then on the kernel drops what comes."""
_CHUNK_BYTES: Final = 65_536
_CALL_MAX_S: Final = 10.0


class Way:
    """The cloud at `url`, up at first. A context manager; `turn` lets it fail and comes back."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held = _bound(0)  # bound and not listening: nobody else is given the port
        self.port: int = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.state: State = "up"
        self._cloud: Cloud | None = None
        self._full: list[socket.socket] = []
        self._used_s = 0.0

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()
        self._end()
        self._held.close()

    @property
    def cpu_s(self) -> float:
        """CPU time of the cloud so far, over all its starts."""
        return self._used_s + (self._cloud.cpu_s if self._cloud else 0.0)

    def turn(self, state: State) -> None:
        """From now on the way is like this."""
        if state == self.state:
            return
        self._clear()
        self.state = state
        if state in ("up", "silent"):
            self._start()
        else:
            self._end()
        if state == "dropped":
            self._fill()
        if state == "silent" and self._cloud:
            self._cloud.signal(signal.SIGSTOP)

    def _clear(self) -> None:
        """Undo what was done to the port."""
        for one in self._full:
            one.close()
        self._full = []
        if self.state == "silent" and self._cloud:
            self._cloud.signal(signal.SIGCONT)

    def _start(self) -> None:
        if self._cloud is None:
            self._cloud = Cloud(self._directory, self.port).__enter__()

    def _end(self) -> None:
        if self._cloud is not None:
            self._used_s += self._cloud.cpu_s
            self._cloud.__exit__()
            self._cloud = None

    def _fill(self) -> None:
        listener = _bound(self.port)
        listener.listen(0)
        self._full = [listener]
        for _ in range(_FILLERS):
            one = socket.socket()
            one.setblocking(False)
            self._full.append(one)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", self.port))


class Counterless:
    """A front before the cloud at `port` that passes everything on, until `mute`: then whoever brings a request in real
    time is taken and never answered, while health, uploads and commands go on. A context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._mute = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        _thread(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *tuple(self._open)):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def mute(self) -> None:
        """The counter says nothing from now on."""
        self._mute.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                taken, _ = self._listener.accept()
                _thread(lambda one=taken: self._serve(one))  # type: ignore[misc]

    def _serve(self, box: socket.socket) -> None:
        self._open.add(box)
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), _CALL_MAX_S) as cloud:
            cloud.settimeout(None)
            self._open.add(cloud)
            _thread(lambda: _pass_on(cloud, box))
            asked = False
            while data := box.recv(_CHUNK_BYTES):
                asked = asked or (self._mute.is_set() and _asks(data))
                if not asked:
                    cloud.sendall(data)
        self._open.discard(box)
        box.close()


def _asks(data: bytes) -> bool:
    """Whether this is the beginning of a request in real time: they travel on connections of their own."""
    return data.startswith(b"POST ") and b"/requests/" in data.partition(b"\r\n")[0]


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


def _thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, daemon=True).start()


def _bound(port: int) -> socket.socket:
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", port))
    return held
