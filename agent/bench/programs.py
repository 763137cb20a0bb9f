"""[programs] → agent, cloud. Starts what is measured, as anybody would, and ends it by its own pid.

The box runs with its default settings. Everything it keeps lies in the folder that it is given.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec

from agent.bench import machine
from agent.core.errors import NightsafeError
from agent.core.status import Snapshot, from_json

VENUE: Final = "bench"
START_MAX_S: Final = 60.0
"""How long a program may take until it says that it is ready."""
STOP_MAX_S: Final = 20.0
"""How long a program may take to end after SIGTERM; after it SIGKILL."""
END_MAX_S: Final = 2.0
"""How long a program that closed its sockets may take to be gone."""
ANSWER_MAX_S: Final = 10.0
"""How long one look at the box's status may take."""
LOG_LINES_SHOWN: Final = 12
"""Last lines of its log that a failed program is reported with."""


class BenchFailed(NightsafeError):
    """The measurement cannot be made, or would be void."""


class Program:
    """One program. Each line it prints goes to `log`, and to `hear` as it comes."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, hear: Callable[[bytes], None]) -> None:
        """Start it. It ends when this process is killed."""
        guard = shutil.which("setpriv")
        prefix = [guard, "--pdeathsig", "TERM", "--"] if guard else []
        self._process = subprocess.Popen(
            [*prefix, *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us alone: we end it in order
        )
        self._reader = threading.Thread(target=self._listen, args=(hear,), name=f"{self.name}-log", daemon=True)
        self._reader.start()

    def _listen(self, hear: Callable[[bytes], None]) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._log.open("ab", buffering=0) as log:
            for line in self._process.stdout:
                log.write(line)
                hear(line)

    def await_(self, event: threading.Event) -> None:
        """Wait until `event`, or BenchFailed when the program ends before it or takes too long."""
        assert self._process is not None
        until_s = time.monotonic() + START_MAX_S
        while not event.wait(0.02):
            if self._process.poll() is not None:
                raise self.failure(f"ended with {self._process.returncode}")
            if time.monotonic() > until_s:
                raise self.failure(f"was not ready after {START_MAX_S:.0f} s")

    def silent(self, why: object) -> BenchFailed:
        """An error about a program that does not answer: it has ended, or it lives and says nothing."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            return self.failure(f"ended with {self._process.wait(END_MAX_S)}")
        return self.failure(f"does not answer: {why}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send `number`, then SIGKILL to one that does not heed it; returns when it has ended."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join(1.0)
        self._process = None

    def failure(self, text: str) -> BenchFailed:
        """An error about this program that carries the end of its log."""
        with suppress(OSError):
            tail = self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            text += ". It said last:" + "".join(f"\n    {line}" for line in tail)
        return BenchFailed("program_failed", f"{self.name} {text}", "Its figures would be void.")


class Mark(NamedTuple):
    """Where the box stood at one moment."""

    at_s: float
    cpu_s: float
    written: machine.Written
    last: int
    commits: int
    host: machine.HostTime


class Box:
    """One agent over the state in `directory`/state. A context manager: leaving it ends the agent."""

    def __init__(self, directory: Path, cloud_url: str) -> None:
        directory.mkdir(exist_ok=True)
        self.state = directory / "state"
        self._config = directory / "nightsafe.toml"
        self._config.write_text(
            _SETTINGS.format(venue=VENUE, state=_quoted(self.state), cloud=cloud_url), encoding="utf-8"
        )
        command = [sys.executable, "-m", "agent", "run", "--config", str(self._config)]
        self._program = Program("The agent", command, directory / "agent.log")
        self._ready = threading.Event()
        self._ready_s = 0.0
        self._broker_pid: int | None = None
        self._page = ""
        self.port = self.tls_port = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.end()

    @property
    def authority(self) -> Path:
        """The certificate of the venue's authority."""
        return self.state / "identity" / "ca.pem"

    @property
    def pid(self) -> int:
        return self._program.pid

    @property
    def database(self) -> Path:
        """The journal's file."""
        return self.state / "journal.sqlite"

    def start(self) -> float:
        """Seconds from process start to ready."""
        began_s = time.monotonic()
        self._program.start(self._hear)
        self._program.await_(self._ready)
        return self._ready_s - began_s

    def kill(self) -> None:
        """SIGKILL, as a power cut for one process."""
        self._program.end(signal.SIGKILL)

    def _hear(self, line: bytes) -> None:
        if b'"ready"' not in line and b'"broker_started"' not in line:
            return
        with suppress(msgspec.DecodeError):
            facts: dict[str, Any] = msgspec.json.decode(line)
            if facts.get("event") == "broker_started":
                self._broker_pid = facts["pid"]
            if facts.get("event") == "ready":
                self._ready_s = time.monotonic()
                self.tls_port, self.port = (int(one.rpartition(":")[2]) for one in facts["gate"].split(","))
                self._page = facts["page"].removeprefix("http://").rstrip("/")
                self._ready.set()

    def failure(self, text: str) -> BenchFailed:
        """An error about the agent that carries the end of its log."""
        return self._program.failure(text)

    def status(self) -> Snapshot:
        """What the box says of itself. BenchFailed when it does not answer."""
        try:
            return from_json(_get(self._page, "/api/v1/status"))
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            raise self._program.silent(error) from error

    def mark(self) -> Mark:
        """Where it stands now."""
        journal = self.status().details.journal
        return Mark(
            time.monotonic(),
            machine.cpu_s(self.pid),
            machine.written(self.pid),
            int(journal.last),
            journal.commits,
            machine.host_time(),
        )

    def broker_cpu_s(self) -> float:
        """CPU time of the broker that the agent started."""
        with suppress(OSError):
            return machine.cpu_s(self._broker_pid) if self._broker_pid else 0.0
        return 0.0


_SETTINGS: Final = """[venue]
id = "{venue}"
name = "Benchmark"
location = "bench-1"

[state]
directory = {state}

[gate]
listen = ["127.0.0.1:0"]

[gate.tls]
also_plain = ["127.0.0.1:0"]

[devices]
open = true

[cloud]
url = "{cloud}"

[web]
listen = "127.0.0.1:0"

[logs]
format = "json"
"""


def _quoted(path: Path) -> str:
    """A path as TOML has a text; JSON's escapes are among TOML's."""
    return msgspec.json.encode(str(path)).decode()


class Cloud:
    """The reference cloud over a ledger in `directory`. A context manager: it runs while the context lasts."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        """On `port`, or any that is free."""
        directory.mkdir(exist_ok=True)
        ledger = f"sqlite:{directory / 'cloud.db'}"
        listen = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "agent", "cloud", "serve", "--listen", listen, "--ledger", ledger]
        self._program = Program("The cloud", command, directory / "cloud.log")
        self._ready = threading.Event()
        self.url = ""

    def __enter__(self) -> Self:
        self._program.start(self._hear)
        self._program.await_(self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        self._program.end()

    @property
    def cpu_s(self) -> float:
        """Its CPU time so far."""
        return machine.cpu_s(self._program.pid)

    def signal(self, number: signal.Signals) -> None:
        """Stop its process where it stands, or let it go on."""
        os.kill(self._program.pid, number)

    def _hear(self, line: bytes) -> None:
        words = line.decode("utf-8", "replace").split()
        if words[:4] == ["nightsafe", "cloud", "listens", "on"]:
            self.url = words[4].rstrip(",")
            self._ready.set()

    def next(self, epoch: str) -> int:
        """The first sequence that it lacks of an epoch: it has committed everything before, each rechash verified."""
        try:
            body = _get(self.url.removeprefix("http://"), f"/v1/venues/{VENUE}/streams/{epoch}")
            return int(msgspec.json.decode(body)["next"])
        except (OSError, http.client.HTTPException, msgspec.DecodeError, KeyError) as error:
            raise self._program.silent(error) from error


def _get(address: str, path: str) -> bytes:
    """The body of an answer, over a connection of its own: the box lets none live for ever."""
    connection = http.client.HTTPConnection(address, timeout=ANSWER_MAX_S)
    try:
        connection.request("GET", path, headers={"Authorization": "Bearer bench"})
        return connection.getresponse().read()
    finally:
        connection.close()


class NoCloud:
    """The address of a cloud that is away: bound, so that nobody else gets it, and never listening."""

    def __enter__(self) -> str:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._socket.close()
