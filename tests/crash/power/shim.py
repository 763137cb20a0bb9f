"""journal → SQLite → [what stands in its way] → files. A VFS of SQLite that writes down each change, and fails some.

It stands over SQLite's own for the unix, in this process, and passes everything on; beside.py does the same for all
that the agent writes by itself. Needs no FUSE and no privileges, only that Python uses a shared libsqlite3. It changes
nothing that SQLite does about an error.
"""

import ctypes
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, Concatenate, Final, Literal, NamedTuple, ParamSpec, TypeVar

import pytest

from tests.crash.power.disk import SECTOR_BYTES
from tests.crash.power.tape import Kind, Op

OK, FULL, IOERR_WRITE, IOERR_FSYNC, IOERR_TRUNCATE, IOERR_DELETE = 0, 13, 778, 1034, 1546, 2570
OPEN_MAIN_DB, OPEN_WAL = 0x100, 0x80000
NAME: Final = b"nightsafe-shim"
NEVER: Final = sys.maxsize
NOWHERE: Final = Path("/nonexistent")

_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = (
        ("iVersion", c_int), ("szOsFile", c_int), ("mxPathname", c_int), ("pNext", c_void_p), ("zName", c_char_p),
        ("pAppData", c_void_p), ("xOpen", c_void_p), ("xDelete", c_void_p), ("rest", c_void_p * 14),
    )  # fmt: skip


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = (
        ("iVersion", c_int), ("xClose", c_void_p), ("xRead", c_void_p), ("xWrite", c_void_p),
        ("xTruncate", c_void_p), ("xSync", c_void_p), ("rest", c_void_p * 13),
    )  # fmt: skip


class _File(ctypes.Structure):
    """The start of every sqlite3_file."""

    _fields_ = (("pMethods", POINTER(_Methods)),)


class _Table(NamedTuple):
    """A table with our methods in it, and those that they stand for."""

    ours: _Methods
    write: Any
    truncate: Any
    sync: Any


Call = Literal["write", "truncate", "sync", "unlink", "create", "rename"]


class Fault(NamedTuple):
    """What happens to the `at`-th call, and if it is `sticky` to every one behind it, until it is mended.

    `torn`: half of a write reaches the file before it fails.
    """

    at: int
    error: Literal["EIO", "ENOSPC"] = "EIO"
    sticky: bool = False
    torn: bool = False


NO_FAULT: Final = Fault(0)
_FAILED: Final = {"truncate": IOERR_TRUNCATE, "sync": IOERR_FSYNC, "unlink": IOERR_DELETE}


P = ParamSpec("P")
R = TypeVar("R")


def whole(call: Callable[Concatenate["Shim", P], R]) -> Callable[Concatenate["Shim", P], R]:
    """A change and its record are one step: nobody kills between them."""

    def guarded(shim: "Shim", /, *arguments: P.args, **named: P.kwargs) -> R:
        with shim.guard:
            return call(shim, *arguments, **named)

    return guarded


class Shim:
    """Watches the files in `folder`, whatever it is set to; all others pass unseen."""

    def __init__(self) -> None:
        self._library = _library()
        self._library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self._below = self._library.sqlite3_vfs_find(None).contents
        self._vfs = _Vfs.from_buffer_copy(self._below)
        self._open_below = _OPEN(self._below.xOpen)
        self._delete_below = _DELETE(self._below.xDelete)
        self._keep = (_OPEN(self._open), _DELETE(self._delete), _WRITE(self._write), _TRUNCATE(self._truncate),
                      _SYNC(self._sync))  # fmt: skip
        self._addresses = [ctypes.cast(one, c_void_p).value for one in self._keep]
        self._vfs.zName = NAME
        self._vfs.xOpen, self._vfs.xDelete = self._addresses[:2]
        self._tables: dict[int, _Table] = {}
        self._below_of: dict[int, _Table] = {}
        self._paths: dict[int, Path] = {}
        self._numbers: dict[str, int] = {}
        self._last = 0
        self.guard = threading.RLock()
        self.folder = NOWHERE
        self._home = NOWHERE
        """The same, and also where a process that was killed goes on unseen."""
        self.deadly = False
        self.tape: list[Op] = []
        self.fault = NO_FAULT
        self.calls: list[Call] = []
        self.names: list[str] = []
        """Which file each was about."""
        self.struck = 0
        """How many calls failed."""
        self.struck_at = NEVER
        """How long the tape was when the first of them did."""

    def start(self, folder: Path, fault: Fault, deadly: bool) -> None:
        """A new disk in `folder`, and an empty tape. A `deadly` fault kills: what called is not seen any more."""
        self.folder, self.fault, self.deadly = folder, fault, deadly
        self._home = folder
        self.tape, self.calls, self.names = [], [], []
        self._numbers.clear()
        self.struck, self.struck_at = 0, NEVER

    def kill(self) -> None:
        """From now on nothing that any process does is seen, until the disk has moved."""
        with self.guard:
            self.folder = NOWHERE

    @property
    def dead(self) -> bool:
        return self.folder == NOWHERE

    def move(self, folder: Path) -> None:
        """The same disk is in another folder now, for the next process."""
        self.folder = self._home = folder

    def mend(self) -> None:
        """No call fails any more."""
        self.fault = NO_FAULT

    # SQLite calls -----------------------------------------------------------------------------------------------------

    def _open(self, _: Any, name: int | None, file: int, flags: int, out: Any) -> int:
        """SQLite keeps the name where it is as long as the file is open, and so it is handed on as it came."""
        result = self._open_below(ctypes.addressof(self._below), name, file, flags, out)
        self._paths.pop(file, None)
        if result == OK and name is not None and flags & (OPEN_MAIN_DB | OPEN_WAL):
            path = _path(name)
            self._paths[file] = path
            self._watch(file)
            if path.parent == self.folder and self.name_of(path) not in self._numbers:
                self.created(path)
        return int(result)

    def _watch(self, file: int) -> None:
        """Give the file our own three methods. SQLite's VFS has one table for database files, and one for logs."""
        opened = _File.from_address(file)
        at = ctypes.addressof(opened.pMethods.contents)
        if at not in self._tables:
            below = _Methods.from_address(at)
            ours = _Methods.from_buffer_copy(below)
            ours.xWrite, ours.xTruncate, ours.xSync = self._addresses[2:]
            self._tables[at] = _Table(ours, _WRITE(below.xWrite), _TRUNCATE(below.xTruncate), _SYNC(below.xSync))
        self._below_of[file] = self._tables[at]
        opened.pMethods = ctypes.pointer(self._tables[at].ours)

    @whole
    def _write(self, file: int, data: int, size: int, offset: int) -> int:
        path = self._watched(file)
        if path is not None and (error := self.strike("write", path)):
            half = size // 2 // SECTOR_BYTES * SECTOR_BYTES
            if self.torn and half and self._below_of[file].write(file, data, half, offset) == OK:
                self.put("write", path, offset, ctypes.string_at(data, half))
            return error
        result = self._below_of[file].write(file, data, size, offset)
        if path is not None and result == OK:
            self.put("write", path, offset, ctypes.string_at(data, size))
        return int(result)

    @whole
    def _truncate(self, file: int, size: int) -> int:
        path = self._watched(file)
        if path is not None and (error := self.strike("truncate", path)):
            return error
        result = self._below_of[file].truncate(file, size)
        if path is not None and result == OK:
            self.put("truncate", path, size)
        return int(result)

    @whole
    def _sync(self, file: int, flags: int) -> int:
        """Files lie in memory, and need no syncing: what it would have made durable is decided from the tape."""
        path = self._watched(file)
        if path is None:
            return int(self._below_of[file].sync(file, flags))
        error = self.strike("sync", path)
        self.put("sync_failed" if error else "sync", path, len(self.tape))
        return error

    @whole
    def _delete(self, _: Any, name: int, sync_folder: int) -> int:
        path = _path(name)
        watched = path.parent == self.folder and self.name_of(path) in self._numbers
        if watched and (error := self.strike("unlink", path)):
            return error
        result = self._delete_below(ctypes.addressof(self._below), name, sync_folder)
        if watched and result == OK:
            self.removed(path)
        return int(result)

    # What becomes of it -----------------------------------------------------------------------------------------------

    def _watched(self, file: int) -> Path | None:
        path = self._paths.get(file)
        return path if path is not None and path.parent == self.folder and self.name_of(path) in self._numbers else None

    def strike(self, call: Call, path: Path) -> int:
        """The code with which this call fails; OK when it does not."""
        self.calls.append(call)
        self.names.append(path.name)
        at, sticky = self.fault.at, self.fault.sticky
        if not at or len(self.calls) < at or (len(self.calls) > at and not sticky):
            return OK
        self.struck += 1
        self.struck_at = min(self.struck_at, len(self.tape))
        if self.deadly:
            self.folder = NOWHERE
        if call == "write":
            return FULL if self.fault.error == "ENOSPC" else IOERR_WRITE
        return _FAILED.get(call, IOERR_WRITE)

    @property
    def torn(self) -> bool:
        return self.fault.torn and len(self.calls) == self.fault.at

    def name_of(self, path: Path) -> str:
        """As on the tape, without the slash in front; empty for what lies elsewhere."""
        return str(path.relative_to(self._home)) if path.is_relative_to(self._home) else ""

    def knows(self, path: Path) -> bool:
        """Whether this is a file of the disk that is watched."""
        return not self.dead and bool(name := self.name_of(path)) and name in self._numbers

    def put(self, kind: Kind, path: Path, place: int = 0, data: bytes = b"", new_path: str = "") -> None:
        """One change more. A file of no number is the folder."""
        name = self.name_of(path)
        self.tape.append(Op(kind, self._numbers.get(name, 0), place, f"/{name}", data, new_path))

    def created(self, path: Path) -> None:
        """There is a new file."""
        self._last += 1
        self._numbers[self.name_of(path)] = self._last
        self.put("create", path)

    def removed(self, path: Path) -> None:
        """It is there no more."""
        self.put("unlink", path)
        del self._numbers[self.name_of(path)]

    def renamed(self, path: Path, target: Path) -> None:
        """It has another name, perhaps that of another one which is there no more."""
        name = self.name_of(target)
        self.put("rename", path, new_path=f"/{name}")
        self._numbers[name] = self._numbers.pop(self.name_of(path))


def _path(name: int) -> Path:
    return Path(ctypes.string_at(name).decode())


def _library() -> ctypes.CDLL:
    """The libsqlite3 that Python's own module uses."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if "libsqlite3" in path:
            return ctypes.CDLL(path)
    pytest.skip("I/O FAULTS ARE NOT TRIED HERE: this Python has SQLite built in, so nothing can stand in its way")


@contextmanager
def over_sqlite() -> Iterator[Shim]:
    """Every connection that this process opens goes through the shim."""
    sqlite3.connect(":memory:").close()
    shim = Shim()
    register, unregister = shim._library.sqlite3_vfs_register, shim._library.sqlite3_vfs_unregister
    assert register(ctypes.byref(shim._vfs), 1) == OK
    try:
        yield shim
    finally:
        unregister(ctypes.byref(shim._vfs))
        register(ctypes.byref(shim._below), 1)
