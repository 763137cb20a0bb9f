"""How long a box has run: added up over boots, never steered by a clock."""

from agent.core.lived import Lived, lived


def test_a_box_that_goes_on_counts_what_it_ran_since_the_mark() -> None:
    assert lived(Lived(100.0, "a", 40.0), "a", 55.0) == Lived(115.0, "a", 55.0)


def test_a_new_boot_counts_from_its_own_start() -> None:
    assert lived(Lived(100.0, "a", 40.0), "b", 12.0) == Lived(112.0, "b", 12.0)


def test_a_new_journal_counts_from_the_boot() -> None:
    assert lived(Lived(), "a", 7.0) == Lived(7.0, "a", 7.0)


def test_it_never_runs_backwards() -> None:
    assert lived(Lived(100.0, "a", 40.0), "a", 39.0).total_s == 100.0
