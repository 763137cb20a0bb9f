"""What every ledger must do. A new ledger joins by its URL in `LEDGERS`; nothing here knows how one is made."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.core.chain import ORIGIN, rechash
from agent.core.errors import SettingsInvalid, Transient
from agent.receiver.ledger import (
    Appended,
    Closed,
    Conflict,
    Declared,
    Fenced,
    Gap,
    Hole,
    Ledger,
    NoParent,
    NoStream,
    Opened,
    Opening,
    Parent,
    Rejection,
    Row,
    Stream,
)
from agent.receiver.ledger.urls import open_ledger, open_reader

LEDGERS = {"sqlite": "sqlite:{folder}/ledger.db"}
"""URLs by name; `{folder}` is an empty folder of the test's own."""

VENUE = "demo"
ONE, TWO, THREE = (f"0199c0de-0000-7000-8000-00000000000{n}" for n in (1, 2, 3))


@pytest.fixture(params=list(LEDGERS.values()), ids=list(LEDGERS))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param).format(folder=tmp_path)


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[Ledger]:
    opened = await open_ledger(url)
    yield opened
    await opened.close()


def rows(first: int, last: int, prevhash: bytes = ORIGIN, word: str = "a") -> list[Row]:
    """Rows first..last, chained on to `prevhash`."""
    made = []
    for sequence in range(first, last + 1):
        event = f'{{"{word}":{sequence}}}'.encode()
        prevhash = rechash(prevhash, sequence, "t", "till-1", event)
        made.append(Row(prevhash, event, None))
    return made


def opening(epoch: str = ONE, instance: str = "i1", parent: Parent | None = None, venue: str = VENUE) -> Opening:
    return Opening(venue, epoch, parent, instance, "created", "2026-11-22T10:15:00.000Z")


def hole(first: int, last: int, prevhash: bytes, end: bytes) -> Hole:
    return Hole(first, last, prevhash, end, "retention", "2026-11-22T10:15:00.000Z")


async def append(ledger: Ledger, first: int, made: list[Row], prevhash: bytes = ORIGIN, epoch: str = ONE) -> object:
    return await ledger.append(VENUE, epoch, "i1", first, prevhash, made)


async def appended(ledger: Ledger, first: int, made: list[Row], prevhash: bytes = ORIGIN, epoch: str = ONE) -> Appended:
    outcome = await append(ledger, first, made, prevhash, epoch)
    assert isinstance(outcome, Appended)
    return outcome


async def stream(ledger: Ledger, epoch: str = ONE, venue: str = VENUE) -> Stream:
    found = await ledger.stream(venue, epoch)
    assert found is not None
    return found


async def texts(url: str, venue: str = VENUE) -> list[bytes]:
    reader = await open_reader(url)
    try:
        return [text async for page in reader.records(venue) for text in page]
    finally:
        await reader.close()


# Opening


async def test_a_new_stream_begins_at_one_with_the_zero_hash(ledger: Ledger) -> None:
    outcome = await ledger.open(opening())
    assert outcome == Opened(Stream(VENUE, ONE, 1, ORIGIN, 0, ORIGIN, "i1", "open", None), True)
    assert await ledger.stream(VENUE, ONE) == outcome.stream


async def test_opening_again_binds_and_keeps_what_is_there(ledger: Ledger) -> None:
    await ledger.open(opening())
    made = rows(1, 3)
    await append(ledger, 1, made)
    outcome = await ledger.open(opening(instance="i2"))
    assert isinstance(outcome, Opened)
    assert not outcome.created
    assert (outcome.stream.next, outcome.stream.head, outcome.stream.instance) == (4, made[2].rechash, "i2")


async def test_the_same_epoch_at_two_venues_is_two_streams(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    await ledger.open(opening(venue="other"))
    await append(ledger, 1, rows(1, 2))
    assert (await stream(ledger)).next == 3
    assert (await stream(ledger, venue="other")).next == 1
    assert await texts(url, "other") == []


async def test_an_unknown_stream_is_told_as_such(ledger: Ledger) -> None:
    assert await ledger.stream(VENUE, ONE) is None
    assert await ledger.hash_at(VENUE, ONE, 0) is None
    assert await append(ledger, 1, rows(1, 1)) == NoStream()
    assert await ledger.declare_hole(VENUE, ONE, "i1", hole(1, 1, ORIGIN, ORIGIN)) == NoStream()
    assert await ledger.close_stream(VENUE, ONE, None) is None


# Appending


async def test_what_was_appended_is_safe_and_reads_back_in_order(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 2500)
    first = await appended(ledger, 1, made[:1000])
    second = await appended(ledger, 1001, made[1000:], made[999].rechash)
    assert (first.accepted, first.duplicate, first.rejected) == (1000, 0, [])
    assert (second.stream.next, second.stream.head, second.stream.safe) == (2501, made[-1].rechash, 2500)
    assert await stream(ledger) == second.stream
    assert await texts(url) == [row.text for row in made]


async def test_records_that_are_there_count_as_duplicates(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 5)
    await append(ledger, 1, made)
    again = await appended(ledger, 1, made)
    assert (again.accepted, again.duplicate, again.stream.next) == (0, 5, 6)
    assert len(await texts(url)) == 5


async def test_of_a_batch_that_overlaps_only_the_rest_is_new(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 8)
    await append(ledger, 1, made[:5])
    more = await appended(ledger, 4, made[3:], made[2].rechash)
    assert (more.accepted, more.duplicate, more.stream.next) == (3, 2, 9)
    assert await texts(url) == [row.text for row in made]


async def test_nothing_is_taken_after_a_gap(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 5)
    await append(ledger, 1, made[:2])
    outcome = await append(ledger, 4, made[3:], made[2].rechash)
    assert isinstance(outcome, Gap)
    assert (outcome.stream.next, outcome.stream.head) == (3, made[1].rechash)
    assert len(await texts(url)) == 2


async def test_other_content_at_a_sequence_is_a_conflict_there(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 4)
    await append(ledger, 1, made)
    other = made[:2] + rows(3, 6, made[1].rechash, "b")
    outcome = await append(ledger, 1, other)
    assert isinstance(outcome, Conflict)
    assert (outcome.sequence, outcome.stream.next) == (3, 5)
    assert await texts(url) == [row.text for row in made]


async def test_a_prevhash_that_does_not_join_on_is_a_conflict_before_the_batch(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 4)
    await append(ledger, 1, made[:3])
    for first, sequence in ((4, 3), (2, 1), (1, 0)):
        outcome = await append(ledger, first, made[first - 1 :], b"\x01" * 32)
        assert isinstance(outcome, Conflict)
        assert outcome.sequence == sequence
    assert len(await texts(url)) == 3


async def test_an_empty_batch_is_checked_and_changes_nothing(ledger: Ledger) -> None:
    await ledger.open(opening())
    assert (await appended(ledger, 1, [])).stream.next == 1
    assert isinstance(await append(ledger, 1, [], b"\x01" * 32), Conflict)


async def test_a_rejected_record_consumes_its_sequence_and_stands_in_quarantine(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 3)
    why = Rejection("urn:nightsafe:schema", "no object")
    made[1] = Row(made[1].rechash, b"[1]", why)
    outcome = await appended(ledger, 1, made)
    assert (outcome.accepted, outcome.rejected, outcome.stream.next) == (3, [(2, why)], 4)
    assert await ledger.hash_at(VENUE, ONE, 2) == made[1].rechash
    assert await texts(url) == [made[0].text, made[2].text]
    reader = await open_reader(url)
    (found,) = [one async for page in reader.rejected(VENUE) for one in page]
    await reader.close()
    assert (found.epoch, found.sequence, found.type, found.detail, found.text) == (ONE, 2, *why, b"[1]")


async def test_a_rejection_is_told_again_to_who_sends_the_record_again(ledger: Ledger) -> None:
    await ledger.open(opening())
    why = Rejection("urn:nightsafe:schema", "no object")
    made = [*rows(1, 1)]
    made.append(Row(rows(2, 2, made[0].rechash)[0].rechash, b"1", why))
    await append(ledger, 1, made)
    again = await appended(ledger, 1, made)
    assert (again.duplicate, again.rejected) == (2, [(2, why)])
    only_first = await appended(ledger, 1, made[:1])
    assert only_first.rejected == []


# Fencing and closing


async def test_only_the_instance_bound_last_may_write(ledger: Ledger, url: str) -> None:
    await ledger.open(opening(instance="i1"))
    await ledger.open(opening(instance="i2"))
    made = rows(1, 2)
    assert await ledger.append(VENUE, ONE, "i1", 1, ORIGIN, made) == Fenced()
    assert await ledger.declare_hole(VENUE, ONE, "i1", hole(1, 2, ORIGIN, made[1].rechash)) == Fenced()
    assert isinstance(await ledger.append(VENUE, ONE, "i2", 1, ORIGIN, made), Appended)
    assert len(await texts(url)) == 2


async def test_a_closed_stream_takes_nothing_and_names_its_successor(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 3)
    await append(ledger, 1, made[:2])
    closed = await ledger.close_stream(VENUE, ONE, TWO)
    assert closed is not None
    assert (closed.state, closed.successor, closed.next) == ("closed", TWO, 3)
    assert await append(ledger, 3, made[2:], made[1].rechash) == Closed(TWO)
    assert await ledger.declare_hole(VENUE, ONE, "i1", hole(3, 3, made[1].rechash, ORIGIN)) == Closed(TWO)
    assert await ledger.open(opening(instance="i2")) == Closed(TWO)
    assert await ledger.hash_at(VENUE, ONE, 2) == made[1].rechash
    assert len(await texts(url)) == 2


# Hashes


async def test_the_hash_is_known_for_every_record_and_for_the_origin(ledger: Ledger) -> None:
    await ledger.open(opening())
    made = rows(1, 3)
    await append(ledger, 1, made)
    found = [await ledger.hash_at(VENUE, ONE, sequence) for sequence in range(5)]
    assert found == [ORIGIN, *(row.rechash for row in made), None]


# Holes


async def test_a_hole_consumes_its_sequences_and_is_seen(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 9)
    await append(ledger, 1, made[:3])
    declared = await ledger.declare_hole(VENUE, ONE, "i1", hole(4, 6, made[2].rechash, made[5].rechash))
    assert isinstance(declared, Declared)
    assert (declared.stream.next, declared.stream.head, declared.stream.safe) == (7, made[5].rechash, 6)
    await appended(ledger, 7, made[6:], made[5].rechash)
    assert await texts(url) == [row.text for row in made[:3] + made[6:]]
    found = [await ledger.hash_at(VENUE, ONE, sequence) for sequence in (3, 4, 5, 6, 7)]
    assert found == [made[2].rechash, None, None, made[5].rechash, made[6].rechash]
    reader = await open_reader(url)
    (seen,) = [one async for page in reader.holes(VENUE) for one in page]
    await reader.close()
    assert (seen.epoch, seen.hole) == (ONE, hole(4, 6, made[2].rechash, made[5].rechash))


async def test_a_hole_may_be_the_first_thing_in_a_stream(ledger: Ledger) -> None:
    await ledger.open(opening())
    made = rows(1, 3)
    assert isinstance(await ledger.declare_hole(VENUE, ONE, "i1", hole(1, 2, ORIGIN, made[1].rechash)), Declared)
    assert (await appended(ledger, 3, made[2:], made[1].rechash)).stream.next == 4


async def test_a_hole_that_is_there_may_be_declared_again(ledger: Ledger) -> None:
    await ledger.open(opening())
    made = rows(1, 4)
    one = hole(1, 2, ORIGIN, made[1].rechash)
    await ledger.declare_hole(VENUE, ONE, "i1", one)
    await appended(ledger, 3, made[2:], made[1].rechash)
    again = await ledger.declare_hole(VENUE, ONE, "i1", one)
    assert isinstance(again, Declared)
    assert again.stream.next == 5


async def test_a_hole_where_the_same_records_are_changes_nothing(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 4)
    await append(ledger, 1, made)
    same = await ledger.declare_hole(VENUE, ONE, "i1", hole(2, 3, made[0].rechash, made[2].rechash))
    assert isinstance(same, Declared)
    other = await ledger.declare_hole(VENUE, ONE, "i1", hole(2, 3, made[0].rechash, b"\x01" * 32))
    assert isinstance(other, Conflict)
    assert other.sequence == 3
    assert len(await texts(url)) == 4


async def test_a_hole_must_join_on(ledger: Ledger) -> None:
    await ledger.open(opening())
    made = rows(1, 9)
    await append(ledger, 1, made[:3])
    late = await ledger.declare_hole(VENUE, ONE, "i1", hole(5, 6, made[3].rechash, made[5].rechash))
    early = await ledger.declare_hole(VENUE, ONE, "i1", hole(3, 6, made[1].rechash, made[5].rechash))
    other = await ledger.declare_hole(VENUE, ONE, "i1", hole(4, 6, b"\x01" * 32, made[5].rechash))
    assert isinstance(late, Gap)
    assert isinstance(early, Gap)
    assert isinstance(other, Conflict)
    assert other.sequence == 3
    assert (await stream(ledger)).next == 4


async def test_a_batch_that_begins_inside_a_hole_is_sent_on_to_the_end(ledger: Ledger) -> None:
    await ledger.open(opening())
    made = rows(1, 6)
    await ledger.declare_hole(VENUE, ONE, "i1", hole(1, 4, ORIGIN, made[3].rechash))
    outcome = await append(ledger, 3, made[2:], made[1].rechash)
    assert isinstance(outcome, Gap)
    assert outcome.stream.next == 5


async def test_a_batch_across_a_hole_is_compared_where_there_is_something(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 6)
    await append(ledger, 1, made[:1])
    await ledger.declare_hole(VENUE, ONE, "i1", hole(2, 4, made[0].rechash, made[3].rechash))
    across = await appended(ledger, 1, made)
    assert (across.duplicate, across.accepted, across.stream.next) == (4, 2, 7)
    other = await append(ledger, 1, made[:1] + rows(2, 5, made[0].rechash, "b"))
    assert isinstance(other, Conflict)
    assert other.sequence == 4
    assert await texts(url) == [made[0].text, *(row.text for row in made[4:])]


# Parents


async def test_a_child_goes_on_where_it_left_its_parent(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 5)
    await append(ledger, 1, made)
    parent = Parent(ONE, 3, made[2].rechash)
    child = await ledger.open(opening(TWO, parent=parent))
    assert isinstance(child, Opened)
    assert (child.stream.next, child.stream.head, child.stream.origin) == (1, made[2].rechash, made[2].rechash)
    assert await ledger.hash_at(VENUE, TWO, 0) == made[2].rechash
    assert isinstance(await append(ledger, 1, rows(1, 2), epoch=TWO), Conflict)
    tail = rows(1, 2, made[2].rechash, "b")
    assert (await appended(ledger, 1, tail, made[2].rechash, TWO)).stream.next == 3
    assert await texts(url) == [row.text for row in made + tail]


async def test_a_parent_stays_open_when_a_child_is_opened(ledger: Ledger) -> None:
    await ledger.open(opening())
    made = rows(1, 3)
    await append(ledger, 1, made[:2])
    await ledger.open(opening(TWO, parent=Parent(ONE, 1, made[0].rechash)))
    assert (await stream(ledger)).state == "open"
    assert (await appended(ledger, 3, made[2:], made[1].rechash)).stream.next == 4


async def test_a_parent_may_be_left_before_its_first_record(ledger: Ledger) -> None:
    await ledger.open(opening())
    child = await ledger.open(opening(TWO, parent=Parent(ONE, 0, ORIGIN)))
    assert isinstance(child, Opened)
    assert child.stream.origin == ORIGIN


async def test_a_parent_must_be_known_and_agree(ledger: Ledger) -> None:
    await ledger.open(opening())
    made = rows(1, 6)
    await append(ledger, 1, made[:3])
    await ledger.declare_hole(VENUE, ONE, "i1", hole(4, 5, made[2].rechash, made[4].rechash))
    unknown = await ledger.open(opening(TWO, parent=Parent(THREE, 1, made[0].rechash)))
    beyond = await ledger.open(opening(TWO, parent=Parent(ONE, 6, made[5].rechash)))
    inside = await ledger.open(opening(TWO, parent=Parent(ONE, 4, made[3].rechash)))
    other = await ledger.open(opening(TWO, parent=Parent(ONE, 2, b"\x01" * 32)))
    assert isinstance(unknown, NoParent)
    assert unknown.stream is None
    assert isinstance(beyond, NoParent)
    assert beyond.stream is not None
    assert beyond.stream.next == 6
    assert isinstance(inside, NoParent)
    assert isinstance(other, Conflict)
    assert other.sequence == 2
    assert await ledger.stream(VENUE, TWO) is None


async def test_a_stream_keeps_the_parent_it_was_opened_with(ledger: Ledger) -> None:
    await ledger.open(opening())
    made = rows(1, 2)
    await append(ledger, 1, made)
    parent = Parent(ONE, 2, made[1].rechash)
    await ledger.open(opening(TWO, parent=parent))
    again = await ledger.open(opening(TWO, "i2", parent))
    silent = await ledger.open(opening(TWO, "i3"))
    other = await ledger.open(opening(TWO, "i4", Parent(ONE, 1, made[0].rechash)))
    assert isinstance(again, Opened)
    assert isinstance(silent, Opened)
    assert isinstance(other, Conflict)
    found = await stream(ledger, TWO)
    assert (found.origin, found.instance) == (made[1].rechash, "i3")


async def test_epochs_read_back_in_the_order_of_opening(ledger: Ledger, url: str) -> None:
    for epoch in (THREE, ONE, TWO):
        await ledger.open(opening(epoch))
    made = {epoch: rows(1, 3, word=epoch) for epoch in (ONE, TWO, THREE)}
    for epoch in (ONE, TWO, THREE):
        await append(ledger, 1, made[epoch], epoch=epoch)
    assert await texts(url) == [row.text for epoch in (THREE, ONE, TWO) for row in made[epoch]]


# Health


async def test_the_last_heartbeat_is_kept(ledger: Ledger, url: str) -> None:
    await ledger.keep_health(VENUE, "t1", b'{"status":"pass"}')
    await ledger.keep_health(VENUE, "t2", b'{"status":"warn"}')
    reader = await open_reader(url)
    assert await reader.health(VENUE) == b'{"status":"warn"}'
    assert await reader.health("other") is None
    await reader.close()


# Lifetime


async def test_everything_is_there_after_closing_and_opening(url: str) -> None:
    ledger = await open_ledger(url)
    await ledger.open(opening())
    made = rows(1, 3)
    await append(ledger, 1, made[:2])
    await ledger.close()
    assert await texts(url) == [row.text for row in made[:2]]
    ledger = await open_ledger(url)
    assert (await appended(ledger, 3, made[2:], made[1].rechash)).stream.next == 4
    await ledger.close()


KILLED = """
import asyncio, os, signal, sys
from agent.receiver.ledger import Opening, Row
from agent.receiver.ledger.urls import open_ledger

async def main():
    ledger = await open_ledger(sys.argv[1])
    await ledger.open(Opening("demo", sys.argv[2], None, "i1", "created", "t"))
    head = bytes(32)
    for first in range(1, 10**6, 50):
        rows = [Row(n.to_bytes(32, "big"), b"%d" % n, None) for n in range(first, first + 50)]
        await ledger.append("demo", sys.argv[2], "i1", first, head, rows)
        head = rows[-1].rechash
        print(rows[-1].text.decode(), flush=True)

asyncio.run(main())
"""


async def test_what_was_answered_is_there_after_a_kill(url: str) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, url, ONE, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    told = 0
    try:
        async with asyncio.timeout(30):
            while told < 1000:
                told = int(await child.stdout.readline())
    finally:
        child.kill()
    told = max([told, *(int(line) for line in (await child.stdout.read()).split(b"\n")[:-1])])
    await child.wait()
    ledger = await open_ledger(url)
    found = await stream(ledger)
    assert found.next > told
    assert (found.next - 1) % 50 == 0
    assert found.head == (found.next - 1).to_bytes(32, "big")
    assert await ledger.hash_at(VENUE, ONE, told) == told.to_bytes(32, "big")
    await ledger.close()
    assert await texts(url) == [b"%d" % n for n in range(1, found.next)]


async def test_a_reader_sees_what_is_written_meanwhile(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 2000)
    await append(ledger, 1, made[:1500])
    reader = await open_reader(url)
    pages = reader.records(VENUE)
    seen = list(await anext(pages))
    await append(ledger, 1501, made[1500:], made[1499].rechash)
    seen += [text async for page in pages for text in page]
    await reader.close()
    assert seen == [row.text for row in made]


async def test_a_call_whose_caller_is_cancelled_is_whole_or_not_at_all(ledger: Ledger, url: str) -> None:
    await ledger.open(opening())
    made = rows(1, 3000)
    call = asyncio.ensure_future(append(ledger, 1, made))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait({call})
    found = await stream(ledger)
    assert found.next in (1, 3001)
    assert len(await texts(url)) == found.next - 1
    assert (await appended(ledger, 1, made)).stream.next == 3001


async def test_a_second_writer_is_refused_with_words(ledger: Ledger, url: str) -> None:
    with pytest.raises(SettingsInvalid, match="Another server"):
        await open_ledger(url)
    await ledger.open(opening())
    assert isinstance(await append(ledger, 1, rows(1, 1)), Appended)


async def test_a_ledger_that_is_not_there_is_not_read(url: str) -> None:
    with pytest.raises((SettingsInvalid, Transient)):
        await open_reader(url)


@pytest.mark.parametrize("other", ["postgres://host/db", "nats://host:4222", "ledger.db", "sqlite:", ""])
async def test_a_url_that_no_ledger_has_is_refused_with_words(other: str) -> None:
    for opened in (open_ledger, open_reader):
        with pytest.raises(SettingsInvalid, match="sqlite:PATH"):
            await opened(other)
