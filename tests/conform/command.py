"""`nightsafe conform` as the tests run it: to its end, and what it said of each case."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.machine import NIGHTSAFE
from tests.repo.tree import ROOT


def conform(
    report: Path, start: str, *cases: str, wait_s: float = 8.0
) -> tuple[int, dict[str, str], dict[str, list[str]]]:
    """Exit status, results and words by case."""
    options = ["--listen", "127.0.0.1:0", "--wait", str(wait_s), "--report", str(report), "--json", "--start", start]
    for case in cases:
        options += ["--only", case]
    done = subprocess.run(
        [*NIGHTSAFE, "conform", *options], capture_output=True, text=True, cwd=ROOT, timeout=170, check=False
    )
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return done.returncode, {one["case"]: one["result"] for one in found}, {one["case"]: one["words"] for one in found}
