"""[plan] What a run is to measure, for how long and where; and how jobs for the generator follow from it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

from agent.bench.generator import Job

Part = Literal["intake", "drain", "disk", "live"]
PARTS: Final[tuple[Part, ...]] = ("intake", "disk", "drain", "live")

DEVICES: Final = 20
SAMPLE_EVENTS: Final = 20_000
"""How many different events the floor is given."""
PREPARED_PER_S_MAX: Final = 90_000
"""Frames made beforehand for each second of a point: more than this path can take."""
PREPARED_ALONE_PER_S: Final = 10_000
"""The same for one device with one event in flight."""


class Plan(NamedTuple):
    """One run. `directory` lies on the disk to be measured and keeps the results, `work` in it goes when all is done.

    `say` hears what is being done, a line at a time.
    """

    directory: Path
    work: Path
    parts: tuple[Part, ...]
    seconds: float
    warm_up_s: float
    floor_s: float
    disk_s: float
    live_s: float
    backlog: int
    level: int
    quick: bool
    profile: bool
    say: Callable[[str], None]

    @property
    def backlog_small(self) -> int:
        """The backlog that the large one's memory is compared with."""
        return self.backlog // 10

    def pressed(self, port: int, devices: int, window: int, seconds: float, *, bursts: bool = False) -> Job:
        """A closed loop for one point: warm-up, then `seconds`."""
        per_s = min(PREPARED_PER_S_MAX, PREPARED_ALONE_PER_S * devices * window)
        return Job(
            port=port,
            level=self.level,
            devices=devices,
            window=window,
            count=int(per_s * (self.warm_up_s + seconds) / devices) + window,
            since_ms=now_ms(),
            bursts=bursts,
            warm_up_s=self.warm_up_s,
            measure_s=seconds,
        )


def now_ms() -> int:
    """The time of day that the ids of made-up events begin with."""
    return time.time_ns() // 1_000_000
