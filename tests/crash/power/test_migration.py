"""A journal of an older schema is brought forward, and the power is cut at every change on the way: nothing is lost.

The older journal is made with its own statements, as the program of that schema made it: so it stays what it was.
"""

import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from msgspec import structs

from agent.core.instants import to_text
from agent.journal import database
from agent.journal.writer import Journal
from tests.crash.judge import seal
from tests.crash.power.beside import shimmed
from tests.crash.power.cloud import ORIGIN, Cloud, Opening, Taken
from tests.crash.power.disk import Disk, Way
from tests.crash.power.examine import Finding, examine, lay_out
from tests.crash.power.figures import Figures
from tests.crash.power.lives import LIMITS, sale
from tests.crash.power.shim import NO_FAULT, Shim
from tests.crash.power.tape import Op
from tests.crash.power.witness import Key, Witness
from tests.property.journal_rig import QUICK, STREAM, VENUE, Ticking

WAYS = (Way("drop"), Way("prefix"), Way("subset"))
SALES = [sale("till-1", 1), sale("till-2", 1, 900), sale("till-1", 2, 5000), sale("till-1", 3), sale("till-2", 2)]
UPLOADED = 2
MIGRATION_CHANGES = 20
"""A migration that was really seen has more changes than this."""


@pytest.fixture
def shim() -> Iterator[Shim]:
    with shimmed() as made:
        yield made


def first_schema(folder: Path) -> tuple[Witness, Cloud]:
    """The records of SALES as schema 1 kept them, two of them in the cloud; figures are those of an empty log."""
    witness, acts, head = Witness(), list[Opening | Taken]([Opening(STREAM, None)]), ORIGIN
    connection = sqlite3.connect(folder / database.FILE_NAME, isolation_level=None)
    run = connection.execute
    run(f"pragma page_size = {database.PAGE_BYTES}")
    run("pragma journal_mode = wal")
    number, text = database.migrations()[0]
    connection.executescript(f"begin;\n{text}\npragma user_version = {number};\ncommit;")
    run("begin")
    run("insert into journal (venue, created_ms, cursor, safe) values (?, 1, ?, ?)", (VENUE, UPLOADED, UPLOADED))
    run("insert into streams (epoch, base, origin, reason) values (?, 0, ?, 'created')", (STREAM, ORIGIN))
    run("insert into boots (boot) values ('boot-0')")
    for row, device in enumerate(("till-1", "till-2"), start=1):
        run("insert into devices (device) values (?)", (device,))
        run("insert into device_epochs (device, epoch) values (?, 'e1')", (row,))
    for position, sent in enumerate(SALES, start=1):
        ms, prevhash = 1_795_342_000_000 + position, head
        head = seal(prevhash, position, to_text(ms), sent.device, sent.body)
        values = (position, int(sent.device[-1]), sent.sequence, ms, position, prevhash, head, sent.body)
        run("insert into records values (?, ?, ?, 1, ?, ?, 1, ?, ?, ?)", values)
        witness.note_sent(sent)
        witness.note_told(Key(sent.device, sent.id))
        if position <= UPLOADED:
            acts.append(Taken(STREAM, position, head, sent.device, sent.body))
    run("commit")
    connection.close()
    return witness, Cloud(acts)


async def test_A2_4_a_power_cut_while_an_older_schema_is_brought_forward_loses_nothing(
    shim: Shim, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--seed") or secrets.token_hex(4)
    witness, cloud = first_schema(tmp_path)
    before = (tmp_path / database.FILE_NAME).read_bytes()
    shim.start(tmp_path, NO_FAULT, deadly=False)
    journal = await Journal.open(tmp_path, VENUE, STREAM, Ticking(), LIMITS)
    await journal.close()
    figures = Figures(seed)
    for way in WAYS:
        disk = Disk(way, Random(seed))
        for op in older(shim.tape[0], before):
            disk.take(op)
        for op in shim.tape:
            disk.take(later(op))
            finding, schema = await opened(disk, witness, cloud)
            figures.add(f"{way.name}, schema {schema}", len(witness.told), finding)
            figures.guilty += schema != database.migrations()[-1][0]
    figures.tell("migration")
    assert figures.guilty == 0, "\n".join([f"--seed {seed}", *figures.words])
    assert figures.disks > MIGRATION_CHANGES * len(WAYS), "the migration was hardly seen"


def older(created: Op, content: bytes) -> tuple[Op, ...]:
    """The disk as the older program left it: all of it durable."""
    assert created.kind == "create"
    write = Op("write", created.file, 0, created.path, content)
    return created, write, Op("sync", created.file, 2, created.path)


def later(op: Op) -> Op:
    """A change of the shim's tape, behind those of `older`."""
    return structs.replace(op, place=op.place + 3) if op.kind.startswith("sync") else op


async def opened(disk: Disk, witness: Witness, cloud: Cloud) -> tuple[Finding, int]:
    """What a cut leaves now, opened and compared, and the schema that it then has."""
    with tempfile.TemporaryDirectory(prefix="ns-cut-", dir=QUICK) as name:
        folder = Path(name)
        lay_out(disk.after_cut(), folder)
        finding = await examine(folder, witness, lambda _: Cloud(cloud.acts))
        connection = sqlite3.connect(folder / database.FILE_NAME)
        (schema,) = connection.execute("pragma user_version").fetchone()
        connection.close()
        return finding, schema
