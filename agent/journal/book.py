"""ingest → [journal: what has arrived] → drain. The figures of the log, kept in memory and folded from the records.

The log is the truth; all of this can be made again from it. Reading and writing the tables is in tables.py. Runs on the
writer's thread; never commits.
"""

import sqlite3
from collections import deque
from heapq import heappop, heappush
from typing import Final, NamedTuple

from agent.core.arrivals import TOLD_MAX, Hole, Holes, Loss, OpenGap, Place, Receipt, Tally
from agent.core.clock import Moment, true_ms
from agent.core.conditions import Words
from agent.core.lineage import Lineage, Stream
from agent.core.lived import Lived
from agent.journal.database import SQL

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
        "ended_upto",
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
        self.ended_upto = 0
        """Open holes that begin up to here are lost in steps, since a newer epoch has begun; 0 for none."""
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
        self.open_gaps = tuple(filter(None, map(self._told, self.open_holes.lowest(ASKED_MAX, self.ended_upto))))
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
        lost = self.lost
        if not lost or self.epoch is None:
            return None
        (lowest,) = lost.lowest(1)
        latest = tuple(hole.gap for hole in lost.latest(TOLD_MAX))
        return Loss(self.device.name, self.epoch, lost.events_count, len(lost), lowest.gap.first, latest, lost.newest_s)

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
        "holed",
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
        self.holed: dict[EpochBook, None] = {}
        """Countings that may have open holes which no newer epoch has ended."""
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


class Book:
    """All devices' figures, and where the log ends."""

    def __init__(self) -> None:
        self.devices: dict[str, DeviceBook] = {}
        self.epochs: dict[int, EpochBook] = {}
        self.boots: dict[str, int] = {}
        self.offsets_ms: dict[int, int] = {}
        """What wall time minus uptime truly was, by the row of the boot, where its clock was ever synchronised."""
        self.ending: list[int] = []
        """Rows of the countings of which something is to be lost in steps, as a heap."""
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

    def open_hole(self, counting: EpochBook, hole: Hole) -> None:
        """One more that is open; the next new epoch of the device ends the hope for it."""
        counting.open_holes.add(hole)
        counting.device.holed[counting] = None

    def end(self, counting: EpochBook, upto: int) -> None:
        """What is open of it up to there is to be lost in steps."""
        if not counting.ended_upto:
            heappush(self.ending, counting.id)
        counting.ended_upto = upto

    def ended(self, counting: EpochBook) -> None:
        """Nothing is to be lost any more of the counting that stands first in `ending`."""
        assert heappop(self.ending) == counting.id
        counting.ended_upto = 0

    def boot(self, connection: sqlite3.Connection, boot: str) -> int:
        """The row of a boot id."""
        if boot not in self.boots:
            connection.execute(SQL["add_boot"], (boot,))
            known = dict(self.boots)
            self.read_boots(connection)
            self.boots |= known
        return self.boots[boot]

    def read_boots(self, connection: sqlite3.Connection) -> None:
        """The boots, and what is known of their clocks."""
        self.boots = {name: row for row, name in connection.execute(SQL["read_boots"])}
        self.offsets_ms = dict(connection.execute(SQL["read_offsets"]).fetchall())

    def keep_boots(self, former: "Book") -> None:
        """Boots that were known before keep their names: nothing in a row of the log proves what its boot is called."""
        known = {row: name for name, row in former.boots.items()}
        self.boots = {known.get(row, name): row for name, row in self.boots.items()}

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
