"""[wal] → disk. How many pages SQLite has appended to a write-ahead log, seen from outside while its owner runs.

Reads the wal-index (walformat.html, 2.1: `mxFrame` in the first header, the salt that changes with each round). Takes
no lock and writes nothing.
"""

import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

FRAME_HEADER_BYTES: Final = 24
LOOK_INTERVAL_S: Final = 0.005
"""How often the log is looked at; a round lasts some hundred times as long."""
_FRAMES_AT: Final = slice(16, 20)
_SALT_AT: Final = slice(32, 40)
_HEADER_BYTES: Final = 40


class Log(NamedTuple):
    """The log's state: frames in this round, and which round it is."""

    frames: int
    salt: bytes


def look(shm: Path) -> Log:
    """The log behind a wal-index file."""
    with shm.open("rb", buffering=0) as file:
        header = file.read(_HEADER_BYTES)
    return Log(int.from_bytes(header[_FRAMES_AT], sys.byteorder), header[_SALT_AT])


class Counter:
    """Counts frames and rounds while the context lasts. A round ends when the log was copied back: a checkpoint."""

    def __init__(self, database: Path) -> None:
        self._shm = database.with_name(database.name + "-shm")
        self._stop = threading.Event()
        self.frames = 0
        self.checkpoints = 0

    def __enter__(self) -> Self:
        self._last = look(self._shm)
        self._thread = threading.Thread(target=self._watch, name="wal", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_INTERVAL_S):
            self._note(look(self._shm))
        self._note(look(self._shm))

    def _note(self, now: Log) -> None:
        if now.salt == self._last.salt:
            self.frames += max(0, now.frames - self._last.frames)
        else:
            self.checkpoints += 1
            self.frames += now.frames
        self._last = now
