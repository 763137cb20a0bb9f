"""examinations → [figures] → people. Adds up what was found, prints it, and keeps it where NIGHTSAFE_FIGURES says."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.crash.power.examine import Finding

WORDS_MAX: Final = 20
"""Faulty disks that are described; all are counted."""
FOLDER: Final = "NIGHTSAFE_FIGURES"
"""The environment's name for the folder that gets each test's figures as a JSON file."""


class Figures(msgspec.Struct):
    """All disks of one trial together. `told` and what follows are events, over all disks; `guilty` is disks.

    `faults` are calls that failed, in `runs` of a workload, with `starts` of the journal. `salvages` is how often it
    was taken for damaged and rebuilt, which loses nothing, but tells people. `again` are events that were told before
    the cut and sent again after it, `drained` records that went up after it.
    """

    seed: str = ""
    runs: int = 0
    faults: int = 0
    starts: int = 0
    disks: int = 0
    guilty: int = 0
    unsound: int = 0
    told: int = 0
    lost: int = 0
    lost_max: int = 0
    changed: int = 0
    doubled: int = 0
    reordered: int = 0
    phantom: int = 0
    cloud_ahead: int = 0
    again: int = 0
    drained: int = 0
    salvages: int = 0
    start_max_s: float = 0.0
    words: list[str] = []

    def add(self, what: str, told: int, finding: Finding) -> None:
        """Count one disk more, cut when so many events had been told."""
        self.disks += 1
        self.told += told
        self.guilty += not finding.clean
        self.unsound += bool(finding.faults)
        self.lost_max = max(self.lost_max, finding.lost)
        self.start_max_s = max(self.start_max_s, round(finding.start_s, 4))
        for count in ("lost", "changed", "doubled", "reordered", "phantom", "cloud_ahead", "again", "drained"):
            setattr(self, count, getattr(self, count) + getattr(finding, count))
        if not finding.clean and len(self.words) < WORDS_MAX:
            self.words.append(f"{what}, {told} told: {finding}")

    def note(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Count what the journal said of itself."""
        self.salvages += sum(line["event"] == "journal_salvage_began" for line in logs)

    def tell(self, trial: str) -> None:
        """Print them, and write `power-TRIAL.json` if a folder for it is named."""
        shown = {name: value for name, value in msgspec.to_builtins(self).items() if name != "words"}
        print(f"{trial}: " + ", ".join(f"{name} {value}" for name, value in shown.items()))
        if folder := os.environ.get(FOLDER):
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"power-{trial}.json").write_text(json.dumps(shown, indent=1) + "\n")
