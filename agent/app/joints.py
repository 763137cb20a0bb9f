"""[app: joints] The small pieces between the parts: each turns what one says into what another understands."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from agent.core.arrivals import Item, Outcome
from agent.core.clock import Moment
from agent.core.conditions import Conditions, Severity, Since, Words
from agent.core.errors import Rejected, SettingsInvalid, Transient
from agent.core.events import Event
from agent.core.facts import Condition
from agent.core.instants import to_text
from agent.core.pressure import Level
from agent.core.takeovers import WINDOW_S, Takeovers
from agent.ingest.gaps import Gaps
from agent.ingest.intake import Intake
from agent.ingest.presence import Presence
from agent.ingest.receipts import Receipts
from agent.journal.attentions import Attentions, Happened
from agent.journal.repaired import Repaired
from agent.journal.told import reused, uncounted
from agent.journal.writer import Journal
from agent.lan.gate import Gate
from agent.lan.session import Session
from agent.runtime import logs
from agent.runtime.clock import Clock
from agent.settings.schema import Settings
from agent.settings.watch import Change

log = structlog.get_logger()


class Telling:
    """Conditions with the time of day put in; what has happened is kept in the journal."""

    def __init__(self, conditions: Conditions, clock: Clock) -> None:
        self._conditions = conditions
        self._clock = clock
        self._attentions: Attentions | None = None

    def join(self, attentions: Attentions) -> None:
        """Keep there what has happened; what is there stands already."""
        self._attentions = attentions
        attentions.on_recalled(self._recalled)

    def _recalled(self, id: str, words: Words, at: Moment) -> None:
        self._conditions.recall(id, at, words)
        self._bound()

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None:
        """A state: it holds until it is lifted, and is forgotten by a restart."""
        self._hold(id, self._clock.boottime_s(), Words(severity, title, text, hint), lasting=False)

    def happened(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None:
        """Something has happened: it is told, over restarts, until a person acknowledges it."""
        at_s, words = self._clock.boottime_s(), Words(severity, title, text, hint)
        self._hold(id, at_s, words, lasting=True)
        if self._attentions is not None:
            self._attentions.keep(id, Happened(words, self._clock.wall_ms_at(at_s), int(at_s * 1000)))
        self._bound()

    def _hold(self, id: str, at_s: float, words: Words, lasting: bool) -> None:
        if self._conditions.hold(id, at_s, words, lasting):
            log.warning("condition_raised", condition=id, title=words.title)

    def _bound(self) -> None:
        for gone in self._conditions.surplus():
            if self._attentions is not None:
                self._attentions.leave_out(gone)

    def ended_s(self, id: str) -> float | None:
        """When a person last acknowledged it, in seconds that the box had run."""
        return self._attentions.ended_s(id) if self._attentions is not None else None

    def stands(self, id: str) -> bool:
        """Whether it is told now."""
        return self._conditions.get(id) is not None

    async def acknowledge(self, id: str, actor: str, reason: str) -> None:
        """A person ends what has happened. Raises Rejected where there is nothing to end, Transient where nothing can
        be written now."""
        standing = self._conditions.acknowledge(id)
        if standing is None or self._attentions is None:
            state = self._conditions.get(id)
            if state is not None:
                text = f'"{state.title}" is a state of the box: it ends by itself.'
                raise Rejected("attention_state", text, state.hint or "See `nightsafe status`.")
            raise Rejected("attention_none", f"There is no attention {id}.", "See `nightsafe attention list`.")
        try:
            await self._attentions.acknowledge(id, actor, reason)
        except BaseException:
            self._conditions.put_back(standing)
            raise
        log.info("condition_acknowledged", condition=id, actor=actor)

    def all(self) -> tuple[Condition, ...]:
        """What holds, oldest first, each with its beginning as the wall clock is known now."""
        return self._conditions.all(self._told)

    def _told(self, since: Since) -> str:
        if not isinstance(since, Moment):
            return to_text(self._clock.wall_ms_at(since))
        return to_text(self._attentions.instant_ms(since) if self._attentions is not None else since.wall_ms)

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
        self._seen: tuple[int, bool, str] = (0, True, "")

    def look(self) -> None:
        """Called after each commit, so it only compares where nothing has changed."""
        count, writable = self._journal.book.quarantined_count, self._journal.writable
        now = (count, writable, "" if writable else self._why())
        if now == self._seen:
            return
        self._seen = now
        if count:
            text = f"{count} events were refused and wait for a decision; nothing else is held up."
            hint = "See `nightsafe queue quarantine list`, then resubmit or dismiss each."
            self._telling.hold("quarantine", "warning", "Refused events", text, hint)
        else:
            self._telling.lift("quarantine")
        if now[2]:
            self._telling.hold("journal", "critical", "Nothing can be stored", now[2], self._hint())
        else:
            self._telling.lift("journal")

    def _why(self) -> str:
        """What is wrong with the journal, in words; empty where only the room is short, which has its own condition."""
        failure = self._journal.failure
        if failure is None:
            return ""
        told = "so no sale is acknowledged; the tills keep theirs."
        if isinstance(failure, Transient):
            return f"{failure.text} Nothing can be stored right now, {told}"
        return f"The disk of this box fails: {failure.text} Nothing can be stored, {told} It is tried again by itself."

    def _hint(self) -> str:
        failure = self._journal.failure
        return failure.hint if failure is not None and failure.hint else "Look at the disk of the state directory."

    def repaired(self, done: Repaired) -> None:
        """Something on the disk had changed: the commit that put it right has said so."""
        mended, lost = len(done.mended) + len(done.notes), done.lost_count
        log.error("journal_repaired", reason=done.reason, mended=mended, lost=lost, kept_in=done.kept_in)
        for told in done.told:
            self._telling.happened(told.id, *told.words)

    def reused(self, event: Event) -> None:
        """A device used a sequence twice: the commit that stored it has said so."""
        told = reused(event)
        self._telling.happened(told.id, *told.words)

    def uncounted(self, device: str) -> None:
        """A device has begun more epochs than are counted: the commit that stored its event has said so."""
        told = uncounted(device)
        self._telling.happened(told.id, *told.words)


class SweepSide:
    """The journal as the search for damage needs it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def cursor(self) -> int:
        """Position of the last record that the cloud has."""
        return self._journal.book.cursor

    def last(self) -> int:
        """Position of the last durable record."""
        return self._journal.book.committed

    def lived_s(self) -> float:
        """Time that the box has run."""
        return self._journal.lived_s()

    def limps(self) -> bool:
        """Whether the disk fails so that nothing is read or written now."""
        return self._journal.limps

    async def repair(self, positions: Sequence[int]) -> bool:
        """Mend records, or set them aside, in one step."""
        return await self._journal.mending.repair_all(positions)

    def demand_rebuild(self, why: str, now: bool) -> None:
        """Have the database built anew."""
        self._journal.mending.demand_rebuild(why, now)


class LogPlace:
    """Where the log ends, and in which history."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def committed(self) -> int:
        """The last position that is durable."""
        return self._journal.book.committed

    @property
    def epoch(self) -> str:
        """The present stream."""
        return self._journal.book.epoch

    def lived_s(self) -> float:
        """Seconds that the box has run."""
        return self._journal.lived_s()

    def incomplete(self) -> set[tuple[str, str]]:
        """Device and epoch of every counting that lacks something."""
        gaps = {(one.device, one.epoch) for one in self._journal.open_gaps()}
        return gaps | {(one.device, one.epoch) for one in self._journal.losses()}


CROWDED = "gate_crowded"
LOCKED_OUT_MAX = 5
"""So many addresses are named, the latest."""


class Lan:
    """What the gate and the session hear, handed to those whom it concerns."""

    def __init__(self, intake: Intake, telling: Telling) -> None:
        self._intake = intake
        self._telling = telling
        self._takeovers = Takeovers()
        self._calm: dict[str, asyncio.TimerHandle] = {}
        """What is lifted when nothing more of it has been heard, by its name."""
        self._locked_out: dict[str, str] = {}
        """From where somebody was locked out last, and as whom."""
        self._receipts: Receipts
        self._gaps: Gaps
        self._presence: Presence
        self._on_state: list[Callable[[str, bytes], None]] = []
        self._on_request: Callable[[str, str, bytes, tuple[str, bytes | None] | None], None] = _nobody_answers

    def join(self, receipts: Receipts, gaps: Gaps, presence: Presence) -> None:
        """Name those who are told; they need the session, which needs this."""
        self._receipts = receipts
        self._gaps = gaps
        self._presence = presence

    def spoofed(self, device: str, topic: str) -> None:
        """A device published to another's events topic."""
        self._telling.happened(
            f"spoofed:{device}",
            "warning",
            f"{device} published as another device",
            f"{device or 'A device'} tried to publish events at {topic}, which is not its own.",
            "Check the device's settings: its user name and the name in its topic must be the same.",
        )

    def locked_out(self, address: str, device: str) -> None:
        """Somebody keeps trying to log in."""
        self._locked_out.pop(address, None)
        self._locked_out[address] = device
        while len(self._locked_out) > LOCKED_OUT_MAX:
            del self._locked_out[next(iter(self._locked_out))]
        who = ", ".join(f"{device} from {address}" for address, device in reversed(self._locked_out.items()))
        self._telling.happened(
            "login_locked_out",
            "warning",
            "Logins are refused",
            "Somebody keeps trying to log in with a wrong password, or a name that is not known here; the latest: "
            f"{who}. Nobody was let in; selling on other devices goes on.",
            "If one of them is your device, pair it again: `nightsafe devices add NAME --replace`. If not, find it.",
        )

    def crowded(self, address: str, count: int) -> None:
        """Somebody takes every place with connections that do not log in. Said once, lifted when it has been over."""
        loop = asyncio.get_running_loop()
        standing = self._calm.get(CROWDED)
        if standing is None:
            log.warning("gate_crowded", address=address, connections=count)
            self._telling.hold(
                CROWDED,
                "warning",
                "Somebody takes the places of tills",
                f"{address} holds {count} connections to the box that do not log in, and took the last room. The box "
                "ends the oldest of them: tills that are connected sell on, and others are still let in.",
                f"Find what has the address {address} and take it off the tills' network, or restart it.",
            )
        elif standing.when() - loop.time() > WINDOW_S / 2:
            return
        self._lift_later(CROWDED)

    def taken_over(self, device: str, before: str, now: str) -> None:
        """A device was let in while it was connected already; again and again means that there are two of it."""
        loop = asyncio.get_running_loop()
        if not self._takeovers.note(device, loop.time()):
            return
        if (id := f"device_twice:{device}") not in self._calm:
            log.warning("device_twice", device=device, before=before, now=now)
        self._telling.hold(
            id,
            "warning",
            f"Two devices use the name {device}",
            f"Two connections as {device} throw each other out, from {before} and from {now}. Nothing stored is lost.",
            f"Find the second device that was set up as {device} and give it a name of its own; if there is none, look "
            "at the device's network.",
        )
        self._lift_later(id)

    def _lift_later(self, id: str) -> None:
        if id in self._calm:
            self._calm[id].cancel()
        self._calm[id] = asyncio.get_running_loop().call_later(WINDOW_S, self._calmed, id)

    def _calmed(self, id: str) -> None:
        del self._calm[id]
        self._telling.lift(id)

    def answer(self, device: str, topic: str, correlation: bytes | None, item: Item, outcome: Outcome) -> None:
        """A device asked for its event's own receipt."""
        self._receipts.answer(device, topic, correlation, item, outcome)

    def will_event(self, device: str, payload: bytes, settle: Callable[[Item, Outcome], None]) -> None:
        """An event that came as a will."""
        self._intake.offer(device, payload, settle)

    def request(self, device: str, service: str, payload: bytes, topic: str | None, correlation: bytes | None) -> None:
        """A request in real time. Its reply goes elsewhere, too, where that is below the device's own replies."""
        own = f"pos/v1/{device}/replies"
        elsewhere = topic is not None and (topic == own or topic.startswith(f"{own}/")) and topic != own
        self._on_request(device, service, payload, (topic, correlation) if elsewhere and topic else None)

    def on_request(self, call: Callable[[str, str, bytes, tuple[str, bytes | None] | None], None]) -> None:
        """Call `call` with each request."""
        self._on_request = call

    def state(self, device: str, payload: bytes, retained: bool) -> None:
        """A device's state topic."""
        self._gaps.heard(device, payload)
        self._presence.heard(device, payload, retained)
        for call in self._on_state:
            call(device, payload)

    def on_state(self, call: Callable[[str, bytes], None]) -> None:
        """Call `call` with each device's state, too."""
        self._on_state.append(call)


def _nobody_answers(device: str, service: str, payload: bytes, way: tuple[str, bytes | None] | None) -> None:
    """Before anybody is joined."""


class LanCounts:
    """What the gate and those behind it have counted, as one: people look at the doors of the box, not at its parts."""

    def __init__(self, gate: Gate, session: Session, presence: Presence, receipts: Receipts) -> None:
        self._parts = (gate, session, presence, receipts)

    def counts(self) -> Mapping[str, int]:
        """Counters by name; `connections` is how many there are now, the others only grow."""
        return {name: count for part in self._parts for name, count in part.counts().items()}


def press(journal: Journal, gate: Gate) -> Callable[[Level], None]:
    """Who is told how short room is."""

    def tell(level: Level) -> None:
        journal.press(level)
        gate.shedding = level >= Level.SHED

    return tell
