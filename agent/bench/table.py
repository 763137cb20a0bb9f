"""[table] A report as people read it. Only words and columns: every figure is in the report already."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.bench.aims import FLAT_RATIO
from agent.bench.facts import Asked, Disk, Drain, Floor, Intake, Line, Live, Noise, Report, Uplink

NOISE_SAID: Final = 0.05
"""Share of the machine taken by others from which it is said beside the figures."""


def render(report: Report) -> RenderableType:
    """The whole report."""
    return Group(*_parts(report))


def _parts(report: Report) -> Iterator[RenderableType]:
    yield _machine(report)
    if report.intake:
        yield _intake(report.intake)
        yield _floors(report)
    if report.disk:
        yield _disk(report.disk)
    if report.drain:
        yield _drain(report.drain)
    if report.live is not None:
        yield _live(report.live)
    for one in report.uplink:
        yield _uplink(one)
    if report.desk:
        yield _desk(report.desk)
    for name, lines in _profiles(report):
        yield _profile(name, lines)
    yield _aims(report)
    yield from (Text(line, style="yellow") for line in remarks(report))


def _machine(report: Report) -> Text:
    machine = report.machine
    return Text(
        f"Nightsafe {report.version}, MQTT {report.protocol}, {report.measured_at}\n"
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_mib:,} MiB, Linux {machine.kernel}, "
        f"{machine.file_system}, Python {machine.python} (fixed loop {machine.interpreter_ms:.0f} ms), "
        f"SQLite {machine.sqlite}, 1-minute load before {machine.load_before:.2f}"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _intake(points: Sequence[Intake]) -> Table:
    table = _table(
        "Intake: durable, each acknowledged", "devices x\nin flight", "events\n/s", "p50\nms", "p99\nms", "max\nms",
        "events\na commit", "ratio to\nfloor", "agent\nµs/event", "generator\nµs/event", "agent, of\na core",
        "gen., of\na core", "others",
    )  # fmt: skip
    for one in points:
        table.add_row(
            f"{one.devices} x {one.window}{' TLS' * one.tls}", f"{one.events_per_s:,.0f}",
            f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}",
            f"{one.max_ms:.1f}", f"{one.events_per_commit:.1f}", f"{one.ratio:.2f}", f"{one.agent_cpu_us:.1f}",
            f"{one.generator_cpu_us:.1f}", f"{one.agent_share:.0%}", f"{one.generator_share:.0%}", _others(one.noise),
        )  # fmt: skip
    return table


def _floors(report: Report) -> Table:
    table = _table("Floor: bare sqlite3, same bytes", "rows a commit", "rows/s", "commits/s")
    floors: dict[int, Floor] = {one.floor.group: one.floor for one in report.intake}
    for group, floor in sorted(floors.items()):
        table.add_row(f"{group}", f"{floor.rows_per_s:,.0f}", f"{floor.commits_per_s:,.0f}")
    if report.syncs_per_s is not None:
        table.add_row("fdatasync of 4 KiB", "", f"{report.syncs_per_s:,.0f}")
    return table


def _disk(points: Sequence[Disk]) -> Table:
    table = _table(
        "Disk: bytes for each event", "events\na commit", "written", "handed\nover", "to the\nlog", "to the\ndatabase",
        "whole\ndevice", "event\nitself", "pages\na commit", "check-\npoints", "events", "others",
    )  # fmt: skip
    for one in points:
        table.add_row(
            f"{one.events_per_commit:.1f}", f"{one.written:,.0f}", f"{one.handed_over:,.0f}", f"{one.log:,.0f}",
            f"{one.database:,.0f}", "unknown" if one.device is None else f"{one.device:,.0f}",
            f"{one.event_bytes:.0f}", f"{one.pages_per_commit:.2f}", f"{one.checkpoints}", f"{one.events:,}",
            _others(one.noise),
        )  # fmt: skip
    return table


def _drain(points: Sequence[Drain]) -> Table:
    table = _table(
        "Drain: a backlog to the reference cloud, every rechash checked there", "records", "journal\nMiB", "ready\ns",
        "records\n/s", "steady\n/s", "seconds", "peak\nMiB", "at start\nMiB", "largest\nMiB", "at end\nMiB",
        "agent\nµs/record", "cloud\nµs/record", "others",
    )  # fmt: skip
    for one in points:
        table.add_row(
            f"{one.records:,}", f"{one.journal_mib:,.0f}", f"{one.ready_s:.2f}", f"{one.records_per_s:,.0f}",
            f"{one.steady_per_s:,.0f}", f"{one.seconds:.1f}", f"{one.peak_mib:.1f}", f"{one.rss_start_mib:.1f}",
            f"{one.rss_max_mib:.1f}", f"{one.rss_end_mib:.1f}", f"{one.agent_cpu_us:.1f}", f"{one.cloud_cpu_us:.1f}",
            _others(one.noise),
        )  # fmt: skip
    return table


def _live(live: Live) -> Table:
    table = _table(
        f"Live: {live.rate_per_s:.0f} events/s by the clock", "", "p50 ms", "p99 ms", "drained/s", "sent late, p99 ms",
        "others",
    )  # fmt: skip
    table.add_row(
        "while a backlog drains", f"{live.p50_draining_ms:.2f}", f"{live.p99_draining_ms:.2f}",
        f"{live.drained_per_s:,.0f}", f"{live.late_p99_draining_ms:.2f}", _others(live.noise_draining),
    )  # fmt: skip
    table.add_row(
        "without", f"{live.p50_ms:.2f}", f"{live.p99_ms:.2f}", "", f"{live.late_p99_ms:.2f}", _others(live.noise)
    )
    return table


def _uplink(uplink: Uplink) -> Table:
    how = f"{uplink.rate_per_s:,.0f} events/s by the clock" if uplink.rate_per_s else "as fast as it goes"
    load = f"{uplink.devices} devices" if uplink.rate_per_s else f"{uplink.devices} x {uplink.window}"
    table = _table(
        f"Uplink up and down in turns: {load}, {how}", "the cloud", "p99 ms,\nmedian", "to up", "events\n/s",
        "p50 ms,\nmedian", "drained\n/s", "p99 ms of each round", "others",
    )  # fmt: skip
    for way, p99_ms in uplink.p99_ms.items():
        rounds = [one for one in uplink.rounds if one.way == way]
        table.add_row(
            way, f"{p99_ms:.2f}", f"{p99_ms / uplink.p99_ms['up']:.2f}",
            f"{median(one.events_per_s for one in rounds):,.0f}", f"{median(one.p50_ms for one in rounds):.2f}",
            f"{median(one.drained_per_s for one in rounds):,.0f}",
            " ".join(f"{one.p99_ms:.1f}" for one in rounds),
            f"{max(one.noise.other + one.noise.steal for one in rounds):.0%}",
        )  # fmt: skip
    return table


def _desk(points: Sequence[Asked]) -> Table:
    table = _table(
        f"Refusals: {points[0].rate_per_s:.0f} requests/s that need the cloud", "fault", "events/s\nbeside",
        "p50 ms", "p99 ms", "max ms", "requests", "late until\nknown", "known\nafter s", "others",
    )  # fmt: skip
    for one in points:
        table.add_row(
            one.fault, f"{one.selling_per_s:.0f}", f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.max_ms:.1f}",
            f"{one.requests:,}", f"{one.waited:,}", f"{one.known_s:.2f}", _others(one.noise),
        )  # fmt: skip
    return table


def _profiles(report: Report) -> Iterator[tuple[str, tuple[Line, ...]]]:
    yield from (
        (f"intake {one.devices} x {one.window}{' TLS' * one.tls}", one.profile) for one in report.intake if one.profile
    )
    yield from ((f"drain of {one.records:,}", one.profile) for one in report.drain if one.profile)


def _profile(name: str, lines: Sequence[Line]) -> Table:
    table = _table(f"Profile of the agent: {name}", "function", "share of samples")
    for line in lines:
        table.add_row(Text(line.where), f"{line.share:.1%}")
    return table


def _aims(report: Report) -> Table:
    table = _table("Aims", "", "measured", "aim", "")
    for aim in report.aims:
        met = Text("met", style="green") if aim.met else Text("missed", style="red")
        table.add_row(
            aim.name,
            f"{aim.measured:,.4g} {aim.unit}" if aim.measured < 1000 else f"{aim.measured:,.0f} {aim.unit}",
            aim.aim,
            met,
        )
    return table


def remarks(report: Report) -> list[str]:
    """What a reader must know before believing the figures."""
    said = []
    if report.quick:
        said.append("Quick run: numbers this small are for a look, not for a comparison.")
    if report.profiled:
        said.append("Profiled run: py-spy took its share of the machine; rates and latencies are worse than without.")
    bound = [f"{one.devices} x {one.window}" for one in report.intake if one.generator_bound]
    if bound:
        said.append(f"Generator-bound: at {', '.join(bound)} the generator used up a core; the agent could do more.")
    if any(one.used_up for one in report.intake):
        said.append("At a point the prepared frames ran out before the time: its span is shorter than asked for.")
    worst = max((noise.other + noise.steal for noise in _noises(report)), default=0.0)
    if worst > NOISE_SAID:
        said.append(f"Other programs took up to {worst:.0%} of this machine meanwhile: a quiet one does better.")
    if report.live is not None and not report.live.covered:
        said.append("Live: the backlog was drained before the time was over; give a larger --backlog.")
    if any(one.ready_cached for one in report.drain):
        said.append("Ready: the journal could not be put out of the page cache; after a boot it takes longer.")
    if len(report.drain) == 2:
        small, large = report.drain
        ratio = large.peak_mib / small.peak_mib
        word = "flat" if ratio <= FLAT_RATIO else "not flat"
        times = large.records // small.records
        said.append(f"Memory is {word} in the backlog's size: {times} times the records, {ratio:.2f} times the peak.")
    return said


def _noises(report: Report) -> Iterator[Noise]:
    for points in (report.intake, report.disk, report.drain, report.desk):
        yield from (one.noise for one in points)
    yield from (one.noise for uplink in report.uplink for one in uplink.rounds)
    if report.live is not None:
        yield from (report.live.noise, report.live.noise_draining)


def _others(noise: Noise) -> str:
    return f"{noise.other + noise.steal:.0%}"
