"""[wal] → disk. How many pages SQLite has appended to a write-ahead log, seen from outside while its owner runs.

Reads the wal-index (walformat.html, 2.1: `mxFrame` in the first header, the salt that changes with each round). Takes
no lock and writes nothing.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, NamedTuple, Self, TypeVar

T = TypeVar("T")

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


class Counter(Generic[T]):
    """Counts frames while the context lasts, and takes a mark, with the count at it, when a new round has begun.

    A round begins when the log has been copied into the database, whole: between two marks lie whole checkpoints.
    """

    def __init__(self, database: Path, mark: Callable[[], T]) -> None:
        self._shm = database.with_name(database.name + "-shm")
        self._mark = mark
        self._stop = threading.Event()
        self.frames = 0
        self.rounds: list[tuple[T, int]] = []

    def __enter__(self) -> Self:
        self._last = look(self._shm)
        self._thread = threading.Thread(target=self._watch, name="wal", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_INTERVAL_S):
            if self._note(look(self._shm)):
                mark = self._mark()
                self._note(look(self._shm))
                self.rounds.append((mark, self.frames))
        self._note(look(self._shm))

    def _note(self, now: Log) -> bool:
        """Count what is new; True when another round has begun."""
        again = now.salt != self._last.salt
        self.frames += now.frames if again else max(0, now.frames - self._last.frames)
        self._last = now
        return again
