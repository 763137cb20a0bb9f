"""Kill -9 at any moment of taking cards on trust: what a till was promised is reserved, and no limit is passed."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.property.test_card_limits import LIMITS, limits_kept
from tests.repo.tree import ROOT

SAID_MAX_S = 20.0


def life(folder: Path, seed: int, for_s: float) -> list[list[str]]:
    """What was said until the kill, whole lines only."""
    command = [sys.executable, "-m", "tests.crash.card_promises", str(folder), str(seed)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert "ready\n" in child.stdout, "it has begun"
        time.sleep(for_s)
    finally:
        child.kill()
        said = child.stdout.read()
        child.wait(SAID_MAX_S)
    whole = (line.split() for line in said.splitlines(keepends=True) if line.endswith("\n"))
    return [words for words in whole if words[0] in ("promised", "fated")]


@pytest.mark.parametrize("lives", [4, pytest.param(100, marks=pytest.mark.long)])
def test_A4_2_what_was_promised_outlives_kills_and_no_limit_is_passed(tmp_path: Path, lives: int) -> None:
    chance = random.Random(20261124)
    promised: dict[tuple[str, str], tuple[str, int]] = {}
    count = 0
    for seed in range(lives):
        for what, device, payment_id, *more in life(tmp_path, seed, chance.uniform(0.0, 0.5)):
            if what == "promised":
                promised[device, payment_id] = (more[0], int(more[1]))
                count += 1
            else:
                promised.pop((device, payment_id), None)
        limits_kept(tmp_path / "journal.sqlite", promised, LIMITS)
    print(f"{count} promises over {lives} kills, {len(promised)} of them open at the end")
    assert count > lives
