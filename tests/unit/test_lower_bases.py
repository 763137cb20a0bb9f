"""A stream that begins below the one before it: the journal opens, proves itself and is built anew with all of it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core import chain
from agent.core.events import judge
from agent.core.lineage import Lineage, Parent, Stream
from agent.journal import salvage
from agent.journal.inspect import verify
from agent.journal.reader import Reader, Stored
from agent.journal.repaired import Repaired
from agent.journal.writer import Journal
from tests.property.journal_rig import LIMITS, STREAM, VENUE, Ticking
from tests.sales import counted

SECOND = "0199c0de-0000-7000-8000-000000000002"
THIRD = "0199c0de-0000-7000-8000-000000000003"


@asynccontextmanager
async def living(folder: Path, repaired: list[Repaired] | None = None) -> AsyncIterator[Journal]:
    journal = await Journal.open(folder, VENUE, STREAM, Ticking(), LIMITS)
    journal.writing.on_repaired((repaired if repaired is not None else []).append)
    stop = asyncio.Event()
    running = asyncio.create_task(journal.run(lambda: None, stop))
    try:
        yield journal
    finally:
        stop.set()
        await running
        await journal.close()


async def store(journal: Journal, first: int, last: int) -> None:
    for number in range(first, last + 1):
        assert await journal.store(judge("till-1", counted("e1", number), 10_000, 16, 4096))


async def read_all(journal: Journal, folder: Path) -> list[Stored]:
    reader = await Reader.open(folder, 1_048_576, lambda: journal.book.lineage)
    found: list[Stored] = []
    try:
        while batch := await reader.batch(found[-1].position if found else 0, 1000, 10_000_000):
            found += batch
    finally:
        await reader.close()
    return found


async def branch(journal: Journal, folder: Path, epoch: str, at: int, of: str) -> None:
    """A new stream behind position `at`, which is a record of the stream `of`."""
    stream = journal.book.lineage.named(of)
    assert stream is not None
    seal = next(one.rechash for one in await read_all(journal, folder) if one.position == at)
    await journal.uploads.begin_stream(epoch, at, Parent(of, at - stream.base, seal), "forked", "lost")
    while not await journal.uploads.seal_on():
        pass


async def make(folder: Path) -> None:
    """Thirty records, a stream behind the twentieth, then one behind the tenth."""
    async with living(folder) as journal:
        await store(journal, 1, 30)
        await branch(journal, folder, SECOND, 20, STREAM)
        await store(journal, 31, 35)
        await branch(journal, folder, THIRD, 10, STREAM)
        await store(journal, 36, 40)


def told(records: list[Stored]) -> list[tuple[int, int, bytes, bytes]]:
    return [(one.position, one.sequence, one.rechash, one.event) for one in records]


def proven(records: list[Stored], lineage: Lineage) -> None:
    """The chain of every stream holds from its origin to its end."""
    head = chain.ORIGIN
    for one in records:
        stream = lineage.of(one.position)
        assert one.sequence == one.position - stream.base
        if one.sequence == 1:
            head = stream.origin
        assert one.prevhash == head
        head = chain.rechash(head, one.sequence, one.recordedtime, one.device, one.event)
        assert one.rechash == head


async def test_a_journal_with_a_lower_base_opens_again_as_it_was(tmp_path: Path) -> None:
    await make(tmp_path)
    assert not verify(tmp_path).faults
    repaired: list[Repaired] = []
    async with living(tmp_path, repaired) as journal:
        assert repaired == []
        assert journal.book.doubt is None
        lineage = journal.book.lineage
        assert [(one.epoch, one.base, lineage.end_of(one)) for one in lineage.all()] == [
            (STREAM, 0, 10),
            (SECOND, 20, 10),
            (THIRD, 10, None),
        ]
        before = await read_all(journal, tmp_path)
        proven(before, lineage)
        assert [one.sequence for one in before] == [*range(1, 11), *range(1, len(before) - 9)]
        await store(journal, 41, 45)
        after = await read_all(journal, tmp_path)
        assert told(after)[: len(before)] == told(before)
        proven(after, lineage)
    assert not verify(tmp_path).faults


@pytest.mark.parametrize("lost", [(), ("journal.mark",), ("journal.names",), ("streams",)])
async def test_a_journal_with_a_lower_base_is_built_anew_with_every_record(tmp_path: Path, lost: tuple[str]) -> None:
    """Also where the mark, the copy of the names, or the table of streams itself is gone."""
    await make(tmp_path)
    async with living(tmp_path) as journal:
        before = await read_all(journal, tmp_path)
    if lost == ("streams",):
        connection = sqlite3.connect(tmp_path / "journal.sqlite")
        connection.execute("delete from streams")
        connection.commit()
        connection.close()
    elif lost:
        (tmp_path / lost[0]).unlink()
    salvage.demand(tmp_path, "asked for by the test")
    repaired: list[Repaired] = []
    async with living(tmp_path, repaired) as journal:
        assert [one.lost_count for one in repaired] == [0]
        after = await read_all(journal, tmp_path)
        assert told(after)[: len(before)] == told(before)
        proven(after, journal.book.lineage)
        assert journal.book.lineage.present.epoch == THIRD
    assert not verify(tmp_path).faults


def test_a_stream_whose_records_a_lower_one_has_taken_over_has_none_left() -> None:
    first = Stream("a", 0, b"", None, "created")
    second = Stream("b", 20, b"", Parent("a", 20, b""), "forked")
    third = Stream("c", 10, b"", Parent("a", 10, b""), "forked")
    lineage = Lineage((first, second, third))
    assert [lineage.of(position) for position in (10, 11, 20, 21)] == [first, third, third, third]
    assert [lineage.end_of(one) for one in (first, second, third)] == [10, 10, None]
    forming = Lineage((first, second, third._replace(sealed=15)))
    assert [forming.of(position).epoch for position in (10, 15, 16, 20, 21)] == ["a", "c", "a", "a", "b"]
    assert forming.present == second
