"""The service's unit says the same as the settings, and shuts the service in."""

import re
import shutil
import subprocess

import pytest

from agent.settings.box import RuntimeSettings
from tests.repo.tree import ROOT

UNIT = ROOT / "systemd" / "nightsafe.service"
APP = ROOT / "agent" / "app" / "__init__.py"
EXPOSURE_MAX = 20
"""Tenths of the score of `systemd-analyze security`; a unit without any sandbox has 96."""


def seconds(name: str) -> float:
    found = re.search(rf"(?m)^{name}=(\d+)$", UNIT.read_text(encoding="utf-8"))
    assert found, name
    return float(found[1])


def test_stopping_takes_less_time_than_the_service_is_given() -> None:
    times = RuntimeSettings()
    budgets = re.findall(r"stop_s=times\.(stop_\w+_s)\)", APP.read_text(encoding="utf-8"))
    assert len(budgets) > 10, "every part that is started names its budget"
    assert sum(getattr(times, budget) for budget in budgets) < seconds("TimeoutStopSec")


def test_starting_and_beating_fit_what_the_service_is_given() -> None:
    times = RuntimeSettings()
    assert times.start_stage_s < seconds("TimeoutStartSec")
    assert times.beat_max_s <= seconds("WatchdogSec") / 2


def test_the_service_manager_can_read_the_unit_and_finds_it_shut_in() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    assert "Unknown" not in done.stderr, done.stderr
