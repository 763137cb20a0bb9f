"""What the drain and a person change in the journal: each change is on record in the same transaction, and named."""

import json
import sqlite3
from pathlib import Path

import pytest

from agent.app.drain_side import DrainSide
from agent.core.events import judge
from agent.core.pressure import Level
from agent.ingest.quarantine import Quarantine
from agent.journal.reader import Reader
from tests.property.journal_rig import STREAM
from tests.sales import counted
from tests.unit.test_lower_bases import SECOND, branch, living, read_all, store


@pytest.mark.parametrize("level", list(Level))
async def test_adopting_is_on_record_however_short_the_room_is(tmp_path: Path, level: Level) -> None:
    """It is the act of a person."""
    async with living(tmp_path) as journal:
        await store(journal, 1, 3)
        await journal.uploads.fence(STREAM)
        journal.press(level)
        await journal.uploads.adopt("sam", "the copy is off")
        assert journal.book.doubt == "adopted"
        last = json.loads((await read_all(journal, tmp_path))[-1].event)
    assert last["type"] == "nightsafe.condition.cleared"
    assert (last["data"]["actor"], last["data"]["reason"]) == ("sam", "the copy is off")


async def test_a_new_stream_and_the_word_of_it_are_one_transaction(tmp_path: Path) -> None:
    async with living(tmp_path) as journal:
        await store(journal, 1, 5)
        journal.press(Level.REFUSE)
        await branch(journal, tmp_path, SECOND, 3, STREAM)
        last = (await read_all(journal, tmp_path))[-1]
        assert journal.book.lineage.of(last.position).epoch == SECOND
        said = json.loads(last.event)
        assert said["type"] == "nightsafe.condition.raised"
        assert (said["data"]["epoch"], said["data"]["why"]) == (SECOND, "lost")


async def test_a_record_that_the_cloud_refuses_is_told_though_the_box_had_refused_the_same_bytes(
    tmp_path: Path,
) -> None:
    body = counted("e1", 1)
    async with living(tmp_path) as journal:
        await journal.store(judge("till-1", body, 100, 16, 4096))
        await Quarantine(journal, 262_144, 16, 4096).resubmit(1, "sam", "limit raised")
        assert journal.book.quarantined_count == 0
        (record,) = [one for one in await read_all(journal, tmp_path) if one.device == "till-1"]
        for _ in range(2):
            await journal.uploads.quarantine_record(record, "malformed")
            assert journal.book.quarantined_count == 1


async def test_what_was_found_damaged_is_never_said_to_have_been_deleted(tmp_path: Path) -> None:
    async with living(tmp_path) as journal:
        await store(journal, 1, 9)
        records = await read_all(journal, tmp_path)
        await journal.uploads.advance(9, 9, [])
        connection = sqlite3.connect(tmp_path / "journal.sqlite")
        connection.execute("insert into missing (first, last, reason, found_ms) values (4, 4, 'a flipped bit', 0)")
        connection.commit()
        connection.close()
        reader = await Reader.open(tmp_path, 1_048_576, lambda: journal.book.lineage)
        side = DrainSide(journal, reader, lambda: SECOND)
        assert "deleted these records when their time was up" in await side.missing_reason(1, 2)
        assert "lost on the box's disk (a flipped bit)" in await side.missing_reason(4, 4)
        assert "lost on the box's disk (a flipped bit)" in await side.missing_reason(1, 6)
        await reader.close()
    assert len(records) >= 9
