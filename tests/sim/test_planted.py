"""Bugs that break a promise, planted into the agent: the oracles find each within the seeds of CI.

The same seeds are good without them: see test_worlds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from agent.core.arrivals import Item, Outcome, Settle
from agent.drain.drainer import Drain
from agent.journal import uploads
from agent.journal.book import EpochBook
from agent.journal.fold import Fold
from agent.journal.writer import Journal
from tests.sim.test_worlds import SEEDS
from tests.sim.world import run


def first_violation() -> str:
    """What the oracles say of the first of the seeds that they do not like."""
    for seed in SEEDS:
        verdict = run(seed)
        if not verdict.good:
            return verdict.violations[0]
    raise AssertionError("no seed of CI finds it")


@contextmanager
def acknowledging_before_the_commit() -> Iterator[None]:
    submit = Journal.submit

    def hasty(self: Journal, item: Item, settle: Settle) -> None:
        settle(item, Outcome.STORED)
        submit(self, item, lambda item, outcome: None)

    with patch.object(Journal, "submit", hasty):
        yield


@contextmanager
def moving_the_cursor_before_the_answer() -> Iterator[None]:
    send = Drain._send

    async def hasty(self: Drain, load: Any, group: Any) -> float:
        await self._journal.advance(load.records[-1].position, self._journal.safe(), load.records)
        return await send(self, load, group)

    with patch.object(Drain, "_send", hasty):
        yield


@contextmanager
def forgetting_gaps() -> Iterator[None]:
    def careless(self: Fold, counting: EpochBook, *_: Any) -> None:
        (gap,) = counting.tally.latest_gaps(1)
        counting.tally.add_range(*gap)

    with patch.object(Fold, "_open_gap", careless):
        yield


@contextmanager
def dropping_poison() -> Iterator[None]:
    with patch.object(uploads, "quarantine_record", lambda *_: set()):
        yield


def test_an_acknowledgement_before_its_commit_is_found() -> None:
    with acknowledging_before_the_commit():
        assert "acknowledged, and" in first_violation()


def test_a_cursor_that_moves_before_the_answer_is_found() -> None:
    with moving_the_cursor_before_the_answer():
        assert "uploaded of" in first_violation()


def test_a_gap_that_is_forgotten_is_found() -> None:
    with forgetting_gaps():
        assert "oracle 5" in first_violation()


def test_a_record_that_the_cloud_takes_in_no_form_and_that_is_dropped_is_found() -> None:
    with dropping_poison():
        assert "not whole in the quarantine" in first_violation()
