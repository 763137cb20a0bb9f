"""[cli] → tills → gate. `nightsafe simulate`: tills that behave like real ones, against any box.

Speaks the device contract only; what it leaves in its folder is what `python -m agent.tills.audit` judges by.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from agent.cli.options import JsonOption
from agent.core.errors import NightsafeError
from agent.tills.floor import Floor, FloorSettings, Mix, Totals, wait
from agent.tills.questions import Answers, asked_words
from agent.tills.voice import Voice
from agent.tills.words import Habits

EXIT_NOT_TOLD: Final = 1
EXIT_NOT_CONNECTED: Final = 3


class Protocol(StrEnum):
    """Which MQTT the tills speak."""

    V311 = "3.1.1"
    V5 = "5"
    MIXED = "mixed"


class Summary(msgspec.Struct, frozen=True):
    """How a simulation ended; counts are events over the folder's whole life, `in_cloud` by the box's receipts.

    `answers` counts the questions of this run by how they ended; `slowest_s` is the longest wait for an answer.
    """

    made: int
    told: int
    untold: int
    refused: int
    in_cloud: int
    tills: int
    connects: int
    resends: int
    duplicates: int
    answers: dict[str, float]
    seconds: float
    directory: str
    problems: tuple[str, ...]


def simulate(
    host: Annotated[str, typer.Option(help="The box's address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The box's MQTT port.")] = 1883,
    tills: Annotated[int, typer.Option(min=1, max=200, help="How many tills, named till-1, till-2 …")] = 3,
    rate: Annotated[float, typer.Option(min=0.01, max=5000.0, help="Events a second, all tills together.")] = 6.0,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many events, all tills together.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so many seconds.")] = None,
    directory: Annotated[
        Path | None, typer.Option(help="Folder of the tills' outboxes; what it holds untold is sent first.")
    ] = None,
    protocol: Annotated[Protocol, typer.Option(help="MQTT version; mixed: every second is 3.1.1.")] = Protocol.MIXED,
    seed: Annotated[str, typer.Option(help="What the guests order follows from it.")] = "0",
    window: Annotated[int, typer.Option(min=1, max=64, help="Events in flight, each till.")] = 8,
    reconnects: Annotated[
        float, typer.Option(min=0.0, help="Seconds between two breaks of a till's connection.")
    ] = 0.0,
    resends: Annotated[int, typer.Option(min=0, help="Every n-th event is kept back until it is asked for.")] = 0,
    duplicates: Annotated[int, typer.Option(min=0, help="Every n-th event is sent twice.")] = 0,
    asks: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Share of what happens that has something asked in real time, such as a card."
        ),
    ] = 0.0,
    reinstalled: Annotated[bool, typer.Option("--reinstalled", help="Each till counts afresh in a new epoch.")] = False,
    settle: Annotated[float, typer.Option(min=0.0, help="Seconds that the last events may take at the end.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Simulate tills that sell through a box; ends after --count or --seconds, or with Ctrl-C.

    Exit: 0 every event was told or refused by name, and every question answered; 1 some are untold and stay in the
    folder, a question had no answer or two different ones, or the folder cannot be used; 3 no till ever connected.
    """
    folder = directory or Path(tempfile.mkdtemp(prefix="nightsafe-tills-"))
    settings = FloorSettings(
        host=host,
        port=port,
        directory=folder,
        tills=tills,
        rate_per_s=rate,
        count=count,
        protocol=_mix(protocol),
        seed=seed,
        window=window,
        reinstalled=reinstalled,
        habits=Habits(duplicate_every=duplicates, withhold_every=resends, reconnect_every_s=reconnects),
        asks=asks,
    )
    started_s = time.monotonic()
    try:
        totals = _run(settings, seconds, settle, quiet=as_json)
    except OSError as error:
        text = f"{folder} cannot be used: {error.strerror or error}."
        raise NightsafeError("folder_unusable", text, "Choose another with --directory.") from error
    summary = _summary(totals, time.monotonic() - started_s, folder)
    print(msgspec.json.encode(summary).decode() if as_json else _words(summary))
    if totals.connects == 0:
        print(f"No till ever connected to {host}:{port}. Is the box running? Try: nightsafe status", file=sys.stderr)
        raise typer.Exit(EXIT_NOT_CONNECTED)
    unanswered = totals.answers.waiting or totals.answers.wrong
    raise typer.Exit(EXIT_NOT_TOLD if totals.untold or unanswered else 0)


def _run(settings: FloorSettings, seconds: float | None, settle_s: float, *, quiet: bool) -> Totals:
    """Sell until the end is reached or somebody interrupts, then let the tills finish."""
    with Voice(quiet=quiet) as voice, Floor(settings) as floor:
        look: Callable[[], None] = lambda: voice.progress(floor.totals)  # noqa: E731
        floor.start()
        try:
            wait(lambda: floor.sold_out, seconds or float("inf"), look)
            floor.settle(settle_s, look)
        except KeyboardInterrupt:
            voice.say("Interrupted: the tills finish what they sold.")
            floor.settle(min(settle_s, 5.0), look)
        return floor.totals


def _mix(protocol: Protocol) -> Mix:
    mixes: dict[Protocol, Mix] = {Protocol.V311: "3.1.1", Protocol.V5: "5", Protocol.MIXED: "mixed"}
    return mixes[protocol]


def _summary(totals: Totals, seconds: float, folder: Path) -> Summary:
    return Summary(
        made=totals.made,
        told=totals.told,
        untold=totals.untold,
        refused=totals.refused,
        in_cloud=totals.in_cloud,
        tills=totals.tills,
        connects=totals.connects,
        resends=totals.resends,
        duplicates=totals.duplicates,
        answers=totals.answers._asdict(),
        seconds=round(seconds, 3),
        directory=str(folder),
        problems=totals.problems,
    )


def _words(summary: Summary) -> str:
    answers = Answers(**summary.answers)  # type: ignore[arg-type]
    lines = [
        f"{summary.tills} tills made {summary.made:,} events in {summary.seconds:.1f} s: {summary.told:,} told, "
        f"{summary.refused:,} refused, {summary.untold:,} untold; {summary.in_cloud:,} in the cloud by the receipts.",
        f"{summary.connects:,} connections, {summary.resends:,} resends asked for, {summary.duplicates:,} sent twice.",
        *([f"{asked_words(answers)}; the slowest took {answers.slowest_s:.2f} s."] if answers.asked else []),
        f"The tills' own files: {summary.directory}",
        *summary.problems,
    ]
    if summary.untold:
        lines.append(f"Send the rest with: nightsafe simulate --count 1 --directory {summary.directory}")
    return "\n".join(lines)
