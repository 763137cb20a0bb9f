"""SQLite's calls to the disk fail, each in its turn, and then the power is cut: nothing told is lost or doubled.

Once and for ever, with the disk broken or full, in the middle of a write; the process is killed by it, or has to mend
itself. A sync that failed is never made good by the kernel. Two culprits show that this is seen.
"""

import secrets
from collections.abc import Iterator

import pytest

from agent.journal import database
from tests.crash.power import lives
from tests.crash.power.beside import shimmed
from tests.crash.power.figures import Figures
from tests.crash.power.shim import Fault, Shim
from tests.crash.power.sweep import Cuts, Trial, a_few, calls_of, everywhere_behind, sweep, trials


@pytest.fixture
def shim() -> Iterator[Shim]:
    with shimmed() as made:
        yield made


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--seed") or secrets.token_hex(4)


async def test_A2_4_no_failed_call_and_power_cut_behind_it_takes_back_what_was_told(
    shim: Shim, seed: str, long_form: bool
) -> None:
    calls = await calls_of(shim)
    figures = await sweep(shim, trials(calls, long_form), a_few(4 if long_form else 0), seed)
    figures.tell("io-faults")
    assert figures.guilty == 0, "\n".join([f"--seed {seed}", *figures.words])
    assert figures.faults >= figures.runs * 0.9, "the workload hardly met its faults"


async def failed_syncs(shim: Shim, seed: str, latest: int, cuts: Cuts) -> Figures:
    """Each of the latest syncs of the log fails once, the process is killed by it, and the next one goes on."""
    calls = await calls_of(shim)
    named = enumerate(zip(calls, shim.names, strict=True), start=1)
    syncs = [at for at, (call, name) in named if call == "sync" and name.endswith("-wal")]
    return await sweep(shim, [Trial(Fault(at), "killed") for at in syncs[-latest:]], cuts, seed)


async def test_A2_4_what_a_failed_sync_left_is_written_again_before_it_is_trusted(
    shim: Shim, seed: str, long_form: bool
) -> None:
    figures = await failed_syncs(shim, seed, 20 if long_form else 3, everywhere_behind)
    figures.tell("failed-syncs")
    assert figures.guilty == 0, "\n".join([f"--seed {seed}", *figures.words])


async def test_an_agent_that_believes_what_the_kernel_shows_is_convicted(
    shim: Shim, seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync and a restart it calls stored what is only shown."""
    monkeypatch.setattr(database, "_renew", lambda wal: None)
    monkeypatch.setattr(database, "_checkpoint", lambda connection: None)
    figures = await failed_syncs(shim, seed, 12, a_few(0))
    figures.tell("control-io-faults-nothing-at-start")
    assert figures.lost > 0


async def test_an_agent_that_copies_what_the_kernel_shows_is_convicted(
    shim: Shim, seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of a log that is not on the disk: the older log that is there comes over it again.

    What that leaves does not open, or only after it was taken for damaged and rebuilt.
    """
    monkeypatch.setattr(database, "_renew", lambda wal: None)
    monkeypatch.setattr(lives, "WORK", lives.SALES_ONLY)
    figures = await failed_syncs(shim, seed, 3, everywhere_behind)
    figures.tell("control-io-faults-checkpoint-only")
    assert figures.guilty + figures.salvages > 0
