"""[journal: the reserve] → disk. A ballast file that keeps room for what must still be written on a full disk.

Really allocated, beside the database. Given free when the drain's cursor, a deletion or a person's decision finds the
disk full; made again when there is room. Never holds anything.
"""

import os
from pathlib import Path
from typing import Final

import structlog

from agent.runtime.files import FILE_MODE, sync_directory

log = structlog.get_logger()

RESERVE_NAME: Final = "reserve"
_BLOCK_BYTES: Final = 512
"""What st_blocks counts in."""


class Reserve:
    """The file `reserve` in the state directory, of `size` bytes. Both calls may be made at any time, on any thread."""

    def __init__(self, directory: Path, size: int) -> None:
        self._path = directory / RESERVE_NAME
        self.size = size
        self.kept = False
        """Whether it was there in full when it was last looked at."""

    def make(self) -> bool:
        """Allocate it if it is not there in full; returns whether it is. Takes long where a file system cannot allocate
        without writing."""
        try:
            self._allocate()
            self.kept = True
        except OSError as error:
            log.debug("reserve_not_made", reason=error.strerror or str(error))
            self.give()
        return self.kept

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            found = os.fstat(descriptor)
            if found.st_size == self.size and found.st_blocks * _BLOCK_BYTES >= self.size:
                return
            os.ftruncate(descriptor, 0)
            os.posix_fallocate(descriptor, 0, self.size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(self._path.parent)
        log.info("reserve_made", bytes=self.size)

    def ease(self, full_below_bytes: int) -> None:
        """Before anything is opened: give it when the disk has less than this left, or nothing could start there."""
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return
        if disk.f_bavail * disk.f_frsize < full_below_bytes:
            self.give()

    def give(self) -> bool:
        """Give its room free; returns whether there was any."""
        self.kept = False
        try:
            size = self._path.stat().st_size
            self._path.unlink()
        except OSError:
            return False
        if size:
            log.warning("reserve_given", bytes=size)
        return size > 0
