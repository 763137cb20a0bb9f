"""The example file and the settings page show what can be written."""

import re
from pathlib import Path

from agent.settings.box import JournalSettings
from agent.settings.load import parse
from agent.settings.reference import example, page, tables

FILE = Path("/etc/nightsafe/nightsafe.toml")


def test_the_example_loads_as_it_stands() -> None:
    settings = parse(example().encode(), FILE)
    assert settings.venue.id == "demo"
    assert settings.journal == JournalSettings()


def test_the_example_loads_with_everything_switched_on() -> None:
    settings = parse(re.sub(r"(?m)^#(?=[a-z\[])", "", example()).encode(), FILE)
    assert settings.alerts.smtp is not None
    assert list(settings.devices.by_device) == ["till-1"]
    assert settings.journal == JournalSettings()


def test_the_page_shows_every_table() -> None:
    shown = re.findall(r"(?m)^## `\[(.+)\]`$", page())
    assert shown == [name.replace("till-1", "<id>") for name, _ in tables()]
