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

from agent.core.errors import Held
from agent.core.instants import to_text
from agent.core.lineage import Stream
from agent.core.mend import Row, beside_holds, seal_holds
from agent.journal import mark as marks
from agent.journal import names as copies
from agent.journal import salvage
from agent.journal.aside import folders
from agent.journal.database import FILE_NAME, SQL, corrupt, named
from agent.journal.history import compare
from agent.journal.mark import Point
from agent.journal.names import Names
from agent.journal.old import open_read_only
from agent.journal.tables import read_lineage

FAULTS_MAX = 100
"""Faults that a report names; it counts them all."""


class Report(msgspec.Struct):
    """What `verify` found, in positions of the journal. `faults` are words, each with the position it speaks of.

    `named_missing` counts records whose loss was found and named before; `mark` is the last position as it is kept
    apart from the database (None: not kept); `doubt` is why the next exchange with the cloud opens a new epoch;
    `kept_damaged` counts files and folders in which damaged records are kept, `kept_damaged_bytes` is what they take.
    """

    epoch: str
    first: int
    last: int
    cursor: int
    records: int
    event_bytes: int
    head: str
    named_missing: int = 0
    mark: int | None = None
    doubt: str | None = None
    kept_damaged: int = 0
    kept_damaged_bytes: int = 0
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
        return open_read_only(path)  # a connection that may write would end a broken write-ahead log when it closes
    except sqlite3.Error as error:
        raise named(error) from error


def verify(directory: Path) -> Report:
    """Check the database's structure, the positions, the chain from the first record kept to the last, and the mark.

    Raises JournalDamaged where so little can be read that there is nothing to check.
    """
    names = copies.read(directory)
    mark = marks.read(directory)  # before the database: an agent that runs moves on meanwhile
    with closing(open_snapshot(directory)) as connection:
        try:
            report = _verify(connection, mark, names)
        except sqlite3.Error as error:
            raise named(error) from error
    if (directory / salvage.MARKER_NAME).exists() or (directory / salvage.PLAN_NAME).exists():
        report.fault("the database is to be built anew at the next start")
    if found := list(folders(directory)):
        report.kept_damaged = sum(1 for folder in found for _ in folder.iterdir())
        report.kept_damaged_bytes = salvage.kept_bytes(directory)
    return report


def _verify(connection: sqlite3.Connection, mark: Point | None, names: Names | None) -> Report:
    connection.execute("begin")
    found = connection.execute(SQL["read_journal"]).fetchone()
    if found is None:
        raise corrupt("its own row is gone")
    venue, watermark, cursor, safe, doubt, *_ = found
    check = _Check(connection, Report(read_lineage(connection).present.epoch, 0, 0, cursor, 0, 0, ""))
    report = check.report
    report.doubt = doubt
    if mark is not None and mark.venue == venue:
        report.mark = mark.position
        if (past := compare(connection, mark)) != "same":
            short = f"it ends before position {mark.position}, which it had" if past == "short" else "it is another one"
            report.fault(f"this is not the journal as the box left it: {short}")
        elif names is not None and names.venue == venue:
            _check_boots(connection, report, names)
    for (text,) in connection.execute("pragma integrity_check"):
        if text != "ok":
            report.fault(f"database: {text}")
    for row in connection.execute(SQL["read_records"], (0, -1)):
        check.row(Row(*row))
    if report.records and report.first > safe + 1:
        check.missing(safe + 1, report.first - 1)
    for name, value in (("cursor", cursor), ("watermark", watermark), ("safe", safe)):
        if value > report.last:
            report.fault(f"{name} stands at {value}, behind the last record {report.last}")
    return report


def _check_boots(connection: sqlite3.Connection, report: Report, names: Names) -> None:
    """No seal covers what a boot is called; the copy beside the database does."""
    found = dict(connection.execute(SQL["read_boots"]).fetchall())
    for name, row in names.boots.items():
        if found.get(row, name) != name:
            report.fault(f"boot {row} is called {found[row]!r}, in {copies.FILE_NAME} {name!r}")


class _Check:
    """One walk over the log."""

    def __init__(self, connection: sqlite3.Connection, report: Report) -> None:
        self.report = report
        self._lineage = read_lineage(connection)
        self._devices = dict(connection.execute(SQL["read_epoch_devices"]).fetchall())
        self._named = connection.execute(SQL["read_missing"]).fetchall()
        self._head: bytes | None = None
        self._stream: Stream | None = None

    def row(self, row: Row) -> None:
        """Check one record against its seal and its neighbour's."""
        report, position = self.report, row.position
        stream = self._lineage.of(position)
        if report.records and position != report.last + 1:
            self.missing(report.last + 1, position - 1)
            self._head = None
        if stream is not self._stream:
            self._head, self._stream = None, stream
        before = stream.origin if position == stream.base + 1 else self._head
        if before is not None and row.prevhash != before:
            report.fault(f"position {position}: prevhash is not the rechash before it")
        device = self._devices.get(row.device_epoch)
        if device is None:
            report.fault(f"position {position}: its device is unknown")
        elif not seal_holds(row, position - stream.base, device):
            report.fault(f"position {position}: its bytes do not match its seal")
        elif not beside_holds(row):
            report.fault(f"position {position}: what stands beside its event has changed")
        self._head = row.rechash
        report.first = report.first or position
        report.last = position
        report.records += 1
        report.event_bytes += len(row.event) if isinstance(row.event, bytes | str) else 0
        report.head = row.rechash.hex() if isinstance(row.rechash, bytes) else ""

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
