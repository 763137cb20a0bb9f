"""The checkout as the repo tests see it: what people wrote, without what tools made."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_BEHIND = ("dist", "build", ".bench", ".demo")
SKIPPED = frozenset({".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__"})


def written_files() -> Iterator[Path]:
    """Every file of the project but caches, environments and what demo and benchmarks leave behind."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        made = SKIPPED & set(parts) or parts[0] in LEFT_BEHIND or parts[0].endswith(".egg-info")
        if path.is_file() and not made:
            yield path


def text_of(path: Path) -> str | None:
    """The file's text, or None for one that is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
