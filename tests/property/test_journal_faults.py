"""SQLite fails at every statement of a workload, once for each: nothing told is lost, and nothing is stored twice.

A device sends again what was not acknowledged; a journal that failed is opened anew by its writer, which never dies.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from agent.core.arrivals import Outcome
from agent.core.errors import JournalDamaged, Transient
from tests.property.journal_checks import check_everything
from tests.property.journal_model import (
    AGENT,
    LOST_STEP,
    Model,
    Sent,
    Step,
    a_refused,
    an_event,
    as_item,
    garbage,
    own_of,
)
from tests.property.journal_rig import QUICK, Rig, Ticking, read_rows, straight

ROUNDS_MAX = 40
"""So often is the same step tried; the longest fault needs half of them."""


def fresh(device: str, epoch: str, *sequences: int) -> list[Sent]:
    return [an_event(device, f"{epoch}-{n}", epoch, n, f'{{"n":{n}}}') for n in sequences]


REFUSED = a_refused("till-1", "bad-1", "e1", 7)
NOISE = garbage("till-2", "noise")
AGAIN = an_event("till-1", "e1-2", "e1", 2, '{"n":2}', time="again")
CONFLICT = an_event("till-1", "e1-3", "e1", 3, '{"n":"other"}')

WORK: tuple[list[Sent] | int, ...] = (
    [*fresh("till-1", "e1", 1, 2, 3), *fresh("till-2", "e1", 1)],
    [*fresh("till-1", "e1", 6), REFUSED, NOISE],
    60,
    [AGAIN, CONFLICT, *fresh("till-1", "e1", 5)],
    [*fresh("till-2", "e1", 2, 3, 4, 5), *fresh("till-1", "e2", 1, 2)],
    100,
)
"""What the devices send, group by group; a number moves the cursor there, in percent of what is stored."""


class Fault(NamedTuple):
    """What happens instead of one statement, and instead of the `times - 1` behind it."""

    error: str
    landed: bool = False
    rolls_back: bool = False
    times: int = 1


FAULTS = {
    "disk full": Fault("SQLITE_FULL"),
    "disk full, and SQLite has rolled back by itself": Fault("SQLITE_FULL", rolls_back=True),
    "disk full for four statements": Fault("SQLITE_FULL", times=4),
    "disk full, but the commit landed": Fault("SQLITE_FULL", landed=True),
    "busy for six statements": Fault("SQLITE_BUSY", times=6),
    "I/O error": Fault("SQLITE_IOERR_FSYNC"),
    "I/O error, but the commit landed": Fault("SQLITE_IOERR_FSYNC", landed=True),
    "I/O error for six statements": Fault("SQLITE_IOERR_WRITE", times=6),
    "the disk is read-only for twenty statements": Fault("SQLITE_READONLY", times=20),
    "the file cannot be opened for ten statements": Fault("SQLITE_CANTOPEN", times=10),
}


class Plan:
    """Counts the statements of all lives together and strikes at the `at`-th; with `at` 0 it only counts."""

    def __init__(self, fault: Fault, at: int) -> None:
        self.fault = fault
        self._at = at
        self.seen: list[str] = []

    def tap(self, connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        """A rollback always works: it needs nothing of the disk."""
        if sql == "rollback":
            return run()
        self.seen.append(sql)
        if not self._at <= len(self.seen) < self._at + self.fault.times or not self._at:
            return run()
        if self.fault.landed:
            run()
        elif self.fault.rolls_back and connection.in_transaction:
            connection.execute("rollback")
        error = sqlite3.OperationalError("this statement was made to fail")
        error.sqlite_errorname = self.fault.error
        raise error


class Devices:
    """What was told, per device and payload: the first outcome counts, and may never be taken back."""

    def __init__(self) -> None:
        self.told: dict[Sent, Outcome] = {}

    def heard(self, group: list[Sent], outcomes: list[Outcome | None]) -> None:
        for sent, outcome in zip(group, outcomes, strict=True):
            if outcome is not None and outcome is not Outcome.UNSTORED:
                self.told.setdefault(sent, outcome)

    def check(self, folder: Path) -> None:
        """Everything told is on the disk, once."""
        rows = read_rows(folder)
        events = [(row.device, row.event) for row in rows if row.device != AGENT]
        own = [own_of(row.event) for row in rows if row.device == AGENT]
        reported = [(data["device"], data["id"]) for kind, data in own if kind == "nightsafe.event.refused"]
        assert len(events) == len(set(events))
        assert len(reported) == len(set(reported))
        for sent, outcome in self.told.items():
            if outcome is Outcome.STORED:
                assert (sent.device, sent.payload) in events, f"{sent.id} was told, and is not there"
            elif outcome is not Outcome.DUPLICATE:
                assert (sent.device, sent.id) in reported, f"{sent.id} was refused, and there is no trace"


class Life:
    """One box after another on the same disk, until the workload is through."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self.clock = Ticking()
        self.devices = Devices()
        self.rig: Rig | None = None

    async def run(self) -> Rig:
        """The whole workload; what fails is tried again."""
        left = list(WORK)
        for _ in range(ROUNDS_MAX):
            try:
                rig = self.rig or await self.open()
                while left:
                    await self.step(rig, left[0])
                    left.pop(0)
                return rig
            except (Transient, JournalDamaged):
                if self.rig is not None:
                    await self.rig.settled()
                    assert not self.rig.died, "the writer has died"
                    self.devices.check(self.folder)
        raise AssertionError("the workload does not come to an end")

    async def open(self) -> Rig:
        self.rig = await Rig(self.folder, self.clock).open(self.plan.tap)
        return self.rig

    async def close(self) -> None:
        rig, self.rig = self.rig, None
        if rig is not None:
            await rig.close()

    async def step(self, rig: Rig, step: list[Sent] | int) -> None:
        """Raises what stopped it."""
        if isinstance(step, int):
            to = rig.journal.book.committed * step // 100
            if to > rig.journal.book.cursor:
                await rig.advance(to)
            return
        left = [sent for sent in step if sent not in self.devices.told]
        self.devices.heard(left, await rig.append([as_item(sent) for sent in left]))
        if any(sent not in self.devices.told for sent in step):
            raise Transient("unstored", "something was not told")


def replayed(folder: Path) -> Model:
    """The model of what is on the disk, in the order in which it is there."""
    sent = [one for group in WORK if isinstance(group, list) for one in group]
    stored = {(one.device, one.payload): one for one in sent}
    refused = {(one.device, one.id): one for one in (REFUSED, NOISE, CONFLICT)}
    model = Model()
    for row in read_rows(folder):
        if row.device != AGENT:
            model.take(stored[row.device, row.event])
            continue
        kind, data = own_of(row.event)
        if kind == "nightsafe.event.refused":
            model.take(refused[data["device"], data["id"]])
        if kind == "nightsafe.gap.lost":
            model.take(Step(LOST_STEP))
    return model


async def statements() -> list[str]:
    """Those of the workload without a fault."""
    plan = Plan(FAULTS["disk full"], 0)
    with TemporaryDirectory(prefix="ns-journal-", dir=QUICK) as folder:
        life = Life(Path(folder), plan)
        await life.run()
        await life.close()
    return plan.seen


async def fail_at(at: int, fault: Fault) -> None:
    with TemporaryDirectory(prefix="ns-journal-", dir=QUICK) as name:
        folder = Path(name)
        life = Life(folder, Plan(fault, at))
        try:
            rig = await life.run()
            rig.through(straight)
            model = replayed(folder)
            model.cursor = rig.journal.book.cursor
            check_everything(rig, model)
            life.devices.check(folder)
            await life.close()
            life.plan = Plan(fault, 0)
            check_everything(await life.open(), model)
        finally:
            await life.close()


SHORT_POINTS = 4
"""At so many places each fault begins in the short form."""


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_A2_4_a_failed_statement_loses_nothing_told_and_stores_nothing_twice(
    fault: Fault, long_form: bool
) -> None:
    """The long form lets every statement fail in its turn, the short one some, others for each fault."""
    places = [at for at, sql in enumerate(await statements(), start=1) if not fault.landed or sql == "commit"]
    stride = 1 if long_form else max(1, len(places) // SHORT_POINTS)
    for at in places[list(FAULTS.values()).index(fault) % stride :: stride]:
        await fail_at(at, fault)


async def test_what_waits_behind_a_device_s_failed_group_is_not_stored_before_it(tmp_path: Path) -> None:
    """The group fails, the next one would not: what a device sent in order may not come into the log out of order."""
    full = iter((True,))

    def tap(_: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if sql.startswith("insert into records") and next(full, False):
            error = sqlite3.OperationalError("this statement was made to fail")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        return run()

    rig = await Rig(tmp_path, Ticking()).open(tap)
    try:
        group = [as_item(sent) for sent in fresh("till-1", "e1", 1, 2, 3, 4, 5, 6)]
        assert await rig.append(group) == [Outcome.UNSTORED] * 6
        assert await rig.append(group) == [Outcome.STORED] * 6
        assert [row.sequence for row in read_rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    finally:
        await rig.close()
