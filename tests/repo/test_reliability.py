"""The page about reliability names tests; each of them is there."""

import re

import pytest

from tests.repo.tree import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("path", "test"), NAMED)
def test_a_test_that_the_page_names_is_there(path: str, test: str) -> None:
    source = (ROOT / path).read_text("utf-8")
    assert not test or re.search(rf"def {test}\(", source)


def test_the_page_names_tests_at_all() -> None:
    assert len(NAMED) > 30
