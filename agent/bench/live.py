"""[live] What a backlog that drains costs the till that sells meanwhile: intake by the clock, with it and without."""

import time
from pathlib import Path
from typing import Final, NamedTuple

from agent.bench import machine
from agent.bench.drain import LOOK_INTERVAL_S, watch
from agent.bench.facts import Live, Noise
from agent.bench.generator import Job, Outcome
from agent.bench.load import Load
from agent.bench.plan import DEVICES, Plan, now_ms
from agent.bench.programs import BenchFailed, Box, Cloud

RATE_PER_S: Final = 200.0
BEGIN_MAX_S: Final = 30.0
"""How long the drain may take to begin."""


class _Span(NamedTuple):
    outcome: Outcome
    noise: Noise
    drained: int
    seconds: float
    pending: int


def measure(plan: Plan, directory: Path, records: int) -> Live:
    """Sell while a journal of `records` drains, then without, on the same agent. The journal is used up."""
    plan.say(f"live: {RATE_PER_S:.0f} events/s while {records:,} records drain")
    with Cloud(directory) as cloud, Box(directory, cloud.url) as box:
        box.start()
        _until_moving(box)
        draining = _sell(plan, cloud, box)
        watch(box, box.mark().last)
        plan.say(f"live: {RATE_PER_S:.0f} events/s without a backlog")
        alone = _sell(plan, cloud, box)
    return Live(
        rate_per_s=RATE_PER_S,
        p50_draining_ms=draining.outcome.p50_ms,
        p99_draining_ms=draining.outcome.p99_ms,
        p50_ms=alone.outcome.p50_ms,
        p99_ms=alone.outcome.p99_ms,
        ratio=draining.outcome.p99_ms / alone.outcome.p99_ms,
        late_p99_draining_ms=draining.outcome.late_p99_ms or 0.0,
        late_p99_ms=alone.outcome.late_p99_ms or 0.0,
        events=draining.outcome.acked,
        drained_per_s=draining.drained / draining.seconds,
        covered=draining.pending > RATE_PER_S,
        noise_draining=draining.noise,
        noise=alone.noise,
    )


def _sell(plan: Plan, cloud: Cloud, box: Box) -> _Span:
    """Sell by the clock, in a new epoch of each device."""
    times = plan.times
    job = Job(
        port=box.port,
        level=plan.level,
        devices=DEVICES,
        window=1,
        count=int(RATE_PER_S * (times.live_warm_up_s + times.live_s + 1) / DEVICES) + 1,
        since_ms=now_ms(),
        rate_per_s=RATE_PER_S,
        warm_up_s=times.live_warm_up_s,
        measure_s=times.live_s,
    )
    with Load(job, box) as load:
        load.begun()
        others_s, before, cursor = cloud.cpu_s + box.broker_cpu_s(), box.mark(), _cursor(box)
        load.ended()
        others_s, after = cloud.cpu_s + box.broker_cpu_s() - others_s, box.mark()
        drained = _cursor(box) - cursor
        outcome = load.outcome()
    own_s = others_s + after.cpu_s - before.cpu_s + outcome.cpu_s
    noise = machine.noise(before.host, after.host, own_s)
    return _Span(outcome, noise, drained, after.at_s - before.at_s, after.last - cursor - drained)


def _cursor(box: Box) -> int:
    return int(box.status().details.journal.cursor)


def _until_moving(box: Box) -> None:
    until_s = time.monotonic() + BEGIN_MAX_S
    while _cursor(box) == 0:
        if time.monotonic() > until_s:
            error = box.status().details.drain.error_text
            raise BenchFailed("drain_stands", f"The drain does not begin: {error}", "Look into the agent's log.")
        time.sleep(LOOK_INTERVAL_S)
