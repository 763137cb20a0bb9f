"""A disk filled to the last byte: what the drain and a repair must write takes the reserve, and no error ends a stage.

The real journal on a small tmpfs, with the reserve beside it.
"""

import asyncio
import errno
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.app.drain_side import DrainSide
from agent.core.answers import BatchAnswer, CloudRefused, Refusal, StreamState
from agent.core.arrivals import Outcome
from agent.core.errors import JournalDamaged, Transient
from agent.core.lineage import Stream
from agent.drain.drainer import Drain
from agent.journal import aside, streams
from agent.journal.book import Book
from agent.journal.reader import Reader
from agent.journal.reserve import Reserve
from agent.journal.uploads import Uploaded
from agent.journal.writer import Journal
from agent.journal.writing import Limits
from agent.settings.uplink import DrainSettings
from tests.crash.damage import judged, submit
from tests.crash.disks import MIB, fill, free_bytes, tmpfs
from tests.property.journal_rig import STREAM, VENUE, Ticking
from tests.sales import counted

LIMITS = Limits(10_000, 50_000_000, 5, 64, MIB, 1_000_000_000, checkpoint_bytes=262_144, reopen_first_s=0.05)
SPOILT = 50
"""Position of a record that nothing can mend; it stands before the watermark."""
OTHER = "0199c0de-0000-7000-8000-00000000000f"


class Full(NamedTuple):
    """A journal that can store nothing more, for want of room; `given` counts how often the reserve was asked for."""

    folder: Path
    journal: Journal
    reader: Reader
    reserve: Reserve
    given: list[bool]
    next_: int

    @property
    def side(self) -> DrainSide:
        return DrainSide(self.journal, self.reader, lambda: OTHER)

    async def sell(self, number: int) -> Outcome:
        [outcome] = await submit(self.journal, [judged("till-1", counted("e1", number))])
        return outcome

    def kept_rows(self) -> list[Path]:
        return sorted((self.folder / aside.FOLDER_NAME).glob(aside.ROW_PATTERN))


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Full]:
    with tmpfs(tmp_path / "state") as folder:
        reserve, given = Reserve(folder, 2 * MIB), list[bool]()
        assert reserve.make()
        journal = await Journal.open(folder, VENUE, STREAM, Ticking(), LIMITS)

        def give(sure: bool) -> bool:
            given.append(sure)
            return reserve.give()

        journal.writing.spare(give)
        stop = asyncio.Event()
        running = asyncio.create_task(journal.run(lambda: None, stop))
        reader = await Reader.open(folder, MIB, lambda: journal.book.lineage)
        await submit(journal, [judged("till-1", counted("e1", number)) for number in range(1, 200)])
        assert journal.book.watermark > SPOILT
        database = journal.writing._database
        assert database is not None
        await database.run(spoil)
        fill(folder)
        number = 200
        made = Full(folder, journal, reader, reserve, given, number)
        while await made.sell(number) is Outcome.STORED:
            number += 1
        fill(folder)
        assert free_bytes(folder) < 4_096
        assert not given
        yield made._replace(next_=number)
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        await reader.close()
        await journal.close()


def spoil(connection: sqlite3.Connection) -> None:
    """Three changed bytes: no search finds the original."""
    (found,) = connection.execute("select event from records where position = ?", (SPOILT,)).fetchone()
    event = bytearray(found)
    for at in (10, 20, 30):
        event[at] ^= 0x41
    connection.execute("update records set event = ? where position = ?", (bytes(event), SPOILT))


async def quarantines(full: Full) -> None:
    [record] = await full.reader.batch(20, 1, MIB)
    await full.journal.uploads.quarantine_record(record, "the cloud cannot read it")


async def begins_a_stream(full: Full) -> None:
    await full.journal.uploads.begin_stream(OTHER, 60, None, "forked", "lost")


async def adopts(full: Full) -> None:
    await full.journal.uploads.fence(STREAM)
    full.reserve.make()
    fill(full.folder)
    await full.journal.uploads.adopt("ann", "the copy is off")
    assert full.journal.book.doubt == "adopted"


async def seals(full: Full) -> None:
    await begins_a_stream(full)
    full.reserve.make()
    fill(full.folder)
    while not await full.journal.uploads.seal_on():
        pass
    assert full.journal.book.epoch == OTHER


async def repairs(full: Full) -> None:
    assert await full.journal.mending.repair(SPOILT)


async def advances(full: Full) -> None:
    records = await full.reader.batch(0, SPOILT - 1, MIB)
    told = [Uploaded(one.device_epoch, one.device_sequence, len(one.event)) for one in records]
    await full.journal.uploads.advance(records[-1].position, 0, told)


@pytest.mark.parametrize("write", [quarantines, begins_a_stream, adopts, seals, repairs, advances])
async def test_what_the_drain_must_write_takes_the_reserve_on_a_full_disk(
    full: Full, write: Callable[[Full], Awaitable[None]]
) -> None:
    await write(full)
    assert set(full.given) == {True}
    assert not full.journal.limps


async def test_a_record_that_cannot_be_kept_stays_in_the_log_and_is_waited_for(full: Full) -> None:
    full.reserve.give()
    fill(full.folder)
    for _ in range(3):
        with pytest.raises(Transient) as waits:
            await full.side.repair(SPOILT)
        assert waits.value.code == "disk_full"
    assert not full.journal.limps
    (full.folder / "somebody-elses.log").unlink()
    assert await full.side.repair(SPOILT)
    assert len(full.kept_rows()) == 1
    assert await full.sell(full.next_) is Outcome.STORED


async def test_a_disk_that_turned_read_only_under_a_repair_makes_the_journal_limp_and_ends_nothing(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    (full.folder / "somebody-elses.log").unlink()
    monkeypatch.setattr(aside, "write_whole", refuses)
    with pytest.raises(Transient):
        await full.side.repair(SPOILT)
    assert full.journal.limps
    monkeypatch.undo()
    async with asyncio.timeout(10):
        while full.journal.limps:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await full.side.repair(SPOILT)


async def test_a_folder_that_takes_no_damaged_record_keeps_the_record_and_selling_goes_on(full: Full) -> None:
    (full.folder / "somebody-elses.log").unlink()
    shutil.rmtree(full.folder / aside.FOLDER_NAME, ignore_errors=True)
    for name in aside.FOLDERS:
        (full.folder / name).write_text("no folder")
    with pytest.raises(Transient, match="cannot be kept"):
        await full.side.repair(SPOILT)
    with pytest.raises(JournalDamaged):
        await full.reader.batch(SPOILT - 1, 1, MIB)
    assert await full.sell(full.next_) is Outcome.STORED


class Fencing:
    """A cloud that has nothing, and where another box takes the epoch over before the first batch."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def stream(self, epoch: str) -> StreamState:
        self.asked.append("GET")
        return StreamState(1, bytes(32), 0, True, 100, MIB, 0.0)

    async def open_stream(self, stream: Stream) -> StreamState:
        self.asked.append("POST")
        return StreamState(1, bytes(32), 0, True, 100, MIB, 0.0)

    async def prepare(self, *_: object, **__: object) -> None: ...

    async def put(self, epoch: str, batch: object) -> BatchAnswer:
        self.asked.append("PUT")
        raise CloudRefused(Refusal(409, "urn:nightsafe:fenced"))


class Now:
    """A clock that stands still but for what the loop waits."""

    def boottime_s(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms_at(self, boottime_s: float) -> int:
        return 0


class Told:
    def __init__(self) -> None:
        self.held: list[str] = []

    def hold(self, id: str, *_: str) -> None:
        self.held.append(id)

    def lift(self, id: str) -> None: ...


async def test_after_a_fence_that_cannot_be_written_nothing_is_sent_and_it_is_written_when_it_can_be(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fence is so small a change that it may fit even on a full disk; so SQLite's answer is played here."""
    fence, is_full = streams.fence, True

    def refused(connection: sqlite3.Connection, book: Book, epoch: str) -> None:
        if is_full:
            failed = sqlite3.OperationalError("database or disk is full")
            failed.sqlite_errorname = "SQLITE_FULL"
            raise failed
        fence(connection, book, epoch)

    monkeypatch.setattr(streams, "fence", refused)
    cloud, told = Fencing(), Told()
    there: Any = cloud
    limits = DrainSettings(backoff_first_s=0.05, backoff_max_s=0.05)
    drain = Drain(full.side, there, Now(), lambda: limits, told, lambda: 0.5)
    stop = asyncio.Event()
    running = asyncio.create_task(drain.run(lambda: None, stop))
    await reached(lambda: "PUT" in cloud.asked)
    asked = binding(cloud)
    await asyncio.sleep(0.5)
    assert binding(cloud) == asked, "a request went out after the fence"
    assert told.held == ["drain_held"]
    assert not full.journal.book.lineage.present.fenced
    assert full.given, "the reserve was not asked for"
    (full.folder / "somebody-elses.log").unlink()
    is_full = False
    await reached(lambda: full.journal.book.lineage.present.fenced)
    drain.retry()
    await reached(lambda: drain.facts().error_code == "fenced")
    assert binding(cloud) == asked
    stop.set()
    await running


def binding(cloud: Fencing) -> list[str]:
    """What the cloud was asked that is more than a question."""
    return [one for one in cloud.asked if one != "GET"]


async def reached(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
