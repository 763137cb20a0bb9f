"""agent → os → [what stands in its way] → files. What the agent writes by itself is written down too, and made to fail.

The mark, the names, the reserve, rows that are kept, drafts and their renaming: everything that goes through the calls
of `os` named here, in the folder that the shim watches. It changes nothing that the agent does about an error.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from tests.crash.power.shim import Call, Shim, over_sqlite

SHARED_MEMORY: Final = "-shm"
"""SQLite's index of the log: no part of what a disk promises."""
BELOW: Final[dict[str, Callable[..., Any]]] = {
    name: getattr(os, name)
    for name in ("open", "fdopen", "pwrite", "fsync", "ftruncate", "posix_fallocate", "replace", "rename", "unlink")
}


class Beside:
    """In place of the calls of `os` by the same names."""

    def __init__(self, shim: Shim) -> None:
        self._shim = shim

    def _fails(self, call: Call, path: Path) -> None:
        if self._shim.strike(call, path):
            raise OSError(getattr(errno, self._shim.fault.error), f"this {call} was made to fail")

    def _opened(self, descriptor: int) -> Path | None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        return path if self._shim.knows(path) else None

    def open(self, path: Any, flags: int, mode: int = 0o777, **named: Any) -> int:
        with self._shim.guard:
            at = Path(os.fsdecode(path))
            new = (
                flags & os.O_CREAT
                and not self._shim.dead
                and bool(self._shim.name_of(at))
                and not at.name.endswith(SHARED_MEMORY)
            )
            new = new and not self._shim.knows(at)
            if new:
                self._fails("create", at)
            opened: int = BELOW["open"](path, flags, mode, **named)
            if new:
                self._shim.created(at)
            elif flags & os.O_TRUNC and self._shim.knows(at):
                self._shim.put("truncate", at)
            return opened

    def fdopen(self, descriptor: int, *arguments: Any, **named: Any) -> Any:
        """The agent writes drafts through it: without a buffer, each of its writes is a call of its own."""
        stream = BELOW["fdopen"](descriptor, *arguments, **named)
        return Stream(stream, self) if self._opened(descriptor) is not None else stream

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        with self._shim.guard:
            path = self._opened(descriptor)
            if path is not None:
                self._fails("write", path)
            written: int = BELOW["pwrite"](descriptor, data, offset)
            if path is not None:
                self._shim.put("write", path, offset, bytes(data[:written]))
            return written

    def ftruncate(self, descriptor: int, size: int) -> None:
        with self._shim.guard:
            path = self._opened(descriptor)
            if path is not None:
                self._fails("truncate", path)
            BELOW["ftruncate"](descriptor, size)
            if path is not None:
                self._shim.put("truncate", path, size)

    def posix_fallocate(self, descriptor: int, offset: int, size: int) -> None:
        with self._shim.guard:
            path = self._opened(descriptor)
            if path is not None:
                self._fails("write", path)
            BELOW["posix_fallocate"](descriptor, offset, size)
            if path is not None:
                self._shim.put("grow", path, offset + size)

    def fsync(self, descriptor: int) -> None:
        """Files lie in memory, and need no syncing: what it would have made durable is decided from the tape."""
        with self._shim.guard:
            path, shim = Path(os.readlink(f"/proc/self/fd/{descriptor}")), self._shim
            folder = path == shim.folder or (bool(shim.name_of(path)) and path.is_dir())
            if not folder and not shim.knows(path):
                return
            error = shim.strike("sync", path)
            if not (folder and error):
                kind = "sync_failed" if error else "sync_folder" if folder else "sync"
                shim.put(kind, path, len(shim.tape))
            if error:
                raise OSError(errno.EIO, "this sync was made to fail")

    def replace(self, path: Any, target: Any, **named: Any) -> None:
        with self._shim.guard:
            known = self._shim.knows(Path(path))
            if known:
                self._fails("rename", Path(path))
            BELOW["replace"](path, target, **named)
            if known:
                self._shim.renamed(Path(path), Path(target))

    def unlink(self, path: Any, **named: Any) -> None:
        with self._shim.guard:
            known = self._shim.knows(Path(path))
            if known:
                self._fails("unlink", Path(path))
            BELOW["unlink"](path, **named)
            if known:
                self._shim.removed(Path(path))


class Stream:
    """A file of the agent's that is written from its beginning."""

    def __init__(self, stream: Any, beside: Beside) -> None:
        self._stream = stream
        self._beside = beside
        self._at = 0

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, data: bytes) -> int:
        written = self._beside.pwrite(self._stream.fileno(), data, self._at)
        self._at += written
        return written

    def flush(self) -> None:
        """Nothing is held back."""

    def fileno(self) -> int:
        number: int = self._stream.fileno()
        return number


@contextmanager
def shimmed() -> Iterator[Shim]:
    """Everything that this process writes to the watched folder, by SQLite or by itself, goes through the shim."""
    with over_sqlite() as shim, ExitStack() as patches:
        beside = Beside(shim)
        for name in BELOW:
            stand_in = beside.replace if name == "rename" else getattr(beside, name)
            patches.enter_context(patch.object(os, name, stand_in))
        patches.enter_context(patch.object(os, "fdatasync", beside.fsync))
        yield shim
