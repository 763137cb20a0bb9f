"""[journal: what is set aside] → people. Keeps the bytes of damaged rows as files, before anything is removed.

One file for each row, 0600, synced; in the folder `damaged` of the state directory. Where that takes nothing (a file in
its place, another owner, another disk), a folder beside it stands in. Above its limit no further row is kept, and
whoever asked is told. No row's file is ever deleted.
"""

import errno
import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.core.errors import NightsafeError, Transient
from agent.core.instants import to_text
from agent.core.mend import Row
from agent.journal.database import file_failed
from agent.runtime.files import StateUnusable, private_directory, write_whole

FOLDER_NAME: Final = "damaged"
FOLDERS: Final = (FOLDER_NAME, *(f"{FOLDER_NAME}-{number}" for number in range(1, 10)))
"""Where damaged things are kept: the first of these that takes them."""
ROW_PATTERN: Final = "row-*.json"
DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
DISK_FAILS: Final = (*DISK_FULL, errno.EROFS, errno.EIO)
"""What says that the disk is full or fails; whatever else is wrong is wrong with this folder alone."""

T = TypeVar("T")


def folders(directory: Path) -> Iterator[Path]:
    """The folders that there are."""
    for name in FOLDERS:
        with suppress(OSError):
            if (directory / name).is_dir():
                yield directory / name


def kept(directory: Path, keep: Callable[[Path], T]) -> T:
    """What `keep` returns of the first folder, made ours, that it can be done in.

    Raises Transient where the disk is full or no folder takes anything, JournalDamaged where the disk fails.
    """
    failed: OSError | StateUnusable | None = None
    for name in FOLDERS:
        try:
            private_directory(directory / name)
            return keep(directory / name)
        except (OSError, StateUnusable) as error:
            failed = error
            if _errno(error) in DISK_FULL and _on_one_disk(directory, directory / name):
                break
    assert failed is not None
    raise _not_kept(directory, failed) from failed


def _on_one_disk(directory: Path, folder: Path) -> bool:
    try:
        return folder.stat().st_dev == directory.stat().st_dev
    except OSError:
        return True


def keep_row(directory: Path, row: Sequence[Any], found_ms: int, bytes_max: int) -> str | None:
    """Keep one row, once however often it is asked; returns the file's name in `directory`, or None where `bytes_max`
    of all such files is reached. Raises as `kept`.
    """
    found = {name: _value(one) for name, one in zip(Row._fields, row, strict=True)}
    name = f"row-{row[0]}-{sha256(json.dumps(found).encode()).hexdigest()[:16]}.json"
    content = json.dumps({"found_at": to_text(found_ms)} | found).encode()

    def keep(folder: Path) -> str | None:
        if not (folder / name).exists():
            if _rows_bytes(directory) + len(content) > bytes_max:
                return None
            write_whole(folder / name, content)
        return f"{folder.name}/{name}"

    return kept(directory, keep)


def _rows_bytes(directory: Path) -> int:
    return sum(one.stat().st_size for folder in folders(directory) for one in folder.glob(ROW_PATTERN))


def _not_kept(directory: Path, error: OSError | StateUnusable) -> NightsafeError:
    cause = error.__cause__ if isinstance(error, StateUnusable) else error
    if isinstance(cause, OSError) and cause.errno in DISK_FAILS:
        return file_failed(directory / FOLDER_NAME, cause)
    return Transient(
        "damaged_not_kept",
        f"What is damaged cannot be kept in {directory / FOLDER_NAME}, nor beside it: {error}",
        "Look at that folder and its owner; nothing is removed until it is kept, and the upload waits before it.",
    )


def _errno(error: OSError | StateUnusable) -> int | None:
    cause = error.__cause__ if isinstance(error, StateUnusable) else error
    return cause.errno if isinstance(cause, OSError) else None


def _value(value: Any) -> Any:
    """Bytes as base64; JSON has no other way."""
    return {"base64": b64encode(value).decode()} if isinstance(value, bytes) else value
