"""journal → [app: the drain's side of it] → drain. The writer's facts, the reader's records.

Decides nothing; what cannot be done while the journal limps comes out as something to wait for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agent.core.errors import JournalDamaged, RecordDamaged, Transient
from agent.core.lineage import Lineage, Parent
from agent.journal.reader import Reader, Stored
from agent.journal.uploads import Uploaded
from agent.journal.writer import Journal


class DrainSide:
    """The journal as the drain needs it: its facts from the writer, its records from the reader."""

    def __init__(self, journal: Journal, reader: Reader, new_id: Callable[[], str]) -> None:
        self._journal = journal
        self._reader = reader
        self._new_id = new_id
        self._reopened = False
        self._set_aside: dict[int, str] = {}
        """Records that the cloud keeps apart, and what it said, until that is written down."""
        journal.writing.on_reopen(self._note_reopened)

    def _note_reopened(self) -> None:
        self._reopened = True

    def lineage(self) -> Lineage:
        """The streams."""
        return self._journal.book.lineage

    def doubt(self) -> str | None:
        """Why the present stream must not be continued."""
        return self._journal.book.doubt

    def last(self) -> int:
        """Position of the last durable record."""
        return self._journal.book.committed

    def cursor(self) -> int:
        """Position of the last record that the cloud has."""
        return self._journal.book.cursor

    def safe(self) -> int:
        """Position up to which the cloud calls everything safe."""
        return self._journal.book.safe

    async def batch(self, after: int, records_max: int, bytes_max: int) -> Sequence[Stored]:
        """Records behind a position."""
        with self._waiting():
            return await self._reader.batch(after, records_max, bytes_max)

    async def repair(self, position: int) -> bool:
        """Mend the record at a position or set it aside, after RecordDamaged. True when there was something to do."""
        with self._waiting():
            if await self._journal.mending.repair(position):
                return True
            try:
                await self._reader.batch(position - 1, 1, 1)
            except RecordDamaged as damaged:
                if damaged.position == position:  # sound where it is looked up, damaged where it is read in order
                    why = f"the record at position {position} reads in two ways"
                    self._journal.mending.demand_rebuild(why, now=True)
            return False

    async def first(self) -> int:
        """Position of the first record that is kept; one behind the last where none is."""
        with self._waiting():
            return await self._reader.first() or self.last() + 1

    async def rechash(self, position: int) -> bytes | None:
        """The seal of one record."""
        with self._waiting():
            return await self._reader.rechash(position)

    async def missing_reason(self, first: int, last: int) -> str:
        """Why these records are not kept any more."""
        with self._waiting():
            why = await self._reader.missing_reason(first, last)
        if why is None and last <= self._journal.book.safe:
            return "The box deleted these records when their time was up, after the cloud had called them safe."
        return f"These records were lost on the box's disk ({why or 'nothing says why'})."

    def confirm(self, safe: int) -> None:
        """The cloud calls everything up to this position safe, and nothing above it."""
        self._journal.keeping.confirm(safe)

    def lower(self, bound: int) -> None:
        """The cloud calls nothing above this position safe."""
        self._journal.keeping.lower(bound)

    async def advance(
        self, cursor: int, safe: int, uploaded: Sequence[Stored], set_aside: Sequence[tuple[Stored, str]] = ()
    ) -> None:
        """The cloud has these records, and keeps some of them apart. While the journal limps nothing is written: the
        upload of what can be read goes on, and when the journal is open again, the cloud is asked how far it came."""
        self._set_aside |= {record.position: words for record, words in set_aside}
        if self._journal.limps:
            return
        if self._reopened:
            self._reopened = False
            raise Transient("journal_reopened", "The journal was opened anew.", "The cloud is asked where it stands.")
        told = [Uploaded(one.device_epoch, one.device_sequence, len(one.event)) for one in uploaded]
        with self._waiting():
            kept = [(await self._at(position), words) for position, words in self._set_aside.items()]
            found = tuple((record, words) for record, words in kept if record is not None)
            await self._journal.uploads.advance(cursor, safe, told, found)
        self._set_aside.clear()

    async def _at(self, position: int) -> Stored | None:
        """The record as it stands now: the journal may have been built anew since it was sent."""
        records = await self.batch(position - 1, 1, 1)
        return records[0] if records and records[0].position == position else None

    async def begin_stream(self, base: int, parent: Parent | None, reason: str, why: str) -> None:
        """Begin a new stream, under an epoch of its own."""
        with self._waiting():
            await self._journal.uploads.begin_stream(self._new_id(), base, parent, reason, why)

    async def seal_on(self) -> bool:
        """Seal some more records for it."""
        with self._waiting():
            return await self._journal.uploads.seal_on()

    async def fence(self, epoch: str) -> None:
        """Another process writes this epoch."""
        with self._waiting():
            await self._journal.uploads.fence(epoch)

    async def quarantine_record(self, record: Stored, detail: str) -> None:
        """The cloud cannot take this record."""
        with self._waiting():
            await self._journal.uploads.quarantine_record(record, detail)

    async def told(self) -> None:
        """What people were told is durable before the drain goes on, unless the disk takes nothing now."""
        await self._journal.attentions.settled()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """What cannot be read or written now is tried again: the journal is opened anew by itself, and built anew where
        the database is corrupt."""
        try:
            yield
        except RecordDamaged:
            raise
        except JournalDamaged as error:
            if error.code == "journal_corrupt":
                self._journal.mending.demand_rebuild(error.text, now=True)
            raise Transient(error.code, error.text, error.hint) from error
