"""disk, cloud → [the log as it stands] → examination. Read without any of the journal's code, and proved seal by seal.

Where records were deleted in front, the cloud speaks for them: they must be there, and the first that is kept joins on
to them. In the middle nothing is missing but what the journal itself names.
"""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from agent.core.instants import to_text
from agent.journal.database import FILE_NAME
from tests.crash.judge import seal
from tests.crash.power.cloud import ORIGIN, Cloud
from tests.property.journal_rig import Row

ROWS = (
    "select r.position, d.device, e.epoch, r.device_sequence, r.recorded_ms, r.event, r.prevhash, r.rechash"
    " from records r join device_epochs e on e.id = r.device_epoch join devices d on d.id = e.device"
    " order by r.position"
)


class Log(NamedTuple):
    """`deleted`: device and event of what the cloud has and the disk no more; `last`: the position where it ends."""

    deleted: list[tuple[str, bytes]]
    rows: list[Row]
    last: int


class _Stream(NamedTuple):
    epoch: str
    base: int
    origin: bytes
    sealed: int | None


def read_log(folder: Path, cloud: Cloud) -> Log:
    """Raises AssertionError where it is no whole log."""
    connection = sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)
    try:
        streams = [
            _Stream(*row) for row in connection.execute("select epoch, base, origin, sealed from streams order by id")
        ]
        missing = connection.execute("select first, last from missing").fetchall()
        found = connection.execute(ROWS).fetchall()
    finally:
        connection.close()
    gone = {position for first, last in missing for position in range(first, last + 1)}
    rows: list[Row] = []
    before, at = b"", 0
    for position, device, epoch, sequence, recorded_ms, event, prevhash, rechash in found:
        stream = _of(streams, position)
        if not rows:
            at = position - 1
            before = (cloud.seal_of(stream.epoch, at - stream.base) or b"") if at else ORIGIN
        while at + 1 in gone:
            at, before = at + 1, b""
        assert position == at + 1, f"position {position} stands where {at + 1} should"
        if position == stream.base + 1:
            before = stream.origin
        joined = prevhash == before or (not before and rows) or (rows and _of(streams, at) != stream)
        assert joined, f"position {position} does not join on"
        assert seal(prevhash, position - stream.base, to_text(recorded_ms), device, event) == rechash, (
            f"position {position} has a wrong seal"
        )
        before, at = rechash, position
        rows.append(Row(position, device, epoch or None, sequence, recorded_ms, event))
    while at + 1 in gone:
        at += 1
    first = rows[0].position if rows else 1
    bases = {stream.epoch: stream.base for stream in streams}
    deleted = [(one.device, one.event) for one in cloud.records() if bases.get(one.epoch, first) + one.sequence < first]
    return Log(deleted, rows, at)


def _of(streams: list[_Stream], position: int) -> _Stream:
    """The stream whose seal the record carries."""
    for stream in reversed(streams):
        if stream.base < position and (stream.sealed is None or position <= stream.sealed):
            return stream
    return streams[0]
