"""The command `nightsafe` as a person or a service calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent import __version__
from agent.settings.reference import example


def nightsafe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "agent", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nightsafe.toml"
    path.write_text(example())
    return path


def test_the_version_is_printed() -> None:
    assert nightsafe("--version").stdout == f"{__version__}\n"


def test_help_names_every_family_and_loads_none() -> None:
    program = (
        "import sys; from agent.cli import FAMILIES, _app\n"
        "try: _app(['--help'])(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'aiomqtt', 'watchfiles', 'agent.settings.load', 'agent.app'} & set(sys.modules)\n"
        "print(sorted(heavy), sorted(FAMILIES))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    *help_lines, last = shown.splitlines()
    assert last.startswith("[] ")
    assert all(any(line.split()[:1] == [name] for line in help_lines) for name in ("run", "config", "cloud"))


def test_good_settings_are_called_good_and_missing_files_noted(config: Path) -> None:
    checked = nightsafe("config", "check", "--config", str(config))
    assert checked.returncode == 0
    assert checked.stdout.splitlines() == [
        f"{config}: no problems",
        f"note: cloud.token_file: there is no file {config.parent / 'token'}",
        f"note: web.pin_file: there is no file {config.parent / 'pin'}",
    ]


def test_addresses_that_no_letter_goes_to_are_named(config: Path) -> None:
    text = example().replace('#contact_email = "manager@', 'contact_email = "manager@')
    config.write_text(f'{text}\n[alerts]\nsupport_email = "support@vendor.example"\n')
    found = json.loads(nightsafe("config", "check", "--json", "--config", str(config)).stdout)
    assert found["valid"]
    unmailed = [note for note in found["notes"] if "[alerts.smtp]" in note]
    assert [note.partition(":")[0] for note in unmailed] == ["alerts.support_email", "venue.contact_email"]
    assert "support@vendor.example" in unmailed[0]
    with config.open("a") as more:
        more.write('[alerts.smtp]\nhost = "mail.example"\nsender = "box@venue.example"\n')
    found = json.loads(nightsafe("config", "check", "--json", "--config", str(config)).stdout)
    assert not any("[alerts.smtp]" in note for note in found["notes"])


@pytest.mark.parametrize("command", [("config", "check"), ("config", "show"), ("run",)])
def test_bad_settings_end_with_78_and_every_problem(config: Path, command: tuple[str, ...]) -> None:
    config.write_text(example().replace('"demo"', '"De\\u001bmo"').replace("listen = [", "listn = ["))
    refused = nightsafe(*command, "--config", str(config))
    assert refused.returncode == 78
    assert refused.stdout == ""
    assert "venue.id: expected lower-case" in refused.stderr
    assert "gate.listn: unknown; did you mean listen?" in refused.stderr
    assert "Mend it, then check it with: nightsafe config check --config" in refused.stderr


def test_a_verdict_can_be_read_by_machines(config: Path) -> None:
    good = json.loads(nightsafe("config", "check", "--json", "--config", str(config)).stdout)
    assert (good["valid"], good["problems"]) == (True, [])
    config.write_text("[venue]\n")
    refused = nightsafe("config", "check", "--json", "--config", str(config))
    assert refused.returncode == 78
    assert json.loads(refused.stdout)["valid"] is False
    assert refused.stderr == ""


def test_the_settings_shown_can_be_used(config: Path) -> None:
    shown = nightsafe("config", "show", "--config", str(config)).stdout
    again = config.with_name("again.toml")
    again.write_text(shown)
    assert nightsafe("config", "show", "--config", str(again)).stdout == shown
    assert json.loads(nightsafe("config", "show", "--json", "--config", str(config)).stdout)["venue"]["id"] == "demo"


@pytest.mark.parametrize("arguments", [(), ("bogus",), ("config", "check", "--bogus")])
def test_wrong_usage_ends_with_2_and_says_how(arguments: tuple[str, ...]) -> None:
    wrong = nightsafe(*arguments)
    assert wrong.returncode == 2
    assert "Usage: nightsafe" in wrong.stderr
