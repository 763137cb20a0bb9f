"""A box in plain facts behind the real web edge: what the tests of the page and of the command line look at."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol
from zoneinfo import ZoneInfo

from agent.core import status
from agent.core.facts import Condition, DeviceFacts, DrainFacts, JournalFacts, UplinkFacts
from agent.core.health import Check
from agent.core.status import Progress, Snapshot
from agent.web.server import Web

NOW_MS = 1_795_342_500_000


class Box:
    """A venue's box in plain facts, as the status stage would join them."""

    def __init__(self) -> None:
        self.devices = tuple(device(f"till-{number}", number) for number in (1, 2))
        self.conditions: tuple[Condition, ...] = ()
        self.uplink = UplinkFacts(state="online", cause="none", since="2026-11-22T10:00:00.000Z")
        self.drain = DrainFacts("syncing", 2.0, 50, 60, 0, "2026-11-22T10:14:00.000Z", None, None, None)
        self.writable = True
        self.turning = True

    def snapshot(self) -> Snapshot:
        journal = JournalFacts(
            epoch="0199c0de-0000-7000-8000-000000000000",
            last=100,
            cursor=97,
            safe=90,
            pending_count=3,
            pending_bytes=1_500,
            oldest_pending_at="2026-11-22T10:14:30.000Z",
            quarantined_count=1,
            committing=False,
            writable=self.writable,
            commits_count=80,
            devices=self.devices,
        )
        now = status.venue_status(
            journal,
            self.drain,
            self.uplink,
            self.conditions,
            Progress(journal.epoch, 90, 100, True, 0.7),
            venue="demo",
            zone=ZoneInfo("Europe/London"),
            now_ms=NOW_MS,
        )
        way, cloud = status.uplink_status(self.uplink)
        details = status.Details(
            name="Demo <Bar>",
            location="demo-1",
            timezone="Europe/London",
            devices=tuple(status.device_status(one, now.sync.eta_s) for one in self.devices),
            conditions=self.conditions,
            disk=status.DiskStatus(total_bytes=1_000_000, free_bytes=400_000),
            versions={"nightsafe": "0.1.0"},
            journal=status.journal_status(journal),
            drain=status.drain_status(self.drain),
            gate={"connections": 2, "connections_total": 7, "events_total": 100, "odd-name": 1},
            uptime_s=17,
            clock=status.ClockStatus(synced=True, offset_known=True, boot="0199c0de-0000-7000-8000-00000000b007"),
            business_date="2026-11-22",
            uplink=way,
            cloud=cloud,
        )
        return Snapshot(status=now, details=details)

    def live(self) -> tuple[Check, ...]:
        return (Check("loop", True), Check("writer", self.turning, "" if self.turning else "a commit hangs"))

    def ready(self) -> tuple[Check, ...]:
        return (Check("journal", self.writable, "" if self.writable else "the disk is full"), *self.live())


def device(name: str, pending: int) -> DeviceFacts:
    return DeviceFacts(
        device=name,
        epoch="0199bfff-0000-7000-8000-000000000000",
        stored=50,
        uploaded=50 - pending,
        gaps=(),
        refused_count=0,
        stored_count=50,
        pending_count=pending,
        pending_bytes=pending * 500,
        last_event_at="2026-11-22T10:14:59.000Z",
        complete=50,
    )


@asynccontextmanager
async def serving(web: Web) -> AsyncIterator[str]:
    """The stage, run as the agent runs it; gives the base URL of its first address."""
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(web.run(ready.set, stop))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()
    try:
        yield "{}://{}:{}".format(*web.addresses[0]) if web.addresses else ""
    finally:
        stop.set()
        async with asyncio.timeout(5):
            await task


class Stage(Protocol):
    """A loop as the agent runs it."""

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None: ...


@asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[None]:
    """The stage, running; it has 20 s for all, and its failure is the test's."""
    stop, ready = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(stage.run(ready.set, stop))
        await ready.wait()
        yield
        stop.set()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that nobody signals; whoever waits has a time limit around it."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
