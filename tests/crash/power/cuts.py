"""tape → disks → [the count of what was found]. Cuts one night's tape at many places, in each of several ways.

Half of the places are chosen by chance alone, the others near what happens rarely, and right behind what was told.
"""

import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from agent.journal.database import FILE_NAME
from tests.crash.power.disk import Disk, Way
from tests.crash.power.examine import Finding, examine, lay_out
from tests.crash.power.tape import Op
from tests.crash.power.witness import Witness
from tests.property.journal_rig import QUICK

WAYS: Final = (Way("drop"), Way("prefix"), Way("subset"), Way("drop", strict=True), Way("subset", strict=True))
NEAR_MAX: Final = 3
"""How far, in records of the tape, from something rare it is cut."""
RARE: Final = ("truncate", "grow", "create", "rename", "unlink", "sync_failed", "sync_folder")
WORDS_MAX: Final = 20
"""Faulty disks that are described; all are counted."""


class Figures(msgspec.Struct):
    """All disks of one night together. The counts are of events, over all disks; `guilty` is of disks."""

    disks: int = 0
    guilty: int = 0
    told: int = 0
    lost: int = 0
    lost_max: int = 0
    changed: int = 0
    doubled: int = 0
    reordered: int = 0
    phantom: int = 0
    cloud_ahead: int = 0
    faulty: int = 0
    start_max_s: float = 0.0
    words: list[str] = []

    def add(self, way: Way, place: int, told: int, finding: Finding) -> None:
        """Count one disk more, cut at `place` when so many events had been told."""
        self.disks += 1
        self.told += told
        self.guilty += not finding.clean
        self.faulty += bool(finding.faults)
        self.lost_max = max(self.lost_max, finding.lost)
        self.start_max_s = max(self.start_max_s, finding.start_s)
        for count in ("lost", "changed", "doubled", "reordered", "phantom", "cloud_ahead"):
            setattr(self, count, getattr(self, count) + getattr(finding, count))
        if not finding.clean and len(self.words) < WORDS_MAX:
            self.words.append(f"{way.name}, cut behind record {place}, {told} told: {finding}")


def places(tape: list[Op], count: int, chance: Random) -> list[int]:
    """Where to cut: behind the records with these numbers."""
    rare = [
        at for at, op in enumerate(tape)
        if FILE_NAME in op.path and (op.kind in RARE or (op.kind == "write" and op.path.endswith(FILE_NAME)))
    ]  # fmt: skip
    told = [at for at, op in enumerate(tape) if op.kind == "note" and op.path.endswith(("told.jsonl", "refused.jsonl"))]
    chosen = [chance.randrange(len(tape)) for _ in range(count // 2)]
    chosen += [chance.choice(rare) + chance.randint(-NEAR_MAX, NEAR_MAX) for _ in range(count // 4)]
    chosen += [chance.choice(told) for _ in range(count - len(chosen))]
    return sorted(min(max(at, 0), len(tape) - 1) for at in chosen)


async def cut(tape: list[Op], ways: tuple[Way, ...], count: int, chance: Random) -> Figures:
    """Try `count` places in each way."""
    figures = Figures()
    for way in ways:
        disk, witness = Disk(way, chance), Witness()
        left = places(tape, count, chance)
        for at, op in enumerate(tape):
            disk.take(op)
            witness.take(op)
            while left and left[0] == at:
                left.pop(0)
                figures.add(way, at, len(witness.told), await _examined(disk, witness, chance))
    return figures


async def _examined(disk: Disk, witness: Witness, chance: Random) -> Finding:
    folder = Path(tempfile.mkdtemp(prefix="ns-cut-", dir=QUICK))
    try:
        lay_out(disk.after_cut(), folder)
        return await examine(folder, witness, chance)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
