"""agent → [cli] → people. `nightsafe attention`: what needs a person, and ending what has been dealt with.

Asks the running agent, which alone knows what holds. Decides nothing.
"""

import json
from getpass import getuser
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
import typer

from agent.cli.local import post
from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.cli.status import fetch, read
from agent.core.conditions import ending
from agent.core.facts import Condition
from agent.core.instants import local_time, to_ms
from agent.core.printable import printable
from agent.core.sentence import count
from agent.core.status import SOCKET_NAME, Snapshot
from agent.settings.load import load

app = typer.Typer(no_args_is_help=True, help="What needs a person.")

Id = Annotated[str, typer.Argument(help="The attention's name, as `list` shows it.")]
Reason = Annotated[str, typer.Option("--reason", help="What was done about it; it is recorded.")]
Actor = Annotated[str, typer.Option("--actor", help="Who says so; it is recorded.", default_factory=getuser)]


@app.command("list")
def list_(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """What needs a person now: since when, what to do, and how it ends."""
    snapshot = read(fetch(load(config).state.directory / SOCKET_NAME))
    found = [one for one in snapshot.details.conditions if one.attention]
    if as_json:
        facts = [msgspec.to_builtins(one) | {"ends": "ack" if one.lasting else "itself"} for one in found]
        print(json.dumps(facts, indent=2).replace("\x7f", "\\u007f"))
        return
    for one in found:
        print("\n".join(map(printable, _lines(one, snapshot))))
    if not found:
        print("Nothing needs a person.")
    if left_out := snapshot.details.journal.attentions_left_out:
        print(f"The box has left out {count(left_out, 'older attention')}, because too many stood at once.")


@app.command()
def ack(id: Id, reason: Reason, actor: Actor, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """End an attention about something that has happened, once it has been dealt with."""
    settings = load(config)
    body = {"id": id, "actor": actor, "reason": reason}
    post(settings.state.directory, "/api/v1/attention/ack", body)
    print(printable(f"{id} is ended; if the same happens again, it is told again."))


def _lines(one: Condition, snapshot: Snapshot) -> list[str]:
    since = local_time(one.since, ZoneInfo(snapshot.details.timezone), to_ms(snapshot.status.time))
    return [
        f"{one.id}  {one.severity}  since {since}",
        f"  {one.title}.",
        f"  {one.text}",
        f"  {one.hint}",
        f"  {ending(one)}",
    ]
