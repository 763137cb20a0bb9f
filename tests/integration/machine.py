"""The machine under test: a real agent and a real reference cloud, each a process of its own on free ports of loopback.

A test starts, stops, kills and restarts them and looks at what they leave behind: log, journal file, export. Nothing
here knows what is right; and no process is ever touched that was not started here.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

T = TypeVar("T")

START_MAX_S = 20.0
STOP_MAX_S = 20.0
WAIT_MAX_S = 10.0
VENUE = "demo"
NIGHTSAFE = [sys.executable, "-m", "agent"]


def until(look: Callable[[], T], what: str, within_s: float = WAIT_MAX_S) -> T:
    """The first truthy thing that `look` returns; AssertionError that names `what` after `within_s` seconds."""
    end_s = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end_s, f"not within {within_s} s: {what}"
        time.sleep(0.01)
    return found


class Process:
    """One `nightsafe` command in the background. What it prints is appended to `log`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.command = NIGHTSAFE
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def text(self) -> str:
        """All that it has printed since the first start."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def pid(self) -> int:
        """Its pid since the last start, alive or not."""
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self, *arguments: str) -> int:
        """Start `nightsafe …`; returns how much stood in the log before."""
        assert not self.alive
        before = len(self.text)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
            )
        return before

    def said(self, words: str, since: int, within_s: float) -> str:
        """The first log line with `words` behind position `since`; AssertionError if it ends or is silent instead."""

        def look() -> str | None:
            text = self.text[since:]
            found = next((line for line in text.splitlines() if words in line), None)
            assert found is not None or self.alive, f"it ended with {self.wait()}:\n{text}"
            return found

        return until(look, f"{words!r} in {self.log}", within_s)

    def wait(self, within_s: float = STOP_MAX_S) -> int:
        """Its exit status, once it has ended."""
        assert self.process is not None
        return self.process.wait(within_s)

    def stop(self, within_s: float = STOP_MAX_S) -> int:
        """SIGTERM; returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(within_s)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def close(self) -> None:
        """Make sure that it does not run any more."""
        if self.alive:
            self.kill()


class Record(NamedTuple):
    """One line of the export: `device`, the record's own `sequence`, and `event` as the device sent it (parsed)."""

    device: str
    sequence: int
    event: dict[str, Any]
    line: bytes


class CloudServer(Process):
    """The reference cloud with a SQLite ledger. Its port stays the same over restarts."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ns-cloud-", dir="/tmp"))
        super().__init__(self.directory / "cloud.log")
        self.ledger = f"sqlite:{self.directory / 'ledger.sqlite'}"
        self.port = 0

    @property
    def url(self) -> str:
        assert self.port
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "CloudServer":
        """Start it and wait until it listens."""
        since = self.launch("cloud", "serve", "--listen", f"127.0.0.1:{self.port}", "--ledger", self.ledger)
        line = self.said("nightsafe cloud listens on ", since, START_MAX_S)
        self.port = int(line.split("http://127.0.0.1:")[1].split(",")[0].split("/")[0])
        return self

    def export(self, *options: str) -> list[bytes]:
        """The lines of `nightsafe cloud export` for the venue; works with and without a running server."""
        if not (self.directory / "ledger.sqlite").exists():
            return []
        done = subprocess.run(
            [*NIGHTSAFE, "cloud", "export", "--ledger", self.ledger, "--venue", VENUE, *options],
            capture_output=True,
            timeout=60,
            check=True,
        )
        return done.stdout.splitlines()

    def records(self, device: str | None = None) -> list[Record]:
        """The venue's records in order, or those of one device. The box's own are those of `agent`."""
        found = []
        for line in self.export():
            row = json.loads(line)
            if "data" in row and (device is None or row["device"] == device):
                found.append(Record(row["device"], int(row["sequence"]), row["data"], line))
        return found

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Box(Process):
    """The agent with a state directory of its own. Ports are chosen at the first start and kept over restarts.

    `settings` are tables of the settings file, over the smallest one: `{"gate": {"inflight_max": 4}}`.
    """

    def __init__(self, cloud_url: str = "http://127.0.0.1:9", settings: Mapping[str, Mapping[str, Any]] = {}) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ns-", dir="/tmp"))  # short: a Unix socket's path has 107 bytes
        super().__init__(self.directory / "agent.log")
        self.state = self.directory / "state"
        self.config = self.directory / "nightsafe.toml"
        self.port = 0
        self.web_port = 0
        self.pages: dict[str, int] = {}
        """The page's ports by scheme."""
        self.settings: dict[str, dict[str, Any]] = {
            "venue": {"id": VENUE, "name": "Demo Bar", "location": "demo-1"},
            "state": {"directory": str(self.state)},
            "gate": {"listen": ["127.0.0.1:0"]},
            "devices": {"open": True},
            "cloud": {"url": cloud_url},
            "web": {"listen": "127.0.0.1:0"},
        }
        for table, keys in settings.items():
            self.settings.setdefault(table, {}).update(keys)

    def write_config(self) -> None:
        """Write the settings file from `settings`."""
        lines = []
        for table, keys in self.settings.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def begin(self) -> int:
        """Start the agent without waiting; returns how much stood in its log before."""
        self.write_config()
        return self.launch("run", "--config", str(self.config))

    def start(self) -> "Box":
        """Start the agent and wait until it is ready."""
        line = self.said("event=ready", self.begin(), START_MAX_S)
        facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
        self.port = int(facts["gate"].rpartition(":")[2])
        self.settings["gate"]["listen"] = [f"127.0.0.1:{self.port}"]
        self.pages = {
            url.partition(":")[0]: int(url.rstrip("/").rpartition(":")[2]) for url in facts["page"].split(",")
        }
        if "http" in self.pages:
            self.web_port = self.pages["http"]
            self.settings["web"]["listen"] = f"127.0.0.1:{self.web_port}"
        return self

    def restart(self) -> "Box":
        """SIGTERM, which must end it orderly, and start it again."""
        assert self.stop() == 0, self.text
        return self.start()

    @property
    def journal(self) -> Path:
        """The SQLite file."""
        return self.state / "journal.sqlite"

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the journal file answers to a query, read-only; works while the agent runs and when it does not."""
        connection = sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=5)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def stored(self, device: str) -> list[bytes]:
        """The bytes of the device's events, in journal order."""
        query = (
            "select r.event from records r join device_epochs e on e.id = r.device_epoch "
            "join devices d on d.id = e.device where d.device = ? order by r.position"
        )
        return [event for (event,) in self.rows(query, device)]

    def own_records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The box's own records, or those of one type."""
        found = [json.loads(event) for event in self.stored("agent")]
        return [event for event in found if kind is None or event["type"] == kind]

    def get(self, path: str) -> Any:
        """The JSON that the local HTTP face answers; what is no 200 is raised."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}{path}", timeout=5) as answer:
            return json.load(answer)

    def metrics(self) -> str:
        """What `/metrics` says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}/metrics", timeout=5) as answer:
            return str(answer.read(), "utf-8")

    def status(self) -> Any:
        """`/api/v1/status`."""
        return self.get("/api/v1/status")

    def device(self, name: str) -> Any:
        """What the status says of one device, None before it is known."""
        return next((one for one in self.status()["devices"] if one["device"] == name), None)

    def counts(self) -> dict[str, int]:
        """The gate's counters."""
        counts: dict[str, int] = self.status()["gate"]
        return counts

    def uploaded(self) -> bool:
        """Whether the cloud has everything."""
        return bool(self.status()["sync"]["pending"] == 0)

    def mosquitto_pid(self) -> int:
        """The pid of its broker; 0 while there is none."""
        children = psutil.Process(self.pid).children(recursive=True)
        return next((child.pid for child in children if child.name() == "mosquitto"), 0)

    def pids(self) -> set[int]:
        """The agent's pid and those of its children."""
        return {self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))}

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.directory, ignore_errors=True)
