"""A box whose way to the cloud can be harmed: box → proxy → front → cloud; at the end all of them must agree."""

import random
import socket
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.crash.front import Front
from tests.crash.judge import Disk, chained
from tests.crash.proxy import Proxy
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted
from tests.tools import needs

NO_SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
SETTLE_MAX_S = 30.0
QUICK: dict[str, dict[str, Any]] = {
    "drain": {"backoff_first_s": 0.2, "backoff_max_s": 1.0},
    "uplink": {"probe_interval_s": 1},
}
"""Settings that let a test see in a second what a venue sees in minutes."""


def steady_port() -> int:
    """A free port of loopback that the system gives to nobody by itself.

    While a box or a cloud is down, whoever calls it may be given its port as the caller's own, and then holds it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(lowest // 2, lowest)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def quick_cloud() -> CloudServer:
    """A cloud to be killed, not started yet."""
    made = CloudServer()
    made.port = steady_port()
    return made


def quick_box(cloud_url: str = "http://127.0.0.1:9", settings: Mapping[str, Mapping[str, Any]] = NO_SETTINGS) -> Box:
    """A box that comes back quickly, not started yet; skips the test where there is no mosquitto."""
    needs("mosquitto")
    made = Box(cloud_url, {table: {**QUICK.get(table, {}), **settings.get(table, {})} for table in {*QUICK, *settings}})
    made.settings["gate"]["listen"] = [f"127.0.0.1:{steady_port()}"]
    return made


class Venue:
    """Everything started. `sell` stores events on the box; `settle` waits until the cloud has all, and compares."""

    def __init__(self, settings: Mapping[str, Mapping[str, Any]] = NO_SETTINGS) -> None:
        self.cloud = quick_cloud().start()
        self.front = Front(self.cloud.url)
        self.proxy = Proxy(("127.0.0.1", self.front.port))
        self.box = quick_box(self.proxy.url, settings)
        self.disk = Disk(self.box)
        self._names = count(1)
        self._cursor = 0

    def __enter__(self) -> "Venue":
        self.give_token("first")
        self.box.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.box.close()
        self.proxy.close()
        self.front.close()
        self.cloud.close()

    def give_token(self, token: str) -> None:
        """Put a token where the box reads it, if its settings say so."""
        path = self.box.directory / "token.new"
        path.write_text(token + "\n")
        path.replace(self.box.directory / "token")

    def sell(self, events: int) -> None:
        """So many new events of a new device: told, so on the disk."""
        device = Device(self.box.port, f"till-{next(self._names)}")
        frames = [device.frame(counted("e1", number)) for number in range(1, events + 1)]
        with device:
            for at in range(0, events, 32):
                device.send(*frames[at : at + 32])
                device.packets(len(frames[at : at + 32]))

    @property
    def cursor(self) -> int:
        """Sequences up to here are in the cloud, as far as the box knows; it never goes back."""
        cursor = int(self.box.status()["journal"]["cursor"])
        assert cursor >= self._cursor, f"the cursor went back from {self._cursor} to {cursor}"
        self._cursor = cursor
        return cursor

    @property
    def pending(self) -> int:
        status = self.box.status()
        return int(status["journal"]["last"]) - int(status["journal"]["cursor"])

    def condition(self, name: str) -> dict[str, Any] | None:
        """What the status page says of a condition, None while it does not hold."""
        found: dict[str, Any] | None = next((one for one in self.box.status()["conditions"] if one["id"] == name), None)
        return found

    def in_cloud(self) -> list[bytes]:
        """The rechashes in the ledger, in order, read past the cloud."""
        path = self.cloud.directory / "ledger.sqlite"
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        try:
            return [bytes(seal) for (seal,) in connection.execute("select rechash from records order by position")]
        finally:
            connection.close()

    def settle(self) -> None:
        """Everything comes to rest by itself; then ledger and journal are the same."""
        until(lambda: self.cursor >= 0 and self.box.uploaded(), "the cloud has everything", SETTLE_MAX_S)
        self.disk.look()
        assert self.in_cloud() == self.disk.seals

    def export_is_the_journal(self) -> None:
        """The same, seen through the export, every seal recomputed."""
        self.disk.look()
        assert chained(self.cloud.export()) == self.disk.seals
