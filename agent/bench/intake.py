"""[intake] Durable acknowledged events a second and their latency, each on a fresh journal with the cloud away."""

import shutil
from contextlib import nullcontext
from typing import Final

from agent.bench import floor, machine
from agent.bench.facts import Intake
from agent.bench.frames import deck
from agent.bench.load import Load
from agent.bench.plan import DEVICES, SAMPLE_EVENTS, Plan, now_ms
from agent.bench.profile import Profile
from agent.bench.programs import Box, NoCloud

POINTS: Final = (
    (1, 1, False),
    (DEVICES, 1, False),
    (DEVICES, 8, False),
    (DEVICES, 32, False),
    (1, 1, True),
    (DEVICES, 8, True),
    (DEVICES, 32, True),
)
"""Devices, events in flight for each, and whether they speak TLS."""


def measure(plan: Plan, devices: int, window: int, tls: bool) -> Intake:
    """One point, and the floor for the group size that it had."""
    plan.say(f"intake: {devices} x {window} in flight" + (", TLS" if tls else ""))
    name = f"intake-{devices}x{window}" + ("-tls" if tls else "")
    with NoCloud() as cloud_url, Box(plan.work / name, cloud_url) as box:
        box.start()
        profile = Profile(box.pid, plan.directory / f"{name}.profile") if plan.profile else None
        port, authority = (box.tls_port, box.authority) if tls else (box.port, None)
        with Load(plan.pressed(port, devices, window, authority=authority), box) as load:
            load.begun()
            broker_s, before = box.broker_cpu_s(), box.mark()
            with profile or nullcontext():
                load.ended()
            broker_s, after = box.broker_cpu_s() - broker_s, box.mark()
            seen = load.outcome()
    events, agent_s = after.last - before.last, after.cpu_s - before.cpu_s
    group = events / max(1, after.commits - before.commits)
    bare = floor.group_commits(
        plan.work, floor.page_bytes(box.database), max(1, round(group)), _sample(plan), plan.times.floor_s
    )
    shutil.rmtree(plan.work / name)
    per_s = seen.acked / seen.seconds
    return Intake(
        devices=devices,
        window=window,
        tls=tls,
        seconds=seen.seconds,
        events=seen.acked,
        events_per_s=per_s,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        max_ms=seen.max_ms,
        events_per_commit=group,
        agent_cpu_us=agent_s / max(1, events) * 1e6,
        generator_cpu_us=seen.cpu_s / max(1, seen.acked) * 1e6,
        agent_share=agent_s / (after.at_s - before.at_s),
        generator_share=seen.cpu_s / seen.seconds,
        used_up=seen.used_up,
        floor=bare,
        ratio=per_s / bare.rows_per_s,
        noise=machine.noise(before.host, after.host, agent_s + seen.cpu_s + broker_s),
        profile=profile.lines() if profile else (),
    )


def _sample(plan: Plan) -> list[bytes]:
    return list(deck("till-1", plan.level, 1, SAMPLE_EVENTS, now_ms()).events())
