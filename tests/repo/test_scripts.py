"""The scripts that others rely on are there, can be called, and stop at the first failure."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.repo.tree import ROOT

RELIED_ON = ("setup", "run", "test", "check", "bench")
SCRIPTS = [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"]


def test_the_scripts_of_the_contract_are_there() -> None:
    assert set(RELIED_ON) <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_executable_strict_and_parses(path: Path) -> None:
    assert os.access(path, os.X_OK)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_ci_runs_the_test_command_that_the_readme_gives() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^if ! timeout --kill-after \d+ \d+ scripts/test </dev/null; then", ci, re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "scripts/test" in readme
    assert "scripts/run" in readme
