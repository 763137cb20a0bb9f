"""disk, witness, cloud → [the examination] → figures. Opens what a cut has left with the agent's own start-up, and
compares: what is on the disk, what comes of sending everything again, and at last all that the cloud has.

Everything is counted, nothing is asserted here: a test asks for zeros, and a control for the opposite.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import structs

from agent.core.arrivals import Item, Outcome, Settle
from agent.core.errors import NightsafeError
from agent.core.events import Event, Refusal, judge
from agent.journal.database import FILE_NAME
from agent.journal.inspect import verify
from agent.journal.writer import Journal
from tests.crash.power.cloud import Cloud
from tests.crash.power.log import Log, read_log
from tests.crash.power.upload import upload
from tests.crash.power.witness import Key, Sent, Witness
from tests.property.journal_rig import LIMITS, STREAM, VENUE, Ticking

EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EXCERPT_BYTES_MAX = 262_144, 32, 4096
SETTLE_MAX_S = 20.0
AGAIN_LIMITS = structs.replace(LIMITS, commit_events_max=500, project_events=1000)
"""Everything that was ever told is sent again: in large groups, for there are many disks."""
REFUSED = (
    "select d.device, q.event_id from quarantine q"
    " join device_epochs e on e.id = q.device_epoch join devices d on d.id = e.device"
)


class Finding(msgspec.Struct):
    """What was wrong with one disk. `faults` are the words of `verify` and of errors; all counts are events.

    `again` were told, sent again, and known; `drained` are records that the cloud had not yet.
    """

    lost: int = 0
    changed: int = 0
    doubled: int = 0
    reordered: int = 0
    phantom: int = 0
    cloud_ahead: int = 0
    faults: list[str] = []
    records: int = 0
    again: int = 0
    drained: int = 0
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


Clouds = Callable[[int], Cloud]
"""The cloud as it may have been at the cut, for a disk whose cursor stands there."""


async def examine(folder: Path, witness: Witness, clouds: Clouds) -> Finding:
    """Open the journal in `folder` as the agent does; let the devices send again everything that they ever sent; then
    drain it to its last record."""
    finding = Finding()
    began_s = time.perf_counter()
    try:
        journal = await Journal.open(folder, VENUE, STREAM, Ticking(), AGAIN_LIMITS)
    except Exception as error:  # on an unsound disk any, and each is a finding
        finding.faults.append(f"it does not open: {error!r}")
        finding.lost = len(witness.told)
        return finding
    finding.start_s = time.perf_counter() - began_s
    try:
        for position in sorted(witness.spoiled):
            if stands(folder, position):
                await journal.mending.repair(position)
        cloud = clouds(journal.book.cursor)
        _compare(folder, witness, finding, journal, cloud)
        if finding.clean:
            await _send_again(journal, witness, finding)
            had = len(cloud.acts)
            finding.faults += await upload(journal, folder, cloud)
            finding.drained = len(cloud.acts) - had
            _compare_all(folder, witness, finding, cloud)
    except (NightsafeError, AssertionError) as error:
        finding.faults.append(str(error))
    finally:
        await journal.close()
    return finding


def _compare(folder: Path, witness: Witness, finding: Finding, journal: Journal, cloud: Cloud) -> None:
    """What stands on the disk against what was promised."""
    finding.faults += verify(folder).faults
    if journal.book.doubt is not None and journal.book.lineage.forming is None:  # else the cut came while sealing anew
        finding.faults.append(f"the epoch is in doubt: {journal.book.doubt}")
    last = journal.book.position
    log = read_log(folder, cloud)
    finding.records = len(log.rows)
    finding.cloud_ahead = max(0, witness.uploaded - last)
    if last != log.last:
        finding.faults.append(f"the book ends at {last}, the log at {log.last}")
    stored, refused = _stored(log, finding), _refused(folder)
    for key in witness.told:
        sent = witness.sent[key]
        if key not in stored:
            finding.lost += not (sent.bad and key in refused)
        else:
            finding.changed += stored[key] != sent.body
    finding.phantom = sum(key not in witness.sent for key in stored)


def _compare_all(folder: Path, witness: Witness, finding: Finding, cloud: Cloud) -> None:
    """After everything was sent again and drained: the disk has it, and the cloud has it, all of it, once, in order."""
    refused = _refused(folder)
    stored = _stored(read_log(folder, cloud), finding)
    exported = _taken(cloud, witness, finding)
    for found in (stored, exported):
        lost = sum(key not in (refused if sent.bad else found) for key, sent in witness.sent.items())
        changed = sum(key in witness.sent and body != witness.sent[key].body for key, body in found.items())
        phantom = sum(key not in witness.sent for key in found)
        finding.lost, finding.changed = max(finding.lost, lost), max(finding.changed, changed)
        finding.phantom = max(finding.phantom, phantom)


def _taken(cloud: Cloud, witness: Witness, finding: Finding) -> dict[Key, bytes]:
    """The bytes of the devices' events in the cloud by their names; counts what is there twice or before its elder."""
    taken: dict[Key, bytes] = {}
    highest: dict[tuple[str, str], int] = {}
    for record in cloud.records():
        if record.device == "agent":
            continue
        key = Key(record.device, _id(record.event).id)
        finding.doubled += key in taken
        taken[key] = record.event
        sent = witness.sent.get(key)
        if sent is not None:
            finding.reordered += sent.sequence < highest.get((sent.device, sent.epoch), 0)
            highest[sent.device, sent.epoch] = sent.sequence
    return taken


class _Id(msgspec.Struct):
    id: str


_id = msgspec.json.Decoder(_Id).decode


def _stored(log: Log, finding: Finding) -> dict[Key, bytes]:
    """The bytes of the devices' events by their names; counts what stands twice, and what stands before its elder."""
    stored = {Key(device, _id(event).id): event for device, event in log.deleted if device != "agent"}
    highest: dict[tuple[str, str | None], int] = {}
    finding.doubled = finding.reordered = 0
    for row in log.rows:
        if row.device == "agent":
            continue
        key = Key(row.device, _id(row.event).id)
        finding.doubled += key in stored
        stored[key] = row.event
        assert row.sequence is not None
        finding.reordered += row.sequence < highest.get((row.device, row.epoch), 0)
        highest[row.device, row.epoch] = row.sequence
    return stored


def stands(folder: Path, position: int) -> bool:
    """Whether a record is there, sound or not."""
    connection = sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)
    try:
        return connection.execute("select 1 from records where position = ?", (position,)).fetchone() is not None
    finally:
        connection.close()


def _refused(folder: Path) -> set[Key]:
    connection = sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)
    try:
        return {Key(*row) for row in connection.execute(REFUSED)}
    finally:
        connection.close()


async def _send_again(journal: Journal, witness: Witness, finding: Finding) -> None:
    """All that was ever sent, each device's in its order: what was told must be known, the rest may be new."""
    finding.again = len(witness.told)
    for key, outcome in (await submit(journal, list(witness.sent.values()))).items():
        wanted: tuple[Outcome, ...] = (Outcome.REFUSED,) if witness.sent[key].bad else (Outcome.DUPLICATE,)
        if key not in witness.told and not witness.sent[key].bad:
            wanted = (Outcome.DUPLICATE, Outcome.STORED)
        if outcome not in wanted:
            finding.faults.append(f"{key.device} sends {key.id} again: {outcome.value}")


@lru_cache(maxsize=50_000)
def _judged(device: str, body: bytes) -> Event | Refusal:
    """The same events go to many disks."""
    return judge(device, body, EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EXCERPT_BYTES_MAX)


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
        journal.submit(_judged(sent.device, sent.body), told(Key(sent.device, sent.id)))
    if events:
        async with asyncio.timeout(SETTLE_MAX_S):
            await done.wait()
    stop.set()
    await running
    return outcomes
