"""disk, witness → [the examination] → figures. Opens what a cut has left with the agent's own start-up, and compares.

Everything is counted, nothing is asserted here: a test asks for zeros, and a control for the opposite.
"""

import asyncio
import sqlite3
import time
from pathlib import Path
from random import Random

import msgspec

from agent.core.arrivals import Item, Outcome, Settle
from agent.core.errors import NightsafeError
from agent.core.events import judge
from agent.journal.database import FILE_NAME
from agent.journal.inspect import verify
from agent.journal.writer import Journal
from tests.crash.power.witness import Key, Sent, Witness
from tests.property.journal_rig import LIMITS, STREAM, VENUE, Row, Ticking, read_rows

EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EXCERPT_BYTES_MAX = 262_144, 32, 4096
AGAIN_COUNT = 20
"""Events told before the cut that are sent again all the same."""
LATEST_COUNT = 10
"""Of these the latest told, who were nearest to the cut; the others are chosen by chance."""
SETTLE_MAX_S = 20.0
REFUSED = (
    "select d.device, q.event_id from quarantine q"
    " join device_epochs e on e.id = q.device_epoch join devices d on d.id = e.device"
)


class Finding(msgspec.Struct):
    """What was wrong with one disk. `faults` are the words of `verify` and of errors; all counts are events."""

    lost: int = 0
    changed: int = 0
    doubled: int = 0
    reordered: int = 0
    phantom: int = 0
    cloud_ahead: int = 0
    faults: list[str] = []
    records: int = 0
    start_s: float = 0.0

    @property
    def clean(self) -> bool:
        return not (
            self.lost or self.changed or self.doubled or self.reordered or self.phantom or self.cloud_ahead
            or self.faults
        )  # fmt: skip


def lay_out(content: dict[str, bytes], folder: Path, start: str = "/") -> None:
    """Write a disk's files, or those whose path starts so."""
    for path, data in content.items():
        if not path.startswith(start):
            continue
        target = folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


async def examine(folder: Path, witness: Witness, chance: Random) -> Finding:
    """Open the journal in `folder` as the agent does; then let the devices send again what they were not told."""
    finding = Finding()
    began_s = time.perf_counter()
    try:
        journal = await Journal.open(folder, VENUE, STREAM, Ticking(), LIMITS)
    except Exception as error:  # on an unsound disk any, and each is a finding
        finding.faults.append(f"it does not open: {error!r}")
        finding.lost = len(witness.told)
        return finding
    finding.start_s = time.perf_counter() - began_s
    try:
        _compare(folder, witness, finding, journal.book.position)
        if finding.clean:
            await _send_again(journal, witness, finding, chance)
            _compare_all(folder, witness, finding)
    except (NightsafeError, AssertionError) as error:
        finding.faults.append(str(error))
    finally:
        await journal.close()
    return finding


def _compare(folder: Path, witness: Witness, finding: Finding, last: int) -> None:
    """What stands on the disk against what was promised."""
    finding.faults += verify(folder).faults
    rows = read_rows(folder)
    finding.records = len(rows)
    finding.cloud_ahead = max(0, witness.uploaded - last)
    if last != len(rows):
        finding.faults.append(f"the book ends at {last}, the log at {len(rows)}")
    stored, refused = _stored(rows, finding), _refused(folder)
    for key in witness.told:
        sent = witness.sent[key]
        if key not in stored:
            finding.lost += not (sent.bad and key in refused)
        else:
            finding.changed += stored[key] != sent.body
    finding.phantom = sum(key not in witness.sent for key in stored)


def _compare_all(folder: Path, witness: Witness, finding: Finding) -> None:
    """After everything was sent again: all of it is there, once, and the chain is whole (`read_rows` follows it)."""
    stored, refused = _stored(read_rows(folder), finding), _refused(folder)
    finding.lost = sum(key not in (refused if sent.bad else stored) for key, sent in witness.sent.items())
    finding.changed = sum(stored[key] != witness.sent[key].body for key in stored)


class _Id(msgspec.Struct):
    id: str


_id = msgspec.json.Decoder(_Id).decode


def _stored(rows: list[Row], finding: Finding) -> dict[Key, bytes]:
    """The bytes of the devices' events by their names; counts what stands twice, and what stands before its elder."""
    stored: dict[Key, bytes] = {}
    highest: dict[tuple[str, str | None], int] = {}
    finding.doubled = finding.reordered = 0
    for row in rows:
        if row.device == "agent":
            continue
        key = Key(row.device, _id(row.event).id)
        finding.doubled += key in stored
        stored[key] = row.event
        assert row.sequence is not None
        finding.reordered += row.sequence < highest.get((row.device, row.epoch), 0)
        highest[row.device, row.epoch] = row.sequence
    return stored


def _refused(folder: Path) -> set[Key]:
    connection = sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)
    try:
        return {Key(*row) for row in connection.execute(REFUSED)}
    finally:
        connection.close()


async def _send_again(journal: Journal, witness: Witness, finding: Finding, chance: Random) -> None:
    """All that was not told, and some of what was: the first may be new, the second must be known."""
    told = list(witness.told)
    earlier = told[:-LATEST_COUNT]
    again = {*told[-LATEST_COUNT:], *chance.sample(earlier, min(len(earlier), AGAIN_COUNT - LATEST_COUNT))}
    outcomes = await submit(journal, [*witness.untold, *(witness.sent[key] for key in again)])
    for key, outcome in outcomes.items():
        wanted: tuple[Outcome, ...] = (Outcome.REFUSED,) if witness.sent[key].bad else (Outcome.DUPLICATE,)
        if key not in again and not witness.sent[key].bad:
            wanted = (Outcome.DUPLICATE, Outcome.STORED)
        if outcome not in wanted:
            finding.faults.append(f"{key.device} sends {key.id} again: {outcome.value}")


async def submit(journal: Journal, events: list[Sent]) -> dict[Key, Outcome]:
    """Judge and store events as the intake does; returns once all outcomes are known."""
    outcomes: dict[Key, Outcome] = {}
    stop, done = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(journal.run(lambda: None, stop))

    def told(key: Key) -> Settle:
        def settle(_: Item, outcome: Outcome) -> None:
            outcomes[key] = outcome
            if len(outcomes) == len(events):
                done.set()

        return settle

    for sent in events:
        verdict = judge(sent.device, sent.body, EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EXCERPT_BYTES_MAX)
        journal.submit(verdict, told(Key(sent.device, sent.id)))
    if events:
        async with asyncio.timeout(SETTLE_MAX_S):
            await done.wait()
    stop.set()
    await running
    return outcomes
