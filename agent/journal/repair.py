"""[journal: repair of single records] ← drain, sweep, start-up. Mends a damaged row in place, or sets it aside.

What was lost is named: the counting is open again where the cloud has not got the record, the device is asked to send
it once more, and a record of the box's own says what happened, all in the transaction that removes the row. Never
guesses an original, never removes a row whose bytes are not kept unless the limit for that is reached.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from agent.core import chain
from agent.core.arrivals import Gap, Own, Tally
from agent.core.clock import Moment
from agent.core.mend import UNKNOWN_BOOT, Around, Mended, Row, beside_holds, sound
from agent.journal import book as books
from agent.journal import tables
from agent.journal.aside import keep_row
from agent.journal.book import Book, EpochBook
from agent.journal.database import SQL, corrupt
from agent.journal.fold import Fold, Stamp
from agent.journal.repaired import Loss, Repaired, news, record_of
from agent.journal.told import put

log = structlog.get_logger()

REASON: Final = "records on the disk had changed"
NEVER: Final = Moment(0, 0, 0)


class Case(NamedTuple):
    """A damaged row and what stands around it."""

    row: Row
    around: Around


class Place(NamedTuple):
    """Where and when a repair happens: files are kept in `directory`, at most `bytes_max` of them."""

    directory: Path
    venue: str
    stamp: Stamp
    bytes_max: int


class _Removed(NamedTuple):
    """A row that was set aside; `counting` is None where even its device cannot be trusted."""

    position: int
    counting: int | None
    sequence: int | None
    size: int


def examine(connection: sqlite3.Connection, book: Book, position: int) -> Case | None:
    """The damaged row at `position`; None where it is sound, or its loss has been named already.

    Raises JournalDamaged where no row can be found there though nothing says why.
    """
    found = connection.execute(SQL["read_record"], (position,)).fetchone()
    if found is None:
        gone = connection.execute(SQL["find_missing"], (position,)).fetchone()
        if position > book.position or (gone is not None and gone[0] <= position):
            return None
        raise corrupt(f"the record at position {position} cannot be found")
    row, stream = Row(*found), book.lineage.of(position)
    countings = {row: (counting.device.name, counting.epoch) for row, counting in book.epochs.items()}
    own = countings.get(row.device_epoch) if isinstance(row.device_epoch, int) else None
    if sound(row, position - stream.base, own[0] if own else None):
        return None
    before = connection.execute(SQL["read_rechash"], (position - 1,)).fetchone()
    after = connection.execute(SQL["read_prevhash"], (position + 1,)).fetchone()
    joined = before is not None and book.lineage.of(position - 1) is stream
    previous = stream.origin if position == stream.base + 1 else before[0] if joined else None
    following = after[0] if after and book.lineage.of(position + 1) is stream else None
    if position == book.position:
        following = book.head
    return Case(row, Around(position - stream.base, previous, following, countings))


def apply(
    connection: sqlite3.Connection,
    place: Place,
    book: Book,
    cases: Sequence[tuple[Case, Mended | None]],
    start: Repaired | None = None,
    expected: Callable[[Book], None] = lambda book: None,
) -> tuple[Book, Repaired]:
    """Mend or set aside each row, in the caller's transaction; the book as it is after that, and what was done.

    `start` is what was found before; `expected` adds to a book what is known to have been stored.
    """
    start = start or Repaired(REASON)
    mended: list[tuple[int, str]] = []
    removed: list[_Removed] = []
    kept: list[str | None] = []
    nameless: list[int] = []
    for case, original in cases:
        if original is not None:
            _mend(connection, book, case.row.position, original)
            mended.append((case.row.position, ", ".join(original.what) or "nothing"))
            continue
        kept.append(keep_row(place.directory, case.row, place.stamp.wall_ms, place.bytes_max))
        removed.append(_set_aside(connection, place, book, case, nameless))
    _forget_at(connection, nameless)
    fresh = tables.load(connection)
    fresh.keep_boots(book)
    if (
        removed and book.position > fresh.position
    ):  # the last one is gone: what comes next stands behind its place all the same
        fresh.position, fresh.head = book.position, book.head
    unnamed_max = _discount(connection, fresh, removed)
    names = [name for name in kept if name is not None]
    kept_in = None if len(names) < len(kept) or not names else names[0] if len(names) == 1 else names[0].split("/")[0]
    positions = tuple((one.position, one.position) for one in removed)
    numberless = [
        Loss(book.epochs[one.counting].device.name, None, None, None)
        for one in removed
        if one.counting is not None and one.sequence is None and one.position > fresh.cursor
    ]
    expected(fresh)
    done = start._replace(
        mended=(*start.mended, *mended),
        positions=(*positions, *start.positions),
        lost=(*start.lost, *numberless),
        unnamed=unnamed_max + start.unnamed,
        kept_in=kept_in,
    )
    return fresh, name_losses(connection, place, fresh, done)


def _mend(connection: sqlite3.Connection, book: Book, position: int, original: Mended) -> None:
    row = original.row
    if original.renamed is not None:
        counting, name = original.renamed
        connection.execute(SQL["rename_device"], (name, book.epochs[counting].device.id))
    if original.place is not None:
        name, epoch = original.place
        device = book.device(connection, name)
        counting_row = book.counting(connection, device, epoch).id
        boot = book.boot(connection, UNKNOWN_BOOT)
        beside = chain.beside(counting_row, row.device_sequence, boot, row.uptime_ms, row.synced)
        row = row._replace(device_epoch=counting_row, boot=boot, beside=beside)
    changed = connection.execute(SQL["mend_record"], (*row[1:], position)).rowcount
    if changed != 1:
        raise corrupt(f"the record at position {position} cannot be written")


def _set_aside(connection: sqlite3.Connection, place: Place, book: Book, case: Case, nameless: list[int]) -> _Removed:
    """Remove the row; where its id cannot be read, its position joins the `nameless`."""
    row = case.row
    if connection.execute(SQL["remove_record"], (row.position,)).rowcount != 1:
        raise corrupt(f"the record at position {row.position} cannot be removed")
    add_missing(connection, row.position, row.position, "damaged", place.stamp.wall_ms)
    trusted = beside_holds(row) and row.beside is not None and row.device_epoch in book.epochs
    if row.position > book.cursor and not _forget(connection, row, book.epochs[row.device_epoch] if trusted else None):
        nameless.append(row.position)
    size = len(row.event) if isinstance(row.event, bytes | str) else 0
    log.error("record_set_aside", position=row.position, trusted=trusted)
    return _Removed(row.position, row.device_epoch if trusted else None, row.device_sequence if trusted else None, size)


def add_missing(connection: sqlite3.Connection, first: int, last: int, reason: str, found_ms: int) -> None:
    """Note positions without a record; what touches is one range."""
    touching = connection.execute(SQL["read_missing_touching"], (first, last)).fetchall()
    for one in touching:
        connection.execute(SQL["remove_missing"], (one[1],))
    first, last = min([first, *(one[0] for one in touching)]), max([last, *(one[1] for one in touching)])
    connection.execute(SQL["add_missing"], (first, last, reason, found_ms))


class _Named(msgspec.Struct):
    id: str


_named = msgspec.json.Decoder(_Named).decode


def _forget(connection: sqlite3.Connection, row: Row, counting: EpochBook | None) -> bool:
    """A lost event's id is none that was stored: sent again, it is taken. False where the row does not tell its id."""
    if counting is not None:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, TypeError):
            key = (counting.device.id, _named(row.event).id)
            if connection.execute(SQL["read_known_position"], key).fetchone() == (row.position,):
                connection.execute(SQL["remove_known"], key)
                return True
    return False


def _forget_at(connection: sqlite3.Connection, positions: Sequence[int]) -> None:
    """As `_forget`, for all whose ids cannot be read: one look through the whole table."""
    if not positions:
        return
    for key in connection.execute(SQL["find_known_at"], (json.dumps(positions),)).fetchall():
        connection.execute(SQL["remove_known"], key)


def _discount(connection: sqlite3.Connection, book: Book, removed: Sequence[_Removed]) -> int:
    """Take what was removed out of the figures; returns how many removed records say nothing of themselves."""
    blind = [one for one in removed if one.counting is None]
    if blind:
        recount(connection, book)
    for one in removed:
        if one.counting is None:
            continue
        counting = book.epochs[one.counting]
        device = counting.device
        book.touched.add(counting)
        if one.sequence is not None:
            counting.tally.expect(one.sequence)
        if not blind and one.position > book.watermark:
            books.note_stored(counting, one.sequence, device.last or NEVER, one.size)
        if one.position <= book.cursor:
            continue
        if not blind:
            device.stored_count -= 1
            device.stored_bytes -= one.size
        if one.sequence is not None and not counting.uploaded.holds(one.sequence):
            counting.tally.take_out(one.sequence, one.sequence)
    book.pending_bytes = sum(device.stored_bytes - device.uploaded_bytes for device in book.devices.values())
    return sum(one.position > book.cursor for one in blind)


def recount(connection: sqlite3.Connection, book: Book) -> None:
    """Count anew what each device has stored: what the cloud has, and what still waits in the log. Reads that whole."""
    for device in book.devices.values():
        device.stored_count, device.stored_bytes = device.uploaded_count, device.uploaded_bytes
    for counting in book.epochs.values():
        highest = counting.tally.highest
        counting.tally = Tally(counting.uploaded.contiguous, counting.uploaded.ranges())
        counting.tally.expect(highest)
        book.touched.add(counting)
    for row, sequence, size in connection.execute(SQL["read_kept_behind"], (book.cursor,)):
        found = book.epochs.get(row)
        if found is not None:
            books.note_stored(found, sequence, found.device.last or NEVER, size)


def name_losses(connection: sqlite3.Connection, place: Place, book: Book, done: Repaired) -> Repaired:
    """Open every hole that nobody has opened, record and tell what was done, and write the figures; the caller
    commits."""
    fold = Fold(connection, book, place.venue, place.stamp)
    holes = list(_unopened(book))
    for counting, hole in holes:
        fold.note_gap(counting, hole)
    named = [Loss(counting.device.name, counting.epoch, *hole) for counting, hole in holes]
    count = sum(hole.last - hole.first + 1 for _, hole in holes)
    done = done._replace(lost=(*done.lost, *named), unnamed=done.unseen + max(0, done.unnamed - count))
    fold.take(Own("nightsafe.journal.repaired", record_of(done)))
    before = book.attentions.get("journal_lost")
    done = done._replace(told=news(done, before and before.words.text))
    for told in done.told:
        put(fold, told)
    fold.write()
    tables.write_figures(connection, book)
    book.watermark = book.position
    for counting in book.touched:
        counting.device.recent = {}
    book.touched = set()
    book.oldest = tables.read_oldest(connection, book.cursor)
    for counting in book.epochs.values():
        counting.settle()
    return done


def _unopened(book: Book) -> list[tuple[EpochBook, Gap]]:
    """Holes, or parts of them, that no open gap stands for."""
    found: list[tuple[EpochBook, Gap]] = []
    for counting in book.epochs.values():
        opened = [hole.gap for hole in counting.open_holes]
        for hole in counting.tally.gaps():
            first = hole.first
            for gap in opened:
                if gap.last < first or gap.first > hole.last:
                    continue
                if gap.first > first:
                    found.append((counting, Gap(first, gap.first - 1)))
                first = gap.last + 1
            if first <= hole.last:
                found.append((counting, Gap(first, hole.last)))
    return found
