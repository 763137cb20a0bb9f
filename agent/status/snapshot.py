"""journal, drain, uplink, gate, conditions → [snapshot] → broadcast, page, command line, metrics. The one read model.

Joins facts as they are at this instant; whoever shows something shows it from here. Never waits, never writes.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import time
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from agent.core.business_day import business_date
from agent.core.facts import Condition, DiskFacts, DrainFacts, JournalFacts, PresenceFacts, SweepFacts, UplinkFacts
from agent.core.health import Check
from agent.core.sentence import natural
from agent.core.status import (
    ClockStatus,
    Details,
    DeviceStatus,
    DiskStatus,
    Progress,
    Snapshot,
    device_status,
    disk_status,
    drain_status,
    journal_status,
    progressed,
    unheard,
    uplink_status,
    venue_status,
)

COMMIT_S_MAX: Final = 10.0
"""A commit that runs longer than this means that the writer does not turn, in seconds."""
DISK_INTERVAL_S: Final = 5.0
"""How long a look at the disk's free space is good for, in seconds."""


class Journal(Protocol):
    """The durable log's own figures."""

    def facts(self) -> JournalFacts: ...


class Drain(Protocol):
    """The upload's own figures."""

    def facts(self) -> DrainFacts: ...


class Uplink(Protocol):
    """The way to the cloud as people are shown it."""

    def facts(self) -> UplinkFacts: ...


class Gate(Protocol):
    """The listener's counters by name."""

    def counts(self) -> Mapping[str, int]: ...


class Sweep(Protocol):
    """The search for damage."""

    def facts(self) -> SweepFacts: ...


class Clock(Protocol):
    """Boottime for durations, what it is in wall time for people, and how good that is."""

    def boottime_s(self) -> float: ...
    def wall_ms_at(self, boottime_s: float) -> int: ...
    def offset_known(self) -> bool: ...
    def synced(self) -> bool: ...
    def boot_id(self) -> str: ...


class Venue(NamedTuple):
    """Whose box this is. People read times in `zone`, and their business day begins at `day_starts`."""

    id: str
    name: str
    location: str
    zone: ZoneInfo
    day_starts: time


class Parts(NamedTuple):
    """Who is asked. `stale` names the vital parts that no longer beat; `conditions` is what holds right now."""

    journal: Journal
    drain: Drain
    uplink: Uplink
    gate: Gate
    conditions: Callable[[], tuple[Condition, ...]]
    stale: Callable[[], tuple[str, ...]]
    disk: Callable[[], DiskFacts] = DiskFacts
    sweep: Sweep | None = None
    presence: Callable[[], Mapping[str, PresenceFacts]] = dict


class StatusSource:
    """Builds snapshots and answers health checks. `state_directory` is the folder whose disk is looked at."""

    def __init__(
        self,
        parts: Parts,
        clock: Clock,
        venue: Callable[[], Venue],
        state_directory: Path,
        versions: Mapping[str, str],
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._venue = venue
        self._directory = state_directory
        self._versions = dict(versions)
        self._started_s = clock.boottime_s()
        self._progress = Progress()
        self._commit: tuple[int, float] | None = None
        self._disk_bytes = (0, 0)
        self._disk_s = float("-inf")

    def snapshot(self) -> Snapshot:
        """Everything there is to show, as of now."""
        parts, venue = self._parts, self._venue()
        journal, drain, conditions = parts.journal.facts(), parts.drain.facts(), parts.conditions()
        self._progress = progressed(self._progress, journal, drain.state)
        self._watch_commit(journal)
        now_ms = self._clock.wall_ms_at(self._clock.boottime_s())
        uplink = parts.uplink.facts()
        way, cloud = uplink_status(uplink)
        status = venue_status(
            journal,
            drain,
            uplink,
            conditions,
            self._progress,
            venue=venue.id,
            zone=venue.zone,
            now_ms=now_ms,
        )
        details = Details(
            name=venue.name,
            location=venue.location,
            timezone=venue.zone.key,
            devices=self._devices(journal, status.sync.eta_s),
            conditions=conditions,
            disk=self._look_at_disk(),
            versions=self._versions,
            journal=journal_status(journal),
            drain=drain_status(drain),
            gate=dict(parts.gate.counts()),
            uptime_s=round(self._clock.boottime_s() - self._started_s),
            clock=ClockStatus(self._clock.synced(), self._clock.offset_known(), self._clock.boot_id()),
            business_date=business_date(now_ms, venue.zone, venue.day_starts).isoformat(),
            sweep=parts.sweep.facts() if parts.sweep is not None else None,
            uplink=way,
            cloud=cloud,
        )
        return Snapshot(status=status, details=details)

    def _devices(self, journal: JournalFacts, left_s: int | None) -> tuple[DeviceStatus, ...]:
        """Every device that has stored something or said how it is; whoever only listens is none of them."""
        presence = self._parts.presence()
        known = {one.device: one for one in journal.devices}
        for name, one in presence.items():
            if one.said is not None:
                known.setdefault(name, unheard(name))
        return tuple(device_status(known[name], left_s, presence.get(name)) for name in sorted(known, key=natural))

    def live(self) -> tuple[Check, ...]:
        """Whether the loop and the writer turn. Who asks from the loop has the first answer already."""
        stale = self._parts.stale()
        parts_text = f"no sign of life from {', '.join(stale)}" if stale else ""
        return (Check("loop", True), self._writer_check(), Check("parts", not stale, parts_text))

    def ready(self) -> tuple[Check, ...]:
        """Whether a record can be stored now."""
        writable = self._parts.journal.facts().writable
        journal = Check("journal", writable, "" if writable else "nothing can be stored: see the conditions")
        return (journal, *self.live())

    def _writer_check(self) -> Check:
        open_s = self._watch_commit(self._parts.journal.facts())
        stuck = open_s > COMMIT_S_MAX
        return Check("writer", not stuck, f"a commit has been running for {open_s:.0f} s" if stuck else "")

    def _watch_commit(self, journal: JournalFacts) -> float:
        """How long the same commit has been seen running, in seconds. Commits are short: a long one hangs."""
        at_s = self._clock.boottime_s()
        if not journal.committing:
            self._commit = None
            return 0.0
        if self._commit is None or self._commit[0] != journal.commits_count:
            self._commit = (journal.commits_count, at_s)
        return at_s - self._commit[1]

    def _look_at_disk(self) -> DiskStatus:
        at_s = self._clock.boottime_s()
        if at_s - self._disk_s >= DISK_INTERVAL_S:
            with suppress(OSError):  # a disk that does not answer must not take the page with it
                disk = os.statvfs(self._directory)
                self._disk_bytes = (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)
            self._disk_s = at_s
        return disk_status(*self._disk_bytes, self._parts.disk())
