"""frames → [generator] → gate. A process of its own: sends what was made beforehand, notes when each is told.

`python -m agent.bench.generator`: a job as JSON on standard input; on standard output a line when the measuring begins,
one when it ends, and the outcome as JSON. Sockets without asyncio, one system call for each batch: it must not be the
brake. Every PUBACK is compared with the one that is due, byte for byte; anything else ends the run.
"""

import gc
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from agent.bench.figures import Note, acked_between, latencies_ns, percentile
from agent.bench.frames import PACKET_IDS, Deck, acknowledgements, deck

MEASURING: Final = "measuring"
MEASURED: Final = "measured"
SILENCE_MAX_S: Final = 20.0
"""How long the gate may leave everything unacknowledged before the run is given up."""
JOIN_MAX_S: Final = 10.0
"""Time for a device to be let in."""
KEEP_ALIVE_S: Final = 600
RECEIVE_BYTES: Final = 65_536
POLL_S: Final = 0.1
NS: Final = 1_000_000_000

_now_ns = time.perf_counter_ns
_ACKS: Final = acknowledgements()


class Job(msgspec.Struct, frozen=True):
    """What to send. `count` frames are made for each device, from the device's sequence `first` on.

    `window` events are in flight for each device; in `bursts` the next ones follow when all are acknowledged. With
    `rate_per_s` they are sent by the clock instead, all devices together. Without `measure_s` all frames are sent.
    With an `authority` (a file of its certificate) the devices speak TLS.
    """

    port: int
    level: int
    devices: int
    window: int
    count: int
    since_ms: int
    first: int = 1
    bursts: bool = False
    rate_per_s: float | None = None
    warm_up_s: float = 0.0
    measure_s: float | None = None
    authority: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What was seen. `acked` and `seconds` are those of the measured span; `cpu_s` is this process's in that span.

    `used_up`: the frames did not last for the whole span. `late_p99_ms`: how far behind the clock events were sent.
    """

    acked: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_s: float
    used_up: bool
    late_p99_ms: float | None = None
    error: str | None = None


class Broken(Exception):
    """The gate did something that makes the measurement void."""


class Lane:
    """One device's connection."""

    def __init__(self, frames: Deck, sock: socket.socket, poller: select.epoll, window: int, bursts: bool) -> None:
        self.sent: list[Note] = []
        self.acked: list[Note] = []
        self.sent_count = 0
        self.acked_count = 0
        self.count = len(frames)
        self._view = memoryview(frames.block)
        self._offsets = frames.offsets
        self._sock = sock
        self._poller = poller
        self._window = window
        self._bursts = bursts
        self._at = 0
        self._rest = b""
        self._blocked = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> int:
        """Take the acknowledgements that are there; returns how many events may be sent now."""
        data = self._received()
        now_ns = _now_ns()
        if data is None:
            return 0
        if not data:
            raise Broken("the gate closed a connection")
        if self._rest:
            data = self._rest + data
        whole = len(data) >> 2
        at = self.acked_count % PACKET_IDS * 4
        if data[: whole * 4] != _ACKS[at : at + whole * 4]:
            raise Broken(f"a PUBACK that was not due: expected {_ACKS[at : at + 4].hex()}, got {data[:80].hex()}")
        self._rest = data[whole * 4 :]
        self.acked_count += whole
        self.acked.append(Note(self.acked_count, now_ns))
        flying = self.sent_count - self.acked_count
        if self._bursts and flying:
            return 0
        return min(self._window - flying, self.count - self.sent_count)

    def _received(self) -> bytes | None:
        """What is there; None where TLS had only something of its own to say."""
        if not isinstance(self._sock, ssl.SSLSocket):
            return self._sock.recv(RECEIVE_BYTES)
        parts: list[bytes] = []
        while True:  # what TLS has taken from the kernel is not seen by epoll any more
            try:
                data = self._sock.recv(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                return b"".join(parts) if parts else None
            if not data:
                return data
            parts.append(data)

    def send(self, count: int, at_ns: int) -> None:
        """Send the next `count` events in one call; their latency runs from `at_ns`."""
        self.sent_count += count
        self.sent.append(Note(self.sent_count, at_ns))
        if not self._blocked:
            self.flush()

    def flush(self) -> None:
        """Write what was sent and not yet taken by the kernel."""
        end = self._offsets[self.sent_count]
        with suppress(BlockingIOError, ssl.SSLWantWriteError):
            self._at += self._sock.send(self._view[self._at : end])
        blocked = self._at < end
        if blocked != self._blocked:
            self._blocked = blocked
            self._poller.modify(self._sock, select.EPOLLIN | (select.EPOLLOUT if blocked else 0))

    def close(self) -> None:
        """Leave as a device does: with DISCONNECT."""
        if not self._blocked:
            self._sock.setblocking(True)
            self._sock.sendall(b"\xe0\x00")
        self._sock.close()


class Span:
    """The measured span, and this process's CPU time in it. `tell` hears when it begins and ends."""

    def __init__(self, job: Job, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._warm_ns = int(job.warm_up_s * NS)
        self._measure_ns = None if job.measure_s is None else int(job.measure_s * NS)
        self.started_ns = self.from_ns = self.to_ns = 0
        self._cpu_ns = 0
        self.cpu_s = 0.0

    def start(self) -> None:
        """The first event is about to be sent."""
        self.started_ns = _now_ns()

    def look(self) -> bool:
        """Whether to go on sending; called after each round."""
        now_ns = _now_ns()
        if not self.from_ns and now_ns - self.started_ns >= self._warm_ns:
            self._tell(MEASURING)
            self.from_ns, self._cpu_ns = _now_ns(), time.process_time_ns()
        if not self.from_ns or self._measure_ns is None or now_ns - self.from_ns < self._measure_ns:
            return True
        self.end()
        return False

    def end(self) -> None:
        """No event is sent any more."""
        if not self.to_ns:
            self.to_ns = _now_ns()
            self.cpu_s = (time.process_time_ns() - self._cpu_ns) / NS
            self._tell(MEASURED)


def press(lanes: Sequence[Lane], poller: select.epoll, window: int, span: Span) -> None:
    """Closed loop: each acknowledgement lets the next event of that device go, until the span or the frames end."""
    by_fd = {lane.fileno(): lane for lane in lanes}
    span.start()
    for lane in lanes:
        lane.send(min(window, lane.count), _now_ns())
    going, heard_ns, left = True, _now_ns(), len(lanes)
    while left:
        ready = poller.poll(POLL_S)
        for fd, event in ready:
            lane = by_fd[fd]
            if event & select.EPOLLOUT:
                lane.flush()
            if event & ~select.EPOLLOUT:
                more = lane.read()
                if going and more:
                    lane.send(more, lane.acked[-1].at_ns)
                elif lane.sent_count == lane.acked_count:
                    left -= 1
        heard_ns = _heard(bool(ready), heard_ns)
        going = going and span.look()
    span.end()


def pace(lanes: Sequence[Lane], poller: select.epoll, rate_per_s: float, span: Span) -> list[int]:
    """Open loop: one event each 1/rate seconds, the devices in turn. Returns how late each was sent, in nanoseconds."""
    by_fd = {lane.fileno(): lane for lane in lanes}
    late_ns: list[int] = []
    gap_ns = NS / rate_per_s
    span.start()
    number, going, heard_ns, room = 0, True, _now_ns(), sum(lane.count for lane in lanes)
    while going or any(lane.sent_count > lane.acked_count for lane in lanes):
        due_ns = span.started_ns + int(number * gap_ns)
        ready = poller.poll(max(0.0, (due_ns - _now_ns()) / NS) if going else POLL_S)
        for fd, event in ready:
            if event & select.EPOLLOUT:
                by_fd[fd].flush()
            if event & ~select.EPOLLOUT:
                by_fd[fd].read()
        flying = any(lane.sent_count > lane.acked_count for lane in lanes)
        heard_ns = _heard(bool(ready) or not flying, heard_ns)
        going = going and span.look() and number < room
        now_ns = _now_ns()
        while going and now_ns >= due_ns and number < room:
            lanes[number % len(lanes)].send(1, now_ns)
            late_ns.append(now_ns - due_ns)
            number += 1
            due_ns = span.started_ns + int(number * gap_ns)
    span.end()
    return late_ns


def _heard(anything: bool, before_ns: int) -> int:
    now_ns = _now_ns()
    if anything:
        return now_ns
    if now_ns - before_ns > SILENCE_MAX_S * NS:
        raise Broken(f"nothing was acknowledged for {SILENCE_MAX_S:.0f} s")
    return before_ns


def connect(port: int, device: str, level: int, context: ssl.SSLContext | None = None) -> socket.socket:
    """A device that was let in, not blocking. Broken when it is refused."""
    name = len(device).to_bytes(2) + device.encode()
    properties = b"\0" if level == 5 else b""
    body = b"\0\4MQTT" + bytes((level, 0x82)) + KEEP_ALIVE_S.to_bytes(2) + properties + name + name
    sock = socket.create_connection(("127.0.0.1", port), timeout=JOIN_MAX_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
    sock.sendall(bytes((0x10, len(body))) + body)
    answer = b""
    while len(answer) < 2 or len(answer) < 2 + answer[1]:
        data = sock.recv(RECEIVE_BYTES)
        if not data:
            raise Broken(f"{device} was not let in")
        answer += data
    if answer[0] != 0x20 or answer[3]:
        raise Broken(f"{device} was refused: {answer.hex()}")
    sock.setblocking(False)
    return sock


def run(job: Job, tell: Callable[[str], None]) -> Outcome:
    """Make the frames, let the devices in, send, and say what was seen."""
    names = [f"till-{number}" for number in range(1, job.devices + 1)]
    decks = [deck(name, job.level, job.first, job.count, job.since_ms) for name in names]
    gc.disable()
    poller = select.epoll()
    lanes: list[Lane] = []
    context = ssl.create_default_context(cafile=job.authority) if job.authority else None
    for name, frames in zip(names, decks, strict=True):
        sock = connect(job.port, name, job.level, context)
        poller.register(sock, select.EPOLLIN)
        lanes.append(Lane(frames, sock, poller, job.window, job.bursts))
    span = Span(job, tell)
    late_ns: list[int] = []
    if job.rate_per_s is None:
        press(lanes, poller, job.window, span)
    else:
        late_ns = pace(lanes, poller, job.rate_per_s, span)
    for lane in lanes:
        lane.close()
    return _outcome(job, lanes, span, sorted(late_ns))


def _outcome(job: Job, lanes: Sequence[Lane], span: Span, late_ns: list[int]) -> Outcome:
    if not span.from_ns:
        raise Broken("the frames were used up before the measuring began")
    times: list[float] = []
    for lane in lanes:
        times.extend(latencies_ns(lane.sent, lane.acked, span.from_ns, span.to_ns))
    times.sort()
    return Outcome(
        acked=sum(acked_between(lane.acked, span.from_ns, span.to_ns) for lane in lanes),
        seconds=(span.to_ns - span.from_ns) / NS,
        p50_ms=percentile(times, 0.50) / 1e6,
        p99_ms=percentile(times, 0.99) / 1e6,
        max_ms=times[-1] / 1e6,
        cpu_s=span.cpu_s,
        used_up=job.measure_s is not None and any(lane.sent_count == lane.count for lane in lanes),
        late_p99_ms=percentile(late_ns, 0.99) / 1e6 if late_ns else None,
    )


def _tell(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main() -> int:
    """One job; exit 1 when the measurement is void, with the reason in the outcome's place."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        outcome = run(job, _tell)
    except (Broken, OSError) as error:
        _tell(msgspec.json.encode({"error": str(error)}).decode())
        return 1
    _tell(msgspec.json.encode(outcome).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
