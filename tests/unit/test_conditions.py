"""Conditions by name, since when; states end by themselves, what has happened does not."""

from agent.core.clock import Moment
from agent.core.conditions import LASTING_MAX, Conditions, Severity, Words, ending


def words(text: str = "", severity: Severity = "warning", hint: str = "do something") -> Words:
    return Words(severity, "Title", text, hint)


def test_a_condition_keeps_its_beginning_and_tells_it_as_the_clock_is_known_when_somebody_looks() -> None:
    held = Conditions()
    assert held.hold("b", 20.0, words("first"))
    assert held.hold("a", 10.0, words(hint=""))
    assert not held.hold("b", 30.0, words("now", "critical"))
    for year in ("1970", "2026"):
        told = held.all(lambda at_s, year=year: f"{year}+{at_s:g}")  # type: ignore[misc]
        assert [(one.id, one.since, one.text, one.attention) for one in told] == [
            ("a", f"{year}+10", "", False),
            ("b", f"{year}+20", "now", True),
        ]
    assert held.lift("b")
    assert not held.lift("b")
    assert [one.id for one in held.all(str)] == ["a"]


def test_what_has_happened_is_ended_by_an_acknowledgement_alone_and_told_anew_when_it_happens_again() -> None:
    held = Conditions()
    held.hold("forked", 10.0, words("one"), lasting=True)
    assert not held.lift("forked")
    assert not held.hold("forked", 11.0, words("two"), lasting=True)
    assert held.acknowledge("forked") is not None
    assert held.acknowledge("forked") is None
    assert held.all(str) == ()
    assert held.hold("forked", 20.0, words("three"), lasting=True)
    (told,) = held.all(str)
    assert (told.since, told.text, told.lasting) == ("20.0", "three", True)


def test_a_state_is_ended_by_no_acknowledgement() -> None:
    held = Conditions()
    held.hold("disk_full", 10.0, words())
    assert held.acknowledge("disk_full") is None
    assert [one.id for one in held.all(str)] == ["disk_full"]


def test_an_acknowledgement_that_could_not_be_kept_is_none_and_what_happened_meanwhile_is_newer() -> None:
    held = Conditions()
    for id in ("a", "b"):
        held.hold(id, 10.0, words("old"), lasting=True)
    a, b = held.acknowledge("a"), held.acknowledge("b")
    held.hold("b", 20.0, words("new"), lasting=True)
    assert a is not None
    assert b is not None
    held.put_back(a)
    held.put_back(b)
    assert [(one.id, one.since, one.text) for one in held.all(str)] == [("a", "10.0", "old"), ("b", "20.0", "new")]


def test_what_an_earlier_start_has_told_of_stands_first_since_its_own_moment_with_the_newest_words() -> None:
    held = Conditions()
    held.hold("lost", 5.0, words("of this start"), lasting=True)
    held.hold("state", 1.0, words())
    held.recall("lost", Moment(1000, 10, 1), words("of the start before"))
    held.recall("forked", Moment(2000, 10, 2), words("fork"))
    told = held.all(lambda since: str(since.wall_ms) if isinstance(since, Moment) else f"{since:g} s")
    assert [(one.id, one.since, one.text, one.lasting) for one in told] == [
        ("lost", "1000", "of this start", True),
        ("forked", "2000", "fork", True),
        ("state", "1 s", "", False),
    ]


def test_of_too_many_that_happened_the_oldest_go_and_critical_ones_last() -> None:
    held = Conditions()
    held.hold("state", 0.0, words())
    held.hold("grave", 1.0, words(severity="critical"), lasting=True)
    for number in range(LASTING_MAX - 1):
        held.hold(f"n{number}", 2.0 + number, words(), lasting=True)
    assert held.surplus() == ()
    held.hold("one more", 900.0, words(), lasting=True)
    assert held.surplus() == ("n0",)
    assert {"state", "grave", "n1", "one more"} <= {one.id for one in held.all(str)}
    for number in range(LASTING_MAX):
        held.hold(f"grave-{number}", 1000.0 + number, words(severity="critical"), lasting=True)
    gone = held.surplus()
    assert (gone[0], gone[-1]) == ("n1", "grave")
    assert len(held.all(str)) == LASTING_MAX + 1


def test_how_a_condition_ends_is_said_in_words_that_a_shell_takes() -> None:
    held = Conditions()
    held.hold("state", 0.0, words())
    held.hold("spoofed:the bar's till", 1.0, words(), lasting=True)
    state, lasting = held.all(str)
    assert ending(state) == "It ends by itself."
    assert "nightsafe attention ack 'spoofed:the bar'\"'\"'s till' --reason" in ending(lasting)
