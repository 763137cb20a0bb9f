"""[aims] What a run is held against: one bound for each figure that matters, and whether it was met. Pure."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from agent.bench.facts import Aim, Drain, Intake, Report

FLAT_RATIO: Final = 1.1
"""Peak memory counts as flat when the large backlog's is at most this many times the small one's."""


class _Bound(NamedTuple):
    name: str
    bound: float
    unit: str
    at_least: bool
    find: Callable[[Report], float | None]


def aims(report: Report) -> tuple[Aim, ...]:
    """Every aim whose figure the report has."""
    return tuple(_judged(report))


def _judged(report: Report) -> Iterator[Aim]:
    for bound in _BOUNDS:
        figure = bound.find(report)
        if figure is not None:
            met = figure >= bound.bound if bound.at_least else figure <= bound.bound
            sign = "≥" if bound.at_least else "≤"
            yield Aim(bound.name, f"{sign} {bound.bound:,g}", round(figure, 3), bound.unit, met)


def _intake(devices: int, window: int, find: Callable[[Intake], float]) -> Callable[[Report], float | None]:
    def look(report: Report) -> float | None:
        one = _point(report, devices, window)
        return find(one) if one is not None else None

    return look


def _point(report: Report, devices: int, window: int, tls: bool = False) -> Intake | None:
    key = (devices, window, tls)
    return next((one for one in report.intake if (one.devices, one.window, one.tls) == key), None)


def _tls_share(report: Report) -> float | None:
    plain, tls = _point(report, 20, 32), _point(report, 20, 32, tls=True)
    return tls.events_per_s / plain.events_per_s if plain and tls else None


def _written(wanted: int) -> Callable[[Report], float | None]:
    return lambda report: next((one.written / 1000 for one in report.disk if one.wanted_per_commit == wanted), None)


def _drain(find: Callable[[Drain], float]) -> Callable[[Report], float | None]:
    return lambda report: find(report.drain[-1]) if report.drain else None


def _flatness(report: Report) -> float | None:
    if len(report.drain) < 2:
        return None
    return report.drain[-1].peak_mib / report.drain[0].peak_mib


def _down_to_up(*, by_clock: bool) -> Callable[[Report], float | None]:
    return lambda report: next((one.ratio for one in report.uplink if (one.rate_per_s is not None) == by_clock), None)


def _refusals(report: Report) -> float | None:
    """The worst of the faults, with and without sales beside them."""
    return max((one.p99_ms for one in report.desk), default=None)


_BOUNDS: Final = (
    _Bound("acknowledged at 20 x 8", 25_000, "events/s", True, _intake(20, 8, lambda one: one.events_per_s)),
    _Bound("acknowledged at 20 x 32", 35_000, "events/s", True, _intake(20, 32, lambda one: one.events_per_s)),
    _Bound("TLS at 20 x 32", 0.6, "x plain", True, _tls_share),
    _Bound("p99 at 20 x 8", 25, "ms", False, _intake(20, 8, lambda one: one.p99_ms)),
    _Bound("p50 at 1 x 1", 1.5, "ms", False, _intake(1, 1, lambda one: one.p50_ms)),
    _Bound("drain", 20_000, "records/s", True, _drain(lambda one: one.records_per_s)),
    _Bound("peak memory while draining", 120, "MiB", False, _drain(lambda one: one.peak_mib)),
    _Bound("peak memory, large backlog to small", FLAT_RATIO, "x", False, _flatness),
    _Bound("ready with the backlog", 2, "s", False, _drain(lambda one: one.ready_s)),
    _Bound("written per event, one a commit", 8, "kB", False, _written(1)),
    _Bound("written per event, fifty a commit", 2, "kB", False, _written(50)),
    _Bound("live p99 while draining", 2, "x without", False, lambda report: report.live.ratio if report.live else None),
    _Bound("p99 uplink down, by the clock", 1.2, "x up", False, _down_to_up(by_clock=True)),
    _Bound("p99 uplink down, saturated", 1.2, "x up", False, _down_to_up(by_clock=False)),
    _Bound("p99 of offline refusals", 50, "ms", False, _refusals),
)
