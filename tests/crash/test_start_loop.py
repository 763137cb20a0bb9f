"""A start that cannot be, tried again and again as a service manager does, until somebody mends what is wrong.

Each try ends with its documented exit status, says what to do, and leaves what was stored as it was; the first start
after the mending has everything. A damaged database ends no start: it is built anew, and a try that
is killed in the middle of that leaves the next one what it had.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import pytest

from agent.journal.database import PAGE_BYTES
from agent.journal.salvage import NEW_NAME, PLAN_NAME
from tests.crash.conftest import Story
from tests.crash.judge import Disk, chained
from tests.crash.test_disk_full import is_sound
from tests.integration.machine import START_MAX_S, Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

TRIES = 3
SOLD = 30
MANY = 6_000
"""A rebuild of so many takes long enough to be killed in the middle of it."""
FAILED, SETTINGS = 1, 78
SQLITES = {"journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"}
Mend = Callable[[], object]


class Case(NamedTuple):
    """`harm` spoils something of a box that does not run, and returns what mends it. `words` are said at each try."""

    harm: Callable[[Box], Mend]
    status: int
    words: tuple[str, ...]


def setting(table: str, key: str, value: object) -> Callable[[Box], Mend]:
    """A setting that cannot be."""

    def harm(box: Box) -> Mend:
        before = box.settings.setdefault(table, {}).copy()
        box.settings[table][key] = value
        box.write_config()
        return lambda: box.settings.update({table: before})

    return harm


def settings_file(content: bytes | None) -> Callable[[Box], Mend]:
    """The settings file holds this; None: it is not there."""

    def harm(box: Box) -> Mend:
        box.config.unlink()
        if content is not None:
            box.config.write_bytes(content)
        return lambda: None  # each good start writes it

    return harm


def newer_schema(box: Box) -> Mend:
    """The journal of a program that knows more."""

    def set_version(version: int) -> int:
        with closing(sqlite3.connect(box.journal)) as connection:
            (before,) = connection.execute("pragma user_version").fetchone()
            connection.execute(f"pragma user_version = {version}")
        return int(before)

    before = set_version(999)
    return lambda: set_version(before)


BAD_SETTINGS = (
    Case(setting("journal", "keep_dayz", 3), SETTINGS, ("journal.keep_dayz: unknown", "Mend it")),
    Case(setting("gate", "inflight_max", 0), SETTINGS, ("gate.inflight_max", "Mend it")),
    Case(settings_file(b""), SETTINGS, ("venue", "Mend it")),
    Case(settings_file(b'[venue]\nid = "de'), SETTINGS, ("nightsafe.toml:2", "Mend it")),
    Case(settings_file(bytes(range(256))), SETTINGS, ("nightsafe.toml", "Mend it")),
    Case(settings_file(None), SETTINGS, ("nightsafe.toml",)),
)
BAD_JOURNALS = {
    "another venue's": Case(setting("venue", "id", "other"), FAILED, ('venue "demo"', "Put the right venue id")),
    "of a newer program": Case(newer_schema, FAILED, ("schema 999", "Install the newer nightsafe again")),
}


def sell(box: Box, device: str) -> None:
    with Device(box.port, device) as till:
        for number in range(1, SOLD + 1):
            till.tell(counted("e1", number))


def sell_many(box: Box, device: str, count: int) -> None:
    """The same for thousands, many of them in flight."""
    with Device(box.port, device) as till:
        for first in range(1, count + 1, 50):
            till.send(*(till.frame(counted("e1", number)) for number in range(first, first + 50)))
            till.packets(50)


def files(box: Box) -> dict[str, bytes]:
    """Everything in the state directory, byte for byte, but the lock, which names the process that held it."""
    found = {}
    for path in sorted(box.state.rglob("*")):
        if path.is_file() and path.name != "lock":
            found[str(path.relative_to(box.state))] = path.read_bytes()
    return found


def tried_in_vain(box: Box, case: Case) -> None:
    """One try."""
    since = box.launch("run", "--config", str(box.config))
    status, said = box.wait(START_MAX_S), box.text[since:]
    assert status == case.status, said
    for words in case.words:
        assert words in said
    assert "Traceback" not in said
    assert "event=ready" not in said


def dumped(box: Box) -> list[str]:
    """Everything in the database; its log may have been written into it meanwhile."""
    with closing(sqlite3.connect(f"file:{box.journal}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def has_everything(box: Box, cloud: CloudServer, disk: Disk) -> None:
    """The mended start: what was sold before is there and goes up, once, and selling goes on."""
    cloud.start()
    box.start()
    sell(box, "till-3")
    until(box.uploaded, "the cloud has everything", 20)
    disk.look()
    exported = cloud.export()
    assert chained(exported) == disk.seals
    assert [sum(f'"device":"till-{n}"'.encode() in line for line in exported) for n in (1, 2, 3)] == [SOLD] * 3
    is_sound(box)


@pytest.fixture
def scene(new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]) -> tuple[Box, CloudServer, Disk]:
    """A box that was killed with half of what it had sold in the cloud, most of it still in its write-ahead log."""
    cloud = new_cloud().start()
    box = new_box(cloud.url).start()
    sell(box, "till-1")
    until(box.uploaded, "the cloud has the first sales")
    cloud.stop()
    sell(box, "till-2")
    box.kill()
    return box, cloud, Disk(box)


@pytest.mark.long
def test_A2_4_starts_with_bad_settings_touch_nothing_and_the_mended_one_has_everything(
    scene: tuple[Box, CloudServer, Disk],
) -> None:
    box, cloud, disk = scene
    disk.look()
    before = files(box)
    for case in BAD_SETTINGS:
        mend = case.harm(box)
        for _ in range(TRIES - 1):
            tried_in_vain(box, case)
            now = files(box)
            assert now.keys() == before.keys()
            assert [name for name in now if now[name] != before[name]] == []
        mend()
        box.write_config()
    has_everything(box, cloud, disk)


@pytest.mark.parametrize("case", BAD_JOURNALS.values(), ids=BAD_JOURNALS)
def test_A2_4_starts_on_a_journal_that_is_not_theirs_change_nothing_in_it_and_the_mended_one_has_everything(
    scene: tuple[Box, CloudServer, Disk], case: Case
) -> None:
    box, cloud, disk = scene
    disk.look()
    mend = case.harm(box)
    before, database = files(box), dumped(box)
    for _ in range(TRIES):
        tried_in_vain(box, case)
        now = files(box)
        assert [name for name in before if name not in SQLITES and now.get(name) != before[name]] == []
        assert now.keys() <= before.keys() | SQLITES
        assert dumped(box) == database
    mend()
    has_everything(box, cloud, disk)


@pytest.mark.long
def test_A2_4_starts_that_are_killed_while_they_rebuild_a_journal_leave_the_next_one_everything(
    scene: tuple[Box, CloudServer, Disk], story: Story
) -> None:
    """Its first page is gone, so that SQLite itself cannot read a line; the records stand in the other pages."""
    box, cloud, disk = scene
    box.start()
    sell_many(box, "till-many", MANY)
    assert box.stop() == 0  # so that everything stands in the database, and nothing in its log
    disk.look()
    with box.journal.open("r+b") as file:
        file.write(bytes(PAGE_BYTES))
    harmed, plan = box.journal.read_bytes(), box.state / PLAN_NAME
    for _ in range(TRIES):
        box.begin()
        until(lambda: (box.state / NEW_NAME).exists(), "it is being built anew", START_MAX_S)
        time.sleep(story.chance.uniform(0, 0.1))
        box.kill()
        assert plan.exists(), "it was done before the kill"
    has_everything(box, cloud, disk)
    assert not plan.exists()
    assert harmed in [path.read_bytes() for path in (box.state / "damaged").rglob("journal.sqlite")]
