"""[cli] → bench. `nightsafe bench`: measures this machine with an agent, a cloud and tills of its own.

Never touches a box that is installed here: everything it starts lies in a folder of its own and ends with it.
"""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console

from agent.bench import profile as profiles
from agent.bench.plan import PARTS, QUICK_TIMES, TIMES, Part, Plan
from agent.bench.suite import run
from agent.bench.table import render
from agent.cli.options import JsonOption
from agent.core.errors import NightsafeError

RESULTS_NAME: Final = "results.json"
WIDTH: Final = 120
"""Columns of the tables where the output is no terminal."""

BACKLOG: Final = 1_000_000
QUICK_BACKLOG: Final = 20_000


class Protocol(StrEnum):
    """Which MQTT the tills speak."""

    V311 = "3.1.1"
    V5 = "5"


class Only(StrEnum):
    """One part of the benchmarks."""

    INTAKE = "intake"
    DISK = "disk"
    DRAIN = "drain"
    LIVE = "live"
    UPLINK = "uplink"
    DESK = "desk"


_PART: Final[dict[Only, Part]] = {
    Only.INTAKE: "intake",
    Only.DISK: "disk",
    Only.DRAIN: "drain",
    Only.LIVE: "live",
    Only.UPLINK: "uplink",
    Only.DESK: "desk",
}


def command(
    quick: Annotated[bool, typer.Option("--quick", help="Small numbers, for a look: three minutes.")] = False,
    backlog: Annotated[
        int | None, typer.Option(min=1_000, help="Records of the backlog.", show_default="1000000")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, max=600, help="Measured seconds of a point.", show_default="8")
    ] = None,
    protocol: Annotated[Protocol, typer.Option(help="MQTT version that the tills speak.")] = Protocol.V311,
    directory: Annotated[Path, typer.Option(help="Folder on the disk to be measured; results are left there.")] = Path(
        ".bench"
    ),
    only: Annotated[Only | None, typer.Option(help="One part alone.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Sample the agent with py-spy meanwhile.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine: intake against the disk's floor, bytes written, drain, memory, start, live intake.

    Takes about twenty minutes and 6 GiB of disk. docs/benchmarks.md says how to read the figures. Exit 0 when all was
    measured, whether the aims are met or not.
    """
    if profile:
        profiles.find()
    signal.signal(signal.SIGTERM, _interrupt)
    with _folder(directory) as work:
        plan = Plan(
            directory=work.parent,
            work=work,
            parts=PARTS if only is None else (_PART[only],),
            times=(QUICK_TIMES if quick else TIMES).with_seconds(seconds),
            backlog=backlog or (QUICK_BACKLOG if quick else BACKLOG),
            level=5 if protocol is Protocol.V5 else 4,
            quick=quick,
            profile=profile,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        found = msgspec.json.encode(report := run(plan))
        (work.parent / RESULTS_NAME).write_bytes(msgspec.json.format(found) + b"\n")
    if as_json:
        print(found.decode())
        return
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(render(report))


@contextmanager
def _folder(directory: Path) -> Iterator[Path]:
    """A folder to work in, inside `directory`, gone at the end."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="run-", dir=directory.resolve()))
    except OSError as error:
        text = f"{directory} cannot be used: {error.strerror or error}."
        raise NightsafeError("folder_unusable", text, "Choose another with --directory.") from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
