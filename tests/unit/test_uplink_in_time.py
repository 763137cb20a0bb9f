"""How long it takes until people read "offline", in virtual time: the stage itself, whose hours pass in an instant."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
import pytest
from structlog.testing import capture_logs

from agent.core.facts import DrainFacts
from agent.core.uplink import ProbeOutcome, ProbeResult
from agent.settings.uplink import UplinkSettings
from agent.status import broadcast
from agent.uplink.monitor import LOOK_INTERVAL_S, Monitor, offline_within_s

T = TypeVar("T")

KNOWN_WITHIN_S = 15.0
"""What venues are promised."""
RUNS = 60
IDLE = DrainFacts("idle", 0.0, 50, 0, 0, None, None, None, None)
DEFAULTS = UplinkSettings()


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer whenever nothing else is to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def virtually(work: Coroutine[Any, Any, T]) -> T:
    with capture_logs(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class Clock:
    """The loop's virtual time, for people as well."""

    def boottime_s(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return round(self.boottime_s() * 1000)

    def wall_ms_at(self, boottime_s: float) -> int:
        return round(boottime_s * 1000)


class Link:
    """A way to the cloud that dies at an instant, and both who use it: the probe and a drain.

    From `probes_hang_s` on probes get no answer although the link is alive.
    """

    def __init__(self, dies_s: float, trip_s: float, how: ProbeOutcome, probes_hang_s: float = float("inf")) -> None:
        self.dies_s = dies_s
        self.trip_s = trip_s
        self.how = how
        self.probes_hang_s = probes_hang_s
        self.last_success_at: str | None = None

    async def ask(self, timeout_s: float) -> ProbeResult:
        began_s = asyncio.get_running_loop().time()
        if began_s + self.trip_s <= self.dies_s and began_s < self.probes_hang_s:
            await asyncio.sleep(self.trip_s)
            return ProbeResult("passed")
        await asyncio.sleep(timeout_s if self.how == "no_answer" else 0.01)
        return ProbeResult(self.how)

    def facts(self) -> DrainFacts:
        return msgspec.structs.replace(IDLE, last_success_at=self.last_success_at)

    async def upload(self, at_s: float) -> None:
        await asyncio.sleep(at_s - asyncio.get_running_loop().time())
        self.last_success_at = str(at_s)


async def until_offline(link: Link, limits: UplinkSettings, chance: random.Random, uploads: list[float]) -> float:
    """Seconds from the link's death until the monitor says "offline" to people."""
    monitor, loop = Monitor(link, link, Clock(), lambda: limits, chance.random), asyncio.get_running_loop()
    offline, stop = asyncio.Event(), asyncio.Event()

    def look() -> None:
        if monitor.facts().state == "offline":
            offline.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(monitor.run(lambda: None, stop))
        for at_s in sorted(uploads):
            await link.upload(at_s)
        await asyncio.sleep(max(0.0, link.dies_s - loop.time()))
        assert monitor.facts().state == "online"
        monitor.on_change(look)
        await offline.wait()
        told = loop.time()
        stop.set()
    return told - link.dies_s


def longest_s(limits: UplinkSettings, how: ProbeOutcome, seed: int) -> float:
    """The worst of many deaths at any moment, with and without uploads shortly before."""
    chance, found = random.Random(seed), []
    for _ in range(RUNS):
        dies_s, trip_s = chance.uniform(60, 90), chance.choice([0.01, 0.5, 1.9])
        uploads = [dies_s - chance.choice([0.001, 1.0]) * chance.random() for _ in range(chance.randrange(3))]
        found.append(virtually(until_offline(Link(dies_s, trip_s, how), limits, chance, uploads)))
    return max(found)


def test_the_defaults_add_up_to_less_than_what_is_promised() -> None:
    assert offline_within_s(DEFAULTS) == 2.5 + 10.0 + 3 * LOOK_INTERVAL_S == 14.0
    assert offline_within_s(DEFAULTS) + broadcast.LOOK_INTERVAL_S < KNOWN_WITHIN_S


@pytest.mark.parametrize("how", ["no_answer", "unreachable", "lookup_failed"])
@pytest.mark.parametrize("seed", range(3))
def test_A1_5_a_dead_link_is_told_within_the_sum_whenever_it_dies(how: ProbeOutcome, seed: int) -> None:
    worst_s = longest_s(DEFAULTS, how, seed)
    assert DEFAULTS.offline_debounce_s < worst_s <= offline_within_s(DEFAULTS)


@pytest.mark.parametrize("timeout_s", [2.0, 12.0])
def test_the_sum_holds_for_other_settings_too(timeout_s: float) -> None:
    limits = UplinkSettings(probe_interval_s=8.0, probe_timeout_s=timeout_s, offline_debounce_s=6.0)
    assert longest_s(limits, "no_answer", 1) <= offline_within_s(limits)


def test_longer_pauses_would_break_the_promise() -> None:
    """The measure itself: a pause of ten seconds is found out."""
    limits = UplinkSettings(probe_interval_s=10.0)
    assert offline_within_s(limits) > KNOWN_WITHIN_S
    assert longest_s(limits, "no_answer", 1) > KNOWN_WITHIN_S


def test_an_upload_that_succeeds_during_a_probe_takes_its_place() -> None:
    """Else a probe that hangs for its whole timeout would put off the one whose failure counts."""
    limits = UplinkSettings(probe_interval_s=20.0, probe_timeout_s=30.0, offline_debounce_s=1.0)

    link = Link(dies_s=70.1, trip_s=0.01, how="no_answer", probes_hang_s=40.0)
    took_s = virtually(until_offline(link, limits, random.Random(1), [70.05]))
    assert took_s <= offline_within_s(limits)
