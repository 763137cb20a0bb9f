"""devices → agent on the recorder → cloud. [One night at a venue], on tape: what the disk saw, and who was told.

The box, its broker, the cloud and the devices are real; the devices' own files are witnesses on the same tape. Then
the same tape is cut wherever one likes.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from aiohttp import web

from agent.journal.database import FILE_NAME
from tests.crash.front import Front, Say
from tests.crash.judge import Disk as JournalFile
from tests.crash.judge import judge
from tests.crash.launcher import LAUNCHER
from tests.crash.load import Load
from tests.crash.power.cloud import Act, acts_of
from tests.crash.power.disk import Disk, Way
from tests.crash.power.mount import Mount, mounted
from tests.crash.power.recorder import SHARED_MEMORY
from tests.crash.power.tape import WITNESSES, Op
from tests.crash.power.witness import CLOUD
from tests.crash.venue import quick_box, quick_cloud
from tests.integration.machine import Box, CloudServer, until

DEVICES = 12
PACE_S = 0.02
PROJECT_EVENTS = 150
"""Events between two writings of the figures: many in one night."""
OFTEN: Mapping[str, Any] = MappingProxyType({"checkpoint_bytes": 262_144, "reserve_bytes": 262_144})
"""Checkpoints as often as the settings allow, so that a short night has several."""
SELDOM: Mapping[str, Any] = MappingProxyType({"reserve_bytes": 8_388_608})
"""As they are by default; only the room kept in reserve is small, for it is on the tape."""
FULL_S = 1.0
SETTLE_MAX_S = 60.0


class Night(NamedTuple):
    """What is left of it: the tape, the cloud's ledger, what that took, and how many events were told."""

    tape: list[Op]
    ledger: Path
    taken: list[Act]
    told: int


class Scene:
    """The running venue. Nobody sells until it is `open`; `load` is there from then on."""

    load: Load

    def __init__(self, mount: Mount, box: Box, cloud: CloudServer) -> None:
        self.mount = mount
        self.box = box
        self.cloud = cloud
        self.selling = False
        self.at_upload: Callable[[], None] = lambda: None
        """Called when an upload is at the cloud's door."""

    def open(self, seed: str) -> "Scene":
        """Let the devices sell."""
        self.load = Load(self.box.state / WITNESSES.strip("/"), self.box.port, DEVICES, seed, PACE_S)
        self.load.start()
        self.selling = True
        return self

    def tell(self, count: int) -> None:
        """Go on until so many more events were told."""
        self.load.some_more_told(count, SETTLE_MAX_S)

    def killed(self) -> None:
        """The process is killed under load, and the service manager starts it again."""
        self.box.kill()
        self.box.start()

    def sync_failed(self) -> None:
        """A sync of the log fails, and again, until the box has noticed; then the disk works again."""
        since = len(self.box.text)
        self.mount.fail("sync", "EIO", "-wal", 0)
        until(lambda: not self.box.alive or "journal_" in self.box.text[since:], "the box has noticed", SETTLE_MAX_S)
        self.mount.mend()
        self._go_on()

    def killed_as_a_sync_failed(self) -> None:
        """Nobody hears of the failure: the kernel shows the next process what it has given up to write."""
        self.mount.fail("sync", "EIO", "-wal", kill=True)
        until(lambda: not self.box.alive, "the box is killed", SETTLE_MAX_S)
        self._go_on()

    def disk_full(self) -> None:
        """Writes to the log find the disk full, for longer than events are on their way in."""
        since = len(self.box.text)
        self.mount.fail("write", "ENOSPC", "-wal", 0)
        until(lambda: not self.box.alive or "disk_full" in self.box.text[since:], "the box has noticed", SETTLE_MAX_S)
        time.sleep(FULL_S)
        self.mount.mend()
        self._go_on()

    def works(self) -> bool:
        """Whether the box runs; one that has ended of an error is started again, as the service manager does it."""
        if not self.box.alive:
            self.box.start()
        return True

    def _go_on(self) -> None:
        told = self.load.told_count + DEVICES
        until(lambda: self.works() and self.load.told_count >= told, "the box works again", SETTLE_MAX_S)

    def settle(self) -> None:
        """No more sales; everything told and uploaded, and the box stopped in order."""
        self.load.finish(SETTLE_MAX_S)
        until(self.box.uploaded, "the cloud has everything", SETTLE_MAX_S)
        assert self.box.stop() == 0, self.box.text[-3000:]
        self.cloud.stop()

    def judged(self) -> None:
        """The night as it was, without any cut: the tape is complete, and the export is what the devices sent."""
        disk = Disk(Way("drop"), Random(0))
        for op in self.mount.tape():
            disk.take(op)
        on_tape = {path: content for path, content in disk.seen().items() if path.startswith(f"/{FILE_NAME}")}
        live = self.mount.live
        assert on_tape == {f"/{path.name}": path.read_bytes() for path in live.glob(f"{FILE_NAME}*") if not _shm(path)}
        journal = JournalFile(self.box)
        journal.look()
        judge(self.load, journal, self.cloud)


@contextmanager
def scene(broken: str = "nothing", journal: Mapping[str, Any] = OFTEN) -> Iterator[Scene]:
    """A box on a recorder, with these settings of its journal, and a cloud whose door is watched."""
    cloud = quick_cloud().start()
    front = Front(cloud.url)
    box = quick_box(front.url, {"journal": {"project_events": PROJECT_EVENTS, **journal}})
    box.command = [sys.executable, str(LAUNCHER), broken]
    try:
        with mounted(box.state, box.directory) as mount:
            witnesses = box.state / WITNESSES.strip("/")
            (witnesses / CLOUD).mkdir(parents=True)
            door = os.open(witnesses / CLOUD / "uploads.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            venue = Scene(mount, box, cloud)
            front.standing = lambda request, size: _at_the_door(venue, door, request)
            try:
                box.start()
                try:
                    yield venue
                finally:
                    if venue.selling:
                        venue.load.abandon()
            finally:
                if box.alive:
                    box.kill()
                os.close(door)
    finally:
        front.close()
        box.close()
        cloud.close()


def whole_night(seed: str, folder: Path, told: int, journal: Mapping[str, Any], full_disk: bool) -> Night:
    """The agent with its promise: it is killed, a sync fails, (the disk is full for a while,) and it goes on."""
    with scene(journal=journal) as venue:
        venue.open(seed)
        incidents = [venue.killed, venue.killed_as_a_sync_failed, venue.sync_failed]
        incidents += [venue.disk_full] if full_disk else []
        part = told // (len(incidents) + 1)
        for incident in incidents:
            venue.tell(part)
            incident()
        venue.tell(part)
        venue.settle()
        venue.judged()
        ledger = folder / "ledger.sqlite"
        shutil.copy(venue.cloud.directory / ledger.name, ledger)
        return Night(venue.mount.tape(), ledger, acts_of(ledger), venue.load.told_count)


def short_night(seed: str, broken: str, told: int) -> tuple[list[Op], list[Act]]:
    """An agent that was broken so, under load until so many were told; and what the cloud took."""
    with scene(broken) as venue:
        venue.open(seed).tell(told)
        tape = venue.mount.tape()
        return tape, acts_of(venue.cloud.directory / "ledger.sqlite")


def _shm(path: Path) -> bool:
    return path.name.endswith(SHARED_MEMORY)


def _at_the_door(venue: Scene, door: int, request: web.Request) -> Say | None:
    """An upload is noted before the cloud sees it: what it has seen must be on the disk."""
    place = request.path.rpartition("/records/")[2]
    last = place.partition("-")[2]
    if last.isdigit():
        os.write(door, json.dumps({"last": int(last)}).encode() + b"\n")
        venue.at_upload()
    return None
