"""The stage that knows how devices are: what it keeps, what makes room, when it writes, and over boots."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.core.presence import Line
from agent.ingest.presence import FILE_NAME, OLD_TOLD_S, Presence, Seen
from agent.settings.box import DevicesSettings

READY = b'{"state":"ready","app":"Sarda","version":"1.9"}'


class Machine:
    """Clock, journal, gate and ears of people, as the test sets them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_s = 1000.0
        self.boot = "boot-1"
        self.lived = 5000.0
        self.lines: dict[str, Line] = {}
        self.stored: dict[str, int] = {}
        self.offset_ms = 0
        self.settings = DevicesSettings(version_min="2", unresponsive_s=300.0)
        self.held: dict[str, str] = {}

    def boottime_s(self) -> float:
        return self.now_s

    def boot_id(self) -> str:
        return self.boot

    def wall_ms_at(self, boottime_s: float) -> int:
        return int(boottime_s * 1000)

    def instant_ms(self, seen: Seen) -> int:
        return seen.wall_ms + self.offset_ms

    def stored_count(self, device: str) -> int:
        return self.stored.get(device, 0)

    def lived_s(self) -> float:
        return self.lived

    def hold(self, id: str, severity: str, title: str, text: str, hint: str) -> None:
        self.held[id] = text

    def lift(self, id: str) -> None:
        self.held.pop(id, None)

    def presence(self, count_max: int = 10) -> Presence:
        return Presence(
            self.directory, self, self.lines_now, self, self.instant_ms, self, count_max, lambda: self.settings
        )

    def lines_now(self) -> Mapping[str, Line]:
        return self.lines

    def run_s(self, seconds: float) -> None:
        self.now_s += seconds
        self.lived += seconds


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def fact(presence: Presence, device: str) -> Any:
    presence._stale = True
    return presence.facts()[device]


async def ended(presence: Presence) -> None:
    """One pass of the stage, and its end."""
    stop = asyncio.Event()
    stop.set()
    await presence.run(lambda: None, stop)


def test_last_seen_is_the_last_packet_and_a_retained_word_or_a_will_is_none(machine: Machine) -> None:
    presence = machine.presence()
    presence.heard("till-1", READY, retained=True)
    assert fact(presence, "till-1").last_seen_at is None
    machine.lines["till-1"] = Line(20.0, 60.0)
    assert fact(presence, "till-1").last_seen_at == "1970-01-01T00:16:20.000Z"
    machine.lines.clear()
    machine.run_s(100)
    presence.heard("till-1", b'{"state":"offline"}', retained=False)
    assert fact(presence, "till-1").last_seen_at == "1970-01-01T00:16:20.000Z"
    presence.heard("till-1", READY, retained=False)
    assert fact(presence, "till-1").last_seen_at == "1970-01-01T00:18:20.000Z"


def test_a_cleared_state_says_nothing_any_more(machine: Machine) -> None:
    presence = machine.presence()
    machine.lines["till-1"] = Line(1.0, 60.0)
    presence.heard("till-1", READY, retained=False)
    assert fact(presence, "till-1").state == "ready"
    presence.heard("till-1", b"", retained=False)
    assert (fact(presence, "till-1").state, fact(presence, "till-1").version) == ("unknown", None)
    assert presence.counts() == {"states_refused": 0}


@pytest.mark.parametrize("answer", ["state", "event", "gone"])
def test_A6_2_a_command_is_answered_by_any_word_and_forgotten_with_the_connection(
    machine: Machine, answer: str
) -> None:
    presence = machine.presence()
    presence.heard("till-1", READY, retained=False)
    presence.asked("till-1")
    machine.lines["till-1"] = Line(1.0, 60.0)
    assert fact(presence, "till-1").unanswered_s is None
    presence.asked("till-1")
    machine.run_s(200)
    presence.asked("till-1")
    machine.run_s(101)
    assert (fact(presence, "till-1").state, fact(presence, "till-1").unanswered_s) == ("unresponsive", 301)
    if answer == "state":
        presence.heard("till-1", READY, retained=False)
    elif answer == "event":
        machine.stored["till-1"] = 1
    else:
        machine.lines.clear()
        assert fact(presence, "till-1").state == "offline"
        machine.lines["till-1"] = Line(1.0, 60.0)
    assert (fact(presence, "till-1").state, fact(presence, "till-1").unanswered_s) == ("ready", None)


def test_no_more_devices_are_known_than_there_is_room_for(machine: Machine) -> None:
    presence = machine.presence(count_max=3)
    machine.lines["here"] = Line(0.0, 60.0)
    fact(presence, "here")
    for device in ("older", "newer"):
        machine.run_s(10)
        presence.heard(device, READY, retained=False)
    machine.run_s(10)
    presence.heard("newest", READY, retained=False)
    presence._stale = True
    assert set(presence.facts()) == {"here", "newer", "newest"}
    machine.lines.update({"newer": Line(0.0, 60.0), "newest": Line(0.0, 60.0), "surplus": Line(0.0, 60.0)})
    presence._stale = True
    assert set(presence.facts()) == {"here", "newer", "newest"}
    presence.heard("surplus", READY, retained=False)
    assert set(presence.facts()) == {"here", "newer", "newest"}


async def test_A2_7_what_is_known_outlives_a_boot_with_its_true_time(machine: Machine) -> None:
    presence = machine.presence()
    presence.heard("till-1", READY, retained=False)
    await ended(presence)
    machine.now_s, machine.boot, machine.offset_ms = 5.0, "boot-2", 3_600_000
    presence = machine.presence()
    known = fact(presence, "till-1")
    assert (known.state, known.version, known.last_seen_at) == ("offline", "1.9", "1970-01-01T01:16:40.000Z")
    assert machine.presence(count_max=0).facts() == {}


async def test_nothing_is_written_while_nothing_changes(machine: Machine) -> None:
    presence = machine.presence()
    presence.heard("till-1", READY, retained=False)
    await ended(presence)
    (machine.directory / FILE_NAME).unlink()
    machine.run_s(3600)
    await ended(presence)
    assert not (machine.directory / FILE_NAME).exists()


async def test_a_file_that_is_damaged_or_holds_foreign_names_does_no_harm(machine: Machine) -> None:
    for content in (b"\xff", b"{}", b'[{"device":1}]', b'[{"device":"agent","said":null,"seen":null,"joined":true}]'):
        (machine.directory / FILE_NAME).write_bytes(content)
        assert machine.presence().facts() == {}


async def test_a_disk_that_takes_nothing_stops_nothing(machine: Machine) -> None:
    machine.directory = machine.directory / "gone"
    presence = machine.presence()
    presence.heard("till-1", READY, retained=False)
    await ended(presence)
    assert presence.facts()["till-1"].version == "1.9"


def test_A2_7_one_warning_names_all_old_devices_and_lets_go_of_one_that_is_long_gone(machine: Machine) -> None:
    presence = machine.presence()
    for device in ("till-10", "till-2"):
        presence.heard(device, READY, retained=False)
    presence._judge_versions()
    assert machine.held == {
        "device_versions": "till-2 (1.9), till-10 (1.9) run an app older than 2. They go on selling."
    }
    presence.heard("till-2", b'{"state":"ready","version":"2.0"}', retained=False)
    presence._judge_versions()
    assert machine.held["device_versions"].startswith("till-10 (1.9) runs")
    machine.run_s(OLD_TOLD_S + 1)
    presence._judge_versions()
    assert machine.held == {}
    machine.lines["till-10"] = Line(0.0, 60.0)
    assert fact(presence, "till-10").connected
    presence._judge_versions()
    assert set(machine.held) == {"device_versions"}
    presence.forget("till-10")
    presence._judge_versions()
    assert machine.held == {}
