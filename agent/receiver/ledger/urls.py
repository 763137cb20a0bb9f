"""operator → [ledger URL] → ledger. Which ledger a URL names, opened.

Knows the schemes and nothing else of any ledger.
"""

from pathlib import Path

from agent.core.errors import SettingsInvalid
from agent.receiver.ledger import Ledger, LedgerReader


async def open_ledger(url: str) -> Ledger:
    """The ledger for writing, for this process alone. Raises core.errors with words."""
    from agent.receiver.ledger import sqlite

    return await sqlite.open_ledger(_path(url))


async def open_reader(url: str) -> LedgerReader:
    """The ledger for reading, beside whoever writes it. Raises core.errors with words."""
    from agent.receiver.ledger import sqlite_reader

    return await sqlite_reader.open_reader(_path(url))


def desk_path(url: str) -> Path:
    """The desk's file beside the ledger's."""
    path = _path(url)
    return path.with_name(f"{path.name}-desk")


def _path(url: str) -> Path:
    """The file of `sqlite:PATH`."""
    scheme, colon, path = url.partition(":")
    if scheme == "sqlite" and path:
        return Path(path)
    named = f"{scheme}: ledger" if colon else f"ledger {url!r}"
    raise SettingsInvalid("ledger_scheme", f"There is no {named} in this build.", "It has the SQLite one: sqlite:PATH.")
