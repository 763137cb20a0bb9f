"""A real journal of a few hundred events, its files as a killed process leaves them, and ways to damage them.

What is right is kept outside: every record as it was before. Each damage comes from a seed, so that it can be seen
again.
"""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec

from agent.core import events
from agent.core.arrivals import Item, Outcome
from agent.core.errors import JournalDamaged, RecordDamaged
from agent.core.events import Event
from agent.core.instants import to_text
from agent.core.mend import UNKNOWN_BOOT
from agent.journal import mark, names
from agent.journal.database import FILE_NAME, PAGE_BYTES, corrupt
from agent.journal.reader import Reader, Stored
from agent.journal.repaired import Repaired
from agent.journal.survey import Survey
from agent.journal.uploads import Uploaded
from agent.journal.writer import Journal
from agent.journal.writing import Limits
from tests.property.journal_rig import STREAM, VENUE, Ticking
from tests.sales import event

LIMITS = Limits(10_000, 50_000_000, 5, 64, 1_048_576, 1_000_000_000)
FILES = (FILE_NAME, f"{FILE_NAME}-wal", mark.FILE_NAME, names.FILE_NAME)
ROUNDS_MAX = 60
"""So often does a damaged journal need help at most until all of it can be read."""


class Truth(NamedTuple):
    """One record as it was."""

    position: int
    device: str
    epoch: str | None
    sequence: int | None
    event: bytes
    when: tuple[str, str, str, int]
    """recordedtime, clock, boot and uptime_ms, as they go up."""


class Made(NamedTuple):
    """The files of a journal (`older`: an earlier copy of the database), its records, and how many the cloud has."""

    folder: Path
    older: Path
    records: list[Truth]
    uploaded: int
    sent: dict[str, list[bytes]]


def sales(seed: int) -> dict[str, list[bytes]]:
    """What each till sends, in order; some events are long, one till counts nothing, one has a hole."""
    chance = Random(seed)
    made: dict[str, list[bytes]] = {}
    for till, epoch in (("till-1", "e1"), ("till-2", "e1"), ("till-3", None)):
        made[till] = []
        for number in range(1, 101):
            note = "x" * chance.choice((0, 0, 0, 40, 700, 1500, 4000))
            place = {"epoch": epoch, "sequence": f"{number:020d}"} if epoch is not None else {}
            if till == "till-2" and number == 30:
                continue  # a hole of its own
            made[till].append(event(id=f"{till}-{number:04d}", note=note, **place))
    made["till-1"].insert(50, b'{"specversion":"1.0","id":"bad","source":"s","type":"nightsafe.x","epoch":"e1"}')
    return made


def judged(device: str, payload: bytes) -> Item:
    return events.judge(device, payload, 262_144, 64, 4096)


async def submit(journal: Journal, items: Sequence[Item]) -> list[Outcome]:
    """Submit all, wait for every outcome; the journal's loop must run."""
    told: list[Outcome] = []
    done = asyncio.Event()

    def settle(_: Item, outcome: Outcome) -> None:
        told.append(outcome)
        if len(told) == len(items):
            done.set()

    for item in items:
        journal.submit(item, settle)
    if items:
        await done.wait()
    return told


class Life:
    """One running journal with its reader."""

    def __init__(self, folder: Path, clock: Ticking) -> None:
        self.folder = folder
        self.clock = clock
        self.repaired: list[Repaired] = []
        self.journal: Journal
        self.reader: Reader
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None]

    async def __aenter__(self) -> "Life":
        self.journal = await Journal.open(self.folder, VENUE, STREAM, self.clock, LIMITS)
        self.journal.mending.on_repaired(self.repaired.append)
        self.reader = await Reader.open(self.folder, 1_048_576, lambda: self.journal.book.lineage)
        self._running = asyncio.create_task(self.journal.run(lambda: None, self._stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.reader.close()
        await self.journal.close()

    async def upload(self, to: int) -> None:
        """The cloud has everything up to position `to`."""
        records = await self.reader.batch(self.journal.book.cursor, to - self.journal.book.cursor, 1 << 30)
        await self.journal.uploads.advance(
            to, to // 2, [Uploaded(r.device_epoch, r.device_sequence, len(r.event)) for r in records]
        )


async def make(base: Path, seed: int) -> Made:
    """A journal in `base`/live, killed: files in `base`/killed, an earlier copy in `base`/older."""
    live, killed, older = base / "live", base / "killed", base / "older"
    live.mkdir(parents=True)
    clock, chance = Ticking(), Random(seed)
    sent = sales(seed)
    waiting = {till: list(bodies) for till, bodies in sent.items()}
    async with Life(live, clock) as life:
        count = 0
        while any(waiting.values()):
            till = chance.choice([till for till, bodies in waiting.items() if bodies])
            group, waiting[till] = waiting[till][:7], waiting[till][7:]
            await submit(life.journal, [judged(till, body) for body in group])
            count += 1
            if count == 12:
                await life.journal.writing._database.run(
                    lambda c: c.execute("pragma wal_checkpoint(truncate)").fetchall()
                )
                copy(live, older)
            if count == 18:
                await life.upload(life.journal.book.position // 2)
        await life.upload(life.journal.book.position * 6 // 10)
        uploaded = life.journal.book.cursor
        copy(live, killed)
    return Made(killed, older, read(killed), uploaded, sent)


def copy(source: Path, target: Path) -> None:
    """The files as they are at this instant; another process copies, so that no lock of this one is dropped."""
    target.mkdir(parents=True)
    present = [str(source / name) for name in FILES if (source / name).exists()]
    subprocess.run(["cp", "--", *present, str(target)], check=True)


def read(folder: Path) -> list[Truth]:
    """Every record, read from a copy of its own."""
    scratch = folder.with_name(folder.name + "-read")
    copy(folder, scratch)
    connection = sqlite3.connect(scratch / FILE_NAME)
    rows = connection.execute(
        "select r.position, d.device, e.epoch, r.device_sequence, r.event, r.recorded_ms, r.synced, b.boot, r.uptime_ms"
        " from records r join device_epochs e on e.id = r.device_epoch join devices d on d.id = e.device"
        " join boots b on b.id = r.boot order by r.position"
    ).fetchall()
    connection.close()
    shutil.rmtree(scratch)
    return [
        Truth(*row[:2], row[2] or None, *row[3:5], (to_text(row[5]), "synced" if row[6] else "unsynced", *row[7:]))
        for row in rows
    ]


# Ways to damage -------------------------------------------------------------------------------------------------------

Damage = Callable[[Made, Path, Random], str]
"""Damages the files in a folder; says what it did."""


def _flip(path: Path, chance: Random, times: int = 1) -> str:
    content = bytearray(path.read_bytes())
    places = [chance.randrange(len(content) * 8) for _ in range(times)]
    for place in places:
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    return f"{path.name}: bits {places[:4]} flipped"


def _page(path: Path, chance: Random, filler: Callable[[int], bytes], head: int, step: int) -> str:
    content = bytearray(path.read_bytes())
    number = chance.randrange((len(content) - head) // step)
    at = head + number * step
    content[at : at + step] = filler(step)
    path.write_bytes(content)
    return f"{path.name}: page image {number} overwritten"


def flip_database(_: Made, folder: Path, chance: Random) -> str:
    return _flip(folder / FILE_NAME, chance)


def flip_log(_: Made, folder: Path, chance: Random) -> str:
    return _flip(folder / f"{FILE_NAME}-wal", chance)


def flip_many(_: Made, folder: Path, chance: Random) -> str:
    return _flip(folder / FILE_NAME, chance, 12)


def flip_beside(_: Made, folder: Path, chance: Random) -> str:
    return _flip(folder / chance.choice((mark.FILE_NAME, names.FILE_NAME)), chance, 3)


def zero_page(_: Made, folder: Path, chance: Random) -> str:
    return _page(folder / FILE_NAME, chance, bytes, 0, PAGE_BYTES)


def garble_page(_: Made, folder: Path, chance: Random) -> str:
    return _page(folder / FILE_NAME, chance, chance.randbytes, 0, PAGE_BYTES)


def zero_frame(_: Made, folder: Path, chance: Random) -> str:
    return _page(folder / f"{FILE_NAME}-wal", chance, bytes, 32, PAGE_BYTES + 24)


def garble_frame(_: Made, folder: Path, chance: Random) -> str:
    return _page(folder / f"{FILE_NAME}-wal", chance, chance.randbytes, 32, PAGE_BYTES + 24)


def cut_database(_: Made, folder: Path, chance: Random) -> str:
    size = chance.randrange((folder / FILE_NAME).stat().st_size)
    os.truncate(folder / FILE_NAME, size)
    return f"database cut to {size} bytes"


def cut_log(_: Made, folder: Path, chance: Random) -> str:
    wal = folder / f"{FILE_NAME}-wal"
    size = chance.randrange(wal.stat().st_size)
    os.truncate(wal, size)
    return f"log cut to {size} bytes"


def no_log(_: Made, folder: Path, chance: Random) -> str:
    (folder / f"{FILE_NAME}-wal").unlink()
    return "log deleted"


def no_database(_: Made, folder: Path, chance: Random) -> str:
    (folder / FILE_NAME).unlink()
    if chance.random() < 0.5:
        (folder / f"{FILE_NAME}-wal").unlink()
        return "database and log deleted"
    return "database deleted"


def foreign(_: Made, folder: Path, chance: Random) -> str:
    kind = chance.choice(("noise", "text", "empty", "other database"))
    path = folder / FILE_NAME
    path.unlink()
    if chance.random() < 0.5:
        (folder / f"{FILE_NAME}-wal").unlink()
    if kind == "other database":
        connection = sqlite3.connect(path)
        connection.execute("create table holiday (photo blob)")
        connection.commit()
        connection.close()
    else:
        path.write_bytes({"noise": chance.randbytes(20_000), "text": b"hello " * 99, "empty": b""}[kind])
    return f"another file in its place: {kind}"


def older_copy(made: Made, folder: Path, chance: Random) -> str:
    shutil.copy(made.older / FILE_NAME, folder / FILE_NAME)
    if chance.random() < 0.5:
        (folder / f"{FILE_NAME}-wal").unlink()
        return "an older copy put back"
    return "an older copy put back beside the newer log"


def flip_without_names(_: Made, folder: Path, chance: Random) -> str:
    (folder / names.FILE_NAME).unlink()
    return "no names; " + _flip(folder / FILE_NAME, chance, 2)


KINDS: tuple[Damage, ...] = (
    flip_database, flip_log, zero_page, garble_page, flip_database, zero_frame, garble_frame, flip_many, flip_beside,
    cut_database, flip_database, cut_log, no_log, no_database, foreign, older_copy, flip_without_names,
)  # fmt: skip


# What comes of it -----------------------------------------------------------------------------------------------------


async def recovered(folder: Path, clock: Ticking) -> tuple[list[Stored], Life]:
    """Open it as the agent does, and read all that the cloud lacks as the drain does; the last life still runs."""
    for _ in range(ROUNDS_MAX):
        life = await Life(folder, clock).__aenter__()
        try:
            await sweep(life)
            return await read_as_the_drain(life), life
        except JournalDamaged as damaged:
            life.journal.mending.demand_rebuild(damaged.text)
            await life.__aexit__()
    raise AssertionError("it does not become readable")


async def sweep(life: Life) -> None:
    """One round of looking for damage, with its repairs. Raises JournalDamaged where the file as such is damaged."""
    survey = await Survey.open(life.folder, 1_048_576, lambda: life.journal.book.lineage)
    try:
        if found := await survey.structure():
            raise corrupt(found[0])
        after: int | None = 0
        while after is not None:
            look = await survey.look(after, 50)
            for position in look.damaged:
                await life.journal.mending.repair(position)
            assert not look.unjoined, look
            if look.holes:
                raise corrupt(f"holes {look.holes}")
            after = look.last
    finally:
        await survey.close()


async def read_as_the_drain(life: Life) -> list[Stored]:
    found: list[Stored] = []
    after = life.journal.book.cursor
    for _ in range(100_000):
        try:
            batch = await life.reader.batch(after, 50, 1 << 20)
        except RecordDamaged as damaged:
            if not await life.journal.mending.repair(damaged.position):
                raise AssertionError("nothing to repair where the reader found damage") from damaged
            continue
        if not batch:
            return found
        found += batch
        after = batch[-1].position
    raise AssertionError("it does not end")


def went_up_as_it_was(record: Stored, original: Truth) -> bool:
    """Every field that the cloud is told; a boot that is not known any more is said to be unknown, and then no uptime
    and no synced clock is claimed."""
    when = (record.recordedtime, record.clock, record.boot, record.uptime_ms)
    honest = (original.when[0], "unsynced", UNKNOWN_BOOT, 0)
    return record.event == original.event and when in (original.when, honest)


def kept_ids(folder: Path) -> list[tuple[str, str]]:
    """(device, id) of every event in the log, once for each record, in order."""
    return [(one.device, id_of(one.event)) for one in read(folder)]


class Named(NamedTuple):
    """What the box's own records, and its table of missing positions, say is lost."""

    positions: set[int]
    sequences: set[tuple[str, str | None, int]]
    devices: set[str]
    unnamed: int
    lost_count: int


def named(folder: Path) -> Named:
    """Read from the journal itself."""
    connection = sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)
    own = connection.execute("select event from records").fetchall()
    missing = connection.execute("select first, last from missing").fetchall()
    connection.close()
    positions = {number for first, last in missing for number in range(first, last + 1)}
    sequences, devices, unnamed, lost_count = set[tuple[str, str | None, int]](), set[str](), 0, 0
    for (body,) in own:
        if b"nightsafe.journal.repaired" not in body:
            continue
        data = json.loads(body)["data"]
        lost_count += data["lost_count"]
        unnamed += data["unnamed"]
        positions |= {n for first, last in data["positions"] for n in range(int(first), int(last) + 1)}
        for one in data["lost"]:
            if one["from"] is None:
                devices.add(one["device"])
            else:
                numbers = range(int(one["from"]), int(one["to"]) + 1)
                sequences |= {(one["device"], one["epoch"], number) for number in numbers}
    return Named(positions, sequences, devices, unnamed, lost_count)


class _Id(msgspec.Struct):
    id: str


def id_of(body: bytes) -> str:
    return msgspec.json.decode(body, type=_Id).id


def as_event(device: str, body: bytes) -> Event | None:
    verdict = judged(device, body)
    return verdict if isinstance(verdict, Event) else None
