"""[disk] Bytes written for each event, at a known number of events a commit, over several whole checkpoints."""

import shutil
from typing import Final, NamedTuple

from agent.bench import machine, wal
from agent.bench.facts import Disk, Noise
from agent.bench.floor import page_bytes
from agent.bench.frames import deck
from agent.bench.load import Load
from agent.bench.plan import SAMPLE_EVENTS, Plan, now_ms
from agent.bench.programs import Box, Mark, NoCloud

PER_COMMIT: Final = (1, 50)
"""Events in one commit: one till alone, and a burst after an outage of the till's own network."""


class _Point(NamedTuple):
    """Where box and device stood, and the frames of the log since the first point."""

    mark: Mark
    device: int | None
    frames: int = 0


def measure(plan: Plan, wanted: int) -> Disk:
    """One device that sends `wanted` events at once, and the next ones when all are acknowledged.

    The figures are those between the first and the last checkpoint; a span without two of them is taken whole.
    """
    plan.say(f"disk: {wanted} event{'s' * (wanted > 1)} a commit")
    name = f"disk-{wanted}"
    with NoCloud() as cloud_url, Box(plan.work / name, cloud_url) as box:
        box.start()

        def point() -> _Point:
            return _Point(box.mark(), machine.device_written_bytes(plan.work))

        with Load(plan.pressed(box.port, 1, wanted, bursts=True), box) as load:
            load.begun()
            broker_s, begin = box.broker_cpu_s(), point()
            with wal.Counter(box.database, point) as log:
                load.ended()
            broker_s, end = box.broker_cpu_s() - broker_s, point()._replace(frames=log.frames)
            seen = load.outcome()
    page = page_bytes(box.database)
    shutil.rmtree(plan.work / name)
    rounds = [point._replace(frames=frames) for point, frames in log.rounds]
    first, last = (rounds[0], rounds[-1]) if len(rounds) > 1 else (begin, end)
    own_s = end.mark.cpu_s - begin.mark.cpu_s + seen.cpu_s + broker_s
    noise = machine.noise(begin.mark.host, end.mark.host, own_s)
    return _between(plan, wanted, first, last, max(0, len(rounds) - 1), page, noise)


def _between(plan: Plan, wanted: int, first: _Point, last: _Point, checkpoints: int, page: int, noise: Noise) -> Disk:
    events, commits = last.mark.last - first.mark.last, last.mark.commits - first.mark.commits
    frames = last.frames - first.frames
    handed_over = (last.mark.written.handed_over - first.mark.written.handed_over) / events
    logged = frames * (page + wal.FRAME_HEADER_BYTES) / events
    device = None
    if first.device is not None and last.device is not None:
        device = (last.device - first.device) / events
    sample = list(deck("till-1", plan.level, 1, SAMPLE_EVENTS, now_ms()).events())
    return Disk(
        wanted_per_commit=wanted,
        events=events,
        events_per_commit=events / max(1, commits),
        pages_per_commit=frames / max(1, commits),
        checkpoints=checkpoints,
        event_bytes=sum(map(len, sample)) / len(sample),
        written=(last.mark.written.disk - first.mark.written.disk) / events,
        handed_over=handed_over,
        log=logged,
        database=max(0.0, handed_over - logged),
        device=device,
        noise=noise,
    )
