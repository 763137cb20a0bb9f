"""[journal: filling the new from the old] ← salvage. Carries over what proves itself, and names what does not.

Small tables come from SQLite where it reads them, else from the sealed names, else from pages; records come from
SQLite, then from every version of every page; figures are counted anew. Runs in one transaction of the new database.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from agent.core import chain
from agent.core.events import content_digest
from agent.core.instants import to_text
from agent.core.lineage import Lineage
from agent.core.mend import UNKNOWN_BOOT, Around, Row, beside_holds, mend, seal_holds, sound
from agent.journal import book as books
from agent.journal import history, known_orders, tables
from agent.journal.book import AGENT, Book
from agent.journal.database import SQL
from agent.journal.fold import Stamp
from agent.journal.mark import Point
from agent.journal.names import Names
from agent.journal.old import Old, Shape
from agent.journal.repair import Place, add_missing, name_losses, recount
from agent.journal.repaired import Loss, Repaired
from agent.journal.tables import read_lineage

log = structlog.get_logger()

TABLES: Final = (
    "journal", "streams", "boots", "devices", "device_epochs", "gaps", "known", "quarantine", "missing", "safe_marks",
    "attentions", "letters", "kept_facts", "downlink", "commands", "requests", "reservations", "payment_fates",
    "payment_dismissals", "order_facts", "orders",
)  # fmt: skip
LEAP_MAX: Final = 1_000_000
"""How far beyond what is known to have been a last position is believed; further it is a damaged number."""
NEAR_MAX: Final = 1000
"""A damaged record so far behind the last sound one is taken as one that was there."""
MEND_WORK_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Bytes hashed at most in the search for flipped bits, over all records of one salvage: a few seconds."""
ODD_MAX: Final = 5000
"""Damaged records that are tried to be mended; of more, only the count is told."""
ODD_BYTES_MAX: Final = 16_777_216
"""Bytes of their events that are held in memory for that."""
RECORD_BYTES_MIN: Final = 100
"""The smallest record: its hashes, its columns and the shortest event."""
TABLE_NAMED_MAX: Final = 20
"""Tables and rows that were put right, as a report names them."""


class Terms(NamedTuple):
    """What a salvage must know. `epoch` is a new one, for a journal whose own cannot be read any more."""

    venue: str
    epoch: str
    wall_ms: int
    uptime_ms: int
    boot: str
    synced: bool
    bytes_max: int


class Beside(NamedTuple):
    """What is kept apart from the database."""

    mark: Point | None
    names: Names | None


class _Event(msgspec.Struct):
    id: str
    type: str
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: msgspec.Raw = msgspec.Raw(b"")


_event = msgspec.json.Decoder(_Event).decode


class Rebuild:
    """One salvage's database in the making."""

    def __init__(
        self,
        new: sqlite3.Connection,
        old: Old,
        beside: Beside,
        terms: Terms,
        busy: Callable[[], None] = lambda: None,
    ) -> None:
        """`busy` is called with each record that is looked at."""
        self._new = new
        self._busy = busy
        self._old = old
        self._terms = terms
        self._mark, self._names = beside
        self._shapes = {table: Shape(new, table) for table in TABLES}
        self._columns = {table: set(shape.names) for table, shape in self._shapes.items()}
        self._unread: list[str] = []
        """Tables that could not be read whole."""
        self._wrong: list[str] = []
        """What the sealed names put right."""
        self._mended: list[tuple[int, str]] = []
        self._work_bytes = MEND_WORK_BYTES_MAX
        self._odd: dict[tuple[Any, ...], Row] = {}
        self._odd_bytes = 0
        self._lineage: Lineage
        self._countings: dict[int, tuple[str, str | None]] = {}

    def run(self, directory: Path, why: str, kept_in: str) -> Repaired:
        """Fill the new database; returns what was lost. The caller commits."""
        for table in TABLES:
            self._copy(table)
        if self._foreign():
            self._forget_foreign()
        self._name()
        self._ensure()
        reached = self._carry_records()
        self._mend_odd()
        known_orders.recall(self._new)
        lost = self._note_missing(reached)
        return self._count(directory, why, kept_in, lost, reached)

    # The small tables -------------------------------------------------------------------------------------------------

    def _copy(self, table: str) -> None:
        """Rows by SQLite; where it cannot read them all, also rows of pages, which never replace those."""

        def take(columns: list[str], row: tuple[Any, ...]) -> None:
            if not self._insert(table, columns, row):
                self._unread.append(f"a row of {table}")

        if self._old.table(table, take):
            return
        self._unread.append(table)
        shape = self._shapes[table]
        carved: dict[Any, tuple[Any, ...]] = {}
        for row in self._old.carved(shape):
            carved[row[:2] if table in ("known", "gaps") else row[0]] = row
        for row in carved.values():
            self._insert(table, shape.names, row)

    def _insert(self, table: str, columns: Iterable[str], row: tuple[Any, ...]) -> bool:
        """Take over one row; False where it does not fit, or another one has its key."""
        pairs = [(name, value) for name, value in zip(columns, row, strict=False) if name in self._columns[table]]
        names, places = ", ".join(name for name, _ in pairs), ", ".join("?" * len(pairs))
        try:
            statement = f"insert or ignore into {table} ({names}) values ({places})"
            return self._new.execute(statement, [value for _, value in pairs]).rowcount == 1
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError):
            return False

    def _foreign(self) -> bool:
        """Whether the file is another venue's, as far as it can say so itself."""
        found = self._new.execute("select venue from journal").fetchone()
        if found is None or found[0] == self._terms.venue:
            return False
        lineage = read_lineage(self._new) if self._streams_count() else None
        return self._mark is None or lineage is None or lineage.named(self._mark.epoch) is None

    def _forget_foreign(self) -> None:
        """Nothing of another venue's journal is ours."""
        self._old.close()
        self._old = Old(Path("/nonexistent"))
        for table in TABLES:
            self._new.execute(f"delete from {table}")
        self._unread.append("another venue's file, of which nothing was taken")

    def _streams_count(self) -> int:
        count: int = self._new.execute("select count(*) from streams").fetchone()[0]
        return count

    def _name(self) -> None:
        """What the sealed names have and the tables have not, and what they have otherwise."""
        names = self._names
        if names is None:
            return
        run = self._new.execute
        if not self._streams_count():
            for one in names.lineage().all():
                parent = one.parent or (None, None, None)
                run(SQL["open_stream"], (one.epoch, one.base, one.origin, *parent, one.reason, one.sealed))
                if one.fenced:
                    run(SQL["write_fenced"], (one.epoch,))
        same = read_lineage(self._new).named(names.lineage().present.epoch) is not None
        if not same:
            return
        for boot, row in names.boots.items():
            run("insert or ignore into boots (id, boot) values (?, ?)", (row, boot))
        for device in names.devices:
            self._insert("devices", device.__struct_fields__, _values(device))
        for counting in names.countings:
            self._insert("device_epochs", counting.__struct_fields__, _values(counting))
        if self._unread and run("select 1 from journal").fetchone():
            self._wrong = history.put_right(self._new, names)

    def _ensure(self) -> None:
        """The journal's own row and a stream, whatever was read."""
        run, mark = self._new.execute, self._mark
        if not self._streams_count():
            if mark is not None and mark.venue == self._terms.venue:
                run(SQL["open_stream"], (mark.epoch, mark.base, mark.origin, None, None, None, "created", None))
            else:
                run(SQL["open_stream"], (self._terms.epoch, 0, chain.ORIGIN, None, None, None, "restored", None))
                self._unread.append("the epoch")
        if run(SQL["read_journal"]).fetchone() is None:
            run(SQL["create_journal"], (self._terms.venue, self._terms.wall_ms))
            if mark is not None:
                run(SQL["write_cursor"], (mark.cursor, mark.safe))
        run("update journal set venue = ? where one = 1", (self._terms.venue,))
        run("delete from device_epochs where device not in (select id from devices)")
        self._lineage = read_lineage(self._new)
        self._read_countings()

    def _read_countings(self) -> None:
        rows = self._new.execute(SQL["read_counting_names"])
        self._countings = {row: (device, epoch or None) for row, device, epoch in rows}

    # The records ------------------------------------------------------------------------------------------------------

    def _carry_records(self) -> int:
        """Every record that proves itself where it stands; returns the last position that is known to have been."""
        span, reached = self._old.span(), self._reached()
        first, last = span if span is not None else (1, reached)
        first = first if 0 < first <= last else 1
        last = max(reached, last if last <= reached + LEAP_MAX else 0)
        for row in self._old.records(first, last):
            self._take(row)
        count = self._new.execute("select count(*) from records").fetchone()[0]
        if span is None or self._odd or count < last - first + 1:
            deleted = min(first - 1, self._safe()) if span is not None else 0
            for row in self._old.carved_records():
                if self._new.execute(SQL["has_record"], (row.position,)).fetchone() is None:
                    self._take(row, deleted)
        if span is None:
            reached = max(reached, self._own_word(self._head() + self._old.remains.bytes_count // RECORD_BYTES_MIN))
        head = max(reached, self._head())
        near = [row.position for row in self._odd.values() if isinstance(row.position, int)]
        return max([head, *(position for position in near if head < position <= head + NEAR_MAX)])

    def _reached(self) -> int:
        """How far the journal went, by what is kept apart from it; by its own word only where nothing is."""
        names = self._names.watermark if self._names is not None else 0
        mark = self._own_mark()
        if mark is not None:
            return max(mark.position, names)
        span = self._old.span()
        return max(names, self._own_word(span[1] + LEAP_MAX) if span is not None else 0)

    def _own_mark(self) -> Point | None:
        """The mark, if it is this venue's."""
        return self._mark if self._mark is not None and self._mark.venue == self._terms.venue else None

    def _own_word(self, highest: int) -> int:
        """How far the journal's own row says it went, where nothing outside says it; a number beyond `highest` is a
        damaged one."""
        if self._own_mark() is not None:
            return 0
        own = self._new.execute("select cursor, watermark from journal").fetchone()
        return max((one for one in own if one <= highest), default=0)

    def _safe(self) -> int:
        """Up to where records may have been deleted, as both the journal and its mark say."""
        safe: int = self._new.execute("select safe from journal").fetchone()[0]
        mark = self._own_mark()
        return min(safe, mark.safe) if mark is not None else safe

    def _head(self) -> int:
        """The last position that is kept."""
        head = self._new.execute(SQL["read_head"]).fetchone()
        position: int = head[0] if head is not None else self._lineage.present.base
        return position

    def _take(self, row: Row, deleted: int = 0) -> None:
        """Keep a row if it is sound, put it by if it may be mended. One up to `deleted` was deleted in its time: only
        its id is known."""
        self._busy()
        if not isinstance(row.position, int) or row.position < 1:
            return
        sequence = row.position - self._lineage.of(row.position).base
        owner = self._countings.get(row.device_epoch) if isinstance(row.device_epoch, int) else None
        if sound(row, sequence, owner[0] if owner else None):
            self._store(row, row.position > deleted)
        elif row.position > deleted and len(self._odd) < ODD_MAX:
            size = len(row.event) if isinstance(row.event, bytes | str) else 0
            if self._odd_bytes + size <= ODD_BYTES_MAX:
                self._odd[tuple(row)] = row
                self._odd_bytes += size

    def _store(self, row: Row, kept: bool = True) -> None:
        """Once: a later version of the same record is the same record."""
        done = self._new.execute(SQL["add_record_once"], row).rowcount if kept else 1
        name = self._countings[row.device_epoch][0]
        if done != 1 or name == AGENT:
            return
        event = _event(row.event)
        digest = content_digest(event.type, event.data, event.data_base64)
        self._new.execute(SQL["add_known_once"], (row.device_epoch, event.id, digest, row.position))

    def _mend_odd(self) -> None:
        """Damaged records, by their neighbours or by one flipped bit; also of the position itself."""
        for row in self._odd.values():
            self._busy()
            if self._new.execute(SQL["has_record"], (row.position,)).fetchone() is None and self._mended_at(row):
                continue
            for bit in range(40):
                moved = row._replace(position=row.position ^ (1 << bit))
                if moved.position > 0 and self._moved(moved):
                    break

    def _mended_at(self, row: Row) -> bool:
        stream = self._lineage.of(row.position)
        before = self._new.execute(SQL["read_rechash"], (row.position - 1,)).fetchone()
        after = self._new.execute(SQL["read_prevhash"], (row.position + 1,)).fetchone()
        if after is None and self._mark is not None and self._mark.position == row.position:
            after = (self._mark.head,)
        joined = before is not None and self._lineage.of(row.position - 1) is stream
        previous = stream.origin if row.position == stream.base + 1 else before[0] if joined else None
        around = Around(row.position - stream.base, previous, after[0] if after else None, self._countings)
        found = mend(row, around, self._work_bytes)
        if found is None and isinstance(row.event, bytes):
            self._work_bytes = max(0, self._work_bytes - 4 * len(row.event) ** 2)
        if found is None:
            return False
        original = found.row
        if found.renamed is not None:
            counting, name = found.renamed
            self._new.execute(SQL["rename_device_of"], (name, counting))
            self._read_countings()
        if found.place is not None:
            original = self._placed(original, *found.place)
        self._store(original)
        self._mended.append((row.position, ", ".join(found.what)))
        return True

    def _placed(self, row: Row, device: str, epoch: str | None) -> Row:
        """A row that must be told its counting and its boot."""
        counting = next((number for number, one in self._countings.items() if one == (device, epoch)), None)
        if counting is None:
            self._new.execute(SQL["add_device_epoch_of"], (epoch or "", device))
            self._read_countings()
            counting = next(number for number, one in self._countings.items() if one == (device, epoch))
        self._new.execute(SQL["add_boot"], (UNKNOWN_BOOT,))
        boot = self._new.execute("select id from boots where boot = ?", (UNKNOWN_BOOT,)).fetchone()[0]
        beside = chain.beside(counting, row.device_sequence, boot, row.uptime_ms, row.synced)
        return row._replace(device_epoch=counting, boot=boot, beside=beside)

    def _moved(self, row: Row) -> bool:
        """A sound record that only stood under another position."""
        owner = self._countings.get(row.device_epoch) if isinstance(row.device_epoch, int) else None
        if owner is None or self._new.execute(SQL["has_record"], (row.position,)).fetchone() is not None:
            return False
        if not seal_holds(row, row.position - self._lineage.of(row.position).base, owner[0]) or not beside_holds(row):
            return False
        self._store(row)
        self._mended.append((row.position, "position"))
        return True

    # What is not there any more ---------------------------------------------------------------------------------------

    def _note_missing(self, reached: int) -> list[tuple[int, int]]:
        """Positions without a record between those that are kept; and known ids of what the cloud lacks too."""
        safe = self._new.execute("select safe from journal").fetchone()[0]
        noted = self._new.execute(SQL["read_missing"]).fetchall()
        lost = [hole for hole in self._jumps(safe) if not any(a <= hole[0] and hole[1] <= b for a, b in noted)]
        for first, last in lost:
            add_missing(self._new, first, last, "damaged", self._terms.wall_ms)
        last_kept = self._head()
        self._new.execute("delete from missing where first > ?", (last_kept,))
        return [*lost, *([(last_kept + 1, reached)] if reached > last_kept else [])]

    def _jumps(self, safe: int) -> Iterator[tuple[int, int]]:
        """Holes between records. What is not there before the first was deleted, as far as the cloud called it safe."""
        before = 0
        for (position,) in self._new.execute(SQL["read_positions"]):
            if not before and position > safe + 1:
                yield safe + 1, position - 1
            elif before and position > before + 1:
                yield before + 1, position - 1
            before = position

    def _count(self, directory: Path, why: str, kept_in: str, lost: list[tuple[int, int]], reached: int) -> Repaired:
        """The figures, counted anew; then the losses by name, and a record that says so."""
        last = self._head()
        self._settle_journal(last)
        book = tables.load(self._new)
        self._count_sent(book)
        self._new.execute(SQL["forget_lost"], (book.cursor,))
        recount(self._new, book)
        names, bare = self._names, list[Loss]()
        if names is not None and read_lineage(self._new).named(names.lineage().present.epoch) is not None:
            history.expect(self._new, book, names, self._mark)
            if lost:
                bare = [Loss(one, None, None, None) for one in history.numberless(self._new, names, book.cursor)]
        if reached > last or "the epoch" in self._unread or ("streams" in self._unread and self._names is None):
            self._new.execute(SQL["write_doubt"], ("restored",))
            book.doubt = "restored"
        had = max(book.cursor, self._mark.cursor if self._mark is not None else 0)
        known = max(had, names.watermark if names is not None else 0)
        unseen = max(0, reached - max(known, last))
        before, behind = _count_behind(lost, had) - _count_behind(lost, known), _count_behind(lost, known) - unseen
        unnamed = max(0, before - len(bare)) + behind
        stamp = Stamp(
            self._terms.wall_ms,
            self._terms.uptime_ms,
            book.boot(self._new, self._terms.boot),
            int(self._terms.synced),
            to_text(self._terms.wall_ms),
            book.lived.total_s,
        )
        done = Repaired(why, tuple(self._mended), tuple(lost), tuple(bare), unnamed, kept_in, self._notes(), unseen)
        place = Place(directory, self._terms.venue, stamp, self._terms.bytes_max)
        return name_losses(self._new, place, book, done)

    def _notes(self) -> tuple[str, ...]:
        """What else a person who looks into it wants to know."""
        words = [f"read in part: {', '.join(dict.fromkeys(self._unread))}"] if self._unread else []
        return (*words, *self._wrong[:TABLE_NAMED_MAX])

    def _settle_journal(self, last: int) -> None:
        own, safe = self._new.execute("select cursor, safe from journal").fetchone()
        cursor = own
        mark = self._own_mark()
        wrong = not 0 <= safe <= cursor
        newer = mark is not None and mark.epoch == self._lineage.present.epoch and mark.cursor > cursor
        if wrong or newer or (cursor > last and mark is not None):
            cursor, safe = (mark.cursor, mark.safe) if mark is not None else (0, 0)
        cursor = max(0, min(cursor, last))
        if newer and not wrong:
            self._new.execute(SQL["add_uploaded_between"], (own, cursor))
        self._new.execute(SQL["write_cursor"], (cursor, max(0, min(safe, cursor))))
        self._new.execute(SQL["write_watermark"], (last,))
        for row, contiguous, ranges, uploaded, uploaded_ranges in self._new.execute(
            "select id, contiguous, ranges, uploaded, uploaded_ranges from device_epochs"
        ).fetchall():
            values = (_number(contiguous), _json(ranges), _number(uploaded), _json(uploaded_ranges), row)
            self._new.execute(SQL["write_device_epoch_whole"], values)

    def _count_sent(self, book: Book) -> None:
        """What the cloud has: records up to the cursor, and whatever was used up by being refused."""
        for row, sequence in self._new.execute(SQL["read_sent"], (book.cursor,)):
            if sequence is not None and row in book.epochs:
                book.epochs[row].uploaded.add(sequence)
        for row, sequence in self._new.execute(SQL["read_quarantine_since"], (0,)):
            if sequence is not None and row in book.epochs:
                books.note_used_up(book.epochs[row], sequence, sequence)


def _count_behind(ranges: list[tuple[int, int]], position: int) -> int:
    """Positions of `ranges` behind `position`."""
    return sum(last - max(first, position + 1) + 1 for first, last in ranges if last > position)


def _values(row: msgspec.Struct) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in row.__struct_fields__)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _json(value: Any) -> str:
    """Ranges, or none where they cannot be read."""
    try:
        tables.ranges_of(value)
    except (TypeError, ValueError):
        return "[]"
    return str(value)
