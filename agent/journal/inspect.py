"""[journal: looking from outside] → command line. Reads a journal beside the running agent, or without it.

Opens the database for queries only; what is to be changed is asked of the agent. Checks every record against its own
seal and its neighbour's.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.core import chain
from agent.core.errors import Held
from agent.core.instants import to_text
from agent.journal.book import read_lineage
from agent.journal.database import BUSY_TIMEOUT_MS, FILE_NAME, SQL, named

FAULTS_MAX = 100
"""Faults that a report names; it counts them all."""


class Report(msgspec.Struct):
    """What `verify` found, in positions of the journal. `faults` are words, each with the position it speaks of.

    `named_missing` counts records whose loss was found and named before.
    """

    epoch: str
    first: int
    last: int
    cursor: int
    records: int
    event_bytes: int
    head: str
    named_missing: int = 0
    faults_count: int = 0
    faults: list[str] = []

    def fault(self, text: str) -> None:
        """Note one more."""
        self.faults_count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(text)


class Quarantined(NamedTuple):
    """One refused event. `payload` is None where a card number may stand in it."""

    id: int
    device: str
    epoch: str | None
    sequence: int | None
    event_id: str | None
    reason: str
    detail: str
    sha256: str
    size: int
    excerpt: str
    payload: bytes | None
    refused_at: str
    state: str
    actor: str | None
    note: str | None


def open_snapshot(directory: Path) -> sqlite3.Connection:
    """A connection for queries only. Raises Held when there is no journal."""
    path = directory / FILE_NAME
    if not path.exists():
        raise Held(
            "journal_none", f"There is no journal in {directory}.", "Check [state] directory, or start nightsafe once."
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise Held("journal_denied", f"{path} may not be read by this user.", "Run this as the user of the service.")
    try:
        connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)
        connection.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("pragma wal_autocheckpoint = 0")
        connection.execute("pragma query_only = on")
    except sqlite3.Error as error:
        raise named(error) from error
    return connection


def verify(directory: Path) -> Report:
    """Check the database's structure, the positions, and the chain from the first record kept to the last."""
    with closing(open_snapshot(directory)) as connection:
        try:
            return _verify(connection)
        except sqlite3.Error as error:
            raise named(error) from error


def _verify(connection: sqlite3.Connection) -> Report:
    connection.execute("begin")
    _, watermark, cursor, safe, *_ = connection.execute(SQL["read_journal"]).fetchone()
    check = _Check(connection, Report(read_lineage(connection).present.epoch, 0, 0, cursor, 0, 0, ""))
    report = check.report
    for (text,) in connection.execute("pragma integrity_check"):
        if text != "ok":
            report.fault(f"database: {text}")
    for row in connection.execute(SQL["read_records"], (0, -1)):
        check.row(*row)
    if report.records and report.first > safe + 1:
        check.missing(safe + 1, report.first - 1)
    for name, value in (("cursor", cursor), ("watermark", watermark), ("safe", safe)):
        if value > report.last:
            report.fault(f"{name} stands at {value}, behind the last record {report.last}")
    return report


class _Check:
    """One walk over the log."""

    def __init__(self, connection: sqlite3.Connection, report: Report) -> None:
        self.report = report
        self._lineage = read_lineage(connection)
        self._devices = dict(connection.execute(SQL["read_epoch_devices"]).fetchall())
        self._named = connection.execute(SQL["read_missing"]).fetchall()
        self._head = b""

    def row(
        self,
        position: int,
        epoch_row: int,
        device_sequence: int | None,
        boot: int,
        recorded_ms: int,
        uptime_ms: int,
        synced: int,
        prevhash: bytes,
        rechash: bytes,
        event: bytes,
        beside: int | None,
    ) -> None:
        """Check one record against its seal and its neighbour's."""
        report, stream = self.report, self._lineage.of(position)
        if report.records and position != report.last + 1:
            self.missing(report.last + 1, position - 1)
        elif prevhash != (stream.origin if position == stream.base + 1 else self._head) and (
            report.records or position == stream.base + 1
        ):
            report.fault(f"position {position}: prevhash is not the rechash before it")
        device = self._devices.get(epoch_row)
        if device is None:
            report.fault(f"position {position}: its device is unknown")
        elif chain.rechash(prevhash, position - stream.base, to_text(recorded_ms), device, event) != rechash:
            report.fault(f"position {position}: its bytes do not match its seal")
        elif beside not in (None, chain.beside(epoch_row, device_sequence, boot, uptime_ms, synced)):
            report.fault(f"position {position}: what stands beside its event has changed")
        self._head = rechash
        report.first = report.first or position
        report.last = position
        report.records += 1
        report.event_bytes += len(event)
        report.head = rechash.hex()

    def missing(self, first: int, last: int) -> None:
        """Positions without a record: a fault unless the loss was named when it was found."""
        for start, end in self._named:
            if start <= first and last <= end:
                self.report.named_missing += last - first + 1
                return
        self.report.fault(f"positions {first} to {last} are missing, and nothing says why")


def quarantined(directory: Path, number: int | None = None) -> list[Quarantined]:
    """The refused events that nobody has handled yet, or the one with this number."""
    with closing(open_snapshot(directory)) as connection:
        rows: list[Any] = connection.execute(SQL["list_quarantine"], (number,)).fetchall()
    return [Quarantined(*row)._replace(epoch=row[2] or None, refused_at=to_text(row[11])) for row in rows]


def records(directory: Path, everything: bool) -> Iterator[bytes]:
    """Records that the cloud has not confirmed, or all that are kept, as JSON lines with the event's bytes verbatim."""
    with closing(open_snapshot(directory)) as connection:
        cursor = connection.execute(SQL["read_journal"]).fetchone()[2]
        lineage = read_lineage(connection)
        devices = dict(connection.execute(SQL["read_epoch_devices"]).fetchall())
        boots = dict(connection.execute(SQL["read_boots"]).fetchall())
        found = connection.execute(SQL["read_records"], (0 if everything else cursor, -1))
        for position, row, _, boot, recorded_ms, uptime_ms, synced, _, rechash, event, _ in found:
            stream = lineage.of(position)
            line = {
                "epoch": stream.epoch,
                "sequence": f"{position - stream.base:020d}",
                "recordedtime": to_text(recorded_ms),
                "clock": "synced" if synced else "unsynced",
                "boot": boots[boot],
                "uptime_ms": uptime_ms,
                "device": devices[row],
                "rechash": rechash.hex(),
            }
            plain = b"\n" not in event and b"\r" not in event
            body: dict[str, Any] = {"data": msgspec.Raw(event)} if plain else {"data_base64": event}
            yield msgspec.json.encode(line | body)
