"""SIGKILL at random moments under load: the agent, its mosquitto and the cloud. Nothing told is lost, nothing doubled.

What a device was told stands in its own files outside the box; after each kill of the agent the dead box's disk must
already have all of it, and at the end the export must be the journal, and the journal what the devices sent.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.crash.conftest import Story
from tests.crash.judge import Disk, judge
from tests.crash.launcher import LAUNCHER
from tests.crash.load import Load
from tests.integration.machine import START_MAX_S, Box, CloudServer, until
from tests.integration.mqtt import V4, V5, Device
from tests.sales import counted

DEVICES = 20
VICTIMS = ("agent",) * 8 + ("mosquitto", "cloud")
EARLY_SHARE = 0.2
"""How many agents are killed while they start; the others under load."""
EARLY_MAX_S = 1.0
TOLD_MAX = 500
"""Events told between the start of an agent and its end, at most."""


class Scene:
    """A box, a cloud and a load, and who is killed next."""

    def __init__(self, box: Box, cloud: CloudServer, load: Load, story: Story) -> None:
        self.box = box
        self.cloud = cloud
        self.load = load
        self.story = story
        self.disk = Disk(box)
        self.kills = dict.fromkeys(VICTIMS, 0)

    def kill_somebody(self) -> None:
        victim = self.story.chance.choice(VICTIMS)
        self.kills[victim] += 1
        if victim == "agent":
            self.kill_agent()
        elif victim == "mosquitto":
            self.kill_mosquitto()
        else:
            self.kill_cloud()

    def kill_agent(self) -> None:
        """While it starts, or under load; it is started again at once."""
        before = self.load.told_count
        if self.story.chance.random() < EARLY_SHARE:
            time.sleep(self.story.chance.uniform(0, EARLY_MAX_S))
        else:
            self.load.some_more_told(self.story.chance.randrange(1, TOLD_MAX), START_MAX_S)
            time.sleep(self.story.chance.uniform(0, 0.02))
        assert self.box.alive, f"the agent ended by itself with {self.box.wait()}:\n{self.box.text[-3000:]}"
        self.box.kill()
        told = self.load.told_by_a_dead_box()
        self.disk.look()
        self.disk.has_all(told)
        self.box.begin()
        figures = f"{self.load.told_count} told, {len(self.disk.seals)} records"
        self.story.tell(f"agent killed after telling {self.load.told_count - before} events; {figures}")

    def kill_mosquitto(self) -> None:
        self.load.some_more_told(1, START_MAX_S)
        os.kill(until(self.box.mosquitto_pid, "a mosquitto to kill"), signal.SIGKILL)
        self.story.tell("mosquitto killed")

    def kill_cloud(self) -> None:
        self.cloud.kill()
        self.cloud.start()
        self.story.tell("cloud killed and started again")

    def end(self) -> None:
        """After the last kill everything comes to rest by itself."""
        self.load.some_more_told(DEVICES, START_MAX_S)
        self.load.finish(60)
        until(self.box.uploaded, "the cloud has everything", 60)
        assert self.box.stop() == 0, self.box.text[-3000:]
        at = self.box.text.find("Traceback")
        assert at < 0, self.box.text[max(0, at - 1500) : at + 4000]
        self.disk.look()
        self.disk.has_all(self.load.told_by_a_dead_box())
        assert self.box.rows("pragma integrity_check") == [("ok",)]


def left_over(box: Box) -> list[int]:
    """Brokers of this box that live on after it."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "mosquitto" and str(box.state) in " ".join(process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def run(scene: Scene, kills: int, within_s: float) -> None:
    box, cloud, load, story = scene.box, scene.cloud, scene.load, scene.story
    cloud.start()
    box.settings["cloud"]["url"] = cloud.url
    box.start()
    for till in load.tills:
        till.port = box.port
    load.start()
    load.some_more_told(DEVICES, START_MAX_S)
    end_s = time.monotonic() + within_s
    while sum(scene.kills.values()) < kills and time.monotonic() < end_s:
        scene.kill_somebody()
    story.tell(f"the last kill is done: {scene.kills}")
    scene.end()
    judgement = judge(load, scene.disk, cloud)
    until(lambda: not left_over(box), "no mosquitto is left over", 5)
    verdict = judgement.verdict
    story.tell(
        f"kills {scene.kills}, connections {load.connects_count}; made {load.made_count}, told {verdict.told}, refused "
        f"{verdict.refused}, in cloud {verdict.in_cloud}, records {verdict.records}; lost 0, doubled 0, reordered 0"
    )


def test_A2_4_A3_1_kills_at_random_moments_lose_nothing_told_and_double_nothing(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], outside: Path, story: Story
) -> None:
    scene = Scene(new_box(), new_cloud(), Load(outside, 0, DEVICES, story.seed), story)
    run(scene, kills=40, within_s=20)
    assert scene.kills["agent"] >= 4


def test_an_agent_that_tells_before_the_commit_is_convicted_by_a_kill(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], outside: Path, story: Story
) -> None:
    """The judgement that acquits the others finds this one guilty, so it can find somebody guilty."""
    box = new_box()
    box.command = [sys.executable, str(LAUNCHER), "order"]
    scene = Scene(box, new_cloud(), Load(outside, 0, DEVICES, story.seed), story)
    with pytest.raises(AssertionError, match="without a row"):
        run(scene, kills=20, within_s=30)
    scene.load.abandon()


@pytest.mark.long
def test_A2_4_A3_1_hundreds_of_kills_lose_nothing_told_and_double_nothing(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], outside: Path, story: Story
) -> None:
    scene = Scene(new_box(), new_cloud(), Load(outside, 0, DEVICES, story.seed), story)
    run(scene, kills=300, within_s=1200)
    assert scene.kills["agent"] >= 200


def test_A2_3_a_device_that_was_told_may_be_switched_off_for_good(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    """It is never seen again, the agent is killed before anything was uploaded, and the cloud gets all of it."""
    cloud = new_cloud().start()
    box = new_box(cloud.url)
    cloud.kill()
    box.start()
    sales = {f"till-{level}": [counted("e1", number) for number in range(1, 51)] for level in (V4, V5)}
    for level in (V4, V5):
        device = Device(box.port, f"till-{level}", level=level)
        for sale in sales[device.name]:
            device.tell(sale)
        device.socket.close()
    box.kill()
    box.start()
    cloud.start()
    until(box.uploaded, "the box finishes alone")
    for name, sold in sales.items():
        assert [record.line.count(sale) for record, sale in zip(cloud.records(name), sold, strict=True)] == [1] * 50
