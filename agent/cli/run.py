"""[cli] `nightsafe run`: settings, logs, then the agent itself until it is told to stop."""

import typer

from agent.app import run
from agent.cli.options import CONFIG_DEFAULT, ConfigOption
from agent.runtime import logs
from agent.settings.load import load


def command(config: ConfigOption = CONFIG_DEFAULT) -> None:
    """Run the agent in the foreground; SIGTERM ends it orderly with exit 0."""
    settings = load(config)
    logs.configure(settings.logs.level, settings.logs.format)
    raise typer.Exit(run(settings, config))
