"""An edit is told once, by when it takes effect; a bad one changes nothing."""

import asyncio
from pathlib import Path

import pytest

from agent.core.errors import SettingsInvalid
from agent.settings.load import load
from agent.settings.schema import Settings
from agent.settings.watch import Change, Watch

TEXT = """\
[venue]
id = "demo"
name = "Demo Bar"
location = "demo-1"
[state]
directory = "state"
[gate]
listen = ["127.0.0.1:1883"]
[cloud]
url = "http://127.0.0.1:9800"
[logs]
level = "info"
"""


class Told:
    """What a watch told, in order."""

    def __init__(self) -> None:
        self.changes: list[tuple[Settings, Change]] = []
        self.refusals: list[SettingsInvalid] = []

    def changed(self, settings: Settings, change: Change) -> None:
        self.changes.append((settings, change))

    def refused(self, error: SettingsInvalid) -> None:
        self.refusals.append(error)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nightsafe.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def watch(file: Path, told: Told) -> Watch:
    return Watch(file, load(file), told.changed, told.refused)


def test_an_unchanged_file_is_no_news(watch: Watch, told: Told) -> None:
    watch.look()
    assert told.changes == []


def test_a_live_value_holds_at_once_and_is_told_once(watch: Watch, told: Told, file: Path) -> None:
    file.write_text(TEXT.replace('"info"', '"debug"'))
    watch.look()
    watch.look()
    ((settings, change),) = told.changes
    assert change == Change(live=("logs.level",))
    assert settings.logs.level == "debug"


def test_an_address_waits_for_the_next_start_and_a_venue_for_ever(watch: Watch, told: Told, file: Path) -> None:
    file.write_text(TEXT.replace("1883", "1884").replace('id = "demo"', 'id = "other"').replace("Demo Bar", "Bar"))
    watch.look()
    watch.look()
    ((settings, change),) = told.changes
    assert change == Change(live=("venue.name",), restart=("gate.listen",), never=("venue.id",))
    assert settings.gate.listen[0].port == 1883
    assert (settings.venue.id, settings.venue.name) == ("demo", "Bar")


def test_taking_back_what_waits_for_a_start_is_told(watch: Watch, told: Told, file: Path) -> None:
    file.write_text(TEXT.replace("1883", "1884"))
    watch.look()
    file.write_text(TEXT)
    watch.look()
    assert [change for _, change in told.changes] == [Change(restart=("gate.listen",)), Change()]


def test_a_bad_edit_keeps_the_old_settings_and_its_mending_is_told(watch: Watch, told: Told, file: Path) -> None:
    file.write_text(TEXT.replace('"info"', '"loud"'))
    watch.look()
    watch.look()
    assert len(told.refusals) == 1
    assert told.changes == []
    file.write_text(TEXT)
    watch.look()
    ((settings, change),) = told.changes
    assert change == Change()
    assert settings.logs.level == "info"


def test_one_devices_terms_are_named_by_the_device(watch: Watch, told: Told, file: Path) -> None:
    file.write_text(TEXT + "[devices.till-1]\nloyalty_realtime = false\n")
    watch.look()
    file.write_text(TEXT + "[devices.till-1]\nloyalty_realtime = true\n[devices.till-2]\n")
    watch.look()
    assert [change.live for _, change in told.changes] == [
        ("devices.till-1",),
        ("devices.till-1", "devices.till-2"),
    ]


async def test_a_saved_file_is_noticed_also_when_it_is_replaced(watch: Watch, told: Told, file: Path) -> None:
    up, stop = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(watch.run(up.set, stop))
        await up.wait()
        draft = file.with_suffix(".new")
        draft.write_text(TEXT.replace('"info"', '"error"'))
        async with asyncio.timeout(10):
            while not told.changes:
                # The watch may not stand yet: save again until it is noticed.
                draft.replace(file)
                draft.write_text(TEXT.replace('"info"', '"error"'))
                await asyncio.sleep(0.05)
        stop.set()
    assert told.changes[0][0].logs.level == "error"
