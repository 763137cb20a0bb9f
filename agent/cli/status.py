"""status → web → [cli] → people. `nightsafe status`: how the box is, asked of the running agent over its Unix socket.

Only shows what the agent says, with every character made harmless. Never opens the journal, never changes anything.
"""

import json
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Annotated, Final
from zoneinfo import ZoneInfo

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.core.conditions import ending
from agent.core.errors import NightsafeError
from agent.core.health import Check, verdict
from agent.core.instants import local_time, to_ms
from agent.core.presence import presence_words
from agent.core.printable import printable
from agent.core.sentence import count, duration, incomplete
from agent.core.status import SOCKET_NAME, Details, DeviceStatus, Snapshot, VenueStatus, from_json
from agent.settings.load import load

EXIT_NOT_WELL: Final = 1
EXIT_NO_AGENT: Final = 3
EXIT_NOT_ALLOWED: Final = 4

ANSWER_S_MAX: Final = 5.0
"""How long the agent may take to answer, in seconds."""
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest answer that is read; a device takes a few hundred bytes."""
WATCH_INTERVAL_S: Final = 1.0
"""How often --watch asks again, in seconds."""
BAR_WIDTH: Final = 40
GAPS_SHOWN_MAX: Final = 3

COLOURS: Final = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red"}
SEVERITY_COLOURS: Final = {"info": "default", "warning": "yellow", "critical": "red"}


class NoAnswer(NightsafeError):
    """The agent did not answer; `exit_code` says in which way."""

    def __init__(self, text: str, hint: str, exit_code: int = EXIT_NO_AGENT) -> None:
        super().__init__("no_agent", text, hint)
        self.exit_code = exit_code


def command(
    config: ConfigOption = CONFIG_DEFAULT,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how the box is: the uplink, what is not in the cloud yet, every device.

    With --json and --watch together, one document a line. Exit: 0 all is well, or --watch was ended · 1 something
    needs a look: not online, sending is held, an attention, or nothing can be stored · 3 no agent answers · 4 this
    user may not ask it · 78 the settings file cannot be used.
    """
    path = load(config).state.directory / SOCKET_NAME
    if watch:
        _watch(path, as_json)
        return
    try:
        body = fetch(path)
        snapshot = read(body)
    except NoAnswer as error:
        _tell(error, as_json)
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print(_harmless(body, indent=2))
    else:
        Console(highlight=False, emoji=False).print(shown(snapshot))
    raise typer.Exit(0 if well(snapshot) == "pass" else EXIT_NOT_WELL)


def fetch(path: Path) -> bytes:
    """The body of `/api/v1/status` from the agent that listens on the Unix socket `path`. Raises NoAnswer."""
    with socket(AF_UNIX, SOCK_STREAM) as way:
        way.settimeout(ANSWER_S_MAX)
        try:
            way.connect(str(path))
            connection = HTTPConnection("localhost", timeout=ANSWER_S_MAX)
            connection.sock = way
            connection.request("GET", "/api/v1/status", headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read(ANSWER_BYTES_MAX)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoAnswer(
                f"The agent is not running: nobody listens on {path}.",
                "Start it with: systemctl start nightsafe, or: nightsafe run --config FILE",
            ) from None
        except PermissionError:
            raise NoAnswer(
                f"This user may not ask the agent: {path} belongs to another.",
                "Ask as root or as the agent's own user: sudo nightsafe status",
                EXIT_NOT_ALLOWED,
            ) from None
        except (OSError, HTTPException) as error:
            words = f"The agent does not answer on {path}: {error or type(error).__name__}."
            raise NoAnswer(words, "Look at its log: journalctl -u nightsafe") from error
    if answer.status != 200:
        raise NoAnswer(f"The agent answers with an error: {answer.status}.", "Look at its log: journalctl -u nightsafe")
    return body


def read(body: bytes) -> Snapshot:
    """The snapshot in the agent's answer. Raises NoAnswer when it is of another version."""
    try:
        return from_json(body)
    except msgspec.DecodeError as error:
        hint = "Restart the agent, so that both are of one version: systemctl restart nightsafe"
        raise NoAnswer("The agent's answer is not understood: it is of another version.", hint) from error


def well(snapshot: Snapshot) -> str:
    """`pass`, `warn` or `fail`."""
    return verdict(snapshot, (Check("journal", snapshot.details.journal.writable),))


def shown(snapshot: Snapshot) -> RenderableType:
    """The whole picture for a terminal."""
    status, details = snapshot.status, snapshot.details
    now_ms = to_ms(status.time)
    parts: list[RenderableType] = [
        Text(f"{printable(details.name)} ({printable(status.venue)})", style="bold"),
        Text(printable(status.sentence), style=COLOURS[well(snapshot)]),
    ]
    if status.sync.pending and status.sync.state != "idle":
        parts.append(_progress(status))
    parts.append(_figures(status, details))
    for one in details.conditions:
        words = " ".join(part for part in (f"{one.title}.", one.text, one.hint, one.lasting and ending(one)) if part)
        parts.append(Text(f"! {printable(words)}", style=SEVERITY_COLOURS[one.severity]))
    if details.devices:
        parts.append(_devices(status, details))
    parts += [Text(printable(line), style=style) for one in details.devices for line, style in _said(one, now_ms)]
    parts += [Text(printable(line), style="yellow") for one in details.devices for line in incomplete(one)]
    return Group(*parts)


def _progress(status: VenueStatus) -> RenderableType:
    sync = status.sync
    eta = "" if sync.eta_s is None else f", {duration(sync.eta_s)} left"
    rate = f" at {sync.rate_per_s:,.0f}/s" if sync.rate_per_s else ""
    row = Table.grid(padding=(0, 1))
    row.add_row(
        ProgressBar(
            total=1.0, completed=sync.progress, width=BAR_WIDTH, complete_style="green", finished_style="green"
        ),
        Text(f"{sync.progress:.0%}  {count(sync.pending, 'record')} to go{rate}{eta}"),
    )
    return row


def _figures(status: VenueStatus, details: Details) -> RenderableType:
    last = _local(status, details, status.last_sync_at) if status.last_sync_at else "never yet"
    oldest = f", the oldest from {_local(status, details, status.sync.oldest_at)}" if status.sync.oldest_at else ""
    rows = {
        "Not in the cloud yet": f"{count(status.sync.pending, 'record')} ({status.sync.pending_bytes:,} bytes){oldest}",
        "Last sent": last,
        "Safe to power off": "yes" if status.safe_to_power_off else "not this moment",
        "Business date": _business_date(details),
        "Disk free": f"{details.disk.free_bytes / 1e9:,.1f} of {details.disk.total_bytes / 1e9:,.1f} GB",
    }
    if details.disk.hours_until_full is not None:
        left = f"in {duration(details.disk.hours_until_full * 3600)}" if details.disk.hours_until_full else "now"
        rows["Disk full"] = f"{left}, at the rate of the last hour"
    if details.disk.wear_used_percent is not None:
        days = details.disk.wear_days_left
        rows["Flash memory"] = f"up to {details.disk.wear_used_percent} % used" + (
            f", about {count(days, 'day')} left" if days is not None else ""
        )
    if details.drain.error_text:
        rows["Last failure"] = details.drain.error_text
    grid = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        grid.add_row(Text(name, style="dim"), Text(printable(value)))
    return grid


def _devices(status: VenueStatus, details: Details) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Device", overflow="fold")
    for title in ("Not in the cloud yet", "Stored", "Complete up to", "Gaps", "Lost", "Refused", "Last event"):
        table.add_column(title, justify="right")
    for one in details.devices:
        gaps = ", ".join(first if first == last else f"{first}-{last}" for first, last in one.gaps[:GAPS_SHOWN_MAX])
        more = " …" if len(one.gaps) > GAPS_SHOWN_MAX else ""
        at = _local(status, details, one.last_event_at) if one.last_event_at else "-"
        cells = (one.device, f"{one.pending:,}", f"{one.events:,}", one.complete or "-", gaps + more or "-")
        counts = (f"{one.lost_events:,}", f"{one.refused:,}")
        table.add_row(*(Text(printable(cell)) for cell in (*cells, *counts, at)))
    return table


def _said(device: DeviceStatus, now_ms: int) -> Iterator[tuple[str, str]]:
    """How a device is, what it runs and what it holds back, with the colour of the line."""
    words = presence_words(device, now_ms)
    if words:
        line = " · ".join(words)
        looked_at = device.state == "unresponsive" or device.version_state == "old"
        yield line if device.state == "unresponsive" else f"{device.device}: {line}", "yellow" if looked_at else "dim"


def _business_date(details: Details) -> str:
    """Today's, and what is to be thought of it while nothing vouches for the clock."""
    vouched = details.clock.synced or details.clock.offset_known
    return details.business_date if vouched else f"{details.business_date}, if the clock is right (not synchronised)"


def _local(status: VenueStatus, details: Details, at: str) -> str:
    return local_time(at, ZoneInfo(details.timezone), to_ms(status.time))


def _watch(path: Path, as_json: bool) -> None:
    """Show it again and again; an agent that is away may come back. Ctrl-C ends it."""
    try:
        if as_json or not sys.stdout.isatty():
            _print_on(path, as_json)
        else:
            with Live(console=Console(highlight=False, emoji=False), auto_refresh=False) as live:
                while True:
                    live.update(_look(path), refresh=True)
                    time.sleep(WATCH_INTERVAL_S)
    except KeyboardInterrupt:
        return


def _look(path: Path) -> RenderableType:
    try:
        return shown(read(fetch(path)))
    except NoAnswer as error:
        return Text(printable(str(error)), style=COLOURS["fail"])


def _print_on(path: Path, as_json: bool) -> None:
    """For pipes: a line each time, JSON every second, or the sentence when it changes."""
    said = ""
    while True:
        try:
            body = fetch(path)
            line = _harmless(body) if as_json else printable(read(body).status.sentence)
        except NoAnswer as error:
            line = _error_json(error) if as_json else printable(str(error))
        if as_json or line != said:
            print(line, flush=True)
        said = line
        time.sleep(WATCH_INTERVAL_S)


def _harmless(body: bytes, indent: int | None = None) -> str:
    """The same JSON in ASCII, so that nothing in it can act on a terminal."""
    return json.dumps(json.loads(body), indent=indent).replace("\x7f", "\\u007f")


def _error_json(error: NoAnswer) -> str:
    return json.dumps({"error": error.code, "text": error.text, "hint": error.hint})


def _tell(error: NoAnswer, as_json: bool) -> None:
    if as_json:
        print(_error_json(error))
        return
    for line in (error.text, error.hint):
        print(printable(line), file=sys.stderr)
