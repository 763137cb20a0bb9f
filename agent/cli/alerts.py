"""settings → [cli] → mail server, webhook. `nightsafe alerts test`: whether letters arrive, and what their servers say.

Sends by itself, whether the agent runs or not, beside the outbox: nothing is kept, and nothing is tried again.
"""

import asyncio
import json
import secrets
from typing import Any, Final, NamedTuple

import typer

from agent import __version__
from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.cloud.webhook import Webhook
from agent.core.errors import Held, NightsafeError
from agent.core.letters import Channel, Letter, shown, trial
from agent.core.printable import printable
from agent.mail.smtp import Smtp
from agent.runtime.clock import Clock
from agent.settings.load import load
from agent.settings.schema import Settings

EXIT_FAILED: Final = 1

app = typer.Typer(no_args_is_help=True, help="Letters to people who are not here.")


class Result(NamedTuple):
    """How one letter fared: `answer` is what its server said, or why it did not come so far."""

    channel: Channel
    to: str
    taken: bool
    answer: str
    hint: str = ""


@app.callback()
def _family() -> None:
    """Letters to people who are not here."""


@app.command("test")
def try_(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """Send a test letter to each address and to the webhook, now, and print what their servers answer.

    Exit: 0 all were taken · 1 one was not, or there is nobody to send to · 78 the settings file cannot be used.
    """
    settings = load(config)
    letters = _letters(settings)
    if not letters:
        text = "Nobody gets letters from this box."
        raise Held("alerts_unset", text, "Set support_email and [alerts.smtp], or webhook_url, in [alerts].")
    results = asyncio.run(_send(settings, letters))
    if as_json:
        print(json.dumps({"letters": [one._asdict() for one in results]}, indent=2))
    else:
        for one in results:
            _show(one)
    raise typer.Exit(0 if all(one.taken for one in results) else EXIT_FAILED)


def _letters(settings: Settings) -> list[Letter]:
    """One to everybody who would be told of something; each test is an occasion of its own."""
    venue, alerts = settings.venue, settings.alerts
    to: list[tuple[Channel, str]] = [
        ("mail", address) for address in dict.fromkeys((alerts.support_email, venue.contact_email)) if address
    ]
    if alerts.webhook_url:
        to.append(("webhook", alerts.webhook_url))
    key = f"test:{secrets.token_hex(8)}"
    return [trial(f"{key}:{one}", channel, one, venue.location, venue.name, __version__) for channel, one in to]


async def _send(settings: Settings, letters: list[Letter]) -> list[Result]:
    clock = Clock()
    venue = settings.venue.id
    mail = Smtp(venue, lambda: settings.alerts.smtp, lambda: clock.wall_ms() / 1000)
    senders: dict[Channel, Any] = {"mail": mail, "webhook": Webhook(venue)}
    return [await _send_one(senders[one.channel], one) for one in letters]


async def _send_one(sender: Any, letter: Letter) -> Result:
    try:
        return Result(letter.channel, shown(letter), True, await sender.send(letter))
    except NightsafeError as error:
        return Result(letter.channel, shown(letter), False, error.text, _hint(error))


def _hint(error: NightsafeError) -> str:
    """What to do; nothing is sent again here."""
    return error.hint if error.hint != "It is tried again by itself." else "Try it again later."


def _show(one: Result) -> None:
    if one.taken:
        print(printable(f"{one.to}: taken ({one.answer})"))
    else:
        print(printable(f"{one.to}: NOT taken. {one.answer} {one.hint}".rstrip()))
