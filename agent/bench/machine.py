"""[machine] What Linux says of itself and of one process: /proc, and the clocks of processes. Reads only."""

import os
import platform
import sqlite3
import time
from pathlib import Path
from typing import Final, NamedTuple

from agent.bench.facts import Machine, Noise

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
"""Where a sync costs nothing, and a benchmark says nothing about a disk."""
LOOP_TURNS: Final = 300_000
LOOPS_TRIED: Final = 5
SECTOR_BYTES: Final = 512
"""The unit of /sys/dev/block/*/stat, whatever the device's own sectors are."""
_CPUCLOCK_SCHED: Final = 2


class Written(NamedTuple):
    """Bytes since the process began: `disk` as the kernel counts them towards a disk, `handed_over` to write(2)."""

    disk: int
    handed_over: int


class HostTime(NamedTuple):
    """Seconds since boot over all cores, and when it was read (monotonic clock)."""

    at_s: float
    busy_s: float
    steal_s: float


def cpu_s(pid: int) -> float:
    """CPU time of a process, all its threads, to the nanosecond: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def written(pid: int) -> Written:
    """What the process has written so far."""
    fields = _fields(Path(f"/proc/{pid}/io"))
    return Written(int(fields["write_bytes"]), int(fields["wchar"]))


def resident_mib(pid: int) -> tuple[float, float]:
    """Resident memory now, and the most it ever was."""
    fields = _fields(Path(f"/proc/{pid}/status"))
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def host_time() -> HostTime:
    """How busy all cores have been."""
    user, nice, system, _, _, irq, softirq, steal = (
        int(word) / TICKS_PER_S for word in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return HostTime(time.monotonic(), user + nice + system + irq + softirq, steal)


def noise(before: HostTime, after: HostTime, own_cpu_s: float) -> Noise:
    """What else ran between two looks, `own_cpu_s` being the CPU time of all that was part of the measurement."""
    total_s = max(1e-9, (after.at_s - before.at_s) * cores())
    other = max(0.0, after.busy_s - before.busy_s - own_cpu_s) / total_s
    return Noise(round(other, 3), round((after.steal_s - before.steal_s) / total_s, 3))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def device_written_bytes(path: Path) -> int | None:
    """All that the block device under `path` has taken since boot; None where there is no such device."""
    number = os.stat(path).st_dev
    try:
        fields = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text().split()
    except OSError:
        return None
    return int(fields[6]) * SECTOR_BYTES


def file_system(path: Path) -> str:
    """The type of the file system under `path`, as in /proc/self/mountinfo; `unknown` when it is not listed."""
    number = os.stat(path).st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            return source.split()[0]
    return "unknown"


def drop_from_page_cache(directory: Path) -> bool:
    """Ask the kernel to forget the files' pages, so that the next reader meets the disk. False where it cannot."""
    try:
        for path in directory.iterdir():
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return False
    return True


def describe(directory: Path) -> Machine:
    """This machine, and the file system of `directory`."""
    memory_kib = int(_fields(Path("/proc/meminfo"))["MemTotal"].split()[0])
    return Machine(
        cpu=_cpu_name(),
        cores=cores(),
        memory_mib=memory_kib // 1024,
        kernel=platform.release(),
        file_system=file_system(directory),
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        interpreter_ms=round(_interpreter_ms(), 1),
        load_before=round(os.getloadavg()[0], 2),
    )


def _interpreter_ms() -> float:
    """CPU time of a fixed loop over dictionaries, numbers and text; the best of a few."""
    return min(_loop_s() for _ in range(LOOPS_TRIED)) * 1000


def _loop_s() -> float:
    began_s, seen, total = time.process_time(), dict[int, int](), 0
    for number in range(LOOP_TURNS):
        seen[number & 255] = number
        total += len(str(number)) + seen.get(number & 127, 0)
    return time.process_time() - began_s


def _cpu_name() -> str:
    """As /proc/cpuinfo has it; ARM boards name themselves elsewhere."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return f"{value.strip()}, {platform.machine()}"
    return platform.machine()


def _fields(path: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    return {key: value.strip() for key, _, value in pairs}
