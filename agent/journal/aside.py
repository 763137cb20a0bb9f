"""[journal: what is set aside] → people. Keeps the bytes of damaged rows as files, before anything is removed.

One file for each row, 0600, synced; in the folder `damaged` of the state directory, where nothing is ever deleted by
us. Above its limit no further row is kept there, and whoever asked is told.
"""

import errno
import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from agent.core.errors import NightsafeError, Transient
from agent.core.instants import to_text
from agent.core.mend import Row
from agent.journal.database import file_failed
from agent.runtime.files import StateUnusable, private_directory, write_whole

FOLDER_NAME: Final = "damaged"
ROW_PATTERN: Final = "row-*.json"
DISK_FAILS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""What says that the disk is full or fails; whatever else is wrong is wrong with this folder alone."""


def keep_row(directory: Path, row: Sequence[Any], found_ms: int, bytes_max: int) -> str | None:
    """Keep one row, once however often it is asked; returns the file's name in `directory`, or None where `bytes_max`
    of all such files is reached.

    Raises Transient where the disk is full or the folder takes no file, JournalDamaged where the disk fails.
    """
    folder = directory / FOLDER_NAME
    found = {name: _value(one) for name, one in zip(Row._fields, row, strict=True)}
    digest = sha256(json.dumps(found).encode()).hexdigest()
    path = folder / f"row-{row[0]}-{digest[:16]}.json"
    content = json.dumps({"found_at": to_text(found_ms)} | found).encode()
    try:
        private_directory(folder)
        if not path.exists():
            if sum(one.stat().st_size for one in folder.glob(ROW_PATTERN)) + len(content) > bytes_max:
                return None
            write_whole(path, content)
    except (OSError, StateUnusable) as error:
        raise _not_kept(path, error) from error
    return f"{FOLDER_NAME}/{path.name}"


def _not_kept(path: Path, error: OSError | StateUnusable) -> NightsafeError:
    cause = error.__cause__ if isinstance(error, StateUnusable) else error
    if isinstance(cause, OSError) and cause.errno in DISK_FAILS:
        return file_failed(path, cause)
    return Transient(
        "damaged_not_kept",
        f"A damaged record cannot be kept in {path.parent}: {error}",
        "Look at that folder and its owner; the record stays in the journal, and the upload waits before it.",
    )


def _value(value: Any) -> Any:
    """Bytes as base64; JSON has no other way."""
    return {"base64": b64encode(value).decode()} if isinstance(value, bytes) else value
