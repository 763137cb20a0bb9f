"""The power is cut at any place of a night: what was told is there, nothing is there twice, and everything drains.

A night of the real agent is recorded once; then disks are rebuilt as cuts would have left them, and opened by the
agent's own start-up. The same recording convicts an agent that syncs less, and one that tells first.
"""

import secrets
from pathlib import Path
from random import Random

import pytest

from tests.crash.power.cuts import WAYS, cut, places
from tests.crash.power.disk import Disk
from tests.crash.power.drains import drained
from tests.crash.power.figures import Figures
from tests.crash.power.night import OFTEN, SELDOM, Night, short_night, whole_night
from tests.crash.power.witness import Witness


@pytest.fixture(scope="module")
def seed(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--seed") or secrets.token_hex(4)


@pytest.fixture(scope="module")
def night(seed: str, long_form: bool, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Killed, a sync that failed while it was killed, syncs that failed until it noticed, and in the long form more."""
    told = 1500 if long_form else 400
    return whole_night(seed, tmp_path_factory.mktemp("night"), told, OFTEN, long_form)


async def test_A2_4_no_power_cut_takes_back_what_was_told(night: Night, seed: str, long_form: bool) -> None:
    figures = await cut(night.tape, night.taken, WAYS, 250 if long_form else 16, Random(seed))
    figures.seed = seed
    figures.tell("cuts")
    assert figures.guilty == 0, "\n".join([f"--seed {seed}", *figures.words])


def test_A2_4_after_a_power_cut_everything_is_in_the_cloud_once(night: Night, seed: str, long_form: bool) -> None:
    figures, chance = Figures(seed), Random(f"{seed}/drains")
    for number in range(25 if long_form else 2):
        way = WAYS[number % len(WAYS)]
        disk, witness = Disk(way, chance), Witness()
        (place,) = places(night.tape, 1, chance)
        for op in night.tape[: place + 1]:
            disk.take(op)
            witness.take(op)
        finding = drained(disk, witness, night.ledger, chance)
        figures.add(f"{way.name}, cut behind record {place}", len(witness.told), finding)
    figures.tell("drains")
    assert figures.guilty == 0, "\n".join([f"--seed {seed}", *figures.words])


@pytest.mark.parametrize("broken", ["sync some", "sync", pytest.param("order", marks=pytest.mark.long)])
async def test_an_agent_that_promises_less_is_convicted(broken: str, seed: str) -> None:
    """`normal` and `off` are SQLite's words; `first` tells before it commits."""
    tape, taken = short_night(seed, broken, 250)
    figures = await cut(tape, taken, WAYS[:3], 6, Random(seed))
    figures.seed = seed
    figures.tell(f"control-{broken.replace(' ', '-')}")
    assert figures.lost > 0


@pytest.mark.long
async def test_A2_4_no_power_cut_takes_back_what_was_told_with_checkpoints_as_they_are(
    seed: str, tmp_path: Path
) -> None:
    """Eight MiB of log between two: a longer night, and fewer cuts."""
    night = whole_night(seed, tmp_path, 4500, SELDOM, False)
    figures = await cut(night.tape, night.taken, WAYS, 30, Random(seed))
    figures.seed = seed
    figures.tell("cuts-as-it-is")
    assert figures.guilty == 0, "\n".join([f"--seed {seed}", *figures.words])
