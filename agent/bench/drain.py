"""[drain] A backlog sent to the reference cloud: how fast, in how much memory, how soon the box was ready."""

import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from agent.bench import machine
from agent.bench.facts import Drain
from agent.bench.plan import Plan
from agent.bench.profile import Profile
from agent.bench.programs import BenchFailed, Box, Cloud

LOOK_INTERVAL_S: Final = 0.2
STILL_MAX_S: Final = 30.0
"""How long the drain may stand still before the measurement is given up."""


class Sample(NamedTuple):
    """How far the drain was, and the agent's memory then."""

    at_s: float
    cursor: int
    rss_mib: float


def measure(plan: Plan, directory: Path, records: int) -> Drain:
    """Start over a journal of `records` whose agent was killed, and drain it. The journal is used up."""
    plan.say(f"drain: {records:,} records")
    state = directory / "state"
    journal_bytes = sum(path.stat().st_size for path in state.iterdir())
    dropped = machine.drop_from_page_cache(state)
    with Cloud(directory) as cloud, Box(directory, cloud.url) as box:
        cloud_s = cloud.cpu_s
        host = machine.host_time()
        ready_s = box.start()
        profile = Profile(box.pid, plan.directory / f"drain-{records}.profile") if plan.profile else None
        with profile or nullcontext():
            samples = watch(box, records)
        _, peak_mib = machine.resident_mib(box.pid)
        agent_s, cloud_s = machine.cpu_s(box.pid), cloud.cpu_s - cloud_s
        own_s = agent_s + cloud_s + box.broker_cpu_s()
        noise = machine.noise(host, machine.host_time(), own_s)
        _check_arrived(cloud, box, records)
    seconds = samples[-1].at_s - samples[0].at_s
    memory = [sample.rss_mib for sample in samples]
    return Drain(
        records=records,
        journal_mib=journal_bytes / 2**20,
        ready_s=ready_s,
        ready_cached=not dropped,
        seconds=seconds,
        records_per_s=(records - samples[0].cursor) / seconds,
        steady_per_s=steady_per_s(samples, records),
        peak_mib=peak_mib,
        rss_start_mib=memory[0],
        rss_max_mib=max(memory),
        rss_end_mib=memory[-1],
        agent_cpu_us=agent_s / records * 1e6,
        cloud_cpu_us=cloud_s / records * 1e6,
        noise=noise,
        profile=profile.lines() if profile else (),
    )


def watch(box: Box, records: int) -> list[Sample]:
    """Look at the drain until it has passed `records`. BenchFailed when it stands still."""
    samples = [_sample(box)]
    moved_s = time.monotonic()
    while samples[-1].cursor < records:
        time.sleep(LOOK_INTERVAL_S)
        samples.append(_sample(box))
        if samples[-1].cursor > samples[-2].cursor:
            moved_s = samples[-1].at_s
        if time.monotonic() - moved_s > STILL_MAX_S:
            drain = box.status().details.drain
            text = f"The drain stands still at {samples[-1].cursor:,} of {records:,} records: {drain.error_text}"
            raise BenchFailed("drain_stands", text, "Look into the agent's and the cloud's logs.")
    return samples


def _sample(box: Box) -> Sample:
    cursor = int(box.status().details.journal.cursor)
    return Sample(time.monotonic(), cursor, machine.resident_mib(box.pid)[0])


def steady_per_s(samples: list[Sample], records: int) -> float:
    """The rate between the first and the last tenth of the records."""
    inner = [sample for sample in samples if 0.1 * records <= sample.cursor <= 0.9 * records]
    moving = [late for early, late in pairwise(inner) if late.cursor > early.cursor]
    if len(moving) < 2:
        return (samples[-1].cursor - samples[0].cursor) / (samples[-1].at_s - samples[0].at_s)
    return (moving[-1].cursor - moving[0].cursor) / (moving[-1].at_s - moving[0].at_s)


def _check_arrived(cloud: Cloud, box: Box, records: int) -> None:
    """The cloud has committed them all, and found each rechash right."""
    next_ = cloud.next(box.status().details.journal.epoch)
    if next_ <= records:
        text = f"The agent says {records:,} records are up, the cloud lacks {next_:,}."
        raise BenchFailed("not_arrived", text, "Look into it before you measure anything.")
