"""journal → [journal: the tables of figures] → book. Reads the book from the database, and writes its figures there.

Loading folds in the records behind the watermark with the same code that counts new ones. Runs on the writer's thread;
never commits.
"""

import json
import sqlite3
from typing import Any, Final

import msgspec

from agent.core.arrivals import Gap, Hole, Tally
from agent.core.clock import Moment
from agent.core.conditions import Severity, Words
from agent.core.events import content_digest
from agent.core.lineage import Lineage, Parent, Stream
from agent.core.lived import Lived
from agent.core.mend import Row, sound
from agent.journal.book import (
    AGENT,
    Acknowledged,
    Attention,
    Book,
    DeviceBook,
    EpochBook,
    note_stored,
    note_used_up,
)
from agent.journal.database import SQL, corrupt


class _Stored(msgspec.Struct):
    id: str
    type: str
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: msgspec.Raw = msgspec.Raw(b"")


_stored = msgspec.json.Decoder(_Stored).decode


def load(connection: sqlite3.Connection) -> Book:
    """The figures as the database has them: those of the watermark, and every record behind it folded in.

    Raises JournalDamaged where they cannot be, or where a record behind the watermark is not there and nothing says
    why.
    """
    book = Book()
    run = connection.execute
    _, book.watermark, book.cursor, book.safe, book.doubt, *lived = run(SQL["read_journal"]).fetchone()
    book.lived = Lived(*lived)
    book.lineage = read_lineage(connection)
    head = run(SQL["read_head"]).fetchone()
    book.position, book.head = head if head is not None else (book.base, book.lineage.present.origin)
    if not 0 <= book.safe <= book.cursor <= book.position or not 0 <= book.watermark <= book.position:
        raise corrupt(f"{book.safe}, {book.cursor} and {book.watermark} cannot be, with {book.position} records")
    for row, name, *figures, last_ms, last_uptime_ms, last_boot in run(SQL["read_devices"]):
        device = book.devices[name] = DeviceBook(row, name)
        device.stored_count, device.stored_bytes, device.uploaded_count, device.uploaded_bytes = figures
        device.last = Moment(last_ms, last_uptime_ms or 0, last_boot or 0) if last_ms is not None else None
    by_row = {device.id: device for device in book.devices.values()}
    for row, owner, epoch, contiguous, ranges, uploaded, uploaded_ranges in run(SQL["read_device_epochs"]):
        counting = book._add_counting(row, by_row[owner], epoch or None)
        counting.tally = Tally(contiguous, ranges_of(ranges))
        counting.uploaded = Tally(uploaded, ranges_of(uploaded_ranges))
    book.read_boots(connection)
    _fold_tail(connection, book)
    for row, first, last, opened_ms, opened_s, command, state in run(SQL["read_gaps"]):
        counting = book.epochs[row]
        hole = Hole(Gap(first, last), opened_ms, opened_s or 0.0, command)
        if not first:
            book.end(counting, last)
        elif state == "open":
            book.open_hole(counting, hole)
            counting.tally.expect(last)
        else:
            note_used_up(counting, first, last)
            counting.lost.add(hole)
    read_refused(connection, book)
    read_attentions(connection, book)
    book.quarantined_count = run(SQL["count_quarantined"]).fetchone()[0]
    book.pending_bytes = sum(device.stored_bytes - device.uploaded_bytes for device in book.devices.values())
    book.oldest = read_oldest(connection, book.cursor)
    book.settle()
    for counting in book.epochs.values():
        counting.settle()
    return book


def read_lineage(connection: sqlite3.Connection) -> Lineage:
    """The streams of the journal."""
    return Lineage(
        tuple(
            Stream(epoch, base, origin, Parent(*parent) if parent[0] else None, reason, bool(fenced), sealed)
            for epoch, base, origin, *parent, reason, fenced, sealed in connection.execute(SQL["read_streams"])
        )
    )


def read_oldest(connection: sqlite3.Connection, cursor: int) -> Moment | None:
    """When the first record behind the cursor was recorded; None where there is none."""
    row = connection.execute(SQL["read_recorded"], (cursor,)).fetchone()
    return Moment(*row) if row is not None else None


def read_refused(connection: sqlite3.Connection, book: Book) -> set[EpochBook]:
    """Read the refused events that nobody has handled; returns the countings that name some now or did before."""
    told = {counting for counting in book.epochs.values() if counting.refused}
    for counting in told:
        counting.refused.clear()
    for row, event_id, sequence, reason, detail in connection.execute(SQL["read_quarantine_open"]):
        book.epochs[row].refused.append((event_id, sequence, reason, detail))
        told.add(book.epochs[row])
    return told


def read_attentions(connection: sqlite3.Connection, book: Book) -> None:
    """Read what waits for a person. No seal proves these rows: what a disk has left of one is shown as it is."""
    for row, name, severity, title, text, hint, *at, ended_s in connection.execute(SQL["read_attentions"]):
        if ended_s is not None:
            book.acknowledged[_text(name)] = Acknowledged(row, ended_s if isinstance(ended_s, float) else 0.0)
            continue
        known: Severity = severity if severity in ("info", "warning", "critical") else "warning"
        moment = Moment(*(one if isinstance(one, int) else 0 for one in at))
        book.attentions[_text(name)] = Attention(row, Words(known, _text(title), _text(text), _text(hint)), moment)
    (book.attentions_left_out,) = connection.execute(SQL["read_attentions_left_out"]).fetchone()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _fold_tail(connection: sqlite3.Connection, book: Book) -> None:
    """Fold in the sound records behind the watermark, and the sequences that refusals behind it used up."""
    missing = connection.execute(SQL["read_missing"]).fetchall()
    next_ = book.watermark + 1
    for row in connection.execute(SQL["read_records"], (book.watermark, -1)):
        position, epoch_row, sequence, boot, recorded_ms, uptime_ms, _, _, _, event, _ = row
        while next_ != position:
            next_ = next((last + 1 for first, last in missing if first <= next_ <= last), 0)
            if not 0 < next_ <= position:
                raise corrupt(f"records before position {position} are missing, and nothing says why")
        next_ += 1
        counting = book.epochs.get(epoch_row)
        sequence_here = position - book.lineage.of(position).base
        if counting is None or not sound(Row(*row), sequence_here, counting.device.name):
            book.suspects.append(position)
            continue
        note_stored(counting, sequence, Moment(recorded_ms, uptime_ms, boot), len(event))
        book.touched.add(counting)
        if counting.device.name != AGENT:
            seen = _stored(event)
            digest = content_digest(seen.type, seen.data, seen.data_base64)
            counting.device.recent[seen.id] = (digest, position)
    for epoch_row, sequence in connection.execute(SQL["read_quarantine_since"], (book.watermark,)):
        counting = book.epochs[epoch_row]
        if sequence is not None and not counting.tally.holds(sequence):
            note_used_up(counting, sequence, sequence)
            book.touched.add(counting)


def write_figures(connection: sqlite3.Connection, book: Book) -> None:
    """Write the figures as of now and move the watermark; the caller's transaction makes it one step."""
    known: list[Any] = []
    touched = sorted(book.touched, key=lambda counting: counting.id)
    for device in {counting.device.id: counting.device for counting in touched}.values():
        last = device.last or (None, None, None)
        figures = (device.stored_count, device.stored_bytes, *last, device.id)
        connection.execute(SQL["write_device_stored"], figures)
        for name, (digest, position) in sorted(device.recent.items()):
            known += (device.id, name, digest, position)
    for counting in touched:
        ranges = json.dumps(counting.tally.ranges())
        connection.execute(SQL["write_device_epoch"], (counting.tally.contiguous, ranges, counting.id))
        write_uploaded(connection, counting)
    insert_many(connection, SQL["add_known"], known, 4)
    connection.execute(SQL["write_watermark"], (book.position,))


def write_uploaded(connection: sqlite3.Connection, counting: EpochBook) -> None:
    """Write what the cloud has of one counting."""
    ranges = json.dumps(counting.uploaded.ranges())
    connection.execute(SQL["write_device_epoch_uploaded"], (counting.uploaded.contiguous, ranges, counting.id))


_CHUNKS: Final = (64, 8, 1)


def insert_many(connection: sqlite3.Connection, head: str, values: list[Any], width: int) -> None:
    """Insert rows of `width` values each, given flat, many to a statement.

    One statement steps once: SQLite's work then runs without giving the interpreter back and forth for each row.
    """
    at, end = 0, len(values)
    row = f"({','.join('?' * width)})"
    for rows in _CHUNKS:
        size = rows * width
        statement = head + ",".join([row] * rows)
        while end - at >= size:
            connection.execute(statement, values[at : at + size])
            at += size


def ranges_of(text: str) -> tuple[tuple[int, int], ...]:
    """Ranges as the tables write them."""
    return tuple((first, last) for first, last in json.loads(text))
