"""journal → [cli] → people. `nightsafe verify`: does every record still match its seal?"""

import json

import msgspec
import typer

from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.journal.inspect import verify
from agent.settings.load import load


def command(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """Check the journal's database and its whole chain; the agent may run meanwhile. Exit 1 when something is wrong."""
    report = verify(load(config).state.directory)
    if as_json:
        print(json.dumps(msgspec.to_builtins(report), indent=2))
    else:
        print(
            f"{report.records} records ({report.event_bytes} bytes), positions {report.first} to {report.last}; "
            f"the cloud has confirmed up to {report.cursor}."
        )
        if report.named_missing:
            print(f"{report.named_missing} records were damaged, set aside and named as lost before.")
        if report.kept_damaged:
            print(
                f"{report.kept_damaged} damaged files ({report.kept_damaged_bytes} bytes) are kept in the folder "
                "`damaged` of the state directory; once support has a copy, they may be removed."
            )
        if report.doubt:
            print("The next exchange with the cloud opens a new epoch: this journal was put back or has lost its end.")
        if report.mark is None:
            print("No mark is kept beside this journal, so nobody can say whether its end is there.")
        for fault in report.faults:
            print(f"FAULT {fault}")
        print("Every record matches its seal." if report.faults_count == 0 else f"{report.faults_count} faults.")
    raise typer.Exit(1 if report.faults_count else 0)
