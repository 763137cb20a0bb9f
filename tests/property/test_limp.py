"""A journal that failed limps: it tells nobody anything, opens itself anew, and goes on with what the disk has.

The real writer on real files; its statements are made to fail.
"""

import asyncio
import errno
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent.core.arrivals import Outcome
from agent.core.errors import Held, JournalDamaged, Transient
from agent.core.pressure import Level
from agent.journal import writing
from agent.journal.database import FILE_NAME
from agent.journal.inspect import verify
from agent.journal.opening import Opened, Opening
from agent.journal.reader import Reader
from agent.journal.reserve import Reserve
from agent.journal.writer import Journal
from tests.property.journal_model import Sent, an_event, as_item
from tests.property.journal_rig import LIMITS, QUICK, STREAM, VENUE, Rig, Tap, Ticking, straight


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    with TemporaryDirectory(prefix="ns-journal-", dir=QUICK) as folder:
        made = await Rig(Path(folder), Ticking()).open()
        yield made
        await made.close()


def event(number: int) -> Sent:
    return an_event("till-1", f"e1-{number}", "e1", number, f'{{"n":{number}}}')


def failing(error: str, wanted: Callable[[str], bool] = lambda sql: True, times: int = 1_000_000) -> Tap:
    left = times

    def tap(_: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        nonlocal left
        if left and sql != "rollback" and wanted(sql):
            left -= 1
            failed = sqlite3.OperationalError("this statement was made to fail")
            failed.sqlite_errorname = error
            raise failed
        return run()

    return tap


def writes(sql: str) -> bool:
    return not sql.startswith(("select", "pragma"))


async def reached(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def limping(rig: Rig, number: int = 2) -> None:
    """Everything fails from now on, and one event has heard so."""
    rig.through(failing("SQLITE_IOERR_FSYNC"))
    told: list[Outcome] = []
    rig.journal.submit(as_item(event(number)), lambda _, outcome: told.append(outcome))
    await reached(lambda: bool(told))
    assert told == [Outcome.UNSTORED]
    assert rig.journal.limps


async def test_while_it_limps_every_event_is_told_at_once_that_it_is_not_stored(rig: Rig) -> None:
    await rig.append([as_item(event(1))])
    await limping(rig)
    told: list[Outcome] = []
    for number in range(3, 53):
        rig.journal.submit(as_item(event(number)), lambda _, outcome: told.append(outcome))
    await reached(lambda: len(told) == 50)
    assert set(told) == {Outcome.UNSTORED}
    facts = rig.journal.facts()
    assert (facts.writable, facts.last) == (False, 1)
    rig.through(straight)
    await rig.settled()
    assert await rig.append([as_item(event(2))]) == [Outcome.STORED]
    assert rig.journal.facts().writable


async def test_while_it_limps_no_receipt_speaks_of_what_may_not_be_durable(rig: Rig) -> None:
    """The commit landed in the file, its sync failed: a power cut would take it, so nobody is told."""
    await rig.append([as_item(event(1))])
    rig.journal.receipts_due()

    def lands_and_fails(_: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        done = run()
        if sql == "commit":
            rig.through(failing("SQLITE_IOERR_FSYNC"))
            failed = sqlite3.OperationalError("the sync failed")
            failed.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise failed
        return done

    rig.through(lands_and_fails)
    told: list[Outcome] = []
    rig.journal.submit(as_item(event(2)), lambda _, outcome: told.append(outcome))
    await reached(lambda: bool(told))
    rig.journal.receipts_all_due()
    assert rig.journal.receipts_due() == []
    assert rig.journal.facts().last == 1
    rig.through(straight)
    await rig.settled()
    [receipt] = rig.journal.receipts_due()
    assert receipt.stored == 2
    assert await rig.append([as_item(event(2))]) == [Outcome.DUPLICATE]


async def test_a_failure_of_any_other_write_makes_it_limp_too(rig: Rig) -> None:
    await rig.append([as_item(event(1))])
    rig.through(failing("SQLITE_READONLY", lambda sql: sql.startswith("update journal set cursor"), 1))
    with pytest.raises(JournalDamaged):
        await rig.advance(1)
    assert rig.journal.limps
    await rig.settled()
    await rig.advance(1)
    assert rig.journal.facts().cursor == 1


def move_all(here: Path, there: Path) -> None:
    for path in here.iterdir():
        path.rename(there / path.name)


async def test_a_disk_that_goes_while_the_journal_is_being_opened_anew_is_no_new_venue(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All was there when it was looked whether the folder is empty, and nothing a moment later."""
    await rig.append([as_item(event(1))])
    with TemporaryDirectory(prefix="ns-kept-", dir=QUICK) as kept:

        def looked(directory: Path) -> bool:
            move_all(directory, Path(kept))
            return False

        monkeypatch.setattr(writing, "_is_bare", looked)
        await rig.journal.writing.close()
        with pytest.raises(JournalDamaged) as away:
            await rig.journal.writing.open()
        assert away.value.code == "journal_gone"
        assert not (rig.folder / FILE_NAME).exists()
        monkeypatch.undo()
        move_all(Path(kept), rig.folder)
    await rig.journal.writing.open()
    assert await rig.append([as_item(event(1)), as_item(event(2))]) == [Outcome.DUPLICATE, Outcome.STORED]


async def test_a_start_on_what_cannot_be_opened_limps_until_it_can(rig: Rig) -> None:
    await rig.append([as_item(event(1))])
    await rig.close()
    aside = rig.folder / "aside"
    (rig.folder / FILE_NAME).rename(aside)
    (rig.folder / FILE_NAME).symlink_to(rig.folder)  # what stands there is no file
    journal = await Journal.start(rig.folder, VENUE, STREAM, rig.clock, LIMITS)
    assert (journal.limps, journal.facts().writable, journal.facts().last) == (True, False, 0)
    stop = asyncio.Event()
    running = asyncio.create_task(journal.run(lambda: None, stop))
    await asyncio.sleep(0.1)
    assert not running.done()
    aside.replace(rig.folder / FILE_NAME)  # in one step: the journal is tried all the time
    await reached(lambda: journal.facts().writable)
    assert journal.facts().last == 1
    stop.set()
    await running
    await journal.close()
    await rig.open()


async def test_an_error_of_the_file_system_makes_it_limp_like_one_of_sqlite(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opening looks at files beside SQLite, too."""

    async def failing_open(*_: object) -> Opened:
        raise OSError(errno.EROFS, "Read-only file system")

    await rig.append([as_item(event(1))])
    await rig.close()
    monkeypatch.setattr(Opening, "run", failing_open)
    journal = await Journal.start(rig.folder, VENUE, STREAM, rig.clock, LIMITS)
    assert journal.limps
    assert journal.failure is not None
    assert "Read-only file system" in journal.failure.text
    monkeypatch.undo()
    stop = asyncio.Event()
    running = asyncio.create_task(journal.run(lambda: None, stop))
    await reached(lambda: journal.facts().writable)
    stop.set()
    await running
    await journal.close()
    await rig.open()


async def test_no_other_connection_is_open_while_the_journal_is_opened_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are looked at beside SQLite then: closing one would drop this process's locks on the database."""
    await rig.append([as_item(event(1))])
    reader = Reader(rig.folder, 1_048_576, lambda: rig.journal.book.lineage, lambda: rig.journal.generation)
    rig.journal.writing.keep_out(reader.closed)
    rig.journal.writing.keep_out(rig.reader.closed)
    assert await reader.batch(0, 10, 1_000_000)
    opening, seen = Opening.run, list[bool]()
    read: list[asyncio.Task[object]] = []

    async def opened(self: Opening) -> Opened:
        read.append(asyncio.create_task(reader.batch(0, 10, 1_000_000)))
        await asyncio.sleep(0.01)
        seen.append(read[0].done() or str(rig.folder) in open_files())
        return await opening(self)

    monkeypatch.setattr(Opening, "run", opened)
    await limping(rig)
    rig.through(straight)
    await rig.settled()
    assert seen == [False]
    assert await read[0], "who asked meanwhile was not answered"
    await reader.close()


def open_files() -> str:
    """The paths of this process's open files."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            names.append(str(link.readlink()))
    return " ".join(names)


async def test_a_start_on_what_a_person_must_look_at_ends_with_words(rig: Rig) -> None:
    await rig.close()
    with pytest.raises(Held, match="belongs to the venue"):
        await Journal.start(rig.folder, "another", STREAM, rig.clock, LIMITS)
    await rig.open()


async def test_a_stop_ends_a_limping_journal_soon(rig: Rig) -> None:
    await limping(rig)
    rig._stop.set()
    async with asyncio.timeout(3):
        await rig._running
    await rig.journal.close()
    await rig.reader.close()
    rig._patched.stop()
    await rig.open()


async def test_the_reader_reads_the_file_that_stands_there_after_it_was_opened_anew(rig: Rig) -> None:
    """Its file may have been put in place by a rename: the connection to the old one would read on for ever."""
    await rig.append([as_item(event(1))])
    reader = Reader(rig.folder, 1_048_576, lambda: rig.journal.book.lineage, lambda: rig.journal.generation)
    assert len(await reader.batch(0, 10, 1_000_000)) == 1
    other = sqlite3.connect(rig.folder / "other.sqlite")
    source = sqlite3.connect(rig.folder / FILE_NAME)
    source.backup(other)
    source.close()
    other.execute("pragma journal_mode = wal")
    other.close()
    await limping(rig)
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
        if (rig.folder / name).exists():
            (rig.folder / name).rename(rig.folder / f"old-{name}")
    (rig.folder / "other.sqlite").rename(rig.folder / FILE_NAME)
    rig.through(straight)
    await rig.settled()
    await rig.append([as_item(event(2))])
    assert [record.position for record in await reader.batch(0, 10, 1_000_000)] == [1, 2]
    await reader.close()


async def test_a_full_disk_takes_the_cursor_with_the_reserve_and_no_event(rig: Rig, tmp_path: Path) -> None:
    await rig.append([as_item(event(1))])
    reserve = Reserve(tmp_path, 65_536)
    assert reserve.make()

    def give(_: bool) -> bool:
        given = reserve.give()
        rig.journal.press(Level.REFUSE)
        rig.through(straight)
        return given

    rig.journal.writing.spare(give)
    rig.through(failing("SQLITE_FULL", writes))
    assert await rig.append([as_item(event(2))]) == [Outcome.UNSTORED]
    assert reserve.kept, "an event is no reason to give the reserve"
    rig.through(failing("SQLITE_FULL", writes))
    await rig.advance(1)
    assert not reserve.kept
    assert rig.journal.facts().cursor == 1
    assert await rig.append([as_item(event(2))]) == [Outcome.UNSTORED]
    await rig.journal.record("nightsafe.order.ready", {"order_id": "A-1"})
    rig.journal.press(Level.NORMAL)
    assert await rig.append([as_item(event(2))]) == [Outcome.STORED]


async def test_telemetry_is_left_out_when_room_is_short_and_nothing_else(rig: Rig) -> None:
    rig.journal.press(Level.SHED)
    with pytest.raises(Transient, match="left out"):
        await rig.journal.record("nightsafe.condition.raised", {"condition": "x"})
    await rig.journal.record("nightsafe.journal.repaired", {"positions": []})
    await rig.journal.record("nightsafe.settings.changed", {"live": ["logs.level"]})
    assert await rig.append([as_item(event(1))]) == [Outcome.STORED]
    assert rig.journal.shed_count == 1


async def test_what_came_behind_a_group_that_failed_is_not_stored_before_it(rig: Rig) -> None:
    """Four events are a group here: the fifth must not be stored alone, or its device's order is lost."""
    rig.through(failing("SQLITE_FULL", lambda sql: sql.startswith("insert into records"), 1))
    assert await rig.append([as_item(event(number)) for number in range(1, 7)]) == [Outcome.UNSTORED] * 6
    assert await rig.append([as_item(event(number)) for number in range(1, 7)]) == [Outcome.STORED] * 6
    assert rig.journal.open_gaps() == []


async def test_what_waits_while_nothing_is_taken_is_not_stored_in_part_when_that_ends(rig: Rig) -> None:
    rig.journal.press(Level.REFUSE)
    told: list[Outcome] = []

    def heard(_: object, outcome: Outcome) -> None:
        told.append(outcome)
        rig.journal.press(Level.NORMAL)

    for number in range(1, 7):
        rig.journal.submit(as_item(event(number)), heard)
    await reached(lambda: len(told) == 6)
    assert set(told) == {Outcome.UNSTORED}


def flip(position: int) -> Callable[[sqlite3.Connection], None]:
    """One bit of a record's event turns on the disk."""

    def call(connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("select event from records where position = ?", (position,)).fetchone()
        turned = bytes((found[0] ^ 1, *found[1:]))
        connection.execute("update records set event = ? where position = ?", (turned, position))

    return call


async def damaged(rig: Rig, *positions: int) -> None:
    database = rig.journal.writing._database
    assert database is not None
    for position in positions:
        await database.run(flip(position))


async def nothing_is_stored_twice(rig: Rig, last: int) -> None:
    """Whatever a device sends again is known."""
    await rig.settled()
    for number in range(1, last + 1):
        assert await rig.append([as_item(event(number))]) == [Outcome.DUPLICATE], f"event {number} was stored again"
    assert rig.journal.open_gaps() == []


async def test_a_write_that_fails_over_a_damaged_record_counts_that_record_all_the_same(rig: Rig) -> None:
    """The figures are read back from the log then, and the damaged record must not be taken for one never stored."""
    for number in range(1, 6):
        await rig.append([as_item(event(number))])
    await damaged(rig, 2)
    rig.through(failing("SQLITE_FULL", lambda sql: sql.startswith("insert into records"), 1))
    assert await rig.append([as_item(event(6))]) == [Outcome.UNSTORED]
    await nothing_is_stored_twice(rig, 5)


async def test_a_repair_beside_another_damaged_record_counts_that_one_all_the_same(rig: Rig) -> None:
    for number in range(1, 6):
        await rig.append([as_item(event(number))])
    await damaged(rig, 2, 4)
    with suppress(JournalDamaged):
        await rig.journal.mending.repair(2)
    await nothing_is_stored_twice(rig, 5)


async def test_a_repair_whose_commit_landed_though_it_failed_is_not_done_twice(rig: Rig) -> None:
    for number in range(1, 12):
        await rig.append([as_item(event(number))])
    await damaged(rig, 2)

    def lands(_: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        done = run()
        if sql == "commit":
            rig.through(straight)
            failed = sqlite3.OperationalError("the disk was full")
            failed.sqlite_errorname = "SQLITE_FULL"
            raise failed
        return done

    rig.journal.writing.spare(lambda _: True)
    rig.through(lands)
    await rig.journal.mending.repair(2)
    assert not rig.journal.limps
    await nothing_is_stored_twice(rig, 11)


async def test_a_boot_whose_name_changes_on_the_disk_goes_up_under_the_name_it_had(rig: Rig) -> None:
    """No seal covers it: the writer keeps what it has known since it opened, and verify and the next start find it."""
    await rig.append([as_item(event(1))])
    reader = Reader(rig.folder, 1_048_576, lambda: rig.journal.book.lineage, boots=lambda: rig.journal.book.boots)
    database = rig.journal.writing._database
    assert database is not None
    await database.run(lambda connection: connection.execute("update boots set boot = 'boot-3'").rowcount)
    rig.through(failing("SQLITE_FULL", lambda sql: sql.startswith("insert into records"), 1))
    assert await rig.append([as_item(event(2))]) == [Outcome.UNSTORED]
    assert await rig.append([as_item(event(number)) for number in range(2, 13)]) == [Outcome.STORED] * 11
    await damaged(rig, 3)
    assert await rig.journal.mending.repair(3)
    assert {record.boot for record in await reader.batch(0, 100, 1_000_000)} == {"boot-1"}
    await reader.close()
    assert [fault for fault in verify(rig.folder).faults if "boot" in fault]
    await rig.close()
    await rig.open()
    assert verify(rig.folder).faults == []
    assert {record.boot for record in await rig.reader.batch(0, 100, 1_000_000)} == {"boot-1"}
