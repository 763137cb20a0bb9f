"""ingest → [journal: one group on its way into the log] → drain. Gives positions, chains, counts.

Everything here happens inside one transaction on the writer's thread. It tells nobody, and never commits.
"""

import os
import sqlite3
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import msgspec

from agent.core import chain, clock
from agent.core.arrivals import Announced, Asked, Gap, GivenUp, Hole, Item, Outcome, Own, Place
from agent.core.clock import Moment
from agent.core.events import Event, Reason, Refusal, refuse
from agent.core.ids import CHANCE_BYTES, uuid7
from agent.journal.book import AGENT, Book, DeviceBook, EpochBook, note_stored, note_used_up
from agent.journal.database import SQL
from agent.journal.tables import insert_many

SOUGHT_MAX = 512
"""Ids looked up by one statement."""
CLOUD_REFUSED = "cloud_refused"
"""Why a stored record is in quarantine: the cloud takes it in no form."""
REFUSED = "refused"
"""Why a hole lacks an event although its device sent it again: it was refused again, and is in quarantine."""
EPOCHS_MAX = 2_000
"""Epochs of one device that are counted, unless the settings say otherwise."""
RECORD_COLUMNS = 11
LOST_STEP = 256
"""Ranges of ended epochs that one commit declares lost, and one record names: more would keep tills waiting."""
EXCERPT_BYTES_MAX = 4096
"""What the record of a conflict shows of the second event."""


class Stamp(NamedTuple):
    """The time of one commit: all its records share it. `boot` is the row of the boot id, `lived_s` the seconds that
    the box has run, over all boots.
    """

    wall_ms: int
    uptime_ms: int
    boot: int
    synced: int
    text: str
    lived_s: float = 0.0


class Fold:
    """One group on its way into the log: gives positions, chains, counts. Lives for one transaction."""

    def __init__(
        self, connection: sqlite3.Connection, book: Book, venue: str, stamp: Stamp, epochs_max: int = EPOCHS_MAX
    ) -> None:
        self.connection = connection
        self.book = book
        self.venue = venue
        self.stamp = stamp
        self.epochs_max = epochs_max
        self.moment = Moment(stamp.wall_ms, stamp.uptime_ms, stamp.boot)
        self.values: list[Any] = []
        self.touched: set[EpochBook] = set()
        self.known: dict[tuple[int, str], bytes] = {}
        self.reused: list[Event] = []
        """Events with a new id on a sequence that was used before."""
        self.uncounted: set[str] = set()
        """Devices whose events are stored without being counted, because they have begun too many epochs."""

    def find_known(self, events: list[Event]) -> None:
        """Look up the ids that the group could repeat from before the watermark."""
        sought: list[Any] = []
        for event in events:
            device = self.book.devices.get(event.device)
            if device is not None and event.id not in device.recent:
                sought += (device.id, event.id)
        for at in range(0, len(sought), 2 * SOUGHT_MAX):
            part = sought[at : at + 2 * SOUGHT_MAX]
            rows = ",".join(["(?,?)"] * (len(part) // 2))
            for device_row, name, digest in self.connection.execute(SQL["seek_known"] % rows, part):
                self.known[device_row, name] = digest

    def write(self) -> set[EpochBook]:
        """Write what was folded in; returns the countings that changed."""
        insert_many(self.connection, SQL["add_records"], self.values, RECORD_COLUMNS)
        if self.book.oldest is None and self.values:
            self.book.oldest = self.moment
        return self.touched

    def take(self, item: Item) -> Outcome:
        """Fold one item into the log."""
        if type(item) is Event:
            return self._take_event(item)
        if type(item) is Refusal:
            return self._take_refusal(item)
        match item:
            case Own(kind, data):
                self._own(kind, data)
                if kind == clock.CORRECTED:
                    self._note_offset(clock.offset_ms(data))
            case Announced():
                self._take_announced(item)
            case Asked() | GivenUp():
                self._take_word_of_hole(item)
        return Outcome.STORED

    def _take_event(self, event: Event) -> Outcome:
        book = self.book
        device = book.devices.get(event.device) or book.device(self.connection, event.device)
        seen = device.recent.get(event.id)
        digest = seen[0] if seen is not None else self.known.get((device.id, event.id))
        if digest is not None:
            if digest == event.digest:
                return Outcome.DUPLICATE
            return self._take_refusal(_conflict(event))
        counting = device.epochs.get(event.epoch) or self._new_counting(device, event.epoch)
        place = self._store(counting, event.sequence if counting.epoch is not None else None, event.body)
        device.recent[event.id] = (event.digest, book.position)
        if place is not Place.NEXT and place is not None:
            self._note_place(counting, place, event)
        return Outcome.STORED

    def _store(self, counting: EpochBook, sequence: int | None, body: bytes) -> Place | None:
        book, stamp = self.book, self.stamp
        previous = book.head
        book.position += 1
        book.head = chain.rechash(previous, book.sequence, stamp.text, counting.device.name, body)
        self.values += (book.position, counting.id, sequence, stamp.boot, stamp.wall_ms, stamp.uptime_ms, stamp.synced)
        beside = chain.beside(counting.id, sequence, stamp.boot, stamp.uptime_ms, stamp.synced)
        self.values += (previous, book.head, body, beside)
        book.pending_bytes += len(body)
        self.book.touched.add(counting)
        self.touched.add(counting)
        return note_stored(counting, sequence, self.moment, len(body))

    def _own(self, kind: str, data: dict[str, Any]) -> None:
        counting = self.book.counting(self.connection, self.book.device(self.connection, AGENT), None)
        name = uuid7(self.stamp.wall_ms, os.urandom(CHANCE_BYTES))
        event = {
            "specversion": "1.0",
            "id": name,
            "source": f"urn:nightsafe:{self.venue}",
            "type": kind,
            "time": self.stamp.text,
            "data": data,
        }
        self._store(counting, None, msgspec.json.encode(event))

    def _note_offset(self, offset_ms: int) -> None:
        """What the clock of the present boot was truly at, beside the record that says so."""
        self.book.offsets_ms[self.stamp.boot] = offset_ms
        self.connection.execute(SQL["write_offset"], (offset_ms, self.stamp.boot))

    def _take_announced(self, said: Announced) -> None:
        """What a device has counted and nobody here has seen is a hole, also behind all that came."""
        device = self.book.devices.get(said.device) or self.book.device(self.connection, said.device)
        counting = device.epochs.get(said.epoch) or self._new_counting(device, said.epoch)
        if counting.epoch is None:
            return
        gap = counting.tally.expect(said.last)
        if gap is not None:
            self.note_gap(counting, gap)

    def _take_word_of_hole(self, word: Asked | GivenUp) -> None:
        """Nothing is to be done about a hole that was filled meanwhile."""
        device = self.book.devices.get(word.device)
        counting = device.epochs.get(word.epoch) if device is not None else None
        hole = counting.open_holes.at(word.first) if counting is not None else None
        if counting is None or hole is None:
            return
        self.touched.add(counting)
        if type(word) is GivenUp:
            self._lose_hole(counting, hole)
            return
        assert type(word) is Asked
        hole.command = word.command
        self.connection.execute(SQL["write_gap_command"], (word.command, counting.id, hole.gap.first))

    def _new_counting(self, device: DeviceBook, epoch: str | None) -> EpochBook:
        """The first sight of an epoch: what an older one still lacks will not come any more.

        A device that has begun too many gets no further one: its events are stored like such without an epoch.
        """
        if epoch is not None and len(device.epochs) >= self.epochs_max:
            self.uncounted.add(device.name)
            return self.book.counting(self.connection, device, None)
        if epoch is not None:
            holed, device.holed = device.holed, {}
            for older in holed:
                self._end_epoch(older)
        newest = device.newest
        counting = self.book.counting(self.connection, device, epoch)
        if newest is not None and device.newest is not newest:
            self.touched.add(newest)  # its receipt moves to the older epochs' topic
        return counting

    def _note_place(self, counting: EpochBook, place: Place, event: Event) -> None:
        assert event.sequence is not None
        if place is Place.REUSED:
            if self._find_lost(counting, event.sequence):
                return
            self.reused.append(event)
            data = {
                "condition": "sequence_reused",
                "device": event.device,
                "epoch": event.epoch,
                "sequence": str(event.sequence),
                "id": event.id,
            }
            self._own("nightsafe.condition.raised", data)
        elif place is Place.AHEAD:
            self._open_gap(counting)
        else:
            self._fill_gap(counting, event.sequence)

    def _open_gap(self, counting: EpochBook) -> None:
        """The hole before the highest sequence; its beginning may be the announced one that is open already."""
        (gap,) = counting.tally.latest_gaps(1)
        self.note_gap(counting, Gap(max(gap.first, counting.open_holes.highest + 1), gap.last))

    def note_gap(self, counting: EpochBook, gap: Gap) -> None:
        """A hole: of sequences that never came, or of such that were lost."""
        hole = Hole(gap, self.stamp.wall_ms, self.stamp.lived_s)
        self.book.open_hole(counting, hole)
        self._write_gap(counting, hole, "open")
        self._own("nightsafe.gap.opened", _gap_data(counting, gap))
        self.book.touched.add(counting)
        self.touched.add(counting)

    def _write_gap(self, counting: EpochBook, hole: Hole, state: str) -> None:
        row = (counting.id, *hole.gap, hole.opened_ms, hole.opened_s, state)
        self.connection.execute(SQL["write_gap"], row)

    def _fill_gap(self, counting: EpochBook, sequence: int, *, refused: bool = False) -> None:
        """One sequence of a hole is accounted for. A refused one is no event: its loss is named, and may be the end."""
        hole = counting.open_holes.at(sequence)
        if hole is None:
            return
        hole.came_count += 1
        if refused:
            self._tell_lost(counting, (Gap(sequence, sequence),), reason=REFUSED)
        if counting.tally.covers(*hole.gap):
            counting.open_holes.remove(hole)
            self.connection.execute(SQL["end_gap"], ("closed", counting.id, hole.gap.first))
            if not refused:
                self._own("nightsafe.gap.closed", _gap_data(counting, hole.gap))
            self.book.touched.add(counting)
            self.touched.add(counting)

    def lose_some(self) -> None:
        """One step of what newer epochs have ended: some ranges are lost with this commit, the rest with later ones."""
        book, left = self.book, LOST_STEP
        while left > 0 and book.ending:
            counting = book.epochs[book.ending[0]]
            lost: list[Gap] = []
            while len(lost) < left and (hole := counting.open_holes.at_or_below(counting.ended_upto)):
                lost += self._lose_parts(counting, hole, left - len(lost))[0]
            self._tell_lost(counting, lost)
            left -= max(1, len(lost))
            if counting.open_holes.at_or_below(counting.ended_upto) is None:
                self.connection.execute(SQL["remove_ending"], (counting.id,))
                book.ended(counting)

    def _end_epoch(self, counting: EpochBook) -> None:
        """Its open holes will not be filled: one mark for however many; `lose_some` goes through them."""
        upto = counting.open_holes.highest
        if upto > counting.ended_upto:
            self.connection.execute(SQL["write_ending"], (counting.id, upto, self.stamp.wall_ms))
            self.book.end(counting, upto)
            self.touched.add(counting)

    def _lose_parts(self, counting: EpochBook, hole: Hole, count: int) -> tuple[tuple[Gap, ...], Hole | None]:
        """The lowest `count` parts of what the hole still lacks are lost; they, and the hole that is left of it.

        What came late is not lost, and is uploaded like any record.
        """
        counting.open_holes.remove(hole)
        self.connection.execute(SQL["end_gap"], ("closed", counting.id, hole.gap.first))
        parts = counting.tally.gaps_within(hole.gap, count)
        for part in parts:
            lost = Hole(part, hole.opened_ms, self.stamp.lived_s)
            self._write_gap(counting, lost, "lost")
            note_used_up(counting, *part)
            counting.lost.add(lost)
        counting.lost_anew = True
        missing = counting.tally.missing_of(Gap(parts[-1].last + 1, hole.gap.last)) if parts else None
        if missing is None:
            return parts, None
        left = Hole(Gap(missing.first, hole.gap.last), hole.opened_ms, hole.opened_s)
        counting.open_holes.add(left)
        self._write_gap(counting, left, "open")
        return parts, left

    def _tell_lost(self, counting: EpochBook, lost: Sequence[Gap], reason: str | None = None) -> None:
        """One record for all: several ranges are named one by one in it, between the ends of them all."""
        if not lost:
            return
        data = _gap_data(counting, Gap(lost[0].first, lost[-1].last))
        if len(lost) > 1:
            data["ranges"] = [[str(first), str(last)] for first, last in lost]
        if reason is not None:
            data["reason"] = reason
        self._own("nightsafe.gap.lost", data)
        self.book.touched.add(counting)
        self.touched.add(counting)

    def _lose_hole(self, counting: EpochBook, hole: Hole) -> None:
        """All of it, because its device says so."""
        left: Hole | None = hole
        while left is not None:
            lost, left = self._lose_parts(counting, left, LOST_STEP)
            self._tell_lost(counting, lost)

    def _find_lost(self, counting: EpochBook, sequence: int) -> bool:
        """Whether it was given up, and came all the same: then it is lost no more."""
        hole = counting.lost.at(sequence)
        if hole is None:
            return False
        counting.lost.remove(hole)
        counting.lost_anew = True
        self.connection.execute(SQL["end_gap"], ("closed", counting.id, hole.gap.first))
        for part in (Gap(hole.gap.first, sequence - 1), Gap(sequence + 1, hole.gap.last)):
            if part.first <= part.last:
                left = Hole(part, hole.opened_ms, hole.opened_s)
                self._write_gap(counting, left, "lost")
                counting.lost.add(left)
        self.touched.add(counting)
        return True

    def _take_refusal(self, refusal: Refusal) -> Outcome:
        outcome = Outcome.CONFLICT if refusal.reason is Reason.CONFLICT else Outcome.REFUSED
        book = self.book
        device = book.device(self.connection, refusal.device)
        if self.connection.execute(SQL["seek_quarantined"], (refusal.sha256, device.id)).fetchone():
            return outcome
        used = refusal.sequence if refusal.epoch is not None else None
        counting = self._counting_of(device, refusal.epoch if used is not None else None)
        sequence = str(used) if used is not None else None
        if counting.epoch is None:
            used = None
        data = {
            "device": refusal.device, "id": refusal.id, "epoch": refusal.epoch, "sequence": sequence,
            "reason": refusal.reason.value, "detail": refusal.detail, "sha256": refusal.sha256,
            "size": refusal.size, "excerpt": refusal.excerpt,
        }  # fmt: skip
        self._own("nightsafe.event.refused", data)
        row = (
            book.position, counting.id, used, refusal.id, refusal.reason.value, refusal.detail, refusal.sha256,
            refusal.size, refusal.excerpt, refusal.payload, self.stamp.wall_ms,
        )  # fmt: skip
        self.connection.execute(SQL["quarantine"], row)
        book.quarantined_count += 1
        counting.refused.append((refusal.id, used, refusal.reason.value, refusal.detail))
        self.book.touched.add(counting)
        self.touched.add(counting)
        if used is not None:
            self._use_up(counting, used)
        return outcome

    def _counting_of(self, device: DeviceBook, epoch: str | None) -> EpochBook:
        """Where a refusal is told: its own epoch, or the newest one when its own could not be read."""
        if epoch is None and device.newest is not None:
            return device.newest
        return device.epochs.get(epoch) or self._new_counting(device, epoch)

    def _use_up(self, counting: EpochBook, sequence: int) -> None:
        place = counting.tally.add(sequence)
        if place is Place.REUSED:
            self._find_lost(counting, sequence)
            return  # a record has it, and it is uploaded with that; or it was given up, and is told as refused now
        counting.uploaded.add_range(sequence, sequence)
        if place is Place.AHEAD:
            self._open_gap(counting)
        elif place is Place.LATE:
            self._fill_gap(counting, sequence, refused=True)


class Refusable(Protocol):
    """A record that the cloud cannot take."""

    @property
    def position(self) -> int: ...
    @property
    def device_epoch(self) -> int: ...
    @property
    def device_sequence(self) -> int | None: ...
    @property
    def event_id(self) -> str: ...
    @property
    def event(self) -> bytes: ...


def quarantine_record(connection: sqlite3.Connection, book: Book, record: Refusable, detail: str) -> set[EpochBook]:
    """Put a stored record into quarantine, whole: the cloud cannot take it. Once, however often it is tried."""
    counting = book.epochs[record.device_epoch]
    digest = sha256(record.event).hexdigest()
    if connection.execute(SQL["seek_cloud_refused"], (digest, record.position)).fetchone():
        return set()  # an entry for the same bytes that the box itself refused, and took later, is another story
    excerpt = record.event[:EXCERPT_BYTES_MAX].decode("utf-8", "replace")
    now_ms = connection.execute(SQL["read_recorded"], (record.position - 1,)).fetchone()[0]
    row = (
        record.position, counting.id, record.device_sequence, record.event_id, CLOUD_REFUSED, detail, digest,
        len(record.event), excerpt, record.event, now_ms,
    )  # fmt: skip
    connection.execute(SQL["quarantine"], row)
    book.quarantined_count += 1
    counting.refused.append((record.event_id, record.device_sequence, CLOUD_REFUSED, detail))
    return {counting}


def _conflict(event: Event) -> Refusal:
    return refuse(
        event.device,
        event.body,
        Reason.CONFLICT,
        f"the id {event.id} was stored before with other content",
        EXCERPT_BYTES_MAX,
    )


def _gap_data(counting: EpochBook, gap: Gap) -> dict[str, Any]:
    return {"device": counting.device.name, "epoch": counting.epoch, "from": str(gap.first), "to": str(gap.last)}
