"""agent → [cli] → people. `nightsafe orders`: the venue's orders, and saying how far one is.

Asks the running agent, which alone may write. Decides nothing: what it is refused, it says in the agent's words.
"""

import json
from datetime import datetime
from getpass import getuser
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

import typer

from agent.cli.local import ask
from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.core.money import money_text
from agent.core.printable import printable
from agent.core.sentence import count, duration
from agent.settings.load import load

app = typer.Typer(no_args_is_help=True, help="Orders for the venue.")

PATH: Final = "/api/v1/orders"
STATES: Final = {
    "unknown": "NEVER RECEIVED HERE",
    "received": "WAITING for a device",
    "offered": "OFFERED, not accepted yet",
    "accepted": "ACCEPTED",
    "ready": "READY",
    "provided": "PROVIDED",
    "rejected": "REJECTED, a refund is requested",
    "cancelled": "CANCELLED, do not make it",
    "problem": "MAKE BY HAND, no device can show it",
    "undeliverable": "MAKE BY HAND, no device can show it",
}

OrderId = Annotated[str, typer.Argument(metavar="ORDER", help="The order's number.")]
Actor = Annotated[str, typer.Option("--actor", help="Who says so; it is recorded.", default_factory=getuser)]


@app.command(name="list")
def list_orders(
    find: Annotated[str, typer.Option("--find", help="An order's number, or a part of the guest's name.")] = "",
    config: ConfigOption = CONFIG_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """The latest orders, those first that wait for somebody."""
    settings = load(config)
    path = f"{PATH}?{urlencode({'find': find})}" if find else PATH
    told = ask(settings.state.directory, "GET", path)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    zone = ZoneInfo(settings.venue.timezone)
    for one in sorted(told["orders"], key=lambda order: not order["awaiting"]):
        print(printable(_line(one, zone)))
    waiting = sum(one["awaiting"] for one in told["orders"])
    if waiting:
        print(f"{count(waiting, 'order')} without an answer. Make them, then: nightsafe orders provided ORDER")
    elif not told["orders"]:
        print("No order is known here.")


@app.command()
def show(order_id: OrderId, config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """All of one order, to make it from."""
    settings = load(config)
    told = ask(settings.state.directory, "GET", f"{PATH}/{quote(order_id, safe='')}")
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print("\n".join(map(printable, _whole(told, ZoneInfo(settings.venue.timezone)))))


@app.command()
def accept(order_id: OrderId, actor: Actor, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """Somebody makes it."""
    _say("accept", order_id, {"actor": actor}, config)


@app.command()
def ready(order_id: OrderId, actor: Actor, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """It is ready."""
    _say("ready", order_id, {"actor": actor}, config)


@app.command()
def provided(order_id: OrderId, actor: Actor, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """The guest has had it; also where no device, and not even this box, has ever shown it."""
    _say("provided", order_id, {"actor": actor}, config)


@app.command()
def reject(
    order_id: OrderId,
    actor: Actor,
    second_actor: Annotated[
        str, typer.Option("--second-actor", help="Who agrees to refund it although it was made.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why, in that case.")] = "",
    config: ConfigOption = CONFIG_DEFAULT,
) -> None:
    """The guest will not get it, and is refunded. A refund cannot be reversed."""
    _say("reject", order_id, {"actor": actor, "second_actor": second_actor, "reason": reason}, config)


def _say(act: str, order_id: str, body: dict[str, Any], config: Any) -> None:
    settings = load(config)
    told = ask(settings.state.directory, "POST", f"{PATH}/{quote(order_id, safe='')}/{act}", body)
    print(printable(f"{told['order_id']}: {_state(told)}"))


def _state(one: dict[str, Any]) -> str:
    state = STATES[one["state"]]
    return f"{state}; PROVIDED" if one["provided"] and one["state"] != "provided" else state


def _line(one: dict[str, Any], zone: ZoneInfo) -> str:
    name = (one["customer"] or {}).get("name") or "no name"
    late = "  LATE: check whether it was already provided" if one["late"] and one["state"] == "offered" else ""
    return f"{one['order_id']}  {_at(one['placed_at'], zone)}  {name}  {_state(one)}{late}"


def _whole(one: dict[str, Any], zone: ZoneInfo) -> list[str]:
    age = f", {duration(one['age_s'])} ago" if one["age_s"] is not None else ""
    lines = [f"Order {one['order_id']}: {_state(one)}", f"Placed {_at(one['placed_at'], zone)}{age}"]
    if one["customer"]:
        lines.append(" ".join(filter(None, ("For", one["customer"]["name"], one["customer"]["phone"]))))
    if one["fulfilment"]:
        lines.append(" ".join(str(value) for value in one["fulfilment"].values() if value))
    for line in one["lines"]:
        lines.append(f"  {line['quantity']} x {line.get('name') or line['product_id']}")
        lines += [f"      + {option.get('name') or option['option_id']}" for option in line.get("options", [])]
    if one["total"]:
        paid = "paid already" if one["prepaid"] else "NOT paid yet"
        lines.append(f"Total {money_text(one['total']['amount'], one['total']['currency'])}, {paid}")
    lines += [f"INCOMPLETE: {what}" for what in one["incomplete"]]
    lines += [f"Offered to {', '.join(one['offered_to'])}"] * bool(one["offered_to"])
    for name, mark in one["marks"].items():
        second = f" and {mark['second_actor']}" if mark["second_actor"] else ""
        reason = f": {mark['reason']}" if mark["reason"] else ""
        lines.append(f"  {name.replace('_', ' ')} by {mark['actor']}{second}, {_at(mark['at'], zone)}{reason}")
    if one["proposed"]:
        lines.append(f"Say at a till: {', then '.join(one['proposed'])}")
    return lines


def _at(text: str | None, zone: ZoneInfo) -> str:
    try:
        return f"{datetime.fromisoformat(text or '').astimezone(zone):%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return "at an unknown time"
