"""[plan] What a run is to measure, for how long and where; and how jobs for the generator follow from it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

from agent.bench.generator import Job

Part = Literal["intake", "drain", "disk", "live", "uplink", "desk"]
PARTS: Final[tuple[Part, ...]] = ("intake", "disk", "drain", "live", "uplink", "desk")

DEVICES: Final = 20
SAMPLE_EVENTS: Final = 20_000
"""How many different events the floor is given."""
PREPARED_PER_S_MAX: Final = 90_000
"""Frames made beforehand for each second of a point: more than this path can take."""
PREPARED_ALONE_PER_S: Final = 10_000
"""The same for one device with one event in flight."""
ROUNDS: Final = 4
"""How often intake is measured in each state of the way to the cloud."""


class Times(NamedTuple):
    """How long each thing is measured, in seconds, after its warm-up."""

    warm_up_s: float
    point_s: float
    floor_s: float
    live_warm_up_s: float
    live_s: float

    def with_seconds(self, seconds: float | None) -> "Times":
        """The same with points of `seconds`; None leaves them as they are."""
        return self if seconds is None else self._replace(point_s=seconds)


TIMES: Final = Times(warm_up_s=2.0, point_s=8.0, floor_s=3.0, live_warm_up_s=3.0, live_s=20.0)
QUICK_TIMES: Final = Times(warm_up_s=0.3, point_s=1.0, floor_s=0.3, live_warm_up_s=0.3, live_s=1.0)


class Plan(NamedTuple):
    """One run. `directory` lies on the disk to be measured and keeps the results, `work` in it goes when all is done.

    `say` hears what is being done, a line at a time.
    """

    directory: Path
    work: Path
    parts: tuple[Part, ...]
    times: Times
    backlog: int
    level: int
    quick: bool
    profile: bool
    say: Callable[[str], None]

    @property
    def backlog_small(self) -> int:
        """The backlog that the large one's memory is compared with."""
        return self.backlog // 10

    @property
    def rounds(self) -> int:
        """How often each state of the way to the cloud has its turn."""
        return 1 if self.quick else ROUNDS

    def paced(self, port: int, rate_per_s: float) -> Job:
        """Events by the clock for one span, in a new epoch of each device."""
        span_s = self.times.warm_up_s + self.times.point_s
        return Job(
            port=port,
            level=self.level,
            devices=DEVICES,
            window=1,
            count=int(rate_per_s * (span_s + 1) / DEVICES) + 1,
            since_ms=now_ms(),
            rate_per_s=rate_per_s,
            warm_up_s=self.times.warm_up_s,
            measure_s=self.times.point_s,
        )

    def pressed(
        self, port: int, devices: int, window: int, *, bursts: bool = False, authority: Path | None = None
    ) -> Job:
        """A closed loop for one point: warm-up, then the measured span. With an authority, over TLS by it."""
        per_s = min(PREPARED_PER_S_MAX, PREPARED_ALONE_PER_S * devices * window)
        span_s = self.times.warm_up_s + self.times.point_s
        return Job(
            port=port,
            level=self.level,
            devices=devices,
            window=window,
            count=int(per_s * span_s / devices) + window,
            since_ms=now_ms(),
            bursts=bursts,
            warm_up_s=self.times.warm_up_s,
            measure_s=self.times.point_s,
            authority=str(authority) if authority is not None else None,
        )


def now_ms() -> int:
    """The time of day that the ids of made-up events begin with."""
    return time.time_ns() // 1_000_000
