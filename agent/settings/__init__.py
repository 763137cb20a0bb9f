"""[settings] What this box is told to be: one TOML file, read whole or refused whole.

`schema` says what can be set, `load` reads a file, `watch` tells of changes. Never holds a secret and never reads one:
secrets are files whose paths stand here.
"""

from agent.settings.schema import Settings
from agent.settings.section import Address

__all__ = ["Address", "Settings"]
