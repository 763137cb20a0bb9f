"""[cli] The command `nightsafe`: one file for each family of commands, loaded only when it is called.

Turns errors into words and exit codes, once, here. Never does a family's work.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final, NamedTuple

import typer

from agent import __version__
from agent.core.errors import NightsafeError, SettingsInvalid
from agent.core.printable import printable

EXIT_FAILED: Final = 1
EXIT_SETTINGS: Final = 78
"""As sysexits.h has it for a configuration error; a service manager need not start us again."""
EXIT_INTERRUPTED: Final = 130


class Family(NamedTuple):
    """Where a family is found, "module:name" of a typer app or of one command's function, and its line of help."""

    target: str
    text: str


FAMILIES: Final = {
    "run": Family("agent.cli.run:command", "Run the agent in the foreground."),
    "config": Family("agent.cli.config:app", "Check or show the settings."),
    "status": Family("agent.cli.status:command", "Show how the box is."),
    "netcheck": Family("agent.cli.netcheck:command", "Look at each layer of the way to the cloud."),
    "queue": Family("agent.cli.queue:app", "What waits for the cloud, and what was refused."),
    "attention": Family("agent.cli.attention:app", "What needs a person, and ending what is done."),
    "alerts": Family("agent.cli.alerts:app", "Try whether letters arrive."),
    "payments": Family("agent.cli.payments:app", "What became of a payment, and which were taken twice."),
    "orders": Family("agent.cli.orders:app", "Orders for the venue, and saying how far one is."),
    "devices": Family("agent.cli.devices:app", "Pair the venue's devices, list them, send them away."),
    "verify": Family("agent.cli.verify:command", "Check every record of the journal against its seal."),
    "simulate": Family("agent.cli.simulate:simulate", "Simulated tills that sell."),
    "conform": Family("agent.cli.conform:command", "Test a device against the contract: the hard cases, at a desk."),
    "bench": Family("agent.cli.bench:command", "Measure this machine: intake, disk, drain, memory, start."),
    "cloud": Family("agent.cli.cloud:app", "The reference cloud: serve it, export what it holds."),
}


def main() -> None:
    """The console script. Exit codes: 0 done, 1 failed, 2 wrong usage, 78 settings, 130 interrupted."""
    try:
        _app(sys.argv[1:])(prog_name="nightsafe")
    except SettingsInvalid as error:
        _tell(error, *error.problems)
        sys.exit(EXIT_SETTINGS)
    except NightsafeError as error:
        _tell(error)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough; leave without Python's own complaint at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)


def _app(arguments: Sequence[str]) -> typer.Typer:
    """All families by name and line of help; only the one that is called is loaded."""
    app = typer.Typer(
        callback=_root,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, family in FAMILIES.items():
        target = _load(family.target) if name == called else _not_called
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, help=family.text)
        else:
            app.command(name, help=family.text)(target)
    return app


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _not_called() -> None:
    """Stands for a family in the list of commands."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and leave.")
    ] = False,
) -> None:
    """Nightsafe keeps a venue selling when the way to the cloud is gone."""


def _tell(error: NightsafeError, *problems: str) -> None:
    for line in (*problems, error.text, error.hint):
        if line:
            print(printable(line), file=sys.stderr)
