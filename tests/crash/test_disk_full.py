"""The disk fills to the brim under load, and is freed: nothing told is lost, uploading goes on, no restart is needed.

Everything that was told is compared at the end with the disk and with the cloud's export, event by event.
"""

import resource
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.crash.conftest import Story
from tests.crash.disks import MIB, SMALL_JOURNAL, ext4, fill, free_bytes, tmpfs
from tests.crash.judge import Disk, judge
from tests.crash.load import Load
from tests.integration.machine import NIGHTSAFE, Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

DEVICES = 6
FULL_MAX_S = 40.0
DRAIN_MAX_S = 40.0


@pytest.fixture(params=["ext4", pytest.param("ext4, started again while full", marks=pytest.mark.long), "tmpfs"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts a disk of 16 MiB at a path."""
    with ExitStack() as stack:

        def mount(at: Path) -> Path:
            made = tmpfs(at) if request.param == "tmpfs" else ext4(at, tmp_path / "image")
            return stack.enter_context(made)

        yield mount


@contextmanager
def selling(box: Box, outside: Path, seed: str, pace_s: float = 0.004) -> Iterator[Load]:
    load = Load(outside, box.port, DEVICES, seed, pace_s)
    load.start()
    try:
        yield load
    finally:
        load.abandon()


def condition(box: Box, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = next((one for one in box.status()["conditions"] if one["id"] == name), None)
    return found


def level(box: Box) -> str:
    return str(box.status()["disk"]["level"])


def is_refusing(box: Box, load: Load) -> None:
    """Nothing is told any more, and the box says so: to people, to machines, and not by dying."""
    until(lambda: condition(box, "disk_full"), "the box says that the disk is full", FULL_MAX_S)
    is_telling_nobody(box, load)


def is_telling_nobody(box: Box, load: Load) -> None:
    """The box lives, says that it cannot store anything, and tells nobody that it has."""
    assert not box.status()["journal"]["writable"]
    time.sleep(0.3)  # what was committed before is still being told
    told = load.told_count
    time.sleep(1.0)
    assert load.told_count == told, "something was told that cannot have been stored"
    assert (answer(box, "/livez"), answer(box, "/readyz")) == (200, 503)


def answer(box: Box, path: str) -> int:
    """The status code of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{box.web_port}{path}", timeout=5) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code


def is_sound(box: Box) -> None:
    """It ends orderly, and every record matches its seal."""
    assert box.stop() == 0, box.text
    done = subprocess.run([*NIGHTSAFE, "verify", "--config", str(box.config)], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


def dismiss(box: Box, number: int) -> subprocess.CompletedProcess[str]:
    command = ("queue", "quarantine", "dismiss", str(number), "--actor", "ann", "--reason", "seen")
    return subprocess.run(
        [*NIGHTSAFE, *command, "--config", str(box.config)], capture_output=True, text=True, timeout=30, check=False
    )


def test_A2_4_a_disk_filled_to_the_brim_and_freed_loses_nothing(
    new_box: Callable[..., Box],
    new_cloud: Callable[[], CloudServer],
    outside: Path,
    story: Story,
    small_disk: Callable[[Path], Path],
    request: pytest.FixtureRequest,
) -> None:
    again = "again" in request.node.callspec.params["small_disk"]
    cloud = new_cloud().start()
    box = new_box(cloud.url, journal=SMALL_JOURNAL, gate={"refuse_delay_s": 0.2})
    folder = small_disk(box.state)
    box.start()
    disk, pid = Disk(box), box.pid
    with selling(box, outside, story.seed, pace_s=0.002) as load:
        load.some_more_told(200, 30)
        cloud.stop()
        others = fill(folder, 3 * MIB)
        is_refusing(box, load)
        story.tell(f"refused after {load.told_count} told, {free_bytes(folder)} bytes free")
        fill(folder)
        assert free_bytes(folder) < 4_096
        pending = box.status()["sync"]["pending"]
        assert pending > 0

        cloud.start()
        until(box.uploaded, "everything is uploaded while the disk is full", DRAIN_MAX_S)
        status = box.status()
        assert status["journal"]["cursor"] == status["journal"]["last"]
        cursor = [(int(status["journal"]["last"]),)]
        until(lambda: box.rows("select cursor from journal") == cursor, "the cursor is durable", 10)
        if refused := box.rows("select id from quarantine where state = 'open' order by id limit 1"):
            done = dismiss(box, refused[0][0])
            assert done.returncode == 0, done.stderr
        assert level(box) == "refuse"
        story.tell(f"uploaded {pending} while full; reserve kept: {box.status()['disk']['reserve_kept']}")

        if again:
            assert box.stop() == 0, box.text
            fill(folder)
            pid = box.start().pid
            is_refusing(box, load)
            assert not box.status()["disk"]["reserve_kept"], "there was no room to start in, but for the reserve"
        others.unlink()
        until(lambda: box.status()["journal"]["writable"], "records can be stored again")
        load.some_more_told(200, 30)
        until(lambda: box.status()["disk"]["reserve_kept"], "the reserve is there again")
        assert condition(box, "disk_full") is None
        assert condition(box, "journal") is None
        load.finish(60)
        until(box.uploaded, "the cloud has everything", DRAIN_MAX_S)
        disk.look()
        verdict = judge(load, disk, cloud).verdict
        story.tell(f"told {verdict.told}, exported {len(cloud.export())}")
    assert box.pid == pid
    is_sound(box)


def test_a_journal_at_its_own_bound_takes_nothing_more_and_is_drained(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], outside: Path, story: Story
) -> None:
    """What is told stays; the words name the setting. It needs no disk of its own, so it runs everywhere."""
    cloud = new_cloud().start()
    cloud.stop()
    box = new_box(cloud.url, journal={"bytes_max": 4 * MIB, "checkpoint_bytes": MIB // 2}, gate={"refuse_delay_s": 0.2})
    box.start()
    disk = Disk(box)
    with selling(box, outside, story.seed, pace_s=0.002) as load:
        is_refusing(box, load)
        assert "bytes_max" in condition(box, "disk_full")["hint"]
        assert box.status()["disk"]["hours_until_full"] == 0
        cloud.start()
        until(box.uploaded, "everything is uploaded", DRAIN_MAX_S)
        assert box.stop() == 0, box.text
        box.settings["journal"]["bytes_max"] = 64 * MIB
        box.start()
        load.some_more_told(100, 30)
        load.finish(60)
        until(box.uploaded, "the cloud has everything", DRAIN_MAX_S)
        disk.look()
        judge(load, disk, cloud)


def test_a_disk_without_room_for_another_file_still_takes_every_event(
    new_box: Callable[..., Box], outside: Path, story: Story, tmp_path: Path
) -> None:
    """A start without one limps, and goes on by itself when files can be made again."""
    box = new_box(journal=SMALL_JOURNAL, gate={"refuse_delay_s": 0.2})
    with ext4(box.state, tmp_path / "image", "-N", "64"):
        box.start()
        others = []
        while True:
            path = box.state / f"other-{len(others)}"
            try:
                path.touch()
            except OSError:
                break
            others.append(path)
        with selling(box, outside, story.seed, pace_s=0.02) as load:
            load.some_more_told(300, 30)
            until(lambda: condition(box, "disk_files"), "the box says that no more files can be made")
            load.finish(30)
            disk = Disk(box)
            disk.look()
            disk.has_all(load.told_by_a_dead_box())
        for path in others:
            path.unlink()
        until(lambda: condition(box, "disk_files") is None, "files can be made again")
        is_sound(box)


def test_a_file_that_may_not_grow_stops_the_telling_until_it_may(
    new_box: Callable[..., Box], outside: Path, story: Story
) -> None:
    """A limit of the process's file size makes writes fail in another way than a full disk: as an I/O error."""
    box = new_box(journal={"reopen_max_s": 1.0}, gate={"refuse_delay_s": 0.2}).start()
    process, disk, pid = psutil.Process(box.pid), Disk(box), box.pid
    with selling(box, outside, story.seed, pace_s=0.01) as load:
        load.some_more_told(100, 30)
        process.rlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
        until(lambda: condition(box, "journal"), "the box says that nothing can be stored")
        is_telling_nobody(box, load)
        process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        load.some_more_told(100, 30)
        until(lambda: condition(box, "journal") is None, "the box says that all is well")
        load.finish(30)
        disk.look()
        disk.has_all(load.told_by_a_dead_box())
    assert box.pid == pid
    is_sound(box)


def test_a_full_disk_behind_the_log_stops_nothing(
    new_box: Callable[..., Box], outside: Path, story: Story, tmp_path: Path
) -> None:
    box = new_box()
    with tmpfs(tmp_path / "log", 65_536) as folder:
        box.log = folder / "agent.log"
        box.start()
        fill(folder)
        with selling(box, outside, story.seed, pace_s=0.01) as load:
            load.some_more_told(300, 30)
            load.finish(30)
            disk = Disk(box)
            disk.look()
            disk.has_all(load.told_by_a_dead_box())
        is_sound(box)


def test_when_room_is_short_qos_0_is_left_out_and_qos_1_is_stored(new_box: Callable[..., Box]) -> None:
    """A threshold above the size of any disk makes room short; nobody was promised anything for QoS 0."""
    box = new_box(journal={"shed_free_bytes": 900_000_000_000, "bytes_max": 1_000_000_000_000}).start()
    until(lambda: level(box) == "shed", "room is short")
    with Device(box.port, "till-1") as device:
        device.send(device.frame(counted("e1", 1), qos=0))
        device.tell(counted("e1", 2))
    assert len(box.stored("till-1")) == 1
    assert (box.counts()["events_qos0"], box.counts()["events_shed"]) == (1, 1)
    assert condition(box, "disk_shed")["severity"] == "warning"
    assert answer(box, "/readyz") == 200
    is_sound(box)
