"""fault → [one box after another on the same disk] → a power cut. A short workload on the real journal, in process.

The journal runs over the shim. A call to the disk fails; what was not told is sent again. The journal is killed at
that call, and the next one finds what a running system shows of the disk; or it lives, and has to mend itself, or ends
and is started again. Afterwards the power is cut.
"""

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, NamedTuple

from msgspec import structs

from agent.core.arrivals import Item, Outcome
from agent.core.errors import NightsafeError, Transient
from agent.core.events import judge
from agent.core.instants import to_text
from agent.core.lineage import Parent
from agent.journal import database
from agent.journal.uploads import Uploaded
from agent.journal.writer import Journal
from tests.crash.power.cloud import Cloud
from tests.crash.power.disk import Disk, Way
from tests.crash.power.examine import EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EXCERPT_BYTES_MAX, lay_out
from tests.crash.power.shim import Fault, Shim
from tests.crash.power.witness import Key, Sent, Witness
from tests.property.journal_rig import LIMITS as RIG_LIMITS
from tests.property.journal_rig import STREAM, VENUE, Ticking

LIMITS: Final = structs.replace(
    RIG_LIMITS, checkpoint_bytes=16 * database.PAGE_BYTES, reopen_first_s=0.001, reopen_max_s=0.002
)
"""A short workload sees several checkpoints, and nobody waits for a disk that is mended by itself."""
TRIES_MAX: Final = 200
"""So often is the same step tried."""
BEARABLE_TRIES: Final = 3
"""What fails for ever is mended when it was met so often: somebody has changed the card."""
DELETED_AT_ONCE: Final = 3
SPOIL: Final = "update records set event = ? where position = ?"
TURN_S: Final = 0.005
"""How long is waited for a journal that has not told anything, until it is looked after."""

BETWEEN: Final = (
    "select r.position, r.device_epoch, r.device_sequence, d.device, r.recorded_ms, r.prevhash, r.rechash, r.event"
    " from records r join device_epochs e on e.id = r.device_epoch join devices d on d.id = e.device"
    " where r.position > ? and r.position <= ? order by r.position"
)
OF_EVENT: Final = (
    "select r.position, r.event from records r join device_epochs e on e.id = r.device_epoch"
    " join devices d on d.id = e.device where d.device = ? and r.device_sequence = ?"
)
LATER_EPOCH: Final = "0199c0de-0000-7000-8000-000000000002"

Ending = Literal["killed", "mended"]
"""Killed at the call that fails, which nobody hears of; or alive, and left to mend itself."""


class Spoil(NamedTuple):
    """This event changes on the disk, and is repaired: with proof, or, where nothing is left of it, set aside."""

    sent: Sent
    wholly: bool


Step = list[Sent] | int | Spoil | Literal["fork", "delete"]
"""What devices send at once; a number moves the drain's cursor there, in percent of what is stored. `fork`: the records
behind the cursor are sealed for another epoch. `delete`: what the cloud calls safe goes."""


class Uploading(NamedTuple):
    """A record on its way up."""

    sequence: int
    device: str
    recordedtime: str
    prevhash: bytes
    rechash: bytes
    event: bytes


def sale(device: str, sequence: int, size: int = 0, forged: bool = False) -> Sent:
    """An event of a device's only epoch."""
    name = f"{device}-{sequence}"
    event = {
        "specversion": "1.0", "id": name, "source": "/devices/till", "epoch": "e1", "sequence": str(sequence),
        "type": "nightsafe.forged" if forged else "x.note", "data": {"n": sequence, "note": "x" * size},
    }  # fmt: skip
    return Sent(device, name, "e1", sequence, json.dumps(event).encode(), forged)


ONLY: Final = sale("till-3", 1, 300)
"""The one event of its device: nothing can come before its elder when it is sent again."""
WORK: Final[tuple[Step, ...]] = (
    [sale("till-1", 1), sale("till-1", 2, 900), sale("till-2", 1)],
    [sale("till-1", 3), sale("till-1", 4, forged=True)],
    60,
    [sale("till-1", 5, 5000), sale("till-2", 2), sale("till-2", 3, 300)],
    Spoil(sale("till-2", 3, 300), wholly=False),
    "fork",
    [sale("till-2", 4)],
    [sale("till-1", 6, 900), sale("till-1", 7), sale("till-2", 5)],
    100,
    "delete",
    [ONLY],
    Spoil(ONLY, wholly=True),
    [ONLY, sale("till-2", 6), sale("till-2", 7, forged=True), sale("till-1", 8, 2000)],
)


SALES_ONLY: Final = tuple(
    [sent for sent in step if sent != ONLY] if isinstance(step, list) else step
    for step in WORK
    if isinstance(step, int) or (isinstance(step, list) and step != [ONLY])
)
"""Nothing is deleted, so that commits need pages of their own."""


class Lives:
    """`run` does the workload; folders are made below `beside`."""

    def __init__(self, shim: Shim, beside: Path, ending: Ending) -> None:
        self._shim = shim
        self._beside = beside
        self._ending = ending
        self._clock = Ticking()
        self._folder = self._new_folder()
        self._journal: Journal | None = None
        self._running: asyncio.Task[None] | None = None
        self._ended: list[Journal] = []
        self._witness = Witness()
        self._cloud = Cloud()
        self._acts_at: list[int] = []
        """For each act of the cloud how long the tape was then."""
        self._told_at: list[tuple[int, Key, bool]] = []
        """The same of each event that was told, or whose loss was named, so that it counts as told no more."""
        self.starts = 0
        self.failures = 0

    async def run(self, fault: Fault) -> None:
        """The whole workload under one fault; what fails is tried again. At the end the power is cut."""
        self._shim.start(self._folder, fault, self._ending == "killed")
        try:
            for step in WORK:
                await self._until_done(step)
        finally:
            self._shim.kill()
            await self._end()
            for journal in self._ended:
                await journal.close()

    def witness_at(self, place: int) -> Witness:
        """What had been told when the tape had `place` records. All that was ever sent counts as sent by then."""
        earlier = Witness()
        earlier.sent, earlier.spoiled = self._witness.sent, self._witness.spoiled
        for at, key, told in self._told_at:
            if at <= place and told:
                earlier.told[key] = None
            elif at <= place:
                earlier.told.pop(key, None)
        return earlier

    def cloud_at(self, place: int) -> Cloud:
        """The cloud as it was then."""
        return Cloud([act for act, at in zip(self._cloud.acts, self._acts_at, strict=True) if at <= place])

    async def _until_done(self, step: Step) -> None:
        for _ in range(TRIES_MAX):
            try:
                journal = self._journal or await self._start()
                if await self._done(journal, step):
                    return
            except NightsafeError:
                pass
            self._failed()
            if self._shim.dead:
                await self._end()
                self._restart()
            elif self._running is not None and self._running.done():
                await self._end()
            else:
                await asyncio.sleep(TURN_S)
        raise AssertionError(f"the workload does not come to an end: {self._shim.fault}")

    def _failed(self) -> None:
        self.failures += 1
        if self.failures >= BEARABLE_TRIES:
            self._shim.mend()

    async def _done(self, journal: Journal, step: Step) -> bool:
        if journal.limps and not isinstance(step, list):
            return False
        if isinstance(step, Spoil):
            await self._spoil(journal, step)
        elif step == "fork":
            await self._fork(journal)
        elif step == "delete":
            await self._delete(journal)
        elif isinstance(step, int):
            await self._advance(journal, journal.book.committed * step // 100)
        elif isinstance(step, list):
            for sent in step:
                self._witness.note_sent(sent)
            left = [sent for sent in step if Key(sent.device, sent.id) not in self._witness.told]
            await self._submit(journal, left)
            return all(Key(sent.device, sent.id) in self._witness.told for sent in step)
        return not self._shim.dead

    async def _submit(self, journal: Journal, events: list[Sent]) -> None:
        """Wait until each has an outcome, or the journal ends or falls silent."""
        left = len(events)
        all_told = asyncio.Event()

        def settling(sent: Sent) -> Callable[[Item, Outcome], None]:
            def settle(_: Item, outcome: Outcome) -> None:
                nonlocal left
                if outcome is not Outcome.UNSTORED:
                    self._told(sent, outcome)
                left -= 1
                if not left:
                    all_told.set()

            return settle

        for sent in events:
            verdict = judge(sent.device, sent.body, EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EXCERPT_BYTES_MAX)
            journal.submit(verdict, settling(sent))
        waiting = asyncio.create_task(all_told.wait())
        assert self._running is not None
        while not (waiting.done() or self._running.done() or self._shim.dead):
            await asyncio.wait({waiting, self._running}, return_when=asyncio.FIRST_COMPLETED, timeout=TURN_S)
        waiting.cancel()

    def _told(self, sent: Sent, outcome: Outcome) -> None:
        if self._shim.dead or Key(sent.device, sent.id) in self._witness.told:
            return
        wanted = (Outcome.REFUSED,) if sent.bad else (Outcome.STORED, Outcome.DUPLICATE)
        assert outcome in wanted, f"{sent.id}: {outcome}"
        self._witness.note_told(Key(sent.device, sent.id))
        self._told_at.append((len(self._shim.tape), Key(sent.device, sent.id), True))

    def _rows(self, sql: str, *values: object) -> list[Any]:
        connection = sqlite3.connect(f"file:{self._folder / database.FILE_NAME}?mode=ro", uri=True)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    async def _advance(self, journal: Journal, to: int) -> None:
        """All of it is of one stream, without a hole: the cloud takes it, then the cursor moves."""
        book = journal.book
        if to <= book.cursor:
            return
        rows = self._rows(BETWEEN, book.cursor, to)
        stream = book.lineage.of(book.cursor + 1)
        batch = [Uploading(at - stream.base, device, to_text(ms), *seals) for at, _, _, device, ms, *seals in rows]
        await self._cloud.open_stream(stream)
        await self._cloud.put(stream.epoch, batch)
        self._acts_at += [len(self._shim.tape)] * (len(self._cloud.acts) - len(self._acts_at))
        told = [Uploaded(epoch, sequence, len(row[-1])) for row in rows for _, epoch, sequence in [row[:3]]]
        await journal.uploads.advance(to, to, told)

    async def _fork(self, journal: Journal) -> None:
        book = journal.book
        if book.lineage.named(LATER_EPOCH) is None:
            before = book.lineage.present
            [(*_, rechash, _)] = self._rows(BETWEEN, book.cursor - 1, book.cursor)
            parent = Parent(before.epoch, book.cursor - before.base, rechash)
            await journal.uploads.begin_stream(LATER_EPOCH, book.cursor, parent, "forked", "conflict")
        while journal.book.lineage.forming is not None:
            await journal.uploads.seal_on()

    async def _delete(self, journal: Journal) -> None:
        journal.keeping.confirm(journal.book.cursor)
        await journal.keeping.mark_safe()
        while await journal.keeping.delete_kept(0.0, DELETED_AT_ONCE):
            pass

    async def _spoil(self, journal: Journal, step: Spoil) -> None:
        """What was found damaged by a start meanwhile has been dealt with already."""
        sent, found = step.sent, self._rows(OF_EVENT, step.sent.device, step.sent.sequence)
        if not found:
            return
        [(position, event)] = found
        if position not in self._witness.spoiled:
            self._witness.spoiled.add(position)
            if step.wholly:
                del self._witness.told[Key(sent.device, sent.id)]
                self._told_at.append((len(self._shim.tape), Key(sent.device, sent.id), False))
        if event == sent.body:
            other = bytes(len(event)) if step.wholly else event[:-9] + bytes([event[-9] ^ 1]) + event[-8:]
            await journal.writing.change(lambda connection: connection.execute(SPOIL, (other, position)))
        await journal.mending.repair(position)

    # One life ---------------------------------------------------------------------------------------------------------

    async def _start(self) -> Journal:
        self.starts += 1
        opened = await Journal.open(self._folder, VENUE, STREAM, self._clock, LIMITS)
        if self._shim.dead:
            self._ended.append(opened)
            raise Transient("dead", "It was killed while it started.")
        self._journal = opened
        self._running = asyncio.create_task(opened.run(lambda: None, asyncio.Event()))
        return opened

    async def _end(self) -> None:
        """The process ends. Of one that was killed, nothing more is seen; its files are closed when all is over."""
        journal, self._journal = self._journal, None
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            with suppress(BaseExceptionGroup, asyncio.CancelledError, NightsafeError):
                await running
        if journal is None:
            return
        if self._shim.dead:
            self._ended.append(journal)
            return
        with suppress(NightsafeError):
            await journal.close()

    def _restart(self) -> None:
        """The next process finds what a running system shows of the disk."""
        self._folder = self._new_folder()
        lay_out(self._seen(), self._folder)
        self._shim.move(self._folder)

    def _seen(self) -> dict[str, bytes]:
        disk = Disk(Way("drop"), Random(0))
        for op in self._shim.tape:
            disk.take(op)
        return disk.seen()

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="life-", dir=self._beside))
