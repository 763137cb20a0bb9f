"""[disk] Bytes written for each event, at a known number of events a commit, over several whole checkpoints."""

import shutil
from typing import Final

from agent.bench import machine, wal
from agent.bench.facts import Disk
from agent.bench.floor import page_bytes
from agent.bench.frames import deck
from agent.bench.load import Load
from agent.bench.plan import SAMPLE_EVENTS, Plan, now_ms
from agent.bench.programs import Box, NoCloud

PER_COMMIT: Final = (1, 50)
"""Events in one commit: one till alone, and a burst after an outage of the till's own network."""


def measure(plan: Plan, wanted: int) -> Disk:
    """One device that sends `wanted` events at once, and the next ones when all are acknowledged."""
    plan.say(f"disk: {wanted} events a commit")
    name = f"disk-{wanted}"
    with NoCloud() as cloud_url, Box(plan.work / name, cloud_url) as box:
        box.start()
        with Load(plan.pressed(box.port, 1, wanted, bursts=True)) as load:
            load.begun()
            device_before = machine.device_written_bytes(plan.work)
            broker_s, before = box.broker_cpu_s(), box.mark()
            with wal.Counter(box.database) as log:
                load.ended()
            broker_s, after = box.broker_cpu_s() - broker_s, box.mark()
            device_after = machine.device_written_bytes(plan.work)
            seen = load.outcome()
    page = page_bytes(box.database)
    shutil.rmtree(plan.work / name)
    events, commits = after.last - before.last, after.commits - before.commits
    handed_over = (after.written.handed_over - before.written.handed_over) / events
    logged = log.frames * (page + wal.FRAME_HEADER_BYTES) / events
    device = None
    if device_before is not None and device_after is not None:
        device = (device_after - device_before) / events
    sample = list(deck("till-1", plan.level, 1, SAMPLE_EVENTS, now_ms()).events())
    own_s = after.cpu_s - before.cpu_s + seen.cpu_s + broker_s
    return Disk(
        wanted_per_commit=wanted,
        events=events,
        events_per_commit=events / max(1, commits),
        pages_per_commit=log.frames / max(1, commits),
        checkpoints=log.checkpoints,
        event_bytes=sum(map(len, sample)) / len(sample),
        written=(after.written.disk - before.written.disk) / events,
        handed_over=handed_over,
        log=logged,
        database=max(0.0, handed_over - logged),
        device=device,
        noise=machine.noise(before.host, after.host, own_s),
    )
