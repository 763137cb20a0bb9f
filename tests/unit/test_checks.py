"""The last known state of each open check."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.core.checks import ENDED_MAX, OpenChecks, Seen, encode, seen_in, topic_of


def seen(check: str, what: str = "updated", device: str = "till-1", sequence: int | None = None, at: int = 1) -> Seen:
    body = b'{"id":"id-%d","data":{"check_id":"%b"}}' % (at, check.encode())
    return Seen(check, f"pos.check.{what}", device, "e1", sequence, body)


def event(**changes: Any) -> bytes:
    data = {"check_id": "1009", "total": {"amount": 1250, "currency": "GBP"}}
    return json.dumps({"id": "a", "type": "pos.check.updated", "source": "/x", "data": data} | changes).encode()


def test_only_events_of_checks_are_seen_and_data_is_kept_as_written() -> None:
    found = seen_in("till-1", b'{"id":"a","type":"pos.check.opened","data":{"check_id" : "1009","x":1.50}}')
    assert found is not None
    assert found.check_id == "1009"
    assert b'"data":{"check_id" : "1009","x":1.50}' in encode(found)
    for other in (event(type="pos.payment.captured"), event(data={}), event(data={"check_id": 7}), b"", b"[]"):
        assert seen_in("till-1", other) is None


def test_the_last_word_counts_whoever_says_it() -> None:
    checks = OpenChecks(10)
    assert checks.note(seen("1009", "opened", "till-1"), 0, 0) == ("1009",)
    assert checks.note(seen("1009", "updated", "handheld-2"), 5, 0) == ("1009",)
    found = checks.get("1009")
    assert found is not None
    assert found.device == "handheld-2"


def test_a_check_that_has_ended_is_open_no_more_and_a_late_event_does_not_open_it_again() -> None:
    checks = OpenChecks(10)
    checks.note(seen("1009", "opened", sequence=3), 0, 0)
    assert checks.note(seen("1009", "closed", sequence=9), 1, 0) == ("1009",)
    assert checks.note(seen("1009", "updated", sequence=8), 2, 0) == ()
    assert checks.get("1009") is None
    assert checks.note(seen("1009", "opened", sequence=10), 3, 0) == ("1009",), "it is opened anew on purpose"


def test_a_late_event_does_not_replace_a_later_one() -> None:
    checks = OpenChecks(10)
    checks.note(seen("1009", sequence=9, at=9), 0, 0)
    assert checks.note(seen("1009", sequence=8, at=8), 1, 0) == ()
    assert checks.note(seen("1009", device="till-2", sequence=1, at=1), 2, 0) == ("1009",), (
        "another device counts itself"
    )


def test_of_too_many_the_one_with_the_oldest_last_word_makes_room() -> None:
    checks = OpenChecks(2)
    for name in ("a", "b", "a"):
        checks.note(seen(name), 0, 0)
    assert checks.note(seen("c"), 0, 0) == ("c", "b")
    assert checks.all() == ("a", "c")


def test_checks_of_which_nothing_is_heard_are_let_go() -> None:
    checks = OpenChecks(10)
    checks.note(seen("old"), 0, 10.0)
    checks.note(seen("new"), 0, 20.0)
    assert checks.let_go(15.0) == ("old",)
    assert checks.all() == ("new",)


def test_the_log_has_to_be_read_from_the_oldest_last_word_on() -> None:
    checks = OpenChecks(10)
    assert checks.after is None
    checks.note(seen("a"), 7, 0)
    checks.note(seen("b"), 9, 0)
    assert checks.after == 7
    checks.note(seen("a"), 12, 0)
    assert checks.after == 9


def test_what_ended_is_remembered_within_a_bound() -> None:
    checks = OpenChecks(10)
    for number in range(ENDED_MAX + 5):
        checks.note(seen(str(number), "voided"), 0, 0)
    assert len(checks._ended) == ENDED_MAX


@given(st.text(min_size=1, max_size=256))
def test_any_id_makes_one_level_of_a_topic_of_its_own(check_id: str) -> None:
    level = topic_of(check_id).removeprefix("pos/v1/venue/checks/")
    assert level.isascii()
    assert not set(level) & set("/+# \0")
    assert topic_of("1009") == "pos/v1/venue/checks/1009"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["opened", "updated", "closed"]), st.integers(1, 9))))
def test_reading_the_end_of_the_log_again_changes_nothing(story: list[tuple[str, str, int]]) -> None:
    """After a restart more of the log may be read than is needed: what is known by then must not turn back."""
    events = [seen(check, what, device=f"till-{device}", at=at) for at, (check, what, device) in enumerate(story)]
    once, again = OpenChecks(100), OpenChecks(100)
    for at, one in enumerate(events):
        once.note(one, at, 0)
        again.note(one, at, 0)
    for at, one in enumerate(events[len(events) // 2 :]):
        again.note(one, at, 0)
    assert {name: again.get(name) for name in again.all()} == {name: once.get(name) for name in once.all()}
