"""What a commit tells people of stands in that commit: a kill right behind it takes nothing from them.

The real journal on real files; the files are copied right behind the commit in question, as a kill leaves them.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from agent.app.joints import JournalConditions
from agent.journal import attentions, salvage
from agent.journal.database import FILE_NAME
from agent.journal.rebuild import Terms
from agent.journal.writer import Journal
from tests.property.journal_model import an_event, as_item
from tests.property.journal_rig import QUICK, STREAM, VENUE, Tap, copy_files
from tests.property.test_attentions import House
from tests.property.test_limp import event, reached

NEVER_S = 3600.0


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """Where what has happened is not written by its own turn once one has been: only commits of others are left."""
    monkeypatch.setattr(attentions, "PAUSE_S", NEVER_S)
    with TemporaryDirectory(prefix="ns-seams-", dir=QUICK) as folder:
        state = Path(folder) / "state"
        state.mkdir()
        made = await Joined(state).open()
        yield made
        await made.rig.close()


class Joined(House):
    """With what the journal's own findings mean to people, as the agent joins it."""

    def join(self, journal: Journal) -> None:
        super().join(journal)
        watched = JournalConditions(journal, self.telling)
        journal.on_reused(watched.reused)
        journal.mending.on_repaired(watched.repaired)


async def idle(house: House) -> None:
    """Until the turn that writes what has happened has had its last."""
    await reached(lambda: not house.rig.journal.attentions._wake.is_set())
    await house.rig.settled()


def cut(house: House, shows: str) -> tuple[Tap, Path]:
    """A tap that copies the files behind the first commit after which the query `shows` finds something."""
    copy = house.rig.folder.parent / "cut"

    def tap(connection: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        done = run()
        if sql == "commit" and not copy.exists() and connection.execute(shows).fetchone():
            copy_files(house.rig.folder, copy)
        return done

    return tap, copy


def shows_record(words: str) -> str:
    return f"select 1 from records where cast(event as text) like '%{words}%'"


def spoil(folder: Path, position: int) -> None:
    """So much of a record is changed on the disk that nobody can mend it."""
    with sqlite3.connect(folder / FILE_NAME) as connection:
        connection.execute(
            "update records set event = cast(replace(cast(event as text), ':', ';') as blob) where position = ?",
            (position,),
        )
    connection.close()


def terms(house: House) -> Terms:
    clock = house.clock
    return Terms(VENUE, STREAM, clock.wall_ms(), clock.uptime_ms(), clock.boot_id(), clock.synced(), 1_000_000)


async def test_a_sequence_used_twice_is_told_by_the_commit_that_stores_the_second_event(house: House) -> None:
    await idle(house)
    await house.rig.append([as_item(event(1))])
    tap, copy = cut(house, shows_record("sequence_reused"))
    house.rig.through(tap)
    await house.rig.append([as_item(an_event("till-1", "another", "e1", 1, '{"n":2}'))])
    await house.again(copy)
    assert "two different events" in house.told()["sequence_reused:till-1"].text


async def test_a_device_that_is_counted_no_more_is_told_by_the_commit_that_stores_its_event(house: House) -> None:
    writing = house.rig.journal.writing
    writing._limits = msgspec.structs.replace(writing._limits, epochs_max=1)
    await idle(house)
    await house.rig.append([as_item(event(1))])
    tap, copy = cut(house, shows_record("of-the-second"))
    house.rig.through(tap)
    await house.rig.append([as_item(an_event("till-1", "of-the-second", "e2", 1, '{"n":2}'))])
    await house.again(copy)
    assert "begun its counting anew" in house.told()["epochs_exceeded:till-1"].text


async def test_a_repair_while_the_box_runs_is_told_by_its_commit(house: House) -> None:
    await idle(house)
    await house.rig.append([as_item(event(number)) for number in range(1, 4)])
    position = house.rig.journal.book.position - 1
    spoil(house.rig.folder, position)
    tap, copy = cut(house, shows_record("nightsafe.journal.repaired"))
    house.rig.through(tap)
    assert await house.rig.journal.mending.repair(position)
    live = house.told()["journal_lost"]
    await house.again(copy)
    assert house.told()["journal_lost"].text == live.text
    assert live.text.count("had damaged its journal") == 1


async def test_a_repair_by_the_opening_is_told_by_its_commit(house: House) -> None:
    await house.rig.append([as_item(event(number)) for number in range(1, 4)])
    await house.rig.close()
    spoil(house.rig.folder, house.rig.journal.book.position - 1)
    tap, copy = cut(house, shows_record("nightsafe.journal.repaired"))
    await house.rig.open(tap)
    await house.again(copy)
    assert house.told()["journal_lost"].severity == "critical"


async def test_a_rebuild_is_told_though_the_process_ends_right_behind_it(house: House) -> None:
    await house.rig.append([as_item(event(number)) for number in range(1, 4)])
    await house.rig.close()
    spoil(house.rig.folder, house.rig.journal.book.position - 1)
    salvage.run(house.rig.folder, terms(house), "a test asks for it")
    await house.open()
    assert house.told()["journal_lost"].severity == "critical"
    assert "a test asks for it" in house.told()["journal_lost"].text


async def test_a_second_loss_names_the_first_until_somebody_has_acknowledged_it(house: House) -> None:
    await house.rig.append([as_item(event(number)) for number in range(1, 8)])
    for number in (2, 3):
        spoil(house.rig.folder, number)
        assert await house.rig.journal.mending.repair(number)
    assert house.told()["journal_lost"].text.count("had damaged its journal") == 2
    await house.again()
    assert house.told()["journal_lost"].text.count("had damaged its journal") == 2
    await house.telling.acknowledge("journal_lost", "Ann", "seen")
    spoil(house.rig.folder, 4)
    assert await house.rig.journal.mending.repair(4)
    assert house.told()["journal_lost"].text.count("had damaged its journal") == 1


async def test_names_that_were_put_right_are_told_by_the_commit_that_puts_them_right(house: House) -> None:
    await house.rig.append([as_item(event(1))])
    await house.rig.close()
    with sqlite3.connect(house.rig.folder / FILE_NAME) as connection:
        connection.execute("update devices set device = 'till-9' where device like 'till-%'")
    connection.close()
    tap, copy = cut(house, "select 1 from devices where device = 'till-1'")
    await house.rig.open(tap)
    await house.again(copy)
    assert house.told()["journal_mended"].severity == "warning"


async def test_what_the_cloud_set_aside_is_told_by_the_commit_that_moves_the_cursor_over_it(house: House) -> None:
    await house.rig.append([as_item(event(1))])
    await idle(house)
    tap, copy = cut(house, "select 1 from journal where cursor > 0")
    house.rig.through(tap)
    house.happened("records_rejected")
    await house.rig.advance(1)
    await house.again(copy)
    assert "records_rejected" in house.told()


async def test_a_new_epoch_is_told_by_the_commit_that_makes_it_the_present_one(house: House) -> None:
    await house.rig.append([as_item(event(1))])
    await idle(house)
    uploads = house.rig.journal.uploads
    await uploads.begin_stream("0199c0de-0000-7000-8000-000000000002", 0, None, "forked", "parted")
    tap, copy = cut(house, shows_record('"parent":null,"reason":"forked"'))
    house.rig.through(tap)
    house.happened("forked")
    while not await uploads.seal_on():
        pass
    rows = json.dumps([str(one) for one in house.records("nightsafe.condition.raised")])
    assert rows.count("'forked'") == 2, "its condition and its reason, in the one record that its end writes"
    await house.again(copy)
    assert "forked" in house.told()


async def test_what_must_be_told_first_is_on_the_disk_before_the_box_goes_on(house: House) -> None:
    await idle(house)
    for number in range(attentions.TURN_MAX + 1):
        house.happened(f"spoofed:till-{number}")
    house.happened("cloud_rewound")
    await house.rig.journal.attentions.settled()
    await house.killed()
    assert "cloud_rewound" in house.told()


async def test_what_a_commit_tells_while_its_name_is_being_acknowledged_stays(house: House) -> None:
    """The person has not seen it."""
    await idle(house)
    await house.rig.append([as_item(event(number)) for number in range(1, 8)])
    spoil(house.rig.folder, 2)
    assert await house.rig.journal.mending.repair(2)
    spoil(house.rig.folder, 3)
    tap, copy = cut(house, "select 1 from attentions where condition = 'journal_lost' and ended_s is not null")
    house.rig.through(tap)
    async with house.rig.journal.attentions._one:
        deciding = asyncio.create_task(house.telling.acknowledge("journal_lost", "Ann", "seen"))
        await asyncio.sleep(0)
        assert await house.rig.journal.mending.repair(3)
    await deciding
    await house.again(copy)
    assert "lost here: till-1 2. " in house.told()["journal_lost"].text
