"""How long a login lasts, and how many there are."""

from agent.core.sessions import Sessions, Terms

TERMS = Terms(idle_s=60, life_s=300, count_max=2)


def test_a_session_is_found_by_its_token_alone() -> None:
    sessions = Sessions(TERMS)
    made = sessions.open("a", "form", 0)
    assert sessions.find("a", 1) is made
    assert sessions.find("b", 1) is None
    assert made.form_token == "form"


def test_using_it_keeps_it_until_its_longest_life_is_over() -> None:
    sessions = Sessions(TERMS)
    sessions.open("a", "form", 0)
    assert all(sessions.find("a", 59.9 * n) for n in range(1, 6))
    assert sessions.find("a", 299.9) is not None
    assert sessions.find("a", 300) is None
    assert len(sessions) == 0


def test_one_that_nobody_uses_ends() -> None:
    sessions = Sessions(TERMS)
    sessions.open("a", "form", 0)
    assert sessions.find("a", 60) is None
    assert sessions.find("a", 1) is None, "and stays ended"


def test_of_too_many_the_one_unused_for_the_longest_ends() -> None:
    sessions = Sessions(TERMS)
    sessions.open("a", "form", 0)
    sessions.open("b", "form", 1)
    sessions.find("a", 2)
    sessions.open("c", "form", 3)
    assert [sessions.find(token, 4) is not None for token in "abc"] == [True, False, True]


def test_ended_is_ended_for_one_and_for_all() -> None:
    sessions = Sessions(TERMS)
    sessions.open("a", "form", 0)
    sessions.open("b", "form", 0)
    sessions.end("a")
    sessions.end("a")
    assert sessions.find("a", 1) is None
    assert sessions.end_all() == 1
    assert sessions.find("b", 1) is None


def test_no_token_is_kept() -> None:
    sessions = Sessions(TERMS)
    sessions.open("a-token-of-somebody", "form", 0)
    assert "a-token-of-somebody" not in repr(vars(sessions))
