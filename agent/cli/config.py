"""[cli] `nightsafe config`: what is wrong with the settings file, and what it makes the box do. Changes nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import typer

from agent.cli import EXIT_SETTINGS
from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.core.errors import SettingsInvalid
from agent.settings.load import load
from agent.settings.schema import Settings
from agent.settings.show import to_tables, to_toml

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """Name every problem with its line; exit 78 if there is one."""
    try:
        settings = load(config)
    except SettingsInvalid as error:
        if not as_json:
            raise
        _print_verdict(config, error.problems, ())
        raise typer.Exit(EXIT_SETTINGS) from None
    notes = (*_missing_files(settings), *_unmailed(settings))
    if as_json:
        _print_verdict(config, (), notes)
        return
    print(f"{config}: no problems")
    for note in notes:
        print(f"note: {note}")


@app.command()
def show(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """Print the settings that hold, defaults included."""
    settings = load(config)
    print(json.dumps(to_tables(settings), indent=2) if as_json else to_toml(settings), end="\n" if as_json else "")


def _unmailed(settings: Settings) -> Iterator[str]:
    """Addresses that no letter goes to. No reason not to start: nothing about recording depends on a letter."""
    if settings.alerts.smtp is not None:
        return
    named = {"alerts.support_email": settings.alerts.support_email, "venue.contact_email": settings.venue.contact_email}
    for key, address in named.items():
        if address:
            yield f"{key}: no letter goes to {address}, because there is no table [alerts.smtp]"


def _print_verdict(config: Path, problems: tuple[str, ...], notes: tuple[str, ...]) -> None:
    print(json.dumps({"file": str(config), "valid": not problems, "problems": problems, "notes": notes}, indent=2))


def _missing_files(settings: Settings) -> Iterator[str]:
    """Named files that are not there yet: no reason not to start, since recording needs none of them."""
    smtp = settings.alerts.smtp
    named = {
        "cloud.token_file": settings.cloud.token_file,
        "web.pin_file": settings.web.pin_file,
        "alerts.smtp.password_file": smtp.password_file if smtp else None,
    }
    for key, path in named.items():
        if path is not None and not path.is_file():
            yield f"{key}: there is no file {path}"
