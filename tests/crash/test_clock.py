"""Wall clocks that are wrong by decades and jump while the box runs: order, timers and truth do not depend on them.

The agent runs under libfaketime, which fakes wall time only; the truth is this machine's own clock.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.core.instants import to_ms
from tests.crash.judge import chained
from tests.crash.launcher import LAUNCHER, SYNCED_FILE
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

TRUE_MS_MAX = 400
"""How far a time that was worked out may be from this test's own clock: a sale takes a moment to be stored."""
YEAR_S = 365 * 86_400
SETTLE_S = 20.0


class WallClock:
    """The box's wall clock, to be set by whoever likes to."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._file = folder / "faketime"
        self._synced = folder / "synced"
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            SYNCED_FILE: str(self._synced),
        }

    def set(self, off_by_s: float, *, synced: bool) -> None:
        """Off by so many seconds from now on, and whether the kernel calls it synchronised."""
        self._synced.unlink(missing_ok=True)
        new = self._file.with_suffix(".new")
        new.write_text(f"{off_by_s:+.3f}\n")
        new.replace(self._file)
        if synced:
            self._synced.touch()


@pytest.fixture
def wall(tmp_path: Path) -> WallClock:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found or shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    return WallClock(tmp_path, found[0])


def new_venue(
    wall: WallClock, new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> tuple[Box, CloudServer]:
    cloud = new_cloud().start()
    quick = {"gap_resend_s": 0.2, "resend_backoff_max_s": 0.5}
    box = new_box(cloud.url, intake=quick, clock={"unsynced_notice_s": 0.2})
    box.command = [sys.executable, str(LAUNCHER), "clock"]
    box.environment = wall.environment
    return box, cloud


class Till:
    """Sells, and notes the true time of each sale in ms."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self.sold_ms: dict[int, float] = {}

    def sell(self, count: int) -> None:
        with Device(self._box.port, "till-1") as device:
            for _ in range(count):
                sequence = len(self.sold_ms) + 1
                self.sold_ms[sequence] = time.time() * 1000
                device.tell(counted("e1", sequence))


def corrections(box: Box) -> list[dict[str, Any]]:
    return [one["data"] for one in box.own_records("nightsafe.clock.corrected")]


def shown_off_by_s(box: Box, *names: str) -> float:
    """How far off what the status calls an instant is from the truth, in seconds; `time` unless named."""
    found = box.status()
    for name in names or ("time",):
        found = found[name]
    return float(to_ms(found) / 1000 - time.time())


def asked_again(device: Device) -> bool:
    """Whether a resend is asked for within the next seconds: its timer goes on."""
    return json.loads(next(device.messages(5.0))[1])["command"] == "resend"


def condition(box: Box, name: str) -> Any:
    return next((one for one in box.status()["conditions"] if one["id"] == name), None)


def test_no_jump_of_the_wall_clock_loses_or_reorders_anything_and_true_times_can_be_worked_out(
    wall: WallClock, new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    box, cloud = new_venue(wall, new_box, new_cloud)
    wall.set(5 - time.time(), synced=False)  # 1970-01-01T00:00:05Z
    box.start()
    till = Till(box)
    with Device(box.port, "till-2") as lacking:
        lacking.subscribe("pos/v1/till-2/commands")
        for sequence in (1, 3):
            lacking.tell(counted("e1", sequence))
        till.sell(3)
        assert asked_again(lacking)
        assert box.status()["time"].startswith("1970-01-01T00:")
        found = until(lambda: condition(box, "clock_unsynced"), "people are told")
        assert found["attention"]
        assert "1970" in found["text"]
        assert corrections(box) == []
        cloud.kill()
        till.sell(1)

        wall.set(0, synced=True)  # 56 years forth
        (first,) = until(lambda: corrections(box), "the offset is recorded")
        assert first.keys() == {"boot", "uptime_ms", "wall_at", "error_ms"}
        till.sell(2)
        assert asked_again(lacking)
        until(lambda: condition(box, "clock_unsynced") is None, "nothing is wrong with the clock any more")
        status = box.status()
        assert (status["clock"]["synced"], status["clock"]["offset_known"]) == (True, True)
        assert abs(shown_off_by_s(box)) < 0.5
        for instant in (("since",), ("sync", "oldest_at"), ("last_sync_at",), ("drain", "next_attempt_at")):
            assert -60 < shown_off_by_s(box, *instant) < 5, instant  # they were in 1970 a moment ago
        assert all(-60 < to_ms(one["last_event_at"]) / 1000 - time.time() < 1 for one in status["devices"])

        wall.set(-3600, synced=False)  # somebody set it back
        till.sell(2)
        assert asked_again(lacking)
        assert abs(shown_off_by_s(box)) < 0.5
        wall.set(YEAR_S, synced=False)
        cloud.start()  # the back-off that began before these jumps ends in its own time
        till.sell(1)
        assert asked_again(lacking)
        until(box.uploaded, "the cloud has everything", SETTLE_S)
        assert abs(shown_off_by_s(box)) < 0.5
        assert len(corrections(box)) == 1

    assert box.stop() == 0
    box.start()
    till.sell(1)
    assert abs(shown_off_by_s(box)) < 0.5, "what was known of this boot is known after a restart"
    wall.set(0, synced=True)
    till.sell(1)
    box.kill()
    box.start()
    wall.set(600, synced=True)  # the time service steps
    until(lambda: len(corrections(box)) == 2, "a step is recorded again")
    until(lambda: abs(shown_off_by_s(box) - 600) < 0.5, "and shown")
    wall.set(0, synced=True)
    until(lambda: len(corrections(box)) == 3, "and the step back")
    till.sell(1)
    until(box.uploaded, "the cloud has everything", SETTLE_S)
    assert box.stop() == 0
    judge_export(cloud.export(), till.sold_ms)


def judge_export(lines: list[bytes], sold_ms: dict[int, float]) -> None:
    """All is there once and in the order of sequence; uptime and the boot's newest correction give the true times."""
    chained(lines)
    records = [json.loads(line) for line in lines]
    sales = [one for one in records if one["device"] == "till-1"]
    assert [int(one["data"]["sequence"]) for one in sales] == list(sold_ms)
    believed = [one["recordedtime"] for one in sales]
    assert believed != sorted(believed)
    assert len({at[:4] for at in believed}) >= 3, "the box believed to be in three different years"
    assert {one["clock"] for one in sales} == {"synced", "unsynced"}
    newest = [one["data"]["data"] for one in records if one["data"]["type"] == "nightsafe.clock.corrected"][-1]
    for one in sales:
        assert one["boot"] == newest["boot"]
        true_ms = to_ms(newest["wall_at"]) - (newest["uptime_ms"] - one["uptime_ms"])
        late_ms = true_ms - sold_ms[int(one["data"]["sequence"])]
        assert -newest["error_ms"] <= late_ms < TRUE_MS_MAX, f"{one['recordedtime']} came out {late_ms:.0f} ms off"


def test_a_clock_that_was_synchronised_before_the_start_is_recorded_once_in_a_boot(
    wall: WallClock, new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    box, _ = new_venue(wall, new_box, new_cloud)
    wall.set(0, synced=True)
    box.start()
    (found,) = until(lambda: corrections(box), "the offset is recorded")
    assert found["boot"] == box.status()["clock"]["boot"]
    assert abs(to_ms(found["wall_at"]) / 1000 - time.time()) < 10
    assert found["error_ms"] >= 5
    for end in (box.stop, box.kill):
        end()
        box.start()
        Till(box).sell(1)
        until(lambda: box.status()["clock"]["offset_known"], "it is known from the journal")
        assert len(corrections(box)) == 1
