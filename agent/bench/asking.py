"""[asking] → gate, broker, desk → replies. Tills that ask in real time, by the clock, each one thing at a time.

Plain sockets and one thread, as the generator: the time from the `send` of a request to the `recv` of its reply is
noted, and each reply is handed to whoever judges it. A till whose last question is still open skips its turn. Sends no
event.
"""

import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self

import msgspec

from agent.bench.generator import RECEIVE_BYTES, Broken, connect

_PUBLISH, _PUBACK, _SUBACK = 3, 4, 9
_PACKET_ID_OF_SUBSCRIBE: Final = b"\0\1"
JOIN_MAX_S: Final = 10.0
"""Time for a subscription to be granted."""
POLL_MAX_S: Final = 0.1


class Answer(NamedTuple):
    """One reply, and how long it took."""

    service: str
    reply: dict[str, Any]
    sent_s: float
    took_s: float


class Question(NamedTuple):
    """What is asked: a service and its arguments."""

    service: str
    args: dict[str, Any]


class _Till:
    """One device's connection: a question out, its reply in."""

    def __init__(self, port: int, device: str, level: int) -> None:
        self.open: tuple[str, str, float] | None = None
        """Id, service and instant of the question under way."""
        self._device = device
        self._v5 = level == 5
        self._rest = b""
        self._count = 0
        self.sock = connect(port, device, level)
        self._subscribe()

    def _subscribe(self) -> None:
        topic = f"pos/v1/{self._device}/replies".encode()
        body = _PACKET_ID_OF_SUBSCRIBE + b"\0" * self._v5 + len(topic).to_bytes(2) + topic + b"\1"
        self.sock.setblocking(True)
        self.sock.settimeout(JOIN_MAX_S)
        self.sock.sendall(frame(0x82, body))
        while not any(kind == _SUBACK for kind, _ in self._packets(self.sock.recv(RECEIVE_BYTES))):
            pass
        self.sock.setblocking(False)

    def ask(self, question: Question, run: str) -> None:
        """Send one question; `run` makes its id one that was never used."""
        self._count += 1
        id = f"{run}-{self._device}-{self._count}"
        topic = f"pos/v1/{self._device}/requests/{question.service}".encode()
        packet_id = (self._count % 65_535 + 1).to_bytes(2)
        body = msgspec.json.encode({"id": id, "args": question.args})
        packet = frame(0x32, len(topic).to_bytes(2) + topic + packet_id + b"\0" * self._v5 + body)
        self.open = (id, question.service, time.perf_counter())
        if self.sock.send(packet) != len(packet):
            raise Broken("the gate does not take a request whole")

    def hear(self) -> list[Answer]:
        """What has come; a reply that was not due ends the run."""
        data = self.sock.recv(RECEIVE_BYTES)
        now_s = time.perf_counter()
        if not data:
            raise Broken("the gate closed a connection")
        found = []
        for kind, body in self._packets(data):
            if kind != _PUBLISH:
                continue
            at = 2 + int.from_bytes(body[:2])
            self.sock.sendall(b"\x40\x02" + body[at : at + 2])
            reply = msgspec.json.decode(body[body.index(b"{", at + 2) :], type=dict[str, Any])
            if self.open is None or reply["id"] != self.open[0]:
                raise Broken(f"a reply that was not due: {reply}")
            _, service, sent_s = self.open
            self.open = None
            found.append(Answer(service, reply, sent_s, now_s - sent_s))
        return found

    def _packets(self, data: bytes) -> list[tuple[int, bytes]]:
        """Whole packets as type and body; what is left over waits for more."""
        self._rest += data
        found = []
        while (cut := head(self._rest)) is not None and len(self._rest) >= sum(cut):
            begin, length = cut
            found.append((self._rest[0] >> 4, self._rest[begin : begin + length]))
            self._rest = self._rest[begin + length :]
        return found

    def close(self) -> None:
        with suppress(OSError):
            self.sock.setblocking(True)
            self.sock.sendall(b"\xe0\x00")
        self.sock.close()


class Asking:
    """Tills that ask. A context manager: leaving it ends the connections."""

    def __init__(self, port: int, devices: int, level: int, run: str) -> None:
        """`run` tells the ids of this run from those of others."""
        self._run = run
        self._poller = select.epoll()
        self._tills = [_Till(port, f"asker-{number}", level) for number in range(1, devices + 1)]
        self._by_fd: dict[int, _Till] = {}
        for till in self._tills:
            self._by_fd[till.sock.fileno()] = till
            self._poller.register(till.sock, select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for till in self._tills:
            till.close()
        self._poller.close()

    @property
    def waiting(self) -> int:
        """Questions under way."""
        return sum(till.open is not None for till in self._tills)

    def ask(
        self, questions: Sequence[Question], rate_per_s: float, until: Callable[[list[Answer], float], bool]
    ) -> list[Answer]:
        """Ask in turn until `until`, which sees all answers and the seconds gone, and then hear what is under way."""
        began_s, number = time.perf_counter(), 0
        answers: list[Answer] = []
        while not until(answers, gone_s := time.perf_counter() - began_s):
            while number / rate_per_s <= gone_s:
                till = self._tills[number % len(self._tills)]
                if till.open is None:
                    till.ask(questions[number % len(questions)], self._run)
                number += 1
            answers += self._heard(min(POLL_MAX_S, number / rate_per_s - gone_s))
        end_s = time.perf_counter() + JOIN_MAX_S
        while self.waiting:
            if time.perf_counter() > end_s:
                raise Broken(f"{self.waiting} requests were never answered")
            answers += self._heard(POLL_MAX_S)
        return answers

    def _heard(self, wait_s: float) -> list[Answer]:
        found: list[Answer] = []
        for fd, _ in self._poller.poll(max(0.0, wait_s)):
            found += self._by_fd[fd].hear()
        return found


def frame(first: int, body: bytes) -> bytes:
    """An MQTT packet of one body."""
    length, digits = len(body), bytearray()
    while True:
        length, digit = length >> 7, length & 0x7F
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes((first,)) + bytes(digits) + body


def head(data: bytes) -> tuple[int, int] | None:
    """Where a packet's body begins, and its length; None where that has not come yet."""
    length = 0
    for place, byte in enumerate(data[1:5]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return 2 + place, length
    return None
