"""people → [cli] → desk. `nightsafe devices`: pair a device, list them, replace, rename, hold payments, remove.

Asks the running agent for everything. Shows what people need to compare; decides nothing.
"""

import io
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import segno
import typer

from agent.cli.local import ask, post
from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.core.errors import Rejected
from agent.core.printable import printable
from agent.settings.load import load
from agent.settings.schema import Settings

app = typer.Typer(no_args_is_help=True, help="The venue's devices.")

LOOK_S: Final = 0.5
"""How often the agent is asked how far a pairing is."""
OPEN: Final = ("waiting", "asked", "confirmed")

Id = Annotated[str, typer.Argument(help="The device's id, as in its topics: till-1.")]
Label = Annotated[str, typer.Argument(help="What people call it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def add(
    device: Id,
    label: Annotated[str, typer.Option("--label", help="What people call it.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Another device takes over this id.")] = False,
    wait: Annotated[bool, typer.Option(help="Stay until the device is paired.")] = True,
    config: ConfigOption = CONFIG_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Pair a device: by the QR code, or by eight digits that you type into it."""
    settings = _settings(config)
    facts = ask(settings.state.directory, "POST", _path(device, "/pairing"), {"label": label, "replace": replace})
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    _show(facts)
    if wait:
        _wait(settings, device, facts["fingerprint_shown"])


@app.command()
def confirm(device: Id, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """The device shows the same twenty digits as the box: let it in."""
    post(_settings(config).state.directory, _path(device, "/pairing/confirm"), {})
    print(printable(f"{device} gets its secret now."))


@app.command()
def decline(device: Id, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """The device shows other digits than the box: do not let it in."""
    post(_settings(config).state.directory, _path(device, "/pairing/decline"), {})
    print(printable(f"{device} is not let in. Somebody may stand between it and this box: look at the network."))


@app.command("list")
def list_(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """The paired devices."""
    found = ask(_settings(config).state.directory, "GET", "/api/v1/devices")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for one in found:
        seen = f"seen {one['last_seen_at'][:16].replace('T', ' ')} UTC" if one["last_seen_at"] else "never seen"
        words = [one["device"], "connected" if one["connected"] else seen, f"paired {one['paired_at'][:10]}"]
        words += [_payments(one)] * bool(_payments(one)) + [one["label"]] * bool(one["label"])
        words += [" ".join(part for part in (one["app"], one["version"]) if part)] * bool(one["app"] or one["version"])
        print(printable("  ".join(words)))
    if not found:
        print("No device is paired. Pair one: nightsafe devices add till-1")


@app.command()
def remove(device: Id, yes: Yes = False, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """Send a device away: its secret is worth nothing from this moment on. What it sold stays."""
    if not yes:
        typer.confirm(f"{device} will not be able to connect any more. Remove it?", abort=True)
    post(_settings(config).state.directory, _path(device, "/remove"), {})
    print(printable(f"{device} is removed. Wipe its app, or pair it again."))


@app.command()
def rename(
    device: Id,
    label: Annotated[str, typer.Argument(help="What people call it.")],
    config: ConfigOption = CONFIG_DEFAULT,
) -> None:
    """Give a device another label; its id stays."""
    post(_settings(config).state.directory, _path(device, "/change"), {"label": label})
    print(printable(f"{device} is called {label} now."))


@app.command()
def hold(device: Id, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """Have a device take no payments, until they are released."""
    post(_settings(config).state.directory, _path(device, "/change"), {"payments_held": True})
    print(printable(f"Payments of {device} are held. It is told until it says so: see `nightsafe devices list`."))


@app.command()
def release(device: Id, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """Have it take payments again."""
    post(_settings(config).state.directory, _path(device, "/change"), {"payments_held": False})
    print(printable(f"Payments of {device} are released. It is told until it says so."))


@app.command()
def identify(device: Id, config: ConfigOption = CONFIG_DEFAULT) -> None:
    """Have a device show which one it is."""
    post(_settings(config).state.directory, _path(device, "/identify"), {})
    print(printable(f"{device} is asked to show itself."))


def _payments(one: dict[str, Any]) -> str:
    """What there is to say of a device's payments."""
    if one["payments_held"]:
        return "payments held" + (", not confirmed by it yet" if "hold_payments" in one["commands"] else "")
    return "payments released, not confirmed by it yet" if "release_payments" in one["commands"] else ""


def _settings(config: Path) -> Settings:
    """The box's settings; says so where nothing of all this is checked."""
    settings = load(config)
    if settings.devices.open:
        print(
            "[devices] open = true: nothing is checked, this box lets any device in, paired, removed or unknown. For "
            "development only.",
            file=sys.stderr,
        )
    return settings


def _path(device: str, rest: str) -> str:
    if not device.isascii() or not device.replace("-", "").isalnum():
        raise Rejected("device_id", f'"{device}" is no device id.', "Use lower-case letters, digits and dashes.")
    return f"/api/v1/devices/{device}{rest}"


def _show(facts: dict[str, Any]) -> None:
    code = io.StringIO()
    segno.make(facts["uri"], error="m").terminal(out=code, compact=True)
    digits = facts["code"]
    print(code.getvalue())
    print(f"Scan this with the app on {facts['device']}. Or, in the app:")
    print(f"  box      {facts['host']}, port {facts['pairing_port']}")
    print(f"  code     {digits[:4]} {digits[4:]}")
    print(f"  compare  {facts['fingerprint_shown']}")


def _wait(settings: Settings, device: str, fingerprint_shown: str) -> None:
    """Count down; ask the person when a device has come with the digits."""
    directory, path = settings.state.directory, _path(device, "/pairing")
    shows = sys.stdout.isatty()
    while (facts := ask(directory, "GET", path))["state"] in OPEN:
        if facts["state"] == "asked":
            print()
            good = typer.confirm(f"Does {device} (from {facts['peer']}) show {fingerprint_shown}?")
            post(directory, path + ("/confirm" if good else "/decline"), {})
            continue
        if shows:
            minutes, seconds = divmod(int(facts["left_s"]), 60)
            print(f"\rWaiting for {device}: {minutes}:{seconds:02} left ", end="", flush=True)
        time.sleep(LOOK_S)
    print()
    if facts["state"] != "paired":
        why = {
            "expired": "its time is over",
            "declined": "the digits differ: somebody may stand between it and this box",
            "ended": "too many wrong codes were given",
        }
        text = f"{device} is not paired: {why.get(facts['state'], facts['state'])}."
        raise Rejected("not_paired", text, f"Begin again: nightsafe devices add {device}")
    print(printable(f"{device} is paired."))
