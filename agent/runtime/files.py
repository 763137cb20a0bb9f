"""[runtime] Files that the box must not lose or show: written whole or not at all, private from the first byte.

Never reads what it writes, and never follows a half-written file to its end.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agent.core.errors import NightsafeError

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
LOCK_NAME: Final = "lock"
"""File in the state directory that the running agent holds locked."""


class StateUnusable(NightsafeError):
    """The state directory cannot be used as it is; the hint says what to do."""


def private_directory(directory: Path) -> None:
    """Make `directory` (and what leads to it) or take it over: ours alone, 0700. Raises StateUnusable."""
    hint = "Choose another [state] directory, or give this one to the user that runs Nightsafe."
    try:
        directory.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        owner = directory.stat()
        if owner.st_uid != os.geteuid():
            raise StateUnusable("state_foreign", f"{directory} belongs to another user (uid {owner.st_uid}).", hint)
        if stat.S_IMODE(owner.st_mode) != DIRECTORY_MODE:
            directory.chmod(DIRECTORY_MODE)
    except OSError as error:
        raise StateUnusable("state_unusable", f"{directory} cannot be used: {error.strerror}.", hint) from error


@contextmanager
def held_lock(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process alone, until the block ends or the process dies. Raises StateUnusable."""
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            text = f"Another Nightsafe (process {holder}) already uses {directory}."
            raise StateUnusable(
                "state_busy", text, "Stop it first, or give this one its own [state] directory."
            ) from None
        with suppress(OSError):  # the lock is what counts; a full disk has no room for who holds it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes, mode: int = FILE_MODE) -> None:
    """Replace `path` by `content`: after a crash or power cut it holds all of the old or all of the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make names created, renamed or removed in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
