"""A damaged journal that is built anew: what it takes of the disk and of memory, how far it looks, what people hear.

Covers, in the scenario table's words: damage on a disk that is nearly full; damage again and again; a box that is
switched off while it mends itself.
"""

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from agent.core.arrivals import Outcome
from agent.core.errors import Transient
from agent.journal import mark, names, salvage
from agent.journal.database import FILE_NAME, PAGE_BYTES, migrations
from agent.journal.old import Old
from agent.journal.reader import Reader
from agent.journal.rebuild import Rebuild
from agent.journal.reserve import RESERVE_NAME, Reserve
from agent.journal.uploads import Uploaded
from agent.journal.writer import Journal
from tests.crash.damage import LIMITS, Life, copy, judged, submit
from tests.crash.disks import MIB, fill, tmpfs
from tests.property.journal_rig import QUICK, STREAM, VENUE, Ticking
from tests.sales import event

OWN = 2
"""Records of the box's own that a rebuild writes: what it did, and that people are told of it."""


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk that is quick, with two for journals in it."""
    folder = Path(QUICK or tmp_path) / f"rebuild-{os.getpid()}"
    for name in ("live", "state"):
        (folder / name).mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


async def sell(life: Life, first: int, last: int, note: int = 300) -> list[bytes]:
    """New events of one till, each stored; returns them."""
    bodies = [
        event(id=f"a{number}", epoch="e1", sequence=str(number), note="x" * note) for number in range(first, last + 1)
    ]
    assert set(await submit(life.journal, [judged("till-1", body) for body in bodies])) == {Outcome.STORED}
    return bodies


async def fold(life: Life) -> None:
    """All of the log into the database."""
    await life.journal.writing._database.run(lambda c: c.execute("pragma wal_checkpoint(truncate)").fetchall())


async def upload(life: Life, to: int, safe: int) -> None:
    records = await life.reader.batch(life.journal.book.cursor, to - life.journal.book.cursor, 1 << 30)
    sent = [Uploaded(one.device_epoch, one.device_sequence, len(one.event)) for one in records]
    await life.journal.uploads.advance(to, safe, sent)


def zero_root(folder: Path, table: str = "records") -> None:
    """The table's root page is zeros: SQLite reads nothing of it any more."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        (root,) = connection.execute("select rootpage from sqlite_schema where name = ?", (table,)).fetchone()
    with (folder / FILE_NAME).open("r+b") as stream:
        stream.seek((root - 1) * PAGE_BYTES)
        stream.write(bytes(PAGE_BYTES))


@asynccontextmanager
async def spoilt(folder: Path, count: int, note: int = 300) -> AsyncIterator[Life]:
    """A journal with so many events of one till; when the block ends, its records' root page is gone."""
    async with Life(folder, Ticking()) as life:
        for first in range(1, count + 1, 100):
            await sell(life, first, min(first + 99, count), note)
        await fold(life)
        yield life
    zero_root(folder)


# Room -----------------------------------------------------------------------------------------------------------------


async def test_without_room_for_a_second_journal_nothing_is_moved_and_nothing_is_eaten(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with tmpfs(folder, 16 * MIB):
        async with spoilt(folder, 2500, 1500):
            pass
        reserve = Reserve(folder, MIB)
        assert reserve.make()
        ballast = fill(folder, 2 * MIB)
        before = {path.name: path.stat().st_size for path in folder.iterdir()}
        journal = await Journal.start(folder, VENUE, STREAM, Ticking(), LIMITS)
        assert isinstance(journal.failure, Transient)
        assert "; there are " in journal.failure.text
        assert str(before[FILE_NAME] + salvage.ROOM_BESIDE_BYTES) in journal.failure.text
        after = {path.name: path.stat().st_size for path in folder.iterdir()}
        assert {name: after.get(name) for name in before} == before
        assert not (folder / "damaged").exists()
        ballast.unlink()
        async with Life(folder, Ticking()) as life:
            assert life.repaired[0].lost_count == 0
            assert len(await life.reader.batch(0, 5000, 1 << 30)) == 2500 + OWN


async def test_a_running_box_without_room_for_a_rebuild_reads_on_for_the_drain(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with tmpfs(folder, 16 * MIB):
        async with Life(folder, Ticking()) as life:
            await sell(life, 1, 1000, 1500)
            await fold(life)
            ballast = fill(folder, MIB)
            life.journal.mending.demand_rebuild("a page cannot be read", now=True)
            async with asyncio.timeout(20):
                while not (life.journal.failure and life.journal.failure.code == "rebuild_no_room"):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert len(await life.reader.batch(900, 200, 1 << 30)) == 100
            ballast.unlink()
            async with asyncio.timeout(20):
                while life.journal.limps:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert [done.lost_count for done in life.repaired] == [0]
            await sell(life, 1001, 1010)


async def test_where_the_reserve_is_the_room_that_is_short_it_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with tmpfs(folder, 16 * MIB):
        async with spoilt(folder, 1000, 1500):
            pass
        reserve = Reserve(folder, 4 * MIB)
        assert reserve.make()
        fill(folder, MIB)
        with pytest.raises(Transient) as refused:
            await Journal.open(folder, VENUE, STREAM, Ticking(), LIMITS)
        assert refused.value.code == "disk_full", "this is what the reserve is given for"
        assert reserve.give()
        assert not (folder / RESERVE_NAME).exists()
        async with Life(folder, Ticking()) as life:
            assert life.repaired[0].lost_count == 0


async def test_a_rebuild_that_was_cut_off_and_finds_no_room_begins_anew_when_there_is_some(tmp_path: Path) -> None:
    """What it had written so far takes no room meanwhile; the damaged files stay where it had moved them."""
    folder = tmp_path / "small"
    with tmpfs(folder, 16 * MIB):
        async with spoilt(folder, 1500, 1500):
            pass
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Rebuild, "run", _struck)
            with pytest.raises(KeyboardInterrupt):
                await Journal.open(folder, VENUE, STREAM, Ticking(), LIMITS)
        (folder / salvage.NEW_NAME).write_bytes(bytes(2 * MIB))
        ballast = fill(folder, MIB)
        with pytest.raises(Transient):
            await Journal.open(folder, VENUE, STREAM, Ticking(), LIMITS)
        assert not (folder / salvage.NEW_NAME).exists()
        ballast.unlink()
        async with Life(folder, Ticking()) as life:
            assert life.repaired[0].lost_count == 0


def _struck(*_: object) -> None:
    raise KeyboardInterrupt


async def test_a_reader_of_a_damaged_journal_leaves_what_stands_behind_the_break_of_its_log(base: Path) -> None:
    """While there is no room for a rebuild the drain reads on, and may be the last that closes the files."""
    async with Life(base / "live", Ticking()) as life:
        await sell(life, 1, 50)
        copy(life.folder, base / "killed")
    folder = base / "killed"
    wal = folder / f"{FILE_NAME}-wal"
    content = bytearray(wal.read_bytes())
    content[len(content) // 2] ^= 1
    wal.write_bytes(content)
    async with Life(base / "live", Ticking()) as other:
        reader = await Reader.open(folder, 1_048_576, lambda: other.journal.book.lineage)
        await reader.batch(0, 5, 1 << 20)
        await reader.close()
    assert wal.read_bytes() == bytes(content)


# What is kept ---------------------------------------------------------------------------------------------------------


async def test_of_damaged_databases_the_newest_stays_and_others_as_far_as_the_setting_lets_them(base: Path) -> None:
    folder = base / "state"
    async with Life(folder, Ticking()) as life:
        await sell(life, 1, 200)
    clock, size = Ticking(), (folder / FILE_NAME).stat().st_size
    limits = LIMITS.__class__(10_000, 50_000_000, 5, 64, 1_048_576, 1_000_000_000, damaged_bytes_max=int(2.5 * size))
    (folder / "damaged").mkdir()
    (folder / "damaged" / "my notes").mkdir()
    kept: list[list[str]] = []
    for _ in range(4):
        salvage.demand(folder, "again")
        journal = await Journal.open(folder, VENUE, STREAM, clock, limits)
        await journal.close()
        kept.append(sorted(one.name for one in (folder / "damaged").iterdir() if one.name != "my notes"))
    first = kept[0][0]
    assert [len(one) for one in kept] == [1, 2, 2, 2]
    assert all(first in one for one in kept), "the first damage tells most"
    assert [one[-1] for one in kept] == sorted({one[-1] for one in kept}), "the newest is always there"
    assert (folder / "damaged" / "my notes").is_dir()
    tight = LIMITS.__class__(10_000, 50_000_000, 5, 64, 1_048_576, 1_000_000_000, damaged_bytes_max=0)
    salvage.demand(folder, "again")
    await (await Journal.open(folder, VENUE, STREAM, clock, tight)).close()
    assert len([one for one in (folder / "damaged").iterdir() if one.name != "my notes"]) == 1


async def test_what_retention_has_deleted_does_not_come_back(base: Path) -> None:
    """Old versions of pages in the log still hold it; only the ids are taken from there."""
    folder = base / "live"
    async with Life(folder, Ticking()) as life:
        sent = await sell(life, 1, 200)
        await upload(life, 150, 150)
        life.journal.keeping.confirm(150)
        await life.journal.keeping.mark_safe()
        for _ in range(10):
            await life.journal.keeping.delete_kept(0, 10)
        first = await life.reader.first()
        assert first > 1
        await life.journal.writing._database.run(
            lambda c: c.execute("update records set event = x'00' where position = 180").rowcount
        )
        salvage.demand(folder, "a test")
        copy(folder, base / "killed")
        shutil.copy(folder / salvage.MARKER_NAME, base / "killed")
    async with Life(base / "killed", Ticking()) as life:
        assert [done.positions for done in life.repaired] == [()], "the lost record is in the log's older pages"
        assert await life.reader.first() == first
        again = [judged("till-1", body) for body in sent]
        assert set(await submit(life.journal, again)) == {Outcome.DUPLICATE}


async def test_the_cursor_of_the_mark_holds_where_the_database_knows_only_an_older_one(base: Path) -> None:
    """What the cloud has is not sent again because a page of the log is gone."""
    folder = base / "live"
    async with Life(folder, Ticking()) as life:
        await sell(life, 1, 20)
        await fold(life)
        await sell(life, 21, 60)
        await upload(life, 55, 30)
        copy(folder, base / "killed")
    wal = base / "killed" / f"{FILE_NAME}-wal"
    content = bytearray(wal.read_bytes())
    content[5000] ^= 1
    wal.write_bytes(content)
    async with Life(base / "killed", Ticking()) as life:
        assert life.repaired
        assert (life.journal.book.cursor, life.journal.book.safe) == (55, 30)


# How far it looks -----------------------------------------------------------------------------------------------------


async def test_a_watermark_of_billions_ends_and_names_no_billions(base: Path) -> None:
    """Nothing beside the journal, no record that SQLite can read, and a number that no such file can have reached."""
    folder = base / "state"
    async with spoilt(folder, 60):
        pass
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        connection.execute("update journal set watermark = ?", (1 << 40,))
        connection.commit()
    for name in (mark.FILE_NAME, names.FILE_NAME):
        (folder / name).unlink()
    async with Life(folder, Ticking()) as life:
        assert life.journal.book.position == 60 + OWN
        assert life.repaired[0].positions == ()


def test_sqlite_is_not_asked_for_ever_where_it_fails_or_finds_nothing(base: Path) -> None:
    with closing(sqlite3.connect(base / FILE_NAME)) as connection:
        for _, text in migrations():
            connection.executescript(text)
    with closing(Old(base)) as old:
        assert list(old.records(1, 1 << 50)) == []


async def test_a_rebuild_says_again_and_again_that_it_goes_on(base: Path) -> None:
    folder, signs = base / "state", 0

    def busy() -> None:
        nonlocal signs
        signs += 1

    async with spoilt(folder, 500):
        pass
    journal = await Journal.start(folder, VENUE, STREAM, Ticking(), LIMITS, busy)
    assert journal.book.position == 500 + OWN
    assert signs > 500
    await journal.close()


async def test_damaged_records_put_by_for_mending_are_bounded_in_bytes(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.journal.rebuild.ODD_BYTES_MAX", 20_000)
    held: list[int] = []
    mend_odd = Rebuild._mend_odd

    def watched(self: Rebuild) -> None:
        held.append(sum(len(row.event) for row in self._odd.values()))
        mend_odd(self)

    monkeypatch.setattr(Rebuild, "_mend_odd", watched)
    folder = base / "state"
    async with Life(folder, Ticking()) as life:
        await sell(life, 1, 40, 3000)
        await life.journal.writing._database.run(
            lambda c: c.execute("update records set recorded_ms = 5, event = cast('no' || event as blob)").rowcount
        )
    salvage.demand(folder, "a test")
    async with Life(folder, Ticking()) as life:
        assert life.repaired[0].lost_count + len(life.repaired[0].mended) >= 40
    assert 0 < held[0] <= 20_000


@pytest.mark.long
async def test_a_rebuild_of_fifty_thousand_records_is_measured(base: Path) -> None:
    """The records' root page is gone, so that all of them are found in the pages."""
    folder, count = base / "state", 50_000
    async with spoilt(folder, count):
        pass
    size = (folder / FILE_NAME).stat().st_size
    begun_s = time.monotonic()
    async with Life(folder, Ticking()) as life:
        took_s = time.monotonic() - begun_s
        assert life.journal.book.position == count + 1
        assert life.repaired[0].lost_count == 0
    print(f"{count} records, {size // MIB} MiB, rebuilt in {took_s:.1f} s: {took_s / count * 1000:.3f} ms a record")
