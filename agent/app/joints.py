"""[app: joints] The small pieces between the parts: each turns what one says into what another understands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import structlog

from agent.core.arrivals import Item, Outcome
from agent.core.conditions import Conditions
from agent.core.errors import SettingsInvalid
from agent.core.events import Event
from agent.core.instants import to_text
from agent.core.lineage import Lineage, Parent
from agent.ingest.gaps import Gaps
from agent.ingest.intake import Intake
from agent.ingest.receipts import Receipts
from agent.journal.reader import Reader, Stored
from agent.journal.writer import Journal, Uploaded
from agent.lan.gate import Gate
from agent.lan.session import Session
from agent.runtime import logs
from agent.runtime.clock import Clock
from agent.settings.schema import Settings
from agent.settings.watch import Change

log = structlog.get_logger()


class Telling:
    """Conditions with the time of day put in."""

    def __init__(self, conditions: Conditions, clock: Clock) -> None:
        self._conditions = conditions
        self._clock = clock

    def hold(self, id: str, severity: Literal["info", "warning", "critical"], title: str, text: str, hint: str) -> None:
        """The condition holds."""
        if self._conditions.hold(id, to_text(self._clock.wall_ms()), severity, title, text, hint):
            log.warning("condition_raised", condition=id, title=title)

    def stage(self, stage: str, text: str | None) -> None:
        """A part of the box is down, or works again when `text` is None."""
        if text is None:
            self.lift(f"stage:{stage}")
        else:
            hint = "It is started again by itself; call support if this stays."
            self.hold(f"stage:{stage}", "warning", f"The box's part {stage} is down", text, hint)

    def lift(self, id: str) -> None:
        """It does not hold any more."""
        if self._conditions.lift(id):
            log.info("condition_cleared", condition=id)


class Live:
    """The settings that hold now."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def changed(self, telling: Telling) -> Callable[[Settings, Change], None]:
        """What to do with an edit that can be used."""

        def take(settings: Settings, change: Change) -> None:
            self.settings = settings
            logs.configure(settings.logs.level, settings.logs.format)
            telling.lift("settings_refused")
            waiting = ", ".join((*change.restart, *change.never))
            if waiting:
                text = f"The settings file was changed; these take effect later or never: {waiting}."
                telling.hold("settings_wait", "info", "Settings wait for a restart", text, "Restart nightsafe.")
            else:
                telling.lift("settings_wait")

        return take

    def refused(self, telling: Telling) -> Callable[[SettingsInvalid], None]:
        """What to do with an edit that cannot be used: the old settings stay."""

        def keep(error: SettingsInvalid) -> None:
            text = "The settings file has errors; the settings before the edit still hold. " + " ".join(error.problems)
            telling.hold("settings_refused", "warning", "Settings not taken", text, "Run `nightsafe config check`.")

        return keep


class JournalConditions:
    """What the journal's figures mean to people."""

    def __init__(self, journal: Journal, telling: Telling) -> None:
        self._journal = journal
        self._telling = telling
        self._seen = (0, True)

    def look(self) -> None:
        """Called after each commit, so it only compares where nothing has changed."""
        now = (self._journal.book.quarantined_count, self._journal.writable)
        if now == self._seen:
            return
        self._seen = now
        count, writable = now
        if count:
            text = f"{count} events were refused and wait for a decision; nothing else is held up."
            hint = "See `nightsafe queue quarantine list`, then resubmit or dismiss each."
            self._telling.hold("quarantine", "warning", "Refused events", text, hint)
        else:
            self._telling.lift("quarantine")
        if writable:
            self._telling.lift("journal")
        else:
            text = "Nothing can be stored right now, so no sale is acknowledged; the tills keep theirs."
            hint = "Free space on the disk of the state directory, then look at the page again."
            self._telling.hold("journal", "critical", "Nothing can be stored", text, hint)

    def reused(self, event: Event) -> None:
        """A device used a sequence twice."""
        self._telling.hold(
            f"sequence_reused:{event.device}",
            "warning",
            f"{event.device} counts twice",
            f"{event.device} used its sequence {event.sequence} for two different events; both are stored.",
            "Reinstall the app on the device, or call its vendor: its counter was set back.",
        )


class Lan:
    """What the gate and the session hear, handed to those whom it concerns."""

    def __init__(self, intake: Intake, telling: Telling) -> None:
        self._intake = intake
        self._telling = telling
        self._receipts: Receipts
        self._gaps: Gaps

    def join(self, receipts: Receipts, gaps: Gaps) -> None:
        """Name those who are told; they need the session, which needs this."""
        self._receipts = receipts
        self._gaps = gaps

    def spoofed(self, device: str, topic: str) -> None:
        """A device published to another's events topic."""
        self._telling.hold(
            f"spoofed:{device}",
            "warning",
            f"{device} published as another device",
            f"{device or 'A device'} tried to publish events at {topic}, which is not its own.",
            "Check the device's settings: its user name and the name in its topic must be the same.",
        )

    def answer(self, device: str, topic: str, correlation: bytes | None, item: Item, outcome: Outcome) -> None:
        """A device asked for its event's own receipt."""
        self._receipts.answer(device, topic, correlation, item, outcome)

    def will_event(self, device: str, payload: bytes, settle: Callable[[Item, Outcome], None]) -> None:
        """An event that came as a will."""
        self._intake.offer(device, payload, settle)

    def state(self, device: str, payload: bytes) -> None:
        """A device's state topic."""
        self._gaps.heard(device, payload)


class LanCounts:
    """What the gate and the session have counted, as one: people look at the doors of the box, not at its parts."""

    def __init__(self, gate: Gate, session: Session) -> None:
        self._gate = gate
        self._session = session

    def counts(self) -> Mapping[str, int]:
        """Counters by name; `connections` is how many there are now, the others only grow."""
        return {**self._gate.counts(), **self._session.counts()}


class DrainSide:
    """The journal as the drain needs it: its facts from the writer, its records from the reader."""

    def __init__(self, journal: Journal, reader: Reader, new_id: Callable[[], str]) -> None:
        self._journal = journal
        self._reader = reader
        self._new_id = new_id

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
        return await self._reader.batch(after, records_max, bytes_max)

    async def first(self) -> int:
        """Position of the first record that is kept; one behind the last where none is."""
        return await self._reader.first() or self.last() + 1

    async def rechash(self, position: int) -> bytes | None:
        """The seal of one record."""
        return await self._reader.rechash(position)

    async def missing_reason(self, first: int, last: int) -> str:
        """Why these records are not kept any more."""
        if last <= self._journal.book.safe:
            return "The box deleted these records when their time was up, after the cloud had called them safe."
        return await self._reader.missing_reason(first, last) or "These records were lost on the box's disk."

    async def advance(self, cursor: int, safe: int, uploaded: Sequence[Stored]) -> None:
        """The cloud has these records."""
        told = [Uploaded(one.device_epoch, one.device_sequence, len(one.event)) for one in uploaded]
        await self._journal.advance(cursor, safe, told)

    async def begin_stream(self, base: int, parent: Parent | None, reason: str) -> None:
        """Begin a new stream, under an epoch of its own."""
        await self._journal.begin_stream(self._new_id(), base, parent, reason)

    async def seal_on(self) -> bool:
        """Seal some more records for it."""
        return await self._journal.seal_on()

    async def fence(self, epoch: str) -> None:
        """Another process writes this epoch."""
        await self._journal.fence(epoch)

    async def quarantine_record(self, record: Stored, detail: str) -> None:
        """The cloud cannot take this record."""
        await self._journal.quarantine_record(record, detail)
