"""ingest → [journal: what has arrived] → drain. The figures of the log, kept in memory and folded from the records.

The log is the truth; all of this can be made again from it. Loading reads the figures written at the watermark and
folds in the records behind it, with the same code that folds new ones. Runs on the writer's thread; never commits.
"""

import json
import sqlite3
from collections import deque
from typing import Any, Final, NamedTuple

import msgspec

from agent.core.arrivals import TOLD_MAX, Gap, Hole, Holes, Loss, OpenGap, Place, Receipt, Tally
from agent.core.clock import Moment, true_ms
from agent.core.conditions import Severity, Words
from agent.core.events import content_digest
from agent.core.lineage import Lineage, Parent, Stream
from agent.core.lived import Lived
from agent.core.mend import Row, sound
from agent.journal.database import SQL, corrupt

AGENT: Final = "agent"
"""The device name of the box's own records."""
ASKED_MAX: Final = 20
"""The lowest holes of one counting that are asked for at once."""


class EpochBook:
    """One counting of one device. `epoch` is None for events without one.

    `receipt`, `open_gaps` and `loss` are what may be told, as of the last commit; the lowest gaps are to be asked for.
    """

    __slots__ = (
        "device",
        "epoch",
        "id",
        "loss",
        "lost",
        "lost_anew",
        "open_gaps",
        "open_holes",
        "receipt",
        "refused",
        "tally",
        "uploaded",
    )

    def __init__(self, row: int, device: "DeviceBook", epoch: str | None) -> None:
        self.id = row
        self.device = device
        self.epoch = epoch
        self.tally = Tally()
        self.uploaded = Tally()
        self.open_holes = Holes()
        self.lost = Holes()
        self.lost_anew = True
        """Whether `lost` has changed since `loss` was made of it."""
        self.refused: deque[tuple[str | None, int | None, str, str]] = deque(maxlen=TOLD_MAX)
        self.receipt: Receipt | None = None
        self.open_gaps: tuple[OpenGap, ...] = ()
        self.loss: Loss | None = None

    def settle(self) -> None:
        """After a commit: what may be told from now on."""
        counted = self.epoch is not None
        contiguous = self.tally.contiguous
        self.device.settle()
        self.open_gaps = tuple(filter(None, map(self._told, self.open_holes.lowest(ASKED_MAX))))
        if self.lost_anew:
            self.lost_anew = False
            self.loss = self._loss()
        self.receipt = Receipt(
            self.device.name,
            self.epoch,
            self.device.newest is self,
            contiguous if counted else None,
            min(self.uploaded.contiguous, contiguous) if counted else None,
            self.tally.latest_gaps(TOLD_MAX),
            tuple(self.refused),
        )

    def _loss(self) -> Loss | None:
        lost = list(self.lost)
        if not lost or self.epoch is None:
            return None
        events = sum(hole.gap.last - hole.gap.first + 1 for hole in lost)
        latest = tuple(hole.gap for hole in lost[-TOLD_MAX:])
        newest_s = max(hole.opened_s for hole in lost)
        return Loss(self.device.name, self.epoch, events, len(lost), lost[0].gap.first, latest, newest_s)

    def _told(self, hole: Hole) -> OpenGap | None:
        missing = self.tally.missing_of(hole.gap)
        if missing is None or self.epoch is None:
            return None
        return OpenGap(self.device.name, self.epoch, *hole.gap, *missing, hole.came_count, hole.opened_s, hole.command)


class Figures(NamedTuple):
    """A device's totals as of the last commit."""

    stored_count: int
    pending_count: int
    pending_bytes: int
    last: Moment | None


class DeviceBook:
    """One device's figures. `recent` holds the ids behind the watermark: id → (digest, position)."""

    __slots__ = (
        "epochs",
        "figures",
        "id",
        "last",
        "name",
        "newest",
        "recent",
        "stored_bytes",
        "stored_count",
        "uploaded_bytes",
        "uploaded_count",
    )

    def __init__(self, row: int, name: str) -> None:
        self.id = row
        self.name = name
        self.epochs: dict[str | None, EpochBook] = {}
        self.newest: EpochBook | None = None
        self.recent: dict[str, tuple[bytes, int]] = {}
        self.stored_count = self.stored_bytes = self.uploaded_count = self.uploaded_bytes = 0
        self.last: Moment | None = None
        self.figures = Figures(0, 0, 0, None)

    def settle(self) -> None:
        """After a commit: what may be told from now on."""
        self.figures = Figures(
            self.stored_count,
            self.stored_count - self.uploaded_count,
            self.stored_bytes - self.uploaded_bytes,
            self.last,
        )


class Attention(NamedTuple):
    """Something that has happened, and when it was first told; `row` is its place in the table."""

    row: int
    words: Words
    at: Moment


class Acknowledged(NamedTuple):
    """When a person ended an attention, in seconds that the box had run."""

    row: int
    lived_s: float


class _Stored(msgspec.Struct):
    id: str
    type: str
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: msgspec.Raw = msgspec.Raw(b"")


_stored = msgspec.json.Decoder(_Stored).decode


class Book:
    """All devices' figures, and where the log ends."""

    def __init__(self) -> None:
        self.devices: dict[str, DeviceBook] = {}
        self.epochs: dict[int, EpochBook] = {}
        self.boots: dict[str, int] = {}
        self.offsets_ms: dict[int, int] = {}
        """What wall time minus uptime truly was, by the row of the boot, where its clock was ever synchronised."""
        self.watermark = 0
        self.position = 0
        self.head = b""
        self.cursor = 0
        self.safe = 0
        self.pending_bytes = 0
        self.quarantined_count = 0
        self.oldest: Moment | None = None
        """When the oldest record that waits for the cloud was recorded."""
        self.lineage = Lineage((Stream("", 0, b"", None, "created"),))
        self.doubt: str | None = None
        """Why the present stream must not be continued at the cloud: `restored` or `adopted`."""
        self.lived = Lived()
        """How long the box had run when this was last written."""
        self.touched: set[EpochBook] = set()
        """Countings whose written figures are older than the log."""
        self.suspects: list[int] = []
        """Positions behind the watermark whose records do not prove themselves: they are counted nowhere."""
        self.attentions: dict[str, Attention] = {}
        """What has happened and waits for a person, by the name of its condition, the oldest first."""
        self.acknowledged: dict[str, Acknowledged] = {}
        """The latest that a person has ended, by name."""
        self.attentions_left_out = 0
        """Those that the box ended itself, because too many stood at once."""
        self.committed = 0
        """The last position that is durable."""
        self.committed_bytes = 0
        """Bytes of the events that wait for the cloud, as of the last commit."""

    @property
    def epoch(self) -> str:
        """The present stream."""
        return self.lineage.present.epoch

    @property
    def base(self) -> int:
        """The position before the present stream's first record."""
        return self.lineage.present.base

    @property
    def sequence(self) -> int:
        """The last sequence of the present stream."""
        return self.position - self.base

    def device(self, connection: sqlite3.Connection, name: str) -> DeviceBook:
        """The device's figures; its row is made on first sight."""
        found = self.devices.get(name)
        if found is None:
            row = connection.execute(SQL["add_device"], (name,)).lastrowid
            assert row is not None
            found = self.devices[name] = DeviceBook(row, name)
        return found

    def counting(self, connection: sqlite3.Connection, device: DeviceBook, epoch: str | None) -> EpochBook:
        """The counting of one device's epoch; its row is made on first sight, and it is the newest from then on."""
        found = device.epochs.get(epoch)
        if found is None:
            row = connection.execute(SQL["add_device_epoch"], (device.id, epoch or "")).lastrowid
            assert row is not None
            found = self._add_counting(row, device, epoch)
        return found

    def boot(self, connection: sqlite3.Connection, boot: str) -> int:
        """The row of a boot id."""
        if boot not in self.boots:
            connection.execute(SQL["add_boot"], (boot,))
            self.read_boots(connection)
        return self.boots[boot]

    def read_boots(self, connection: sqlite3.Connection) -> None:
        """The boots, and what is known of their clocks."""
        self.boots = {name: row for row, name in connection.execute(SQL["read_boots"])}
        self.offsets_ms = dict(connection.execute(SQL["read_offsets"]).fetchall())

    def instant_ms(self, moment: Moment) -> int:
        """When a moment truly was, as well as is known."""
        return true_ms(moment.wall_ms, moment.uptime_ms, self.offsets_ms.get(moment.boot))

    def _add_counting(self, row: int, device: DeviceBook, epoch: str | None) -> EpochBook:
        counting = EpochBook(row, device, epoch)
        device.epochs[epoch] = counting
        self.epochs[row] = counting
        if epoch is not None or device.newest is None:
            device.newest = counting
        return counting

    def settle(self) -> None:
        """After a commit: what may be told from now on."""
        self.committed = self.position
        self.committed_bytes = self.pending_bytes

    @property
    def unprojected(self) -> int:
        """Records behind the watermark."""
        return self.position - self.watermark


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
        if state == "open":
            counting.open_holes.add(hole)
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


def note_stored(counting: EpochBook, sequence: int | None, recorded: Moment, size: int) -> Place | None:
    """Count one stored record, and say where its sequence stood (None without one)."""
    device = counting.device
    device.stored_count += 1
    device.stored_bytes += size
    device.last = recorded
    return counting.tally.add(sequence) if sequence is not None else None


def note_used_up(counting: EpochBook, first: int, last: int) -> None:
    """Account for sequences that will never be a device's record: refused, or declared lost."""
    counting.tally.add_range(first, last)
    counting.uploaded.add_range(first, last)


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
