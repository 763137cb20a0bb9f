"""[cli] Options that the families share, so that they are called the same everywhere."""

from pathlib import Path
from typing import Annotated, Final

import typer

CONFIG_DEFAULT: Final = Path("/etc/nightsafe/nightsafe.toml")

ConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="The box's settings file.")]
"""Which box is spoken of; give it `CONFIG_DEFAULT`."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print facts as JSON, one document.")]
