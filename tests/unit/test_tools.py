"""What cannot be tested on a machine is skipped there, and fails under CI."""

import pytest

from tests import tools


def test_a_missing_program_skips_a_test_and_fails_it_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="no-such-program not installed"):
        tools.needs("sh", "no-such-program")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program not installed"):
        tools.needs("sh", "no-such-program")


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_program_that_is_there_lets_the_test_run(monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.setenv("CI", ci)
    tools.needs("sh")
