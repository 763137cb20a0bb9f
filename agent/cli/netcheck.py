"""layers → [cli] → people. `nightsafe netcheck`: the way to the cloud layer by layer, and what to do next.

Asks by itself, whether the agent runs or not; only whether the cloud takes this box's token is asked with the token.
Never prints it, and changes nothing.
"""

import asyncio
import json
import secrets
import sys
from typing import Final

import typer
from rich.console import Console
from rich.table import Table

from agent.app.uplink_side import make_layers
from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.cloud.client import Client
from agent.cloud.probe import CloudProbe
from agent.core.answers import CloudRefused
from agent.core.diagnosis import WORDS, Diagnosis, Layer, judge
from agent.core.errors import Transient
from agent.core.printable import printable
from agent.runtime import logs
from agent.runtime.clock import Clock
from agent.settings.load import load
from agent.settings.schema import Settings

EXIT_FAULT: Final = 1
NO_STREAM: Final = "00000000-0000-7000-8000-000000000000"
"""The epoch of a stream that no cloud has: asking for it shows whether the token is taken."""
SIGNS: Final = {"ok": "ok", "failed": "FAILED", "unknown": "not known", "skipped": "not needed"}
COLOURS: Final = {"ok": "green", "failed": "bold red", "unknown": "yellow", "skipped": "default"}
NAMES: Final = {
    "link": "network cable or Wi-Fi",
    "address": "address of this box",
    "gateway": "router",
    "dns": "name of the cloud",
    "portal": "no login wanted by the network",
    "others": "other hosts on the internet",
    "clock": "clock of this box",
    "tls": "secure connection",
    "cloud": "the cloud",
    "login": "the cloud takes the token",
}


def command(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """Look at each layer of the way to the cloud, and say what is wrong and what to do.

    Exit: 0 the cloud can be reached and takes this box · 1 something is wrong, the last line says what · 78 the
    settings file cannot be used.
    """
    logs.configure("error", stream=sys.stderr)  # what is wrong is told by the layers
    layers = asyncio.run(_examine(load(config)))
    found = judge(layers)
    if as_json:
        print(json.dumps(_facts(layers, found), indent=2))
    else:
        _show(layers, found)
    raise typer.Exit(EXIT_FAULT if found.finding else 0)


async def _examine(settings: Settings) -> tuple[Layer, ...]:
    probed = await CloudProbe(settings.cloud.url).ask(settings.uplink.probe_timeout_s)
    layers = await make_layers(settings.cloud.url, Clock(), lambda: settings.uplink).examine(probed)
    return (*layers, await _login(settings) if probed.outcome == "passed" else Layer("login", "unknown", "not asked"))


async def _login(settings: Settings) -> Layer:
    """Whether the cloud takes the token."""
    token_file = settings.cloud.token_file
    if token_file is None:
        return Layer("login", "skipped", "no token is set")
    client = Client(settings.cloud.url, settings.venue.id, secrets.token_hex(16), token_file, settings.cloud)
    await client.open()
    try:
        if not client.token:
            return Layer("login", "failed", f"no token can be read from {token_file}", "token_refused")
        await client.stream(NO_STREAM)
    except CloudRefused as refused:
        status = refused.refusal.status
        if status in (401, 403):
            return Layer("login", "failed", f"status {status}", "token_refused")
        if status >= 500 or status == 429:
            return Layer("login", "unknown", f"status {status}: the cloud did not say")
    except Transient as error:
        return Layer("login", "unknown", error.text)
    finally:
        await client.close()
    return Layer("login", "ok")


def _facts(layers: tuple[Layer, ...], found: Diagnosis) -> dict[str, object]:
    what, remedy = WORDS.get(found.finding, ("", ""))
    return {
        "cause": found.cause,
        "finding": found.finding,
        "what": what,
        "next": remedy,
        "layers": [{"layer": one.name, "verdict": one.verdict, "seen": one.seen} for one in layers],
    }


def _show(layers: tuple[Layer, ...], found: Diagnosis) -> None:
    console = Console(highlight=False, emoji=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    for one in layers:
        table.add_row(NAMES[one.name], f"[{COLOURS[one.verdict]}]{SIGNS[one.verdict]}[/]", printable(one.seen))
    console.print(table)
    if not found.finding:
        console.print("The cloud can be reached.", style="bold green")
        return
    what, remedy = WORDS[found.finding]
    console.print(f"{what[0].upper()}{what[1:]}. {remedy}", style="bold red")
