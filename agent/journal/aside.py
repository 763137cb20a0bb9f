"""[journal: what is set aside] → people. Keeps the bytes of damaged rows as files, before anything is removed.

One file for each row, 0600, synced; in the folder `damaged` of the state directory, where nothing is ever deleted by
us. Above its limit no further row is kept there, and whoever asked is told.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from agent.core.instants import to_text
from agent.core.mend import Row
from agent.runtime.files import private_directory, write_whole

FOLDER_NAME: Final = "damaged"
ROW_PATTERN: Final = "row-*.json"


def keep_row(directory: Path, row: Sequence[Any], found_ms: int, bytes_max: int) -> str | None:
    """Keep one row; returns the file's name in `directory`, or None where `bytes_max` of all such files is reached."""
    folder = directory / FOLDER_NAME
    private_directory(folder)
    content = json.dumps(
        {"found_at": to_text(found_ms)} | {name: _value(one) for name, one in zip(Row._fields, row, strict=True)}
    ).encode()
    if sum(path.stat().st_size for path in folder.glob(ROW_PATTERN)) + len(content) > bytes_max:
        return None
    path = folder / f"row-{row[0]}-{found_ms}.json"
    write_whole(path, content)
    return f"{FOLDER_NAME}/{path.name}"


def _value(value: Any) -> Any:
    """Bytes as base64; JSON has no other way."""
    return {"base64": b64encode(value).decode()} if isinstance(value, bytes) else value
