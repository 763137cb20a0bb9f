"""[suite] One run: what the plan asks for, one after the other, each thing ended before the next begins."""

import shutil
from typing import Final

import msgspec

from agent import __version__
from agent.bench import desk, disk, drain, floor, intake, live, machine, uplink
from agent.bench.aims import aims
from agent.bench.backlog import Backlog
from agent.bench.facts import Drain, Live, Report
from agent.bench.plan import Plan, now_ms
from agent.core.instants import to_text

SMALL_MIN: Final = 10_000
"""A smaller backlog than this says nothing about memory, and is not measured."""


def run(plan: Plan) -> Report:
    """Measure. Everything but the profiles lies in `plan.work`, and what is left there may be removed."""
    began_ms = now_ms()
    described = machine.describe(plan.directory)
    if described.file_system in machine.MEMORY_FILE_SYSTEMS:
        plan.say(
            f"{plan.directory} lies in memory ({described.file_system}): a sync costs nothing there. Give --directory."
        )
    wants = plan.parts
    points = tuple(intake.measure(plan, *point) for point in intake.POINTS) if "intake" in wants else ()
    syncs_per_s = floor.syncs_per_s(plan.work, plan.times.floor_s) if points else None
    written = tuple(disk.measure(plan, count) for count in disk.PER_COMMIT) if "disk" in wants else ()
    drains, sold = _with_backlog(plan) if {"drain", "live"} & set(wants) else ((), None)
    ways = tuple(uplink.measure(plan, rate_per_s) for rate_per_s in uplink.LOADS) if "uplink" in wants else ()
    asked = desk.measure(plan) if "desk" in wants else ()
    report = Report(
        version=__version__,
        measured_at=to_text(began_ms),
        protocol="5" if plan.level == 5 else "3.1.1",
        quick=plan.quick,
        profiled=plan.profile,
        machine=described,
        syncs_per_s=syncs_per_s,
        intake=points,
        disk=written,
        drain=drains,
        live=sold,
        uplink=ways,
        desk=asked,
        aims=(),
    )
    return msgspec.structs.replace(report, aims=aims(report))


def _with_backlog(plan: Plan) -> tuple[tuple[Drain, ...], Live | None]:
    backlog = Backlog(plan)
    drains: list[Drain] = []
    if "drain" in plan.parts and plan.backlog_small >= SMALL_MIN:
        backlog.grow(plan.backlog_small)
        drains.append(_drained(plan, backlog, "drain-small"))
    backlog.grow(plan.backlog)
    if "drain" in plan.parts:
        drains.append(_drained(plan, backlog, "drain"))
    sold = None
    if "live" in plan.parts:
        target = backlog.copy("live")
        sold = live.measure(plan, target, backlog.records)
        shutil.rmtree(target)
    return tuple(drains), sold


def _drained(plan: Plan, backlog: Backlog, name: str) -> Drain:
    target = backlog.copy(name)
    seen = drain.measure(plan, target, backlog.records)
    shutil.rmtree(target)
    return seen
