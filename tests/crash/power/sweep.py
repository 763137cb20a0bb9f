"""faults → lives → disks → [the count of what was found]. A fault at every call; after each life the power is cut."""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from structlog.testing import capture_logs

from tests.crash.power.cuts import examined
from tests.crash.power.disk import Disk, Way
from tests.crash.power.figures import Figures
from tests.crash.power.lives import Ending, Lives
from tests.crash.power.shim import NO_FAULT, Call, Fault, Shim
from tests.property.journal_rig import QUICK

KINDS: Final = (
    Fault(0),
    Fault(0, sticky=True),
    Fault(0, "ENOSPC"),
    Fault(0, "ENOSPC", sticky=True),
    Fault(0, torn=True),
)
ENDINGS: Final[tuple[Ending, ...]] = ("killed", "mended")


FEW: Final = 7
"""In the short form one call of so many fails."""


class Trial(NamedTuple):
    """One life of the workload."""

    fault: Fault
    ending: Ending


def trials(calls: list[Call], every: bool) -> list[Trial]:
    """Every call fails in each kind and ending, each sync also once and for ever; or a few calls, in kinds by turns."""
    ways = [(kind, ending) for kind in KINDS for ending in ENDINGS]
    tried: dict[Trial, None] = {}
    for at, call in enumerate(calls, start=1):
        if not every and at % FEW:
            continue
        chosen = ways if every else [ways[at // FEW % len(ways)]]
        if call == "sync":
            chosen = [*chosen, (KINDS[0], "killed"), (KINDS[1], "killed")]
        tried |= {Trial(kind._replace(at=at), ending): None for kind, ending in chosen}
    return list(tried)


async def calls_of(shim: Shim) -> list[Call]:
    """Those of the workload without a fault."""
    with tempfile.TemporaryDirectory(prefix="ns-life-", dir=QUICK) as folder:
        await Lives(shim, Path(folder), "killed").run(NO_FAULT)
    return list(shim.calls)


Cuts = Callable[[int, int, Random], list[tuple[Way, int]]]
"""Where to cut a tape of so many records whose first fault stands at a place (its end without any), and how."""


def a_few(count: int) -> Cuts:
    """At the end with nothing left that was not synced; and at `count` places by chance, in another way."""

    def choose(end: int, fault: int, chance: Random) -> list[tuple[Way, int]]:
        return [(Way("drop"), end), *((Way("subset"), chance.randrange(end + 1)) for _ in range(count))]

    return choose


def everywhere_behind(end: int, fault: int, chance: Random) -> list[tuple[Way, int]]:
    """At each place from the first fault on."""
    return [(way, at) for way in (Way("drop"), Way("subset")) for at in range(fault, end + 1)]


async def sweep(shim: Shim, tried: Iterable[Trial], cuts: Cuts, seed: str) -> Figures:
    """Live each trial, and open what each cut leaves."""
    figures, chance = Figures(seed), Random(seed)
    for trial in tried:
        folder = Path(tempfile.mkdtemp(prefix="ns-life-", dir=QUICK))
        try:
            with capture_logs() as logs:
                lives = Lives(shim, folder, trial.ending)
                await lives.run(trial.fault)
                figures.runs += 1
                figures.faults += shim.struck
                figures.starts += lives.starts
                end = len(shim.tape)
                places = cuts(end, min(shim.struck_at, end), chance)
                for way in dict.fromkeys(way for way, _ in places):
                    await _cut(shim, lives, trial, way, [at for one, at in places if one == way], figures, chance)
            figures.note(logs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return figures


async def _cut(
    shim: Shim, lives: Lives, trial: Trial, way: Way, places: list[int], figures: Figures, chance: Random
) -> None:
    disk, end = Disk(way, chance), len(shim.tape)
    left = sorted(places)
    for at in range(end + 1):
        while left and left[0] == at:
            left.pop(0)
            witness, cloud = lives.witness_at(at), lives.cloud_at(at)
            finding = await examined(disk, witness, lambda cursor, cloud=cloud: cloud)  # type: ignore[misc]
            figures.add(f"{trial}, {way.name}, cut behind change {at} of {end}", len(witness.told), finding)
        if at < end:
            disk.take(shim.tape[at])
