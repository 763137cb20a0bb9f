"""[backlog] A journal full of records that the cloud does not have, made as devices make them: through the gate."""

import shutil
from pathlib import Path
from typing import Final

from agent.bench.generator import Job
from agent.bench.load import Load
from agent.bench.plan import DEVICES, Plan, now_ms
from agent.bench.programs import BenchFailed, Box, NoCloud

WINDOW: Final = 32
ROUND_PER_DEVICE: Final = 10_000
"""Events of one device in one run of the generator: what bounds the generator's memory."""
SPARE_RATIO: Final = 1.3
"""Disk space wanted, to what the copies and ledgers are expected to take."""
RECORD_BYTES: Final = 1_500
"""A record in the journal or in the ledger, roughly."""


class Backlog:
    """A journal that grows: filled with the cloud away, the agent killed between two fillings."""

    def __init__(self, plan: Plan) -> None:
        _check_room(plan)
        self._plan = plan
        self._directory = plan.work / "backlog"
        self._since_ms = now_ms()
        self._per_device = 0
        self.records = 0
        """What the journal holds: the devices' events, and what the box had to say itself."""

    def grow(self, records: int) -> None:
        """Fill up to `records`, rounded up to the same number for each device; then SIGKILL the agent."""
        wanted = -(-records // DEVICES)
        with NoCloud() as cloud_url, Box(self._directory, cloud_url) as box:
            box.start()
            while self._per_device < wanted:
                count = min(ROUND_PER_DEVICE, wanted - self._per_device)
                self._plan.say(f"backlog: {self._per_device * DEVICES:,} of {wanted * DEVICES:,} records")
                self._fill(box, count)
                self._per_device += count
            self.records = int(box.status().details.journal.last)
            if self.records < self._per_device * DEVICES:
                text = f"The journal has {self.records} records after {self._per_device * DEVICES} acknowledgements."
                raise BenchFailed("records_missing", text, "Look into it before you measure anything.")
            box.kill()

    def _fill(self, box: Box, count: int) -> None:
        job = Job(box.port, self._plan.level, DEVICES, WINDOW, count, self._since_ms, first=self._per_device + 1)
        with Load(job, box) as load:
            load.begun()
            load.ended()
            load.outcome()

    def copy(self, name: str) -> Path:
        """A copy of the journal to be used up, in the folder of a box."""
        target = self._plan.work / name
        self._plan.say(f"backlog: copying {self.records:,} records")
        (target / "state").mkdir(parents=True, mode=0o700)
        for path in (self._directory / "state").glob("journal.sqlite*"):
            shutil.copy2(path, target / "state" / path.name)
        return target


def _check_room(plan: Plan) -> None:
    """BenchFailed early, rather than a full disk late."""
    needed = int(plan.backlog * RECORD_BYTES * 3 * SPARE_RATIO)
    free = shutil.disk_usage(plan.work).free
    if free < needed:
        text = f"A backlog of {plan.backlog:,} records needs {needed >> 20:,} MiB of disk, {free >> 20:,} are free."
        raise BenchFailed("no_room", text, "Ask for less with --backlog, or choose a larger disk with --directory.")
