"""journal → [cli] → people. `nightsafe queue`: what waits for the cloud, what was refused, and what to do about it.

Looks into the journal itself; what changes it is asked of the running agent, which is the only writer.
"""

import json
import sys
from getpass import getuser
from typing import Annotated, Any

import typer

from agent.cli.local import post
from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.core.printable import printable
from agent.journal import inspect
from agent.settings.load import load

app = typer.Typer(no_args_is_help=True, help="What waits for the cloud, and what was refused.")
quarantine = typer.Typer(no_args_is_help=True, help="Refused events: see them, resubmit or dismiss them.")
app.add_typer(quarantine, name="quarantine")

Number = Annotated[int, typer.Argument(help="The entry's number, as `list` shows it.", min=1)]
Note = Annotated[str, typer.Option("--reason", help="Why; it is kept with the entry.")]
Actor = Annotated[str, typer.Option("--actor", help="Who decides; kept with the entry.", default_factory=getuser)]


@app.command()
def show(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """How much waits for the cloud, and how many refused events wait for a person."""
    directory = load(config).state.directory
    waiting = sum(1 for _ in inspect.records(directory, everything=False))
    refused = len(inspect.quarantined(directory))
    if as_json:
        print(json.dumps({"pending": waiting, "quarantined": refused}))
        return
    print(f"{waiting} records wait for the cloud; {refused} refused events wait for a person.")


@app.command()
def export(
    config: ConfigOption = CONFIG_DEFAULT,
    everything: Annotated[bool, typer.Option("--all", help="Also what the cloud has confirmed already.")] = False,
) -> None:
    """Print the records that wait for the cloud as JSON lines, in order, events byte for byte."""
    for line in inspect.records(load(config).state.directory, everything):
        sys.stdout.buffer.write(line + b"\n")


@app.command()
def adopt(note: Note, actor: Actor, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """Upload again, under a new epoch, after a copy of this box had taken over; switch the copy off first."""
    settings = load(config)
    post(settings.state.directory, "/api/v1/queue/adopt", {"actor": actor, "reason": note})
    print("This box goes on under a new epoch; see `nightsafe status`.")


@quarantine.command("list")
def list_(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """Refused events that nobody has handled yet."""
    found = inspect.quarantined(load(config).state.directory)
    if as_json:
        print(json.dumps([_facts(one) for one in found], indent=2))
        return
    for one in found:
        sequence = f" sequence {one.sequence}" if one.sequence is not None else ""
        text = f"{one.id}  {one.refused_at}  {one.device}{sequence}  {one.reason}: {one.detail}"
        print(printable(text))
    if not found:
        print("Nothing is in quarantine.")


@quarantine.command("show")
def show_one(number: Number, config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """One refused event, with the beginning of its bytes. Exit 1 when there is none with this number."""
    found = inspect.quarantined(load(config).state.directory, number)
    if not found:
        print(f"There is no entry {number} in quarantine. See `nightsafe queue quarantine list`.", file=sys.stderr)
        raise typer.Exit(1)
    facts = _facts(found[0])
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(printable(f"{name}: {value}"))


@quarantine.command()
def dismiss(number: Number, note: Note, actor: Actor, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """Take a refused event off the list; its record stays in the journal."""
    _decide(config, number, "dismiss", actor, note)


@quarantine.command()
def resubmit(number: Number, note: Note, actor: Actor, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """Judge a refused event's bytes again and store them if they are good now."""
    _decide(config, number, "resubmit", actor, note)


def _decide(config: Any, number: int, what: str, actor: str, note: str) -> None:
    settings = load(config)
    post(settings.state.directory, f"/api/v1/quarantine/{number}/{what}", {"actor": actor, "reason": note})
    print(f"Entry {number}: {what} done.")


def _facts(one: inspect.Quarantined) -> dict[str, Any]:
    facts = one._asdict()
    facts["payload"] = "kept whole" if one.payload is not None else "not kept: a card number may stand in it"
    return facts
