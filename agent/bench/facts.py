"""[facts] What a run of the benchmarks found, as values: the shape of `--json`.

Times are in the unit of their name; rates are per second of wall clock; MiB are 1,048,576 bytes.
"""

from typing import Final

import msgspec

GENERATOR_SHARE_MAX: Final = 0.9
"""Share of one core above which the generator is the brake."""

LATE_MS: Final = 50.0
"""An answer to what cannot be asked now that takes longer is late."""


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured. `load_before` is the 1-minute load average before the first point.

    `interpreter_ms` is what this Python takes for a fixed loop at best: builds of one version differ twofold.
    """

    cpu: str
    cores: int
    memory_mib: int
    kernel: str
    file_system: str
    python: str
    sqlite: str
    interpreter_ms: float
    load_before: float


class Noise(msgspec.Struct, frozen=True):
    """Share of all cores' time during a point that went to programs that are no part of it, and to other machines."""

    other: float
    steal: float


class Floor(msgspec.Struct, frozen=True):
    """Bare sqlite3 on the same disk, same bytes: `group` rows a commit."""

    group: int
    rows_per_s: float
    commits_per_s: float


class Line(msgspec.Struct, frozen=True):
    """One row of a profile: share of the samples that ended in this function of this thread."""

    share: float
    where: str


class Intake(msgspec.Struct, frozen=True):
    """Durable acknowledged events. `ratio` is events_per_s to the floor's rows_per_s; CPU in µs per event.

    `generator_share` is of one core; above 0.9 the generator was the brake. `used_up`: its frames ran out early.
    """

    devices: int
    window: int
    tls: bool
    seconds: float
    events: int
    events_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    events_per_commit: float
    agent_cpu_us: float
    generator_cpu_us: float
    agent_share: float
    generator_share: float
    used_up: bool
    floor: Floor
    ratio: float
    noise: Noise
    profile: tuple[Line, ...] = ()

    @property
    def generator_bound(self) -> bool:
        """Whether the generator, not the agent, set the rate."""
        return self.generator_share > GENERATOR_SHARE_MAX


class Drain(msgspec.Struct, frozen=True):
    """One backlog sent to the reference cloud, from the agent's start until nothing was pending.

    `ready_s` is process start to ready, after SIGKILL, `ready_cached` False: with the journal out of the page cache.
    `steady_per_s` leaves out the first and the last tenth. Memory is the agent's: the kernel's high-water mark and the
    largest sample while it drained. CPU in µs per record.
    """

    records: int
    journal_mib: float
    ready_s: float
    ready_cached: bool
    seconds: float
    records_per_s: float
    steady_per_s: float
    peak_mib: float
    rss_start_mib: float
    rss_max_mib: float
    rss_end_mib: float
    agent_cpu_us: float
    cloud_cpu_us: float
    noise: Noise
    profile: tuple[Line, ...] = ()


class Disk(msgspec.Struct, frozen=True):
    """Bytes for each event of `event_bytes`. `written` is what the kernel counts towards the disk, `handed_over` what
    the agent gave to write(2); of that, `log` went to the write-ahead log and `database` to the file behind it (the
    checkpoints' share). `device` is all that the block device took meanwhile, from everybody; None where unknown.
    All of it between two of `checkpoints` + 1 checkpoints; with 0, over a span without a whole one.
    """

    wanted_per_commit: int
    events: int
    events_per_commit: float
    pages_per_commit: float
    checkpoints: int
    event_bytes: float
    written: float
    handed_over: float
    log: float
    database: float
    device: float | None
    noise: Noise


class Live(msgspec.Struct, frozen=True):
    """Intake by the clock at `rate_per_s`, while a backlog drains and then without one. `late_p99_ms` is how far behind
    the clock the generator sent. `drained_per_s` went up meanwhile; `covered`: the backlog lasted for the whole span.
    """

    rate_per_s: float
    p50_draining_ms: float
    p99_draining_ms: float
    p50_ms: float
    p99_ms: float
    ratio: float
    late_p99_draining_ms: float
    late_p99_ms: float
    events: int
    drained_per_s: float
    covered: bool
    noise_draining: Noise
    noise: Noise


class Round(msgspec.Struct, frozen=True):
    """Intake in one span, with the way to the cloud in one state. `drained_per_s` went up meanwhile."""

    way: str
    events_per_s: float
    p50_ms: float
    p99_ms: float
    drained_per_s: float
    noise: Noise


class Uplink(msgspec.Struct, frozen=True):
    """Intake with the uplink up and down, in turns on one agent, at `rate_per_s` or (None) as fast as it goes.

    `p99_ms` has the median of the rounds' p99s for each state of the way; `ratio` is the worst of the states that are
    down to the one that is up.
    """

    devices: int
    window: int
    rate_per_s: float | None
    rounds: tuple[Round, ...]
    p99_ms: dict[str, float]
    ratio: float


class Asked(msgspec.Struct, frozen=True):
    """Requests in real time that cannot be answered by the cloud, `rate_per_s` from all devices together.

    From the fault until the box knew it, `waited` requests were answered late (after `LATE_MS`), the last of them at
    `known_s`; `requests` and the latencies are of the span after it, in which `selling_per_s` events came beside them.
    """

    fault: str
    selling_per_s: float
    rate_per_s: float
    known_s: float
    waited: int
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    noise: Noise


class Aim(msgspec.Struct, frozen=True):
    """One aim, and how it was met. `unit` ends both figures."""

    name: str
    aim: str
    measured: float
    unit: str
    met: bool


class Report(msgspec.Struct, frozen=True):
    """One run on one machine; what was not asked for is empty."""

    version: str
    measured_at: str
    protocol: str
    quick: bool
    profiled: bool
    machine: Machine
    syncs_per_s: float | None
    intake: tuple[Intake, ...]
    disk: tuple[Disk, ...]
    drain: tuple[Drain, ...]
    live: Live | None
    uplink: tuple[Uplink, ...]
    desk: tuple[Asked, ...]
    aims: tuple[Aim, ...]
