"""The read model joins what the parts say, and tells a hanging writer from a busy one."""

from collections.abc import Mapping
from datetime import time
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from agent.core.facts import Condition, DeviceFacts, DrainFacts, JournalFacts, UplinkFacts
from agent.core.status import ClockStatus
from agent.status.snapshot import COMMIT_S_MAX, Parts, StatusSource, Venue


class Clock:
    """A clock that stands until it is moved."""

    now_s = 1000.0

    def boottime_s(self) -> float:
        return self.now_s

    def wall_ms_at(self, boottime_s: float) -> int:
        return int(boottime_s * 1000)

    def offset_known(self) -> bool:
        return True

    def synced(self) -> bool:
        return False

    def boot_id(self) -> str:
        return "boot-1"


class Journal:
    """A journal with one device that has half of its ten records up."""

    def __init__(self) -> None:
        till = DeviceFacts("till-1", None, None, None, (), 0, 10, 5, 500, None)
        self.now = JournalFacts("e", 10, 5, 5, 5, 500, "1970-01-01T00:16:00.000Z", 0, False, True, 3, (till,))

    def facts(self) -> JournalFacts:
        return self.now


class Drain:
    """A drain that sends one record a second."""

    def facts(self) -> DrainFacts:
        return DrainFacts("syncing", 1.0, 5, 5, 0, None, None, None, None)


class Uplink:
    """Online."""

    def facts(self) -> UplinkFacts:
        return UplinkFacts("online", "none", "1970-01-01T00:10:00.000Z")


class Gate:
    """Two counters."""

    def counts(self) -> Mapping[str, int]:
        return {"connections": 1, "events_total": 10}


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stale() -> list[str]:
    return []


@pytest.fixture
def source(journal: Journal, clock: Clock, stale: list[str], tmp_path: Path) -> StatusSource:
    condition = Condition("x", "info", False, "Something", "", "", "1970-01-01T00:10:00.000Z")
    parts = Parts(journal, Drain(), Uplink(), Gate(), lambda: (condition,), lambda: tuple(stale))
    venue = Venue("demo", "Demo", "demo-1", ZoneInfo("Europe/London"), time(5))
    return StatusSource(parts, clock, lambda: venue, tmp_path, {"nightsafe": "1"})


def test_one_snapshot_holds_what_every_part_says(source: StatusSource, clock: Clock) -> None:
    clock.now_s += 5
    snapshot = source.snapshot()
    assert (snapshot.status.venue, snapshot.status.state, snapshot.status.sync.pending) == ("demo", "online", 5)
    assert [(one.device, one.pending, one.eta_s) for one in snapshot.details.devices] == [("till-1", 5, 5)]
    assert snapshot.details.gate == {"connections": 1, "events_total": 10}
    assert [one.id for one in snapshot.details.conditions] == ["x"]
    assert 0 < snapshot.details.disk.free_bytes <= snapshot.details.disk.total_bytes
    assert (snapshot.details.timezone, snapshot.details.uptime_s) == ("Europe/London", 5)
    assert snapshot.details.clock == ClockStatus(synced=False, offset_known=True, boot="boot-1")
    assert snapshot.details.business_date == "1969-12-31"  # before the cut-off


def test_A2_1_progress_grows_from_snapshot_to_snapshot(source: StatusSource, journal: Journal) -> None:
    shares = [source.snapshot().status.sync.progress]
    for cursor in (6, 8, 10):
        journal.now = msgspec.structs.replace(journal.now, cursor=cursor, pending_count=10 - cursor)
        shares.append(source.snapshot().status.sync.progress)
    assert shares == [0.0, 0.2, 0.6, 1.0]


def test_a_journal_that_cannot_be_written_is_alive_but_not_ready(source: StatusSource, journal: Journal) -> None:
    journal.now = msgspec.structs.replace(journal.now, writable=False)
    assert [check.name for check in source.ready() if not check.ok] == ["journal"]
    assert all(check.ok for check in source.live())


def test_a_commit_that_never_ends_is_a_writer_that_hangs(source: StatusSource, journal: Journal, clock: Clock) -> None:
    journal.now = msgspec.structs.replace(journal.now, committing=True)
    source.snapshot()
    clock.now_s += COMMIT_S_MAX
    assert all(check.ok for check in source.live())
    clock.now_s += 1
    assert [check.name for check in source.live() if not check.ok] == ["writer"]
    assert not all(check.ok for check in source.ready())


def test_a_writer_that_is_always_busy_but_gets_on_is_alive(
    source: StatusSource, journal: Journal, clock: Clock
) -> None:
    for count in range(10):
        journal.now = msgspec.structs.replace(journal.now, committing=True, commits_count=count)
        clock.now_s += COMMIT_S_MAX
        assert all(check.ok for check in source.live())


def test_a_vital_part_without_a_beat_is_named(source: StatusSource, stale: list[str]) -> None:
    stale.append("drain")
    assert [check.text for check in source.live() if not check.ok] == ["no sign of life from drain"]
