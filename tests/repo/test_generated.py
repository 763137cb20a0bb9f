"""What is written from the code says what the code says."""

from agent.faces.__main__ import written_files as contract_files
from agent.settings.reference import written_files
from tests.repo.tree import ROOT


def test_the_example_and_the_settings_page_are_fresh() -> None:
    stale = [name for name, text in written_files().items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run: python -m agent.settings.reference"


def test_the_contract_for_machines_is_fresh() -> None:
    stale = [name for name, text in contract_files().items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run: python -m agent.faces"
    written = {str(path.relative_to(ROOT)) for path in (ROOT / "docs/schemas").iterdir()}
    assert written <= contract_files().keys(), "a schema that nobody writes any more"
