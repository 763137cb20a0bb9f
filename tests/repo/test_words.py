"""The project speaks of itself alone, and says in each file what the file is for."""

import ast
import gc
import re
from pathlib import Path

import pytest

from tests.repo.tree import ROOT, text_of, written_files

FORBIDDEN = {
    "a registry's host name": r"pypi\.org|pythonhosted\.org|npmjs\.|crates\.io|rubygems\.|ghcr\.io|docker\.io|quay\.io",
    "a path of somebody's machine": r"(?<![\w.])/(?:work|root|home|opt/pypi|tmp/bash)[/_]",
    "a number of somebody's tracker": r"(?i)\b(?:issue|ticket|task) ?#? ?\d+\b",
    "talk about how it was made": r"(?i)\b(?:helper|coding|work) session\b|\bsub-?agents?\b|\bLLM\b|issues show",
    "unfinished business": r"\b(?:TODO|FIXME|XXX)\b|NotImplementedError|# .*\bfor now\b|\bplaceholder\b",
}
JUDGED = [path for path in written_files() if path != Path(__file__).resolve()]


def findings(text: str) -> list[str]:
    """What a text says that it should not, as "kind: words"."""
    return [f"{kind}: {found[0]}" for kind, words in FORBIDDEN.items() for found in re.finditer(words, text)]


def test_the_project_speaks_of_itself_alone() -> None:
    found = {
        str(path.relative_to(ROOT)): words for path in JUDGED if (text := text_of(path)) and (words := findings(text))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "see https://pypi.org/simple",
        "copied from /work/x",
        "# as issue #12 asks",
        "left for a later coding session",
        "# TODO later",
        "raise NotImplementedError",
    ],
)
def test_a_planted_word_is_found(text: str) -> None:
    assert len(findings(text)) == 1


def _docstring(path: Path) -> str | None:
    """What a module opens with. While it is parsed nothing is collected: Python 3.11 then loses count of its depth."""
    gc.disable()
    try:
        return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    finally:
        gc.enable()


def test_every_module_opens_with_what_it_is_for() -> None:
    silent = [str(path.relative_to(ROOT)) for path in JUDGED if path.suffix == ".py" and not _docstring(path)]
    assert silent == []


def test_every_package_stands_in_brackets_in_its_own_docstring() -> None:
    packages = sorted((ROOT / "agent").glob("*/__init__.py"))
    assert packages
    lost = [path.parent.name for path in packages if not re.search(r"\[[a-z ]+\]", _docstring(path) or "")]
    assert lost == []
