"""Conditions by name, from when they began in this boot's own time."""

from agent.core.conditions import Conditions


def test_a_condition_keeps_its_beginning_and_tells_it_as_the_clock_is_known_when_somebody_looks() -> None:
    held = Conditions()
    assert held.hold("b", 20.0, "warning", "B", "first", "do something")
    assert held.hold("a", 10.0, "info", "A", "")
    assert not held.hold("b", 30.0, "critical", "B", "now", "do something")
    for year in ("1970", "2026"):
        told = held.all(lambda at_s, year=year: f"{year}+{at_s:g}")  # type: ignore[misc]
        assert [(one.id, one.since, one.text, one.attention) for one in told] == [
            ("a", f"{year}+10", "", False),
            ("b", f"{year}+20", "now", True),
        ]
    assert held.lift("b")
    assert not held.lift("b")
    assert [one.id for one in held.all(str)] == ["a"]
