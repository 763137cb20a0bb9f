"""What has happened is told over kills, failures and rebuilds of the journal, until a person has acknowledged it.

The real journal on real files, and the telling as the agent joins it to them.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from agent.app.joints import Telling
from agent.core.arrivals import Outcome, Own
from agent.core.conditions import LASTING_MAX, Conditions
from agent.core.errors import Rejected, Transient
from agent.core.facts import Condition
from agent.journal import attentions, salvage
from agent.journal.database import FILE_NAME, migrations
from agent.journal.writer import Journal
from tests.property.journal_model import as_item
from tests.property.journal_rig import LIMITS, QUICK, STREAM, VENUE, Rig, Ticking, copy_files, read_rows, straight
from tests.property.test_limp import event, failing, limping, reached, writes

RAISED, CLEARED = "nightsafe.condition.raised", "nightsafe.condition.cleared"


class Wall(Ticking):
    """Ticking, as people's clock too; `boot` is which boot it is."""

    def __init__(self, boot: str = "boot-1") -> None:
        super().__init__()
        self.boot = boot

    def boot_id(self) -> str:
        return self.boot

    def boottime_s(self) -> float:
        return self.uptime_ms() / 1000

    def wall_ms_at(self, boottime_s: float) -> int:
        return 1_795_342_000_000 + int(boottime_s * 1000)


class House:
    """A journal that runs, and the telling."""

    def __init__(self, folder: Path) -> None:
        self.clock = Wall()
        self.rig = Rig(folder, self.clock)
        self.telling: Telling

    async def open(self) -> "House":
        await self.rig.open()
        self.join(self.rig.journal)
        return self

    def join(self, journal: Journal) -> None:
        """As a start of the process: memory is new."""
        self.telling = Telling(Conditions(), self.clock)  # type: ignore[arg-type]
        self.telling.join(journal.attentions)

    async def again(self, folder: Path | None = None, boot: str = "boot-1") -> None:
        """The next start, on these files or on others; the clock goes on."""
        await self.rig.close()
        self.clock.boot = boot
        self.rig = Rig(folder or self.rig.folder, self.clock)
        await self.open()

    async def killed(self) -> None:
        """The next start, on the files as a kill at this instant leaves them."""
        copy = self.rig.folder.parent / "killed"
        copy_files(self.rig.folder, copy)
        await self.again(copy)

    def happened(self, id: str = "forked", text: str = "what it was", severity: Any = "warning") -> None:
        self.telling.happened(id, severity, "Title", text, "Do something.")

    async def written(self) -> None:
        """Until the disk has what memory has."""
        kept = self.rig.journal.attentions
        await reached(
            lambda: not kept._left_out_count and not any(kept._is_due(*one) for one in kept._standing.items())
        )
        await self.rig.settled()

    def told(self) -> dict[str, Condition]:
        return {one.id: one for one in self.telling.all()}

    def records(self, kind: str) -> list[dict[str, Any]]:
        found = [json.loads(row.event) for row in read_rows(self.rig.folder) if row.device == "agent"]
        return [one["data"] for one in found if one["type"] == kind]


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(attentions, "PAUSE_S", 0.0)
    monkeypatch.setattr(attentions, "RETRY_S", 0.01)
    with TemporaryDirectory(prefix="ns-attentions-", dir=QUICK) as folder:
        state = Path(folder) / "state"
        state.mkdir()
        made = await House(state).open()
        yield made
        await made.rig.close()


async def test_what_has_happened_is_told_after_a_kill_since_its_first_instant(house: House) -> None:
    house.happened("spoofed:till-1", "first")
    house.happened("cloud_rewound")
    await house.written()
    before = house.told()
    await house.killed()
    assert house.told() == before
    house.happened("spoofed:till-1", "again")
    await house.written()
    await house.again()
    assert house.told()["spoofed:till-1"].since == before["spoofed:till-1"].since
    assert house.told()["spoofed:till-1"].text == "again"
    assert [one["condition"] for one in house.records(RAISED)] == ["spoofed:till-1", "cloud_rewound"]
    assert house.records(RAISED)[0] == {"condition": "spoofed:till-1", "actor": "agent", "reason": "first"}


async def test_its_instant_is_corrected_when_more_is_known_of_the_clock_of_its_boot(house: House) -> None:
    house.happened()
    await house.written()
    (before,) = house.told().values()
    await house.again(boot="boot-2")
    assert house.told()["forked"].since == before.since
    row = house.rig.journal.book.boots["boot-1"]
    true_ms = 1_795_342_000_000 + 86_400_000
    house.rig.journal.book.offsets_ms[row] = true_ms
    assert house.told()["forked"].since[:10] > before.since[:10]


async def test_what_a_person_has_acknowledged_is_gone_after_a_kill_and_the_record_names_who(house: House) -> None:
    house.happened("cloud_rewound")
    await house.telling.acknowledge("cloud_rewound", "Ann", "the operator knows")
    assert house.told() == {}
    await house.killed()
    assert house.told() == {}
    data = {"condition": "cloud_rewound", "actor": "Ann", "reason": "the operator knows"}
    assert house.records(CLEARED) == [data]
    assert [one["condition"] for one in house.records(RAISED)] == ["cloud_rewound"]
    ended_s = house.telling.ended_s("cloud_rewound")
    assert ended_s is not None
    house.happened("cloud_rewound", "once more")
    await house.written()
    await house.again()
    assert house.told()["cloud_rewound"].text == "once more"
    assert house.telling.ended_s("cloud_rewound") == ended_s


async def test_only_what_stands_can_be_acknowledged_and_a_state_cannot(house: House) -> None:
    house.telling.hold("disk_full", "critical", "The disk is full", "So it is.", "Free space.")
    with pytest.raises(Rejected, match="ends by itself"):
        await house.telling.acknowledge("disk_full", "Ann", "x")
    with pytest.raises(Rejected, match="no attention forked"):
        await house.telling.acknowledge("forked", "Ann", "x")
    assert house.records(CLEARED) == []


async def test_what_happens_while_the_journal_limps_is_written_once_it_is_open_again(house: House) -> None:
    await limping(house.rig)
    house.happened()
    with pytest.raises(Transient, match="not ended: nothing can be written now"):
        await house.telling.acknowledge("forked", "Ann", "x")
    (before,) = house.told().values()
    house.rig.through(straight)
    await house.rig.settled()
    await house.written()
    await house.killed()
    assert house.told()["forked"] == before


async def test_a_start_on_a_journal_that_cannot_be_opened_tells_of_it_once_it_can(house: House) -> None:
    """What happened meanwhile under the same name has the older beginning and the newer words."""
    house.happened("forked", "before")
    house.happened("cloud_rewound", "before")
    await house.written()
    before = house.told()
    await house.rig.close()
    folder = house.rig.folder
    aside = folder / "aside"
    (folder / FILE_NAME).rename(aside)
    (folder / FILE_NAME).mkdir()
    journal = await Journal.start(folder, VENUE, STREAM, house.clock, LIMITS)
    house.join(journal)
    house.happened("forked", "meanwhile")
    assert list(house.told()) == ["forked"]
    stop = asyncio.Event()
    running = asyncio.create_task(journal.run(lambda: None, stop))
    (folder / FILE_NAME).rmdir()
    aside.rename(folder / FILE_NAME)
    await reached(lambda: journal.facts().writable and len(house.told()) == 2)
    assert {id: one.since for id, one in house.told().items()} == {id: one.since for id, one in before.items()}
    stop.set()
    await running
    await journal.close()
    await house.open()
    assert house.told()["forked"].text == "meanwhile"


async def test_a_rebuild_of_the_journal_keeps_it_and_what_was_acknowledged(house: House) -> None:
    await house.rig.append([as_item(event(1))])
    house.happened("forked")
    house.happened("cloud_rewound")
    await house.telling.acknowledge("cloud_rewound", "Ann", "done")
    await house.written()
    (before,) = house.told().values()
    salvage.demand(house.rig.folder, "a test asks for it")
    await house.again()
    assert (house.rig.folder / "damaged").exists()
    assert house.told().pop("forked") == before
    assert list(house.told()) == ["forked", "journal_mended"], "and the rebuild itself"
    assert house.telling.ended_s("cloud_rewound") is not None


async def test_a_rebuild_of_a_journal_of_before_has_nothing_to_miss(house: House) -> None:
    await house.rig.append([as_item(event(1))])
    await house.rig.close()
    older(house.rig.folder)
    salvage.demand(house.rig.folder, "a test asks for it")
    repaired: list[Any] = []
    await house.open()
    house.rig.journal.mending.on_repaired(repaired.append)
    assert [one.notes for one in repaired] == [()]
    assert await house.rig.append([as_item(event(1))]) == [Outcome.DUPLICATE]


async def test_a_journal_of_before_is_brought_forward(house: House) -> None:
    await house.rig.append([as_item(event(1))])
    await house.rig.close()
    older(house.rig.folder)
    await house.open()
    house.happened()
    await house.written()
    assert list(house.told()) == ["forked"]


def older(folder: Path) -> None:
    """The journal as the schema before this table had it: whatever later steps have added is gone."""
    before = sqlite3.connect(":memory:")
    for number, text in migrations():
        before.executescript(text if number <= 2 else "")
    with sqlite3.connect(folder / FILE_NAME) as connection:
        for table in tables(connection) - tables(before):
            connection.execute(f"drop table {table}")
        for table in tables(connection):
            for column in columns(connection, table) - columns(before, table):
                connection.execute(f"alter table {table} drop column {column}")
        connection.execute("pragma user_version = 2")
    connection.close()
    before.close()


def tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("select name from sqlite_schema where type = 'table'")}


def columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {name for _, name, *_ in connection.execute(f"pragma table_info({table})")}


async def test_no_damage_in_the_table_keeps_the_box_from_starting(house: House) -> None:
    """A page of zeros, and words of which a bit has flipped: what is left is told."""
    house.happened("forked", "some words about it")
    await house.written()
    await house.rig.close()
    path = house.rig.folder / FILE_NAME
    whole = path.read_bytes()
    at = whole.index(b"some words")
    for damaged in (
        whole[:at] + b"\xff" + whole[at + 1 :],
        whole.replace(b"forkedwarning", b"forked\xffarning"),
        whole[: at // 4096 * 4096] + bytes(4096) + whole[at // 4096 * 4096 + 4096 :],
    ):
        assert damaged != whole
        path.write_bytes(damaged)
        await house.open()
        assert set(house.told()) <= {"forked", "journal_mended", "journal_lost"}, "and the damage itself"
        assert await house.rig.append([as_item(event(1))])
        await house.rig.close()
    await house.open()


async def test_a_disk_that_does_not_take_it_harms_no_event_and_gets_it_later(house: House) -> None:
    house.rig.through(failing("SQLITE_FULL", lambda sql: sql.startswith("insert into attentions")))
    house.happened()
    assert await house.rig.append([as_item(event(number)) for number in range(1, 4)]) == [Outcome.STORED] * 3
    house.rig.through(straight)
    await house.written()
    await house.killed()
    assert list(house.told()) == ["forked"]


@pytest.mark.parametrize("error", ["SQLITE_FULL", "SQLITE_IOERR_FSYNC"])
async def test_a_commit_that_landed_and_said_that_it_failed_tells_nothing_twice(house: House, error: str) -> None:
    house.rig.through(landing(error))
    house.happened("cloud_rewound")
    await house.written()
    assert len(house.records(RAISED)) == 1
    house.rig.through(landing(error))
    await asyncio.gather(house.telling.acknowledge("cloud_rewound", "Ann", "x"), return_exceptions=True)
    await house.rig.settled()
    await house.written()
    await house.again()
    assert len(house.told()) == len(house.records(RAISED)) - len(house.records(CLEARED))


def landing(error: str) -> Callable[..., sqlite3.Cursor]:
    """The next commit is on the disk, and is said to have failed."""
    left = 1

    def tap(_: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        nonlocal left
        done = run()
        if sql == "commit" and left:
            left -= 1
            failed = sqlite3.OperationalError("it landed")
            failed.sqlite_errorname = error
            raise failed
        return done

    return tap


async def test_what_happens_again_while_it_is_being_acknowledged_is_new(house: House) -> None:
    house.happened("cloud_rewound", "seen")
    await house.written()
    deciding = asyncio.create_task(house.telling.acknowledge("cloud_rewound", "Ann", "seen it"))
    await asyncio.sleep(0)
    house.happened("cloud_rewound", "not seen")
    await deciding
    await house.written()
    await house.again()
    assert house.told()["cloud_rewound"].text == "not seen"
    assert [len(house.records(kind)) for kind in (RAISED, CLEARED)] == [2, 1]


async def test_a_full_disk_takes_a_persons_decision_with_the_reserve(house: House) -> None:
    house.happened("cloud_rewound")
    await house.written()

    def give(_: bool) -> bool:
        house.rig.through(straight)
        return True

    house.rig.journal.writing.spare(give)
    house.rig.through(failing("SQLITE_FULL", writes))
    await house.telling.acknowledge("cloud_rewound", "Ann", "x")
    assert len(house.records(CLEARED)) == 1


async def test_too_many_are_left_out_counted_and_written_in_few_transactions(house: House) -> None:
    transactions: list[int] = []
    """How many each of them has written."""

    def counting(_: sqlite3.Connection, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if sql == "begin immediate":
            transactions.append(0)
        elif sql.startswith("insert into attentions"):
            transactions[-1] += 1
        return run()

    house.happened("journal_lost", severity="critical")
    await house.written()
    house.rig.through(counting)
    for number in range(LASTING_MAX + 10):
        house.happened(f"spoofed:till-{number}")
    await house.written()
    written = [count for count in transactions if count]
    assert max(written) == attentions.TURN_MAX
    assert len(written) <= LASTING_MAX // attentions.TURN_MAX + 1
    for number in range(5):
        house.happened(f"sequence_reused:till-{number}")
    await house.written()
    await house.again()
    assert house.rig.journal.facts().attentions_left_out == 16
    assert len(house.told()) == LASTING_MAX
    assert "journal_lost" in house.told()
    assert {one["actor"] for one in house.records(CLEARED)} == {"agent"}
    ((rows,),) = sqlite3.connect(house.rig.folder / FILE_NAME).execute("select count(*) from attentions").fetchall()
    assert rows == LASTING_MAX


async def test_of_what_was_acknowledged_the_latest_are_remembered(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attentions, "ACKNOWLEDGED_MAX", 2)
    for id in ("a", "b", "c", "c"):
        house.happened(id)
        await house.telling.acknowledge(id, "Ann", "x")
    await house.again()
    assert [id for id in "abc" if house.telling.ended_s(id) is not None] == ["b", "c"]
    assert len(sqlite3.connect(house.rig.folder / FILE_NAME).execute("select 1 from attentions").fetchall()) == 2


async def test_what_records_itself_in_more_detail_is_not_recorded_twice(house: House) -> None:
    await house.rig.append([Own(RAISED, {"condition": "forked", "epoch": "e", "parent": None, "reason": "forked"})])
    house.happened("forked")
    house.happened("sequence_reused:till-1")
    await house.written()
    assert len(house.records(RAISED)) == 1


async def test_no_card_number_in_what_others_said_reaches_the_disk(house: House) -> None:
    house.happened("records_rejected", "the cloud says 4111 1111 1111 1111 is wrong")
    await house.written()
    await house.telling.acknowledge("records_rejected", "Ann", "it was 4111111111111111")
    await house.rig.close()
    kept = b"".join(path.read_bytes() for path in house.rig.folder.iterdir() if path.is_file())
    assert b"4111" not in kept
    await house.open()
