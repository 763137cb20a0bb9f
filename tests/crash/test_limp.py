"""The disk fails under a running box: nothing more is told, the box says so and lives, and goes on when the disk does.

The real agent, with a kernel that answers its writes with errors: some made by strace, some by a file system that has
turned itself read-only. No restart anywhere, but where a start is the subject.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.conftest import Story
from tests.crash.disks import ext4
from tests.crash.judge import Disk, judge
from tests.crash.test_disk_full import DRAIN_MAX_S, answer, condition, is_sound, is_telling_nobody, selling
from tests.crash.trace import needs_strace
from tests.integration.machine import NIGHTSAFE, Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

QUICK = {"reopen_first_s": 0.1, "reopen_max_s": 0.5}
FAULTS = {
    "a sync fails": "fdatasync,fsync:error=EIO",
    "the disk is read-only": "pwrite64:error=EROFS",
    "every fourth write fails": "pwrite64:error=EIO:when=4+4",
}


@contextmanager
def failing(box: Box, fault: str, folder: Path) -> Iterator[None]:
    """Let the kernel answer the box's calls with an error while the block lasts. Threads that come later fail, too."""
    needs_strace()
    said = folder / "strace.said"
    with said.open("wb") as words:
        strace = subprocess.Popen(
            ["strace", "-f", "-o", "/dev/null", "-e", "signal=none", "-e", f"inject={fault}", "-p", str(box.pid)],
            stderr=words,
        )
    try:
        until(lambda: b"attached" in said.read_bytes() or strace.poll() is not None, "strace is attached")
        assert strace.poll() is None, said.read_text(errors="replace")
        yield
    finally:
        if strace.poll() is None:
            strace.terminate()
        strace.wait(10)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name, marks=() if name == "a sync fails" else pytest.mark.long)
        for name, fault in FAULTS.items()
    ],
)
def test_A2_4_after_an_io_error_nothing_is_told_until_the_journal_was_opened_anew(
    new_box: Callable[..., Box],
    new_cloud: Callable[[], CloudServer],
    outside: Path,
    story: Story,
    tmp_path: Path,
    fault: str,
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, journal=QUICK, gate={"refuse_delay_s": 0.2}).start()
    disk, pid = Disk(box), box.pid
    with selling(box, outside, story.seed, pace_s=0.02) as load:
        load.some_more_told(100, 30)
        with failing(box, fault, tmp_path):
            held = until(lambda: condition(box, "journal"), "the box says that its disk fails")
            assert held["severity"] == "critical"
            assert "disk" in held["text"]
            if "when" not in fault:
                is_telling_nobody(box, load)
        load.some_more_told(100, 30)
        until(lambda: condition(box, "journal") is None, "the box says that all is well")
        look_beside(box)
        load.some_more_told(50, 30)
        assert box.pid == pid
        box.kill()
        disk.look()
        disk.has_all(load.told_by_a_dead_box())
        box.start()
        load.finish(60)
        until(box.uploaded, "the cloud has everything", DRAIN_MAX_S)
        disk.look()
        verdict = judge(load, disk, cloud).verdict
        story.tell(f"told {verdict.told}; opened anew {box.text.count('event=journal_reopened')} times")
    assert "event=journal_reopened" in box.text
    is_sound(box)


def look_beside(box: Box) -> None:
    """Another program opens the journal and closes it: if the box had lost its locks, it would think itself alone."""
    for _ in range(2):
        subprocess.run([*NIGHTSAFE, "verify", "--config", str(box.config)], capture_output=True, check=False)


def test_a_file_system_that_has_turned_read_only_ends_nothing_but_the_telling(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], outside: Path, story: Story, tmp_path: Path
) -> None:
    """As a card that dies: the kernel stops all writing. What can be read is uploaded; page and command line live."""
    trigger = Path("/sys/fs/ext4")
    cloud = new_cloud().start()
    box = new_box(cloud.url, journal=QUICK, gate={"refuse_delay_s": 0.2})
    with ext4(box.state, tmp_path / "image", mount="loop,errors=remount-ro", size=64 * 1_048_576) as folder:
        box.settings["journal"] |= {"reserve_bytes": 8_388_608, "refuse_free_bytes": 8_388_608}
        box.settings["journal"] |= {"shed_free_bytes": 8_388_608}
        box.start()
        disk, pid = Disk(box), box.pid
        with selling(box, outside, story.seed, pace_s=0.02) as load:
            load.some_more_told(100, 30)
            cloud.stop()
            load.some_more_told(100, 30)
            source = subprocess.check_output(["findmnt", "-no", "SOURCE", str(folder)], text=True).strip()
            error = trigger / Path(source).name / "trigger_fs_error"
            if not error.exists():
                pytest.skip("this kernel cannot be asked to fail an ext4")
            error.write_text("a card that dies\n")
            until(lambda: condition(box, "journal"), "the box says that its disk fails")
            is_telling_nobody(box, load)
            told = load.told_count
            cloud.start()
            last = int(box.status()["journal"]["last"])
            until(lambda: len(cloud.export()) >= last, "what can be read is uploaded", DRAIN_MAX_S)
            status = subprocess.run([*NIGHTSAFE, "status", "--config", str(box.config)], capture_output=True, text=True)
            assert "Nothing can be stored" in status.stdout
            assert (answer(box, "/"), answer(box, "/metrics")) == (200, 200)
            assert load.told_count == told
        disk.look()
        disk.has_all(load.told_by_a_dead_box())
        assert (box.alive, box.pid) == (True, pid)
        assert box.stop() == 0, box.text


def test_a_journal_that_cannot_be_opened_at_the_start_is_opened_when_it_can(new_box: Callable[..., Box]) -> None:
    """The page says why meanwhile, the device is sent away with nothing told; then it all goes on by itself."""
    box = new_box(journal=QUICK, gate={"refuse_delay_s": 0.2}).start()
    with Device(box.port, "till-1") as device:
        device.tell(counted("e1", 1))
    assert box.stop() == 0
    aside = box.directory / "aside"
    box.journal.rename(aside)
    box.journal.mkdir()  # what stands there is no file
    box.start()
    held = until(lambda: condition(box, "journal"), "the box says that the journal cannot be opened")
    assert held["severity"] == "critical"
    assert (answer(box, "/"), answer(box, "/livez"), answer(box, "/readyz")) == (200, 200, 503)
    with Device(box.port, "till-1") as device:
        device.send(device.frame(counted("e1", 2)))
        assert device.rest() == []
    box.journal.rmdir()
    aside.rename(box.journal)
    until(lambda: condition(box, "journal") is None, "the journal is open")
    with Device(box.port, "till-1") as device:
        device.tell(counted("e1", 2))
    assert box.device("till-1")["stored"] == "2"
    is_sound(box)


def test_a_state_directory_that_has_gone_is_no_new_venue(new_box: Callable[..., Box]) -> None:
    """An empty folder where the disk was mounted: the box waits for the disk, and makes no second journal."""
    box = new_box(journal=QUICK, gate={"refuse_delay_s": 0.2}).start()
    with Device(box.port, "till-1") as device:
        device.tell(counted("e1", 1))
    kept = box.directory / "kept"
    with failing(box, "fdatasync,fsync:error=EIO", box.directory):
        with Device(box.port, "till-1") as device:
            device.send(device.frame(counted("e1", 2)))
            assert device.rest() == []
        box.state.rename(kept)  # all at once, as a mount goes
        box.state.mkdir(0o700)
    time.sleep(1.5)
    assert not box.journal.exists()
    assert "mounted" in condition(box, "journal")["hint"]
    shutil.rmtree(box.state)
    kept.rename(box.state)
    until(lambda: condition(box, "journal") is None, "the journal is open")
    with Device(box.port, "till-1") as device:
        device.tell(counted("e1", 2))
    assert box.device("till-1")["stored"] == "2"
    is_sound(box)
