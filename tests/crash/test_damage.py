"""Damage on the disk, by seed: no wrong byte is ever handed to the drain, and every loss is named.

Covers, in the scenario table's words: a torn write and a garbage tail in the log; a flipped bit, a zeroed page, a
truncated database file; a deleted log, the database replaced by an older copy or by something else. The real journal's
files are damaged, opened by the agent's own start-up code, swept, read as the drain reads them, and then every till
sends again all that it ever sent.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from agent.core.arrivals import Outcome
from agent.core.errors import Held
from agent.core.events import Event
from agent.journal import names, salvage
from agent.journal.inspect import verify
from agent.journal.repaired import Repaired
from agent.journal.writer import Journal
from tests.crash.damage import (
    KINDS,
    LIMITS,
    Life,
    Made,
    Named,
    Truth,
    as_event,
    copy,
    id_of,
    judged,
    kept_ids,
    make,
    named,
    read_as_the_drain,
    recovered,
    submit,
    went_up_as_it_was,
)
from tests.property.journal_rig import QUICK, VENUE, Ticking

SHORT, LONG = 42, 340
OWN_HOLE = [("till-2", "e1", 30, 30)]
"""What till-2 never sent: asked for before and after."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """One journal for the tests of this module, on a disk that is quick."""
    base = Path(QUICK or tmp_path_factory.mktemp("damage")) / f"damage-{os.getpid()}"
    yield asyncio.run(make(base, seed=1))
    shutil.rmtree(base, ignore_errors=True)


class Verdict(NamedTuple):
    """What one damage cost: records that the cloud lacks and the box had lost, until the tills sent them again; those
    that were mended; and events that the cloud has, that the disk destroyed here, and that the box took again when
    their tills sent them once more."""

    lost: int
    mended: int
    again: int


async def judge(made: Made, folder: Path) -> Verdict:
    """Open, sweep, read, resend; every promise is checked on the way."""
    readable, life = await recovered(folder, Ticking())
    try:
        truth = {(one.device, id_of(one.event)): one for one in made.records}
        in_cloud = {key for key, one in truth.items() if one.position <= made.uploaded}
        places = []
        for record in readable:
            original = truth.get((record.device, record.event_id))
            assert original is not None or record.device == "agent", f"made up: {record}"
            if original is not None:
                assert went_up_as_it_was(record, original), f"other than it was: {record}, {original.when}"
                places.append(original.position)
        assert places == sorted(set(places)), "twice, or in another order"
        read = {(record.device, record.event_id) for record in readable}
        lost = {key: one for key, one in truth.items() if key not in in_cloud and key not in read}
        beside = names.read(made.folder)
        assert beside is not None
        _judge_names(list(lost.values()), named(folder), beside.watermark)
        kept = set(_each_once(kept_ids(folder)))
        taken = await _send_again(made, life)
        assert not taken & kept, "stored a second time, with the first one in the log"
        _each_once(kept_ids(folder))
        everything = in_cloud | {(one.device, one.event_id) for one in await read_as_the_drain(life)}
        assert {key for key in truth if key[0] != "agent"} <= everything, "sent again, and still not there"
        assert asked_for(life) == OWN_HOLE
        mended = sum(len(done.mended) for done in life.repaired)
    finally:
        await life.__aexit__()
    report = verify(folder)
    assert not report.faults, report.faults
    async with Life(folder, Ticking()) as again:
        assert not again.repaired, f"the next start finds damage again: {again.repaired}"
    return Verdict(len(lost), mended, len(taken & in_cloud))


def _each_once(keys: list[tuple[str, str]]) -> list[tuple[str, str]]:
    assert len(keys) == len(set(keys)), "an event is twice in the log"
    return keys


def _judge_names(lost: list[Truth], told: Named, written: int) -> None:
    """Whose counting is known is named by number; of the others at least the device, or how many they are. `written` is
    how far the figures beside the database went: of a lost end behind that nobody knows whose events they were."""
    unnumbered = [one for one in lost if (one.device, one.epoch, one.sequence) not in told.sequences]
    for one in unnumbered:
        assert one.epoch is None or one.position > written, f"not named by its number: {one[:4]}"
        assert one.position in told.positions or one.device in told.devices, f"lost without a word: {one[:4]}"
    blind = [one for one in unnumbered if one.device not in told.devices]
    assert len(blind) <= told.unnamed, f"{len(blind)} are gone, {told.unnamed} counted"


def asked_for(life: Life) -> list[tuple[str, str, int, int]]:
    """What devices are asked to send again."""
    return [(gap.device, gap.epoch, gap.missing_first, gap.missing_last) for gap in life.journal.open_gaps()]


async def _send_again(made: Made, life: Life) -> set[tuple[str, str]]:
    """Every till sends all that it ever sent: what is there is a duplicate, what was lost is taken, nothing is refused
    that was not before. Returns the (device, id) of those that were stored now."""
    taken = set()
    for till, bodies in made.sent.items():
        items = [judged(till, body) for body in bodies]
        outcomes = await submit(life.journal, items)
        good = (Outcome.STORED, Outcome.DUPLICATE)
        assert all(outcome in good for item, outcome in zip(items, outcomes, strict=True) if isinstance(item, Event)), (
            outcomes
        )
        taken |= {
            (till, item.id)
            for item, outcome in zip(items, outcomes, strict=True)
            if isinstance(item, Event) and outcome is Outcome.STORED
        }
    return taken


def damaged(made: Made, folder: Path, seed: int) -> str:
    """A copy of the journal in `folder`, damaged as the seed says."""
    copy(made.folder, folder)
    return KINDS[seed % len(KINDS)](made, folder, Random(seed))


@pytest.mark.parametrize("seed", range(SHORT))
async def test_A3_7_damage_uploads_no_wrong_byte_and_names_every_loss(made: Made, tmp_path: Path, seed: int) -> None:
    print(damaged(made, tmp_path / "state", seed))
    await judge(made, tmp_path / "state")


@pytest.mark.long
async def test_A3_7_three_hundred_damages_upload_no_wrong_byte_and_name_every_loss(made: Made) -> None:
    verdicts = []
    for seed in range(LONG):
        folder = made.folder.with_name(f"long-{seed}")
        what = damaged(made, folder, seed)
        print(f"seed {seed}: {what}")
        verdicts.append(await judge(made, folder))
        shutil.rmtree(folder)
    losing, doubling = [one for one in verdicts if one.lost], [one for one in verdicts if one.again]
    print(
        f"{len(verdicts)} damages: {sum(one.lost for one in losing)} records lost on the box by {len(losing)} of them, "
        f"each named, {sum(one.mended for one in verdicts)} mended; {sum(one.again for one in doubling)} events that "
        f"the cloud had were taken again after {len(doubling)} of them; 0 twice in a log, 0 reordered"
    )
    assert losing
    assert any(one.mended for one in verdicts)


@pytest.mark.parametrize("damage", ["a broken log", "no files"])
async def test_a_rebuild_that_is_killed_anywhere_is_done_by_the_next_start(
    made: Made, tmp_path: Path, damage: str
) -> None:
    """Each step of a salvage fails once; whatever it leaves, the next start ends it, with all records, and says what
    is lost as the one that nobody killed does."""
    told, at = await _told(made, tmp_path / "whole", damage), 0
    assert (told.lost_count == 0) is (damage == "a broken log")
    while True:
        folder = tmp_path / f"state-{at}"
        _break(made, folder, damage)
        at += 1
        if not await _dies(folder, at):
            break
        unfinished = salvage.reason(folder, VENUE) is not None
        async with Life(folder, Ticking()) as life:
            found = [done.lost_count for done in life.repaired]
        assert found == ([told.lost_count] if unfinished else []), f"killed at step {at}"
        assert named(folder).lost_count == told.lost_count
        await judge(made, folder)
    assert at > 12


async def _told(made: Made, folder: Path, damage: str) -> Repaired:
    _break(made, folder, damage)
    async with Life(folder, Ticking()) as life:
        (done,) = life.repaired
        return done


def _break(made: Made, folder: Path, damage: str) -> None:
    copy(made.folder, folder)
    wal = folder / "journal.sqlite-wal"
    if damage == "no files":
        wal.unlink()
        (folder / "journal.sqlite").unlink()
        return
    content = bytearray(wal.read_bytes())
    content[5000] ^= 1
    wal.write_bytes(content)


async def _dies(folder: Path, at: int) -> bool:
    """Open the journal with the `at`-th rename, removal or sync failing as a kill would; False when it did not."""
    steps = 0

    class Killed(BaseException):
        pass

    def strike(call: object) -> object:
        def struck(*arguments: object, **named: object) -> object:
            nonlocal steps
            steps += 1
            if steps == at:
                raise Killed
            return call(*arguments, **named)  # type: ignore[operator]

        return struck

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Path, "rename"), (Path, "unlink"), (Path, "replace"), (os, "fsync")):
            patch.setattr(owner, name, strike(getattr(owner, name)))
        try:
            async with Life(folder, Ticking()):
                return False
        except Killed:
            return True


async def test_a_lost_last_record_leaves_its_place_behind(made: Made, tmp_path: Path) -> None:
    """What comes after it stands behind its position, and joins on to what it was."""
    folder = tmp_path / "state"
    copy(made.folder, folder)
    last = made.records[-1]
    async with Life(folder, Ticking()) as life:
        await life.journal.writing._database.run(lambda c: c.execute(*_spoil(last.position, last.event)).rowcount)
        head = life.journal.book.head
        assert await life.journal.mending.repair(last.position)
        assert not await life.journal.mending.repair(last.position), "once is enough"
        behind = await life.reader.batch(last.position, 10, 1 << 20)
        assert behind[0].position == last.position + 1
        assert behind[0].prevhash == head
        (done,) = life.repaired
        assert done.positions == ((last.position, last.position),)
        assert (folder / str(done.kept_in)).stat().st_mode & 0o777 == 0o600
        await judge_resend(life, made)


async def judge_resend(life: Life, made: Made) -> None:
    await _send_again(made, life)
    assert asked_for(life) == OWN_HOLE


async def test_a_lost_last_record_is_found_at_start_too(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    copy(made.folder, folder)
    last = made.records[-1]
    async with Life(folder, Ticking()) as life:
        head = life.journal.book.head
        await life.journal.writing._database.run(lambda c: c.execute(*_spoil(last.position, last.event)).rowcount)
    async with Life(folder, Ticking()) as life:
        behind = await life.reader.batch(last.position, 10, 1 << 20)
        assert (behind[0].position, behind[0].prevhash) == (last.position + 1, head)
        if last.epoch is not None:
            assert (last.device, last.epoch) in {(one.device, one.epoch) for one in life.repaired[0].lost}
        await judge_resend(life, made)


def _spoil(position: int, event: bytes) -> tuple[str, tuple[bytes, int]]:
    """Several bits of the event, so that it cannot be mended."""
    spoilt = bytearray(event)
    for at in (10, 20, 30):
        spoilt[at] ^= 0x41
    return "update records set event = ? where position = ?", (bytes(spoilt), position)


async def test_a_receipt_goes_back_when_its_events_are_lost(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    copy(made.folder, folder)
    async with Life(folder, Ticking()) as life:
        victim = next(one for one in made.records if one.device == "till-1" and one.position > made.uploaded + 5)
        before = {(one.device, one.epoch): one.stored for one in life.journal.receipts_due()}
        await life.journal.writing._database.run(lambda c: c.execute(*_spoil(victim.position, victim.event)).rowcount)
        await life.journal.mending.repair(victim.position)
        after = {(one.device, one.epoch): one for one in life.journal.receipts_due()}["till-1", "e1"]
        assert victim.sequence is not None
        assert before["till-1", "e1"] == 100
        assert after.stored == victim.sequence - 1
        assert after.gaps == ((victim.sequence, victim.sequence),)
        item = as_event("till-1", victim.event)
        assert item is not None
        assert await submit(life.journal, [item]) == [Outcome.STORED]
        assert asked_for(life) == OWN_HOLE


async def test_an_older_copy_that_is_put_back_casts_doubt_on_the_epoch(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    copy(made.folder, folder)
    (folder / "journal.sqlite-wal").unlink()
    shutil.copy(made.older / "journal.sqlite", folder / "journal.sqlite")
    before = verify(folder)
    assert any("this is not the journal as the box left it" in fault for fault in before.faults)
    async with Life(folder, Ticking()) as life:
        assert life.journal.book.doubt == "restored"
        assert life.repaired
    after = verify(folder)
    assert not after.faults
    assert after.doubt == "restored"


async def test_another_venues_journal_is_held_and_left_alone(made: Made, tmp_path: Path) -> None:
    """Without a mark of ours nothing says that it was put there by mistake: a person must look."""
    folder = tmp_path / "state"
    copy(made.folder, folder)
    (folder / "journal.mark").unlink()
    with pytest.raises(Held, match="belongs to the venue"):
        await Journal.open(folder, "other", "0199c0de-0000-7000-8000-000000000002", Ticking(), LIMITS)
    assert not (folder / "damaged").exists()


async def test_a_file_that_cannot_be_read_where_it_matters_is_rebuilt_at_once(made: Made, tmp_path: Path) -> None:
    """Nothing is taken meanwhile; then the same journal goes on, with every record."""
    folder = tmp_path / "state"
    copy(made.folder, folder)
    async with Life(folder, Ticking()) as life:
        item = as_event("till-1", made.sent["till-1"][0])
        assert item is not None
        life.journal.mending.demand_rebuild("a page cannot be read", now=True)
        assert await submit(life.journal, [item]) == [Outcome.UNSTORED]
        async with asyncio.timeout(20):
            while not life.repaired:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert ["a page cannot be read" in done.reason for done in life.repaired] == [True]
        assert life.repaired[0].lost_count == 0
        assert await submit(life.journal, [item]) == [Outcome.DUPLICATE]
    await judge(made, folder)
