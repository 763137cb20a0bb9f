"""[journal: is this the journal that we left?] → start-up. Compares the database with the mark and the names beside it.

A database that ends before the mark has lost its tail, or is an older copy; one in which the marked record is another
has another history. Puts right the tables of names where the sealed copy proves them wrong. Never touches a record.
"""

import sqlite3
from typing import Literal

import structlog

from agent.core.arrivals import Tally
from agent.core.lineage import Lineage
from agent.core.mend import Row, sound
from agent.journal.book import Book, note_used_up
from agent.journal.database import SQL
from agent.journal.mark import Point
from agent.journal.names import CountingCopy, Names
from agent.journal.tables import ranges_of, read_lineage

log = structlog.get_logger()

History = Literal["same", "short", "other", "unknown"]


def compare(connection: sqlite3.Connection, mark: Point | None) -> History:
    """Whether the database goes on where the mark says it was."""
    if mark is None:
        return "unknown"
    head = connection.execute(SQL["read_head"]).fetchone()
    lineage = read_lineage(connection)
    if lineage.named(mark.epoch) is None:
        return "other"
    if (head[0] if head is not None else lineage.present.base) < mark.position:
        return "short"
    stream = lineage.of(mark.position)
    if mark.position <= mark.base or stream.epoch != mark.epoch:
        return "same"
    return "same" if _marked(connection, lineage, mark) else "other"


def _marked(connection: sqlite3.Connection, lineage: Lineage, mark: Point) -> bool:
    """Whether the record at the mark is the one that was there; a damaged one is given the benefit of the doubt."""
    found = connection.execute(SQL["read_record"], (mark.position,)).fetchone()
    if found is None or found[8] == mark.head:
        return True
    stream = lineage.of(mark.position)
    owner = dict(connection.execute(SQL["read_epoch_devices"]).fetchall()).get(found[1])
    return not sound(Row(*found), mark.position - stream.base, owner)


def put_right(connection: sqlite3.Connection, names: Names) -> list[str]:
    """Correct what the sealed copy proves wrong in a database of the same history; says what, in words.

    Rows' names never change, and the figures of one watermark are written once; the caller's transaction.
    """
    wrong: list[str] = []
    run = connection.execute
    watermark = run(SQL["read_journal"]).fetchone()[1]
    for boot, row in names.boots.items():
        wrong += _set(connection, "boots", "boot", row, boot)
    for device in names.devices:
        wrong += _set(connection, "devices", "device", device.id, device.device)
    for counting in names.countings:
        wrong += _set(connection, "device_epochs", "device", counting.id, counting.device)
        wrong += _set(connection, "device_epochs", "epoch", counting.id, counting.epoch)
    rows = [row for (row,) in run("select id from streams order by id")]
    for number, stream in zip(rows, names.streams, strict=True) if len(rows) == len(names.streams) else ():
        for column, value in (("epoch", stream.epoch), ("base", stream.base), ("origin", bytes.fromhex(stream.origin))):
            wrong += _set(connection, "streams", column, number, value)
    if watermark == names.watermark:
        for device in names.devices:
            for column, value in (("stored_count", device.stored_count), ("stored_bytes", device.stored_bytes)):
                wrong += _set(connection, "devices", column, device.id, value)
        for counting in names.countings:
            for column, text in (("contiguous", counting.contiguous), ("ranges", counting.ranges)):
                wrong += _set(connection, "device_epochs", column, counting.id, text)
    for counting in names.countings:
        wrong += _keep_uploaded(connection, counting)
    if wrong:
        log.error("journal_tables_mended", what=", ".join(wrong))
    return wrong


def _set(connection: sqlite3.Connection, table: str, column: str, row: int, value: str | int | bytes) -> list[str]:
    """Put one value right; a row that is not there stays away. Names are ours, never a caller's."""
    changed = connection.execute(
        f"update {table} set {column} = ? where id = ? and {column} is not ?",
        (value, row, value),
    ).rowcount
    return [f"{table}.{column} of row {row}"] if changed else []


def _keep_uploaded(connection: sqlite3.Connection, counting: CountingCopy) -> list[str]:
    """What the cloud has is read from the copy where it cannot be read any more."""
    found = connection.execute(SQL["read_uploaded"], (counting.id,)).fetchone()
    try:
        if found is not None:
            Tally(found[0], ranges_of(found[1]))
        return []
    except (TypeError, ValueError):
        values = (counting.uploaded, counting.uploaded_ranges, counting.id)
        connection.execute(SQL["write_device_epoch_uploaded"], values)
        return [f"device_epochs.uploaded of row {counting.id}"]


def numberless(connection: sqlite3.Connection, names: Names, cursor: int) -> list[str]:
    """Devices of which events without numbers are gone, as far as the names know: more of theirs waited for the cloud
    than the log has behind `cursor`."""
    kept: dict[int, int] = dict(connection.execute(SQL["count_kept_behind"], (cursor,)).fetchall())
    uploaded = {row: count for row, _, _, _, count, *_ in connection.execute(SQL["read_devices"])}
    without = {one.device for one in names.countings if not one.epoch}
    return [
        one.device
        for one in names.devices
        if one.id in without
        and one.stored_count - max(one.uploaded_count, uploaded.get(one.id, 0)) > kept.get(one.id, 0)
    ]


def expect(connection: sqlite3.Connection, book: Book, names: Names, mark: Point | None) -> None:
    """What the names say was stored: what the cloud had by then is accounted for, the rest becomes a hole.

    For a database that has lost its tail; `mark` says how far the cloud had come.
    """
    devices = {one.id: one.device for one in names.devices}
    all_up = mark is not None and mark.cursor >= names.watermark
    for one in names.countings:
        device = book.device(connection, devices[one.device])
        counting = book.counting(connection, device, one.epoch or None)
        stored = Tally(one.contiguous, ranges_of(one.ranges))
        up = stored if all_up else Tally(one.uploaded, ranges_of(one.uploaded_ranges))
        for first, last in ((1, up.contiguous), *up.ranges()):
            if last >= first:
                note_used_up(counting, first, last)
        counting.tally.expect(stored.highest)
        book.touched.add(counting)
