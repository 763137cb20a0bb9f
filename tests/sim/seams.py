"""[sim: seams] Where the agent and its libraries meet the machine: each name that is replaced while a world runs.

Chance, time of day, SQLite's thread, sockets, the MQTT library, the broker's process. All else is the real thing.
"""

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohappyeyeballs
import aiohttp.connector
import aiomqtt

from agent import app
from agent.journal import database
from agent.lan import gate
from agent.receiver.ledger import Declared, sqlite_file
from agent.receiver.ledger.sqlite import SqliteLedger
from agent.upkeep.wear import Wear
from tests.sim.box import START_MS, Absent, SimClock, SimMosquitto
from tests.sim.cloud import SimPool
from tests.sim.loop import PROCESS, SimLoop, here
from tests.sim.network import End, Listener, Network
from tests.sim.oracles import Truth
from tests.sim.session import SimClient
from tests.sim.story import Story

PARTS = ("Acts", "Drain", "Gate", "Gaps", "Receipts", "Session")
"""What the oracles look into, by its name in agent.app."""


@contextmanager
def replaced(loop: SimLoop, network: Network, truth: Truth, story: Story) -> Iterator[None]:
    """While this lasts, the agent lives in the simulated world."""
    world = random.Random("world")

    def chance() -> random.Random:
        process = PROCESS.get()
        return process.chance if process is not None else world

    def true_s() -> float:
        return START_MS / 1000 + loop.now_s

    def statvfs(path: Any) -> Any:
        process = PROCESS.get()
        if process is None or process.machine is None:
            return real_statvfs(path)
        free = process.machine.disk.free_bytes // 4096
        return os.statvfs_result((4096, 4096, 10**9, free, free, 10**6, 10**6, 10**6, 0, 255))

    real_statvfs, wear = os.statvfs, Wear
    append = SqliteLedger._append

    def noted_append(self: SqliteLedger, *args: Any) -> Any:
        outcome = append(self, *args)
        truth.appended(outcome, args[-1])
        return outcome

    declare = SqliteLedger._declare_hole

    def noted_hole(self: SqliteLedger, *args: Any) -> Any:
        outcome = declare(self, *args)
        if isinstance(outcome, Declared):
            truth.passed_over(args[-1])
        return outcome

    async def connected(path: Path) -> Any:
        return await network.connect(str(path))

    async def start_connection(addr_infos: Any, **_: Any) -> Any:
        return await network.connect(tuple(addr_infos[0][4][:2]))

    def note(end: End, data: bytes) -> None:
        story.note(f"{loop.now_s:.6f} {hash(end)} ".encode() + data)

    with ExitStack() as stack:

        def put(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(patch.object(owner, name, value))

        put(os, "urandom", lambda size: chance().randbytes(size))
        put(random, "_urandom", lambda size: chance().randbytes(size))
        put(random, "random", lambda: chance().random())
        put(os, "statvfs", statvfs)
        put(time, "time", true_s)
        put(time, "time_ns", lambda: int(true_s() * 1e9))
        put(aiohttp.connector, "monotonic", lambda: loop.now_s)
        put(aiohappyeyeballs, "start_connection", start_connection)
        put(aiomqtt, "Client", SimClient)
        put(gate, "connected", connected)
        put(gate, "notice_silence", _notice_silence)
        put(database, "_connect", lambda path, read_only=False: here().machine.database(path, read_only))
        put(sqlite_file, "ThreadPoolExecutor", SimPool)
        put(SqliteLedger, "_append", noted_append)
        put(SqliteLedger, "_declare_hole", noted_hole)
        put(app, "Clock", SimClock)
        put(app, "Broker", SimMosquitto)
        put(app, "Wear", lambda directory: wear(directory, directory / "no-sys"))
        put(app, "Web", lambda *_, **__: Absent("web"))
        put(app, "Watch", lambda *_, **__: Absent("settings"))
        put(End, "note", staticmethod(note))
        for name in PARTS:
            put(app, name, _noting(getattr(app, name), name))
        yield


def _notice_silence(listener: Listener, idle_s: float, interval_s: float, probes_max: int) -> None:
    """What the kernel is asked for: connections of this listener end after so much silence of the way."""
    listener.silence_max_s = idle_s + interval_s * probes_max


def _noting(kind: Any, name: str) -> Any:
    """Makes what `kind` makes, and remembers it as a part of the process."""

    def make(*args: Any, **kwargs: Any) -> Any:
        made = kind(*args, **kwargs)
        here().parts[name] = made
        return made

    return make


assert sqlite3.threadsafety, "calls are made on one thread; SQLite must not mind"
