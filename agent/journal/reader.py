"""ingest → [journal: reading] → drain. Reads the log in order, on a connection that can only read.

Every record is checked against its own seal before it leaves: a flipped byte is found here, not at the cloud.
"""

import sqlite3
import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.core import chain
from agent.core.errors import RecordDamaged
from agent.core.instants import to_text
from agent.core.lineage import Lineage
from agent.core.mend import UNKNOWN_BOOT
from agent.journal.database import SQL
from agent.journal.reading import Reading

MEMBERS_BYTES = 640
"""What a record has around its event in a batch, at most about so many bytes."""
NOT_AS_WRITTEN = (TypeError, ValueError, KeyError, OverflowError, struct.error)
"""What columns of other types or sizes than those that were written lead to."""


class Stored(NamedTuple):
    """One record of the log. `sequence` is its place in the stream, `device_sequence` the device's own counter."""

    position: int
    sequence: int
    device_epoch: int
    device_sequence: int | None
    device: str
    event_id: str
    recordedtime: str
    clock: str
    boot: str
    uptime_ms: int
    prevhash: bytes
    rechash: bytes
    event: bytes


class _Id(msgspec.Struct):
    id: str


_id = msgspec.json.Decoder(_Id).decode


class Reader:
    """Reads batches, each of one stream."""

    def __init__(
        self,
        directory: Path,
        cache_bytes: int,
        lineage: Callable[[], Lineage],
        generation: Callable[[], int] = lambda: 0,
        boots: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """Opens nothing yet: the first call does. `generation` changes when the journal has been opened anew.

        `boots` are the rows of the boots by name, as the writer knows them; without it the table is believed, which
        nothing seals.
        """
        self._known_boots = boots
        self._reading = Reading(directory, cache_bytes, generation, self._forget)
        self._lineage = lineage
        self._devices: dict[int, str] = {}
        self._boots: dict[int, str] = {}

    @classmethod
    async def open(cls, directory: Path, cache_bytes: int, lineage: Callable[[], Lineage]) -> "Reader":
        """Open a read-only connection to the journal in `directory`."""
        reader = cls(directory, cache_bytes, lineage)
        await reader._reading.open()
        return reader

    async def close(self) -> None:
        """Close the connection."""
        await self._reading.close()

    def closed(self) -> AbstractAsyncContextManager[None]:
        """While the block lasts there is no connection; calls wait."""
        return self._reading.closed()

    def _forget(self) -> None:
        self._devices, self._boots = {}, {}

    async def batch(self, after: int, records_max: int, bytes_max: int) -> list[Stored]:
        """Records behind position `after`, without holes, at least one if there is one, as far as both limits allow.

        They are of one stream, that of the first, which may lie further behind `after`: what is between is not kept any
        more. `bytes_max` counts the batch's decoded body. Raises RecordDamaged where the seal of the first does not
        hold; records before a damaged one are returned without it.
        """
        return await self._reading.run(lambda connection: self._batch(connection, after, records_max, bytes_max))

    async def rechash(self, position: int) -> bytes | None:
        """The seal of the record at `position`, None where neither it nor the one behind it is kept any more."""

        def call(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(SQL["read_rechash"], (position,)).fetchone()
            row = row or connection.execute(SQL["read_prevhash"], (position + 1,)).fetchone()
            return row[0] if row is not None else None

        return await self._reading.run(call)

    async def first(self) -> int | None:
        """Position of the first record that is kept."""
        row = await self._reading.run(lambda connection: connection.execute(SQL["read_first"]).fetchone())
        return row[0] if row is not None else None

    async def missing_reason(self, first: int, last: int) -> str | None:
        """What was said when records at these positions were found damaged, None if nothing was."""
        at = (first, last)
        row = await self._reading.run(lambda connection: connection.execute(SQL["read_missing_reason"], at).fetchone())
        return row[0] if row is not None else None

    def _batch(self, connection: sqlite3.Connection, after: int, records_max: int, bytes_max: int) -> list[Stored]:
        found: list[Stored] = []
        size, times, lineage = 0, _Times(), self._lineage()
        stream, end = lineage.present, None
        cursor = connection.execute(SQL["read_records"], (after, records_max))
        while rows := cursor.fetchmany(256):
            for (
                position,
                epoch_row,
                device_sequence,
                boot,
                recorded_ms,
                uptime_ms,
                synced,
                prevhash,
                rechash,
                event,
                beside,
            ) in rows:
                size += (len(event) if isinstance(event, bytes) else 0) + MEMBERS_BYTES
                if not found:
                    stream = lineage.of(position)
                    end = lineage.end_of(stream)
                elif size > bytes_max or position != found[-1].position + 1 or (end is not None and position > end):
                    cursor.close()
                    return found
                sequence = position - stream.base
                try:
                    device = self._devices.get(epoch_row) or self._device(connection, epoch_row)
                    recordedtime = times.text(recorded_ms)
                    proved = chain.rechash(prevhash, sequence, recordedtime, device, event) == rechash and (
                        beside is None or chain.beside(epoch_row, device_sequence, boot, uptime_ms, synced) == beside
                    )
                except NOT_AS_WRITTEN:
                    proved = False
                if not proved:
                    cursor.close()
                    if found:
                        return found
                    raise RecordDamaged(position)
                found.append(
                    Stored(
                        position,
                        sequence,
                        epoch_row,
                        device_sequence,
                        device,
                        _id(event).id,
                        recordedtime,
                        "synced" if synced else "unsynced",
                        self._boots.get(boot) or self._boot(connection, boot),
                        uptime_ms,
                        prevhash,
                        rechash,
                        event,
                    )
                )
        return found

    def _device(self, connection: sqlite3.Connection, epoch_row: int) -> str:
        self._devices = dict(connection.execute(SQL["read_epoch_devices"]).fetchall())
        return self._devices[epoch_row]  # KeyError: a row of no counting

    def _boot(self, connection: sqlite3.Connection, boot: int) -> str:
        if self._known_boots is not None:
            self._boots = {row: name for name, row in self._known_boots().items()}
        else:
            self._boots = dict(connection.execute(SQL["read_boots"]).fetchall())
        return self._boots.get(boot, UNKNOWN_BOOT)


class _Times:
    """Instants as text; records of one commit share theirs."""

    def __init__(self) -> None:
        self._ms = -1
        self._text = ""

    def text(self, wall_ms: int) -> str:
        if wall_ms != self._ms:
            self._ms, self._text = wall_ms, to_text(wall_ms)
        return self._text
