"""When the story is good, and what the line of progress says."""

import msgspec
import pytest

from agent.tills.checker import Finding, Findings, Verdict
from agent.tills.floor import Totals
from agent.tills.questions import Answers
from agent.tills.story import Outcome, is_drained
from agent.tills.voice import progress_line
from agent.tills.words import Sync, VenueStatus

NONE = Findings()
ONE = Findings(1, (Finding("till-1", "x", "line 1"),))
CLEAN = Verdict(9, 0, 9, 9, lost=NONE, doubled=NONE, reordered=NONE, altered=NONE, phantom=NONE)
DONE = Totals(9, 9, 0, 0, 9, 3, 3, 3, 0, 0, (), VenueStatus(state="online"))


def test_a_story_is_good_when_everything_told_is_in_the_cloud() -> None:
    assert Outcome(CLEAN, drained=True, empty=()).good


@pytest.mark.parametrize("kind", ["lost", "doubled", "reordered", "altered", "phantom"])
def test_one_broken_promise_of_any_kind_spoils_the_story(kind: str) -> None:
    assert not Outcome(msgspec.structs.replace(CLEAN, **{kind: ONE}), drained=True, empty=()).good


def test_a_story_in_which_nothing_was_told_proves_nothing() -> None:
    assert not Outcome(msgspec.structs.replace(CLEAN, told=0), drained=True, empty=()).good
    assert not Outcome(CLEAN, drained=True, empty=("cloud away",)).good


def test_a_story_that_did_not_drain_is_not_good() -> None:
    assert not Outcome(CLEAN, drained=False, empty=()).good


def test_a_question_without_an_answer_or_with_two_spoils_the_story() -> None:
    answered = Answers(asked=5, ok=2, refused=1, declined=1, unknown=1)
    assert Outcome(CLEAN, drained=True, empty=(), answers=answered).good
    assert not Outcome(CLEAN, drained=True, empty=(), answers=answered._replace(waiting=1)).good
    assert not Outcome(CLEAN, drained=True, empty=(), answers=answered._replace(wrong=1)).good


def test_drained_means_nothing_waits_anywhere() -> None:
    assert is_drained(DONE)
    assert not is_drained(DONE._replace(untold=1))
    assert not is_drained(DONE._replace(in_cloud=8))
    assert not is_drained(DONE._replace(answers=Answers(waiting=1)))
    assert not is_drained(DONE._replace(status=VenueStatus(sync=Sync(pending=1))))


def test_the_line_of_progress_names_the_cause_only_when_there_is_one() -> None:
    assert progress_line(DONE) == "sold 9 · told 9 · in cloud 9 · pending 0 · uplink online"
    away = DONE._replace(status=VenueStatus(state="offline", cause="cloud"), refused=2)
    assert progress_line(away).endswith("uplink offline (cloud) · refused 2")
    assert progress_line(DONE._replace(connected=0)).endswith("uplink box away")
