"""An agent that is given a bound of memory from outside, and tills that send far more than fits while the disk is slow.

The bound is on the process's addresses (RLIMIT_AS), a little above what this agent takes with nothing to do: queues
that grow with what is sent break it, and one of the tests shows that they do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.conftest import Story
from tests.crash.disks import MIB
from tests.crash.judge import Disk, judge
from tests.crash.load import Load
from tests.crash.test_disk_full import DRAIN_MAX_S, is_sound
from tests.crash.test_limp import failing
from tests.integration.machine import Box, CloudServer, until

DEVICES = 60
NOTE = "x" * 180_000
"""In each event: with their windows full, the devices have sent more than 100 MiB that is not acknowledged yet."""
SLOW_DISK = "fdatasync,fsync:delay_enter=500ms"
ROOM_BYTES = 112 * MIB
"""What the agent may take above what it takes with nothing to do."""
SMALL_QUEUE = {"queue_bytes_max": 8 * MIB}
BOUNDLESS_QUEUE = {"queue_bytes_max": 1_024 * MIB, "queue_events_max": 1_000_000}


def address_bytes(box: Box) -> int:
    """What RLIMIT_AS counts."""
    words = Path(f"/proc/{box.pid}/status").read_text().split()
    return int(words[words.index("VmSize:") + 1]) * 1024


def bounded(box: Box) -> Box:
    """The box, started under a bound that leaves it so much room on this machine; the next start has none."""
    box.start()
    limit, command = address_bytes(box) + ROOM_BYTES, box.command
    assert box.stop() == 0, box.text
    box.command = ["prlimit", f"--as={limit}", *command]
    box.start()
    box.command = command
    return box


@contextmanager
def flooding(box: Box, outside: Path, story: Story) -> Iterator[Load]:
    load = Load(outside, box.port, DEVICES, story.seed, pace_s=0.01, notes=(NOTE,))
    load.start()
    try:
        yield load
    finally:
        load.abandon()


def everything_is_in_the_cloud(box: Box, cloud: CloudServer, disk: Disk, load: Load, story: Story) -> None:
    cloud.start()
    load.finish(60)
    story.tell("everything is told")
    until(box.uploaded, "the cloud has everything", DRAIN_MAX_S)
    story.tell("everything is in the cloud")
    disk.look()
    verdict = judge(load, disk, cloud).verdict
    story.tell(f"told {verdict.told}, in the cloud {verdict.in_cloud}; {address_bytes(box) // MIB} MiB of addresses")


@pytest.mark.long
@pytest.mark.needs("prlimit", "strace")
def test_A2_4_a_bound_of_memory_is_kept_however_much_is_sent_while_the_disk_is_slow(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], outside: Path, story: Story, tmp_path: Path
) -> None:
    """What does not fit is left unread in the devices' connections; the upload of large events fits, too."""
    cloud = new_cloud().start()
    cloud.stop()
    box = bounded(new_box(cloud.url, journal=SMALL_QUEUE))
    pid, disk = box.pid, Disk(box)
    with flooding(box, outside, story) as load:
        with failing(box, SLOW_DISK, tmp_path):
            load.some_more_told(100, 60)
        story.tell(f"{load.told_count} were told by a slow disk")
        everything_is_in_the_cloud(box, cloud, disk, load, story)
    assert (box.alive, box.pid) == (True, pid)
    assert "MemoryError" not in box.text
    is_sound(box)


@pytest.mark.long
@pytest.mark.needs("prlimit", "strace")
def test_A2_4_an_agent_that_runs_out_of_memory_ends_and_the_next_one_has_all_that_was_told(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], outside: Path, story: Story, tmp_path: Path
) -> None:
    """With queues that nothing bounds the same load breaks the same bound, so the bound is one."""
    cloud = new_cloud().start()
    cloud.stop()
    box = bounded(new_box(cloud.url, journal=BOUNDLESS_QUEUE))
    disk = Disk(box)
    with flooding(box, outside, story) as load:
        load.some_more_told(100, 30)
        with failing(box, SLOW_DISK, tmp_path):
            until(lambda: not box.alive, "the agent has run out of memory", 60)
        story.tell(f"it ended with {box.wait()} after {load.told_count} were told")
        disk.look()
        disk.has_all(load.told_by_a_dead_box())
        box.settings["journal"] = SMALL_QUEUE
        box.start()
        everything_is_in_the_cloud(box, cloud, disk, load, story)
    is_sound(box)
