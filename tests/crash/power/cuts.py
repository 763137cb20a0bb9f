"""tape → disks → [the count of what was found]. Cuts one night's tape at many places, in each of several ways.

Half of the places are chosen by chance alone, of all or of the first start; the others are near what happens rarely,
and right behind what was told.
"""

import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Final

from structlog.testing import capture_logs

from agent.journal.database import FILE_NAME
from tests.crash.power.cloud import Act, Cloud
from tests.crash.power.disk import Disk, Way
from tests.crash.power.examine import Clouds, Finding, examine, lay_out
from tests.crash.power.figures import Figures
from tests.crash.power.tape import Op
from tests.crash.power.witness import Witness
from tests.property.journal_rig import QUICK

SALVAGE: Final = "salvage"
"""In the names of what a rebuilding of the journal makes and removes."""
WAYS: Final = (Way("drop"), Way("prefix"), Way("subset"), Way("drop", strict=True), Way("subset", strict=True))
FIRST_RUN_PARTS: Final = 10
"""One cut of so many is before anything was ever told: while the journal is made."""
NEAR_MAX: Final = 3
"""How far, in records of the tape, from something rare it is cut."""
RARE: Final = ("truncate", "grow", "create", "rename", "unlink", "sync_failed", "sync_folder")


def places(tape: list[Op], count: int, chance: Random) -> list[int]:
    """Where to cut: behind the records with these numbers."""
    rare = [at for at, op in enumerate(tape) if _is_rare(op)]
    told = [at for at, op in enumerate(tape) if op.kind == "note" and op.path.endswith(("told.jsonl", "refused.jsonl"))]
    chosen = [chance.randrange(told[0]) for _ in range(count // FIRST_RUN_PARTS)]
    chosen += [chance.randrange(len(tape)) for _ in range(count // 2 - len(chosen))]
    chosen += [chance.choice(rare) + chance.randint(-NEAR_MAX, NEAR_MAX) for _ in range(count // 4)]
    chosen += [chance.choice(told) for _ in range(count - len(chosen))]
    return sorted(min(max(at, 0), len(tape) - 1) for at in chosen)


def _is_rare(op: Op) -> bool:
    if op.kind in RARE:
        return FILE_NAME in op.path or SALVAGE in op.path
    return op.kind == "write" and op.path.endswith(FILE_NAME)


async def cut(tape: list[Op], taken: list[Act], ways: tuple[Way, ...], count: int, chance: Random) -> Figures:
    """Try `count` places in each way. `taken` is what the cloud of that night took, in the end."""
    with capture_logs() as logs:
        figures = await _cut(tape, taken, ways, count, chance)
    figures.note(logs)
    return figures


async def _cut(tape: list[Op], taken: list[Act], ways: tuple[Way, ...], count: int, chance: Random) -> Figures:
    figures, witness = Figures(), Witness()
    disks = [(way, Disk(way, chance), places(tape, count, chance)) for way in ways]
    for at, op in enumerate(tape):
        witness.take(op)
        for way, disk, left in disks:
            disk.take(op)
            while left and left[0] == at:
                left.pop(0)
                clouds = clouds_of(taken, witness.uploaded, chance)
                finding = await examined(disk, witness, clouds)
                figures.add(f"{way.name}, cut behind record {at}", len(witness.told), finding)
    return figures


def clouds_of(taken: list[Act], uploaded: int, chance: Random) -> Clouds:
    """Anything between what the box had heard of and what had arrived at the door may be in the cloud."""

    def cloud(cursor: int) -> Cloud:
        had = chance.randint(min(cursor, uploaded), uploaded)
        return Cloud(taken[: had + 1] if had else ())

    return cloud


async def examined(disk: Disk, witness: Witness, clouds: Clouds) -> Finding:
    """What a cut would leave now, opened and compared."""
    folder = Path(tempfile.mkdtemp(prefix="ns-cut-", dir=QUICK))
    try:
        lay_out(disk.after_cut(), folder)
        return await examine(folder, witness, clouds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
