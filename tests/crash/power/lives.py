"""fault → [one box after another on the same disk] → a power cut. A short workload on the real journal, in process.

The journal runs over the shim. A call of SQLite fails; what was not told is sent again; when the journal ends, as a
process does that ends of an I/O error, a new one is opened on what a running system shows of the disk. Afterwards the
power is cut.
"""

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final, Literal

from agent.core.arrivals import Item, Outcome
from agent.core.errors import NightsafeError
from agent.core.events import judge
from agent.journal import database
from agent.journal.writer import Journal, Uploaded
from tests.crash.power.disk import Disk, Way
from tests.crash.power.examine import EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EXCERPT_BYTES_MAX, lay_out
from tests.crash.power.shim import Fault, Shim
from tests.crash.power.witness import Key, Sent, Witness
from tests.property.journal_rig import LIMITS, STREAM, VENUE, Ticking

CHECKPOINT_BYTES: Final = 16 * database.PAGE_BYTES
"""So that a short workload sees several."""
TRIES_MAX: Final = 12
"""So often is the same step tried."""
BEARABLE_TRIES: Final = 3
"""What fails for ever is mended when it was met so often: somebody has changed the card."""
SILENCE_S: Final = 2.0
"""A journal that tells nothing for so long is taken for one that has stopped acknowledging."""

BETWEEN: Final = (
    "select device_epoch, device_sequence, length(event) from records where position > ? and position <= ?"
    " order by position"
)

Ending = Literal["killed", "closed"]
Step = list[Sent] | int
"""What devices send at once; a number moves the drain's cursor there, in percent of what is stored."""


def sale(device: str, sequence: int, size: int = 0, forged: bool = False) -> Sent:
    """An event of a device's only epoch."""
    name = f"{device}-{sequence}"
    event = {
        "specversion": "1.0", "id": name, "source": "/devices/till", "epoch": "e1", "sequence": str(sequence),
        "type": "nightsafe.forged" if forged else "x.note", "data": {"n": sequence, "note": "x" * size},
    }  # fmt: skip
    return Sent(device, name, "e1", sequence, json.dumps(event).encode(), forged)


WORK: Final[tuple[Step, ...]] = (
    [sale("till-1", 1), sale("till-1", 2, 900), sale("till-2", 1)],
    [sale("till-1", 3), sale("till-1", 4, forged=True)],
    60,
    [sale("till-1", 5, 5000), sale("till-2", 2), sale("till-2", 3, 300)],
    [sale("till-2", 4)],
    [sale("till-1", 6, 900), sale("till-1", 7), sale("till-2", 5)],
    100,
    [sale("till-2", 6), sale("till-2", 7, forged=True), sale("till-1", 8, 2000)],
)


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
        self.witness = Witness()
        self.told_at: list[int] = []
        """For each event of `witness.told`, in the same order: how long the tape was when it was told."""
        self.starts = 0
        self.failures = 0

    async def run(self, fault: Fault) -> None:
        """The whole workload under one fault; what fails is tried again."""
        self._shim.start(self._folder, fault)
        try:
            for step in WORK:
                await self._until_done(step)
        finally:
            self._shim.mend()
            await self._end()
            for journal in self._ended:
                await journal.close()

    async def _until_done(self, step: Step) -> None:
        for _ in range(TRIES_MAX):
            try:
                journal = self._journal or await self._start()
                if await self._done(journal, step):
                    return
                self._failed()
            except NightsafeError:
                self._failed()
                await self._end()
        raise AssertionError(f"the workload does not come to an end: {self._shim.fault}")

    def _failed(self) -> None:
        self.failures += 1
        if self.failures >= BEARABLE_TRIES:
            self._shim.mend()

    async def _done(self, journal: Journal, step: Step) -> bool:
        if isinstance(step, int):
            await self._advance(journal, journal.book.committed * step // 100)
            return True
        for sent in step:
            self.witness.note_sent(sent)
        left = [sent for sent in step if Key(sent.device, sent.id) not in self.witness.told]
        await self._submit(journal, left)
        assert self._running is not None
        if self._running.done():
            await self._end()
        return all(Key(sent.device, sent.id) in self.witness.told for sent in step)

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
        await asyncio.wait({waiting, self._running}, return_when=asyncio.FIRST_COMPLETED, timeout=SILENCE_S)
        waiting.cancel()
        await asyncio.sleep(0)

    def _told(self, sent: Sent, outcome: Outcome) -> None:
        wanted = (Outcome.REFUSED,) if sent.bad else (Outcome.STORED, Outcome.DUPLICATE)
        assert outcome in wanted, f"{sent.id}: {outcome}"
        self.witness.note_told(Key(sent.device, sent.id))
        self.told_at.append(len(self._shim.tape))

    async def _advance(self, journal: Journal, to: int) -> None:
        book = journal.book
        if to <= book.cursor:
            return
        connection = sqlite3.connect(f"file:{self._folder / database.FILE_NAME}?mode=ro", uri=True)
        try:
            told = [Uploaded(*row) for row in connection.execute(BETWEEN, (book.cursor, to))]
        finally:
            connection.close()
        self.witness.uploaded = max(self.witness.uploaded, to)
        await journal.advance(to, to, told)

    # One life ---------------------------------------------------------------------------------------------------------

    async def _start(self) -> Journal:
        self.starts += 1
        self._journal = await Journal.open(self._folder, VENUE, STREAM, self._clock, LIMITS)
        self._running = asyncio.create_task(self._journal.run(lambda: None, asyncio.Event()))
        return self._journal

    async def _end(self) -> None:
        """The process ends: in order, or killed; then the next finds what a running system shows of the disk."""
        journal, self._journal = self._journal, None
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            with suppress(BaseExceptionGroup, asyncio.CancelledError, NightsafeError):
                await running
        if journal is not None and self._ending == "closed":
            with suppress(NightsafeError):
                await journal.close()
        elif journal is not None:
            self._ended.append(journal)
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


def witness_at(witness: Witness, told_at: list[int], place: int) -> Witness:
    """What had been told when the tape had `place` records. All that was ever sent counts as sent by then."""
    earlier = Witness()
    earlier.sent = witness.sent
    earlier.told = dict.fromkeys(key for key, at in zip(witness.told, told_at, strict=True) if at <= place)
    return earlier
