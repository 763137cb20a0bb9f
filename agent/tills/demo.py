"""[demo] `python -m agent.tills.demo`: a box, a cloud and three tills in one folder, alive until Ctrl-C.

With `--story` it tells the whole story by itself and exits 0 only when nothing was lost, doubled or reordered. An
outside program: it starts `nightsafe` and speaks the contract's faces, nothing else.
"""

import os
import select
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from agent.core.errors import NightsafeError
from agent.tills import audit
from agent.tills.floor import wait
from agent.tills.questions import asked_words
from agent.tills.story import tell
from agent.tills.venue import VENUE, Venue
from agent.tills.voice import Voice, progress_line

SETTLE_MAX_S: Final = 6.0
"""How long the tills may take to be told their last sales when the demo ends."""
LOOK_FOREVER_S: Final = float("inf")

EXIT_BROKEN: Final = 1
EXIT_NOT_STARTED: Final = 3
EXIT_INTERRUPTED: Final = 130


def main(
    story: Annotated[
        bool, typer.Option("--story", help="Tell the whole story in under a minute, and judge it.")
    ] = False,
    directory: Annotated[Path, typer.Option(help="Folder for everything; emptied at the start.")] = Path(".demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Go on with what the folder holds.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, max=500.0, help="Events a second, all tills together.")] = 6.0,
    seed: Annotated[str, typer.Option(help="What the guests order follows from it.")] = "0",
) -> None:
    """Three simulated tills sell through a box to a cloud, all on this machine."""
    if story and keep:
        raise typer.BadParameter("the story starts with an empty folder", param_hint="--keep")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Voice() as voice, Venue(directory, keep=keep, rate_per_s=rate, seed=seed) as venue:
            for port in venue.ports.values():
                if port.note:
                    voice.say(port.note, "yellow")
            try:
                code = _story(venue, voice) if story else _demo(venue, voice)
            except KeyboardInterrupt:
                code = EXIT_INTERRUPTED
            finally:
                _ignore_interrupts()
    except NightsafeError as error:
        print(error, file=sys.stderr)
        code = EXIT_NOT_STARTED
    raise typer.Exit(code)


def _story(venue: Venue, voice: Voice) -> int:
    outcome = tell(venue, voice)
    if voice.is_terminal:
        voice.show(audit.table(outcome.verdict))
    else:
        for line in audit.lines(outcome.verdict):
            voice.say(line)
    for line in audit.findings(outcome.verdict):
        voice.say(line, "red")
    voice.say(f"{asked_words(outcome.answers)}; the slowest took {outcome.answers.slowest_s:.1f} s.")
    if outcome.answers.waiting or outcome.answers.wrong:
        voice.say("A question had no answer, or one that does not fit the others.", "red")
    for part in outcome.empty:
        voice.say(f"Nothing was told in the part '{part}': it proves nothing.", "red")
    if not outcome.drained:
        voice.say(f"The box did not drain in time; what it says stands in {venue.directory / 'agent.log'}.", "red")
    if outcome.good:
        voice.say("Everything the tills were told is in the cloud: once, in order, byte for byte.", "green")
    return 0 if outcome.good else EXIT_BROKEN


def _demo(venue: Venue, voice: Voice) -> int:
    voice.say("Starting a cloud, a box and three tills …")
    venue.start()
    for line in _what_to_try(venue, voice.is_terminal):
        voice.say(line)
    keys = _Keys(venue, voice)
    try:
        wait(keys.quit_asked, LOOK_FOREVER_S, lambda: voice.progress(venue.look()))
    except KeyboardInterrupt:
        voice.say()
    _ignore_interrupts()
    _summary(venue, voice)
    return 0


def _what_to_try(venue: Venue, is_terminal: bool) -> list[str]:
    devices = venue.ports["devices"].number
    subscribe = f"mosquitto_sub -h 127.0.0.1 -p {devices} -i onlooker -v"
    nightsafe = _nightsafe()
    hint = "   (get it with: apt-get install mosquitto-clients)" if shutil.which("mosquitto_sub") is None else ""
    stop_cloud = "type c and Enter" if is_terminal else f"kill {venue.cloud.pid}, then {venue.serve_command}"
    kill_box = "type k and Enter" if is_terminal else f"kill -9 {venue.agent.pid}"
    export = f"{nightsafe} cloud export --ledger sqlite:{venue.directory / 'cloud.db'} --venue {VENUE}"
    return [
        "",
        f"The box's page        {venue.page}/",
        f"Stop, start the cloud {stop_cloud}",
        f"Kill the box          {kill_box}   (it is started again)",
        f"Hear its status       {subscribe} -t pos/v1/venue/status",
        f"Hear the receipts     {subscribe} -t 'pos/v1/+/receipt'{hint}",
        f"Ask the box           {nightsafe} status --config {venue.config}",
        f"What the cloud has    {export}",
        "End it                Ctrl-C" + (", or q and Enter" if is_terminal else ""),
        "",
    ]


def _nightsafe() -> str:
    """The command as it can be typed here."""
    beside = Path(sys.executable).parent / "nightsafe"
    if not beside.exists():
        return f"{os.path.relpath(sys.executable)} -m agent"
    return "nightsafe" if shutil.which("nightsafe") else os.path.relpath(beside)


def _summary(venue: Venue, voice: Voice) -> None:
    """Let the tills finish, and say how it stands."""
    settled = venue.floor.settle(SETTLE_MAX_S, lambda: voice.progress(venue.look()))
    totals = venue.floor.totals
    voice.say(f"The end: {progress_line(totals)}.")
    voice.say(f"The tills: {asked_words(totals.answers)}.")
    if not settled:
        voice.say(f"{totals.untold:,} events are still in the tills' own outboxes ({venue.tills}).")
    if totals.status.sync.pending:
        voice.say(f"{totals.status.sync.pending:,} records are safe on the box ({venue.directory / 'state'}).")
    voice.say("Start it with --keep to go on from here.")


class _Keys:
    """What a person types while the demo runs: a letter and Enter."""

    def __init__(self, venue: Venue, voice: Voice) -> None:
        self._venue = venue
        self._voice = voice
        self._listening = voice.is_terminal and sys.stdin.isatty()

    def quit_asked(self) -> bool:
        """Do what was typed since the last look; True when the demo is to end."""
        typed = self._typed()
        if typed == "c":
            self._toggle_cloud()
        elif typed == "k":
            self._voice.say(
                f"The box is killed (SIGKILL to process {self._venue.agent.pid}); it will be started again."
            )
            self._venue.agent.kill()
        return typed == "q"

    def _typed(self) -> str:
        if not self._listening or not select.select([sys.stdin], [], [], 0)[0]:
            return ""
        line = sys.stdin.readline()
        self._listening = bool(line)
        return line.strip().lower()

    def _toggle_cloud(self) -> None:
        if self._venue.cloud.alive:
            self._voice.say("The cloud is stopped. Type c again to bring it back.")
            self._venue.cloud.stop()
        else:
            self._voice.say("The cloud comes back.")
            self._venue.start_cloud()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    """What is being ended is ended whole: a second Ctrl-C changes nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    typer.run(main)
