"""[venue] A whole venue on one machine, in one folder: the box, a cloud and three tills. The stage of demo and story.

Starts `nightsafe` as anybody would, through its command line, keeps the box alive as a service manager does, and reads
only what the contract's faces show. Everything lies in the folder; everything ends by its own pid.

    nightsafe.toml   the box's settings          state/     what the box must not lose
    agent.log        what the box said           tills/     the tills' own outboxes
    cloud.log        what the cloud said         cloud.db   the cloud's ledger
"""

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final, Self

from agent.core.errors import NightsafeError
from agent.tills.children import Child, Port, choose_port
from agent.tills.floor import Floor, FloorSettings, Totals
from agent.tills.words import Habits

VENUE: Final = "demo"
MARK: Final = "# Written by the demo. This folder is emptied when the demo starts, unless it is started with --keep."
LOOK_INTERVAL_S: Final = 0.1
"""How often the children and the tills are looked at."""
START_MAX_S: Final = 30.0
"""How long the box and the cloud may take until they answer."""
ANSWER_MAX_S: Final = 2.0
"""How long one look at whether they answer may take."""
EXPORT_MAX_S: Final = 120.0
"""How long the export may take."""

HABITS: Final = Habits(duplicate_every=20, withhold_every=45, reconnect_every_s=20.0)
"""The demo's tills send some events twice, keep one back now and then, and lose their connection."""
ASKS: Final = 0.3
"""Share of what happens at the demo's tills that has something asked in real time."""


class VenueFailed(NightsafeError):
    """The venue cannot be set up in this folder, or does not come up."""


class Venue:
    """Use as a context manager: leaving it ends the tills, the box and the cloud, in this order."""

    def __init__(self, directory: Path, *, keep: bool, rate_per_s: float, seed: str) -> None:
        """Takes the folder and writes the settings; starts nothing. VenueFailed when the folder is not ours to take."""
        self.directory = directory
        self._lock = _take(directory, keep)
        self.ports = _ports()
        self.config = directory / "nightsafe.toml"
        self.config.write_text(_settings(self.ports), encoding="utf-8")
        ledger = f"sqlite:{directory / 'cloud.db'}"
        nightsafe = [sys.executable, "-m", "agent"]
        self._export_command = [*nightsafe, "cloud", "export", "--ledger", ledger, "--venue", VENUE]
        listen = f"127.0.0.1:{self.ports['cloud'].number}"
        self._serve_command = [*nightsafe, "cloud", "serve", "--listen", listen, "--ledger", ledger]
        run = [*nightsafe, "run", "--config", str(self.config)]
        self.cloud = Child("The cloud", self._serve_command, directory / "cloud.log", restarts=False)
        self.agent = Child("The box", run, directory / "agent.log", restarts=True)
        self.tills = directory / "tills"
        self.floor = Floor(
            FloorSettings(
                host="127.0.0.1",
                port=self.ports["devices"].number,
                directory=self.tills,
                rate_per_s=rate_per_s,
                seed=seed,
                habits=HABITS,
                asks=ASKS,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.floor.close()
        self.agent.stop()
        self.cloud.stop()
        os.close(self._lock)

    @property
    def serve_command(self) -> str:
        """What starts the cloud by hand."""
        return shlex.join(self._serve_command)

    @property
    def page(self) -> str:
        """The address of the box's page."""
        return f"http://127.0.0.1:{self.ports['page'].number}"

    def start(self) -> None:
        """Cloud, box, tills. Returns when a sale can be recorded. ChildFailed when one does not come up."""
        self.start_cloud()
        self.start_box()
        self.floor.start()

    def start_box(self) -> None:
        """Returns when the box can record a sale."""
        self.agent.start()
        self._until_answered(self.agent, f"{self.page}/readyz")

    def start_cloud(self) -> None:
        """Returns when the cloud answers."""
        self.cloud.start()
        self._until_answered(self.cloud, f"http://127.0.0.1:{self.ports['cloud'].number}/v1/health")

    def look(self) -> Totals:
        """Keep the box alive; the tills' figures as of now. ChildFailed when the box keeps dying."""
        self.agent.look()
        return self.floor.totals

    def export(self) -> list[bytes]:
        """The lines of `nightsafe cloud export`. VenueFailed when it does not end well."""
        done = subprocess.run(self._export_command, capture_output=True, timeout=EXPORT_MAX_S, check=False)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise VenueFailed("export_failed", f"nightsafe cloud export ended with {done.returncode}: {said}")
        return done.stdout.splitlines()

    def _until_answered(self, child: Child, url: str) -> None:
        end_s = time.monotonic() + START_MAX_S
        while not _answers(url):
            child.look()
            if time.monotonic() >= end_s:
                raise child.failure(f"did not answer {url} within {START_MAX_S:g} s")
            time.sleep(LOOK_INTERVAL_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_MAX_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _take(directory: Path, keep: bool) -> int:
    """Make or empty the folder, and hold its lock; what was not written by the demo is never deleted."""
    config = directory / "nightsafe.toml"
    used = directory.exists() and any(directory.iterdir())
    if used and not (config.exists() and config.read_text(encoding="utf-8").startswith(MARK)):
        text = f"{directory} holds something that the demo did not write."
        raise VenueFailed("folder_not_ours", text, "Choose another folder with --directory.")
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        text = f"Another demo runs in {directory}."
        raise VenueFailed("folder_in_use", text, "End it first, or choose another folder with --directory.") from error
    if not keep:
        for entry in directory.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in ("lock", config.name):
                entry.unlink()
    return lock


def _ports() -> dict[str, Port]:
    ports: dict[str, Port] = {}
    for purpose, usual in (("devices", 1883), ("cloud", 9800), ("page", 8080)):
        ports[purpose] = choose_port(usual, purpose, frozenset(port.number for port in ports.values()))
    return ports


def _settings(ports: dict[str, Port]) -> str:
    """The smallest settings that work, for development on loopback."""
    return f"""{MARK}
[venue]
id = "{VENUE}"
name = "Demo Bar"
location = "demo-1"

[state]
directory = "state"

[gate]
listen = ["127.0.0.1:{ports["devices"].number}"]

[devices]
open = true

[cloud]
url = "http://127.0.0.1:{ports["cloud"].number}"

[web]
listen = "127.0.0.1:{ports["page"].number}"
"""
