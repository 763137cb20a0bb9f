"""tills' files → [audit] → checker. Reads the tills' folders, and says the checker's verdict in words.

Also a program: `nightsafe cloud export … | python -m agent.tills.audit FOLDER` exits 0 only when nothing is lost,
doubled, reordered, altered or made up, and something was told. Never writes into a till's folder.
"""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from agent.tills.checker import Evidence, ExportUnreadable, Made, Verdict, check
from agent.tills.lines import OutboxDamaged, read_lines
from agent.tills.outbox import Kept, Refused, Sent, Told


def read_evidence(directory: Path) -> list[Evidence]:
    """Every till's files below `directory`, one folder a till. OutboxDamaged when one cannot be read."""
    folders = sorted(path.parent for path in directory.glob("*/events.jsonl"))
    return [_evidence(folder) for folder in folders]


def _evidence(folder: Path) -> Evidence:
    ticks: dict[str, int] = {}
    for sent in read_lines(folder / "sent.jsonl", Sent):
        ticks.setdefault(sent.id, sent.tick)
    return Evidence(
        device=folder.name,
        made={kept.id: Made(kept.sha256, ticks.get(kept.id)) for kept in read_lines(folder / "events.jsonl", Kept)},
        told={told.id: told.tick for told in read_lines(folder / "told.jsonl", Told)},
        refused=frozenset(refused.id for refused in read_lines(folder / "refused.jsonl", Refused)),
    )


def table(verdict: Verdict) -> Table:
    """The verdict as a table: one figure a row, and what the figure means."""
    result = Table(show_header=False, title="The tills' own files against the cloud's export", title_justify="left")
    for name, count, meaning in _rows(verdict):
        result.add_row(name, f"{count:,}", meaning)
    return result


def lines(verdict: Verdict) -> list[str]:
    """The same as plain lines."""
    return [f"{name:<10} {count:>7,}  {meaning}" for name, count, meaning in _rows(verdict)]


def findings(verdict: Verdict) -> list[str]:
    """One line for each finding that is named."""
    kinds = ("lost", "doubled", "reordered", "altered", "phantom")
    return [f"{kind}: {f.device} {f.id} ({f.where})" for kind in kinds for f in getattr(verdict, kind).first]


def _rows(verdict: Verdict) -> list[tuple[str, int, str]]:
    return [
        ("told", verdict.told, "events the tills were told are stored"),
        ("refused", verdict.refused, "events the tills were told will never be stored"),
        ("in cloud", verdict.in_cloud, "events of the tills in the cloud's export"),
        ("lost", verdict.lost.count, "told, but not in the cloud"),
        ("doubled", verdict.doubled.count, "in the cloud more than once"),
        ("reordered", verdict.reordered.count, "in the cloud in another order"),
        ("altered", verdict.altered.count, "in the cloud with other bytes"),
        ("phantom", verdict.phantom.count, "in the cloud, but never made by a till"),
    ]


def main(
    directory: Annotated[Path, typer.Argument(help="The folder that holds one folder for each till.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Judge the cloud's export (standard input) against the tills' own files."""
    try:
        verdict = check(read_evidence(directory), sys.stdin.buffer)
    except (ExportUnreadable, OutboxDamaged) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    if as_json:
        print(msgspec.json.encode(verdict).decode())
    else:
        Console().print(table(verdict))
        print("\n".join(findings(verdict)), end="")
    if verdict.told == 0:
        print(f"Nothing was told below {directory}: there is nothing to judge.", file=sys.stderr)
    raise typer.Exit(0 if verdict.clean and verdict.told else 1)


if __name__ == "__main__":
    typer.run(main)
