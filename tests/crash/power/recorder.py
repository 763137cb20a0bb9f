"""agent → [a file system that writes everything down] → a folder. `recorder.py LIVE MOUNT TAPE SYNC_MS`.

Passes every call through to the folder LIVE, and puts each change onto the tape in the order in which it happened. What
is written below /tills goes to the tape as a note, in the same order. A JSON line written to /.fault makes the next
calls fail. It never keeps anything back: what a power cut takes away is decided later, from the tape.
"""

import errno
import json
import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import mfusepy  # type: ignore[import-untyped]

from tests.crash.power import tape
from tests.crash.power.tape import Op

FAULT = "/.fault"
SHARED_MEMORY = "-shm"
"""SQLite's index of the log: made again at each start, and no part of what a disk promises."""

_STATFS = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_flag", "f_frsize")


class Faults:
    """The next `times` calls of one kind, on paths that end so, fail with `error`; 0 times is for ever.

    With `kill` the process that called is killed, and so never hears of it.
    """

    def __init__(self) -> None:
        self._call = self._of = ""
        self._error = self._times = 0
        self._kill = False

    def set(self, order: dict[str, Any]) -> None:
        self._call, self._of = order["call"], order["of"]
        self._error, self._times = getattr(errno, order["error"]), int(order["times"])
        self._kill = order["kill"]

    def strike(self, call: Literal["write", "sync"], path: str) -> int:
        """The errno with which this call fails, 0 when it does not."""
        if call != self._call or not path.endswith(self._of):
            return 0
        if self._times:
            self._times -= 1
            if not self._times:
                self._call = ""
        if self._kill:
            os.kill(mfusepy.fuse_get_context()[2], signal.SIGKILL)
        return self._error


class Recorder(mfusepy.Operations):  # type: ignore[misc]
    """Called from several threads: a change and its record are one step under the lock."""

    use_ns = True

    def __init__(self, live: Path, record: Path, sync_s: float) -> None:
        self._live = str(live)
        self._file = record.open("ab", buffering=0)
        self._guard = threading.Lock()
        self._count = 0
        self._numbers: dict[int, int] = {}
        self._last = 0
        self._sync_s = sync_s
        self._faults = Faults()

    def _put(self, op: Op) -> None:
        self._file.write(tape.packed(op))
        self._count += 1

    def _number(self, inode: int) -> int:
        if inode not in self._numbers:
            return self._new_number(inode)
        return self._numbers[inode]

    def _new_number(self, inode: int) -> int:
        self._last += 1
        self._numbers[inode] = self._last
        return self._last

    def _at(self, path: str) -> str:
        return self._live + path

    # Names ------------------------------------------------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == FAULT:
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": 0}
        found = os.lstat(self._at(path))
        times = {f"st_{one}time": getattr(found, f"st_{one}time_ns") for one in "amc"}
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks")
        return {name: getattr(found, name) for name in names} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in _STATFS}

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._at(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self._at(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._at(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._at(path))
        return 0

    def mknod(self, path: str, mode: int, dev: int) -> int:
        """Sockets; they hold nothing that a disk would keep."""
        os.mknod(self._at(path), mode, dev)
        return 0

    def unlink(self, path: str) -> int:
        with self._guard:
            found = os.lstat(self._at(path))
            os.unlink(self._at(path))
            if stat.S_ISREG(found.st_mode):
                self._put(Op("unlink", self._number(found.st_ino), 0, path))
        return 0

    def rename(self, old: str, new: str, flags: int = 0) -> int:
        with self._guard:
            inode = os.lstat(self._at(old)).st_ino
            os.rename(self._at(old), self._at(new))
            self._put(Op("rename", self._number(inode), 0, old, new_path=new))
        return 0

    def create(self, path: str, mode: int, fi: object = None) -> int:
        with self._guard:
            opened = os.open(self._at(path), os.O_RDWR | os.O_CREAT, mode)
            self._put(Op("create", self._new_number(os.fstat(opened).st_ino), 0, path))
        return opened

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        with self._guard:
            self._put(Op("sync_folder", 0, self._count, path))
        return 0

    # Contents ---------------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        if path == FAULT:
            return 0
        opened = os.open(self._at(path), flags & ~(os.O_APPEND | os.O_TRUNC | os.O_EXCL | os.O_CREAT))
        if flags & os.O_TRUNC:
            self.truncate(path, 0, opened)
        return opened

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if path == FAULT:
            self._faults.set(json.loads(data))
            return len(data)
        with self._guard:
            if path.startswith(tape.WITNESSES):
                self._put(Op("note", 0, offset, path, data))
                return os.pwrite(fh, data, offset)
            if error := self._faults.strike("write", path):
                raise mfusepy.FuseOSError(error)
            written = os.pwrite(fh, data, offset)
            self._changed("write", path, fh, offset, data[:written])
        return written

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        if path == FAULT:
            return 0
        with self._guard:
            os.truncate(self._at(path) if fh is None else fh, length)
            self._changed("truncate", path, fh, length)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        if mode:
            raise mfusepy.FuseOSError(errno.EOPNOTSUPP)
        with self._guard:
            os.posix_fallocate(fh, offset, size)
            self._changed("grow", path, fh, offset + size)
        return 0

    def _changed(
        self, kind: Literal["write", "truncate", "grow"], path: str, fh: int | None, place: int, data: bytes = b""
    ) -> None:
        if path.endswith(SHARED_MEMORY):
            return
        inode = os.lstat(self._at(path)).st_ino if fh is None else os.fstat(fh).st_ino
        self._put(Op(kind, self._number(inode), place, path, data))

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """Takes its time, as a disk does: whoever tells before it returns is seen on the tape."""
        with self._guard:
            began = self._count
            error = self._faults.strike("sync", path)
        time.sleep(self._sync_s)
        with self._guard:
            self._put(Op("sync_failed" if error else "sync", self._number(os.fstat(fh).st_ino), began, path))
        if error:
            raise mfusepy.FuseOSError(error)
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def release(self, path: str, fh: int) -> int:
        if path != FAULT:
            os.close(fh)
        return 0


def main(live: str, mount: str, record: str, sync_ms: str) -> None:
    """Serve until unmounted."""
    recorder = Recorder(Path(live), Path(record), float(sync_ms) / 1000)
    mfusepy.FUSE(recorder, mount, foreground=True, nothreads=False, fsname="nightsafe-recorder", max_idle_threads=8)


if __name__ == "__main__":
    main(*sys.argv[1:])
