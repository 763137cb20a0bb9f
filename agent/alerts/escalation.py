"""monitor, drain, journal → [escalation] → outbox, conditions. Tells support of a sync that does not come about.

Looks; decides nothing by itself. Whether anything is told never changes what is stored or uploaded.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, tzinfo
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog

from agent.core import escalation as rules
from agent.core.conditions import Severity
from agent.core.errors import NightsafeError, Rejected
from agent.core.escalation import Backlog, LastSync, Now, Overdue, Packet, Stall
from agent.core.facts import DiskFacts, DrainFacts, JournalFacts, UplinkFacts
from agent.core.instants import to_text
from agent.core.letters import Letter, shown

log = structlog.get_logger()

LOOK_INTERVAL_S: Final = 1.0
KEEP_INTERVAL_S: Final = 600.0
"""So much later may the last success be than what is kept of it: an alarm may come so much early after a kill."""
DEVICES_MAX: Final = 200
"""So many devices are named in a packet."""
LAST_SYNC: Final = "last_sync"
STALLED: Final = "sync_stalled"
OVERDUE: Final = "unsynced"


class Facts(Protocol):
    """What is looked at. Positions as the journal counts them; `now` and `known` are of one instant."""

    def journal(self) -> JournalFacts: ...
    def drain(self) -> DrainFacts: ...
    def uplink(self) -> UplinkFacts: ...
    def disk(self) -> DiskFacts: ...
    def cursor(self) -> int: ...
    def last(self) -> int: ...
    def boottime_s(self) -> float: ...
    def now(self) -> Now: ...


class Kept(Protocol):
    """Small facts that survive a restart. Raises NightsafeError."""

    async def read(self, name: str) -> Any: ...
    async def write(self, name: str, value: Any) -> None: ...


class Letters(Protocol):
    """The outbox. Raises NightsafeError."""

    async def queue(self, letter: Letter) -> bool: ...


class Telling(Protocol):
    """Where it is said what holds, and what has happened."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def happened(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def lift(self, id: str) -> None: ...
    def stands(self, id: str) -> bool: ...


class Terms(NamedTuple):
    """Who is told, and when; from the settings that hold now. Addresses are empty where no mail server is set, and
    `unmailed` is support's then."""

    venue: str
    location_id: str
    location_name: str
    version: str
    support_email: str
    webhook_url: str
    contact_email: str
    stalled_s: float
    overdue_h: tuple[float, ...]
    unmailed: str = ""
    zone: tzinfo = UTC


class Escalation:
    """The stage."""

    def __init__(
        self, facts: Facts, kept: Kept, letters: Letters, telling: Telling, terms: Callable[[], Terms]
    ) -> None:
        self.name = "escalation"
        self._facts = facts
        self._kept = kept
        self._letters = letters
        self._telling = telling
        self._terms = terms
        self._stall = Stall()
        self._stall_began: Now | None = None
        """When the stretch of good uplink began, by the clocks of people."""
        self._last: LastSync | None = None
        """None until it is known what an earlier start has kept."""
        self._last_kept: LastSync | None = None
        self._exchanges_count = 0
        self._uploaded_count = 0
        self._passed = False
        self._grade = 0
        self._unsent: list[Letter] = []
        """Letters that could not be written down yet."""
        self._unnoted: int | None = None
        """The backlog that is told of, until its letters are written down and then this."""

    def probed(self, passed: bool, at_s: float) -> None:
        """A probe has ended, at this boottime."""
        before = self._stall.good_since_s
        self._stall = rules.probed(self._stall, passed, at_s, self._facts.last())
        if before is None and self._stall.good_since_s is not None:
            self._stall_began = self._facts.now()
        self._passed = passed

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Look until `stop`."""
        ready()
        while not stop.is_set():
            try:
                await self._look()
            except NightsafeError as error:  # the journal cannot be written now: it is told by itself
                log.debug("escalation_put_off", code=error.code)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await stop.wait()
        with suppress(NightsafeError):
            await self._keep(always=True)

    async def _recall(self) -> None:
        """What an earlier start has kept: when all was in order, and which backlog was told of already. Nothing is
        judged before that is known. Raises NightsafeError."""
        self._uploaded_count = self._facts.drain().uploaded_count
        self._exchanges_count = self._facts.drain().exchanges_count
        found, target = await self._kept.read(LAST_SYNC), await self._kept.read(STALLED)
        with suppress(msgspec.ValidationError):
            self._last_kept = None if found is None else msgspec.convert(found, LastSync)
        self._last = self._last_kept or LastSync(*self._facts.now())
        if isinstance(target, int):
            self._stall = Stall(self._stall.good_since_s, target, told=True)

    async def _look(self) -> None:
        if self._last is None:
            await self._recall()
        await self._look_at_stall()
        self._note_success()
        self._look_at_age()
        if self._unsent:  # their keys name the last success: after a kill it must be the same
            await self._keep(always=True)
        while self._unsent:
            await self._queue(self._unsent[0])
            del self._unsent[0]
        if self._unnoted is not None:  # behind the letters: who is killed before tells again, under the same key
            await self._kept.write(STALLED, self._unnoted)
            self._unnoted = None
        await self._keep()

    async def _queue(self, letter: Letter) -> None:
        """Into the outbox; what it will never take is told, and keeps nothing behind it back."""
        try:
            await self._letters.queue(letter)
        except Rejected as error:
            log.warning("letter_not_queued", key=letter.key, code=error.code)
            self._telling.happened(
                f"letter_not_sent:{letter.key}",
                "warning",
                "A letter could not be sent",
                f'"{letter.subject}" to {shown(letter)} was not written down. {error.text}',
                f"Tell them by telephone. {error.hint}",
            )

    # A stable link, and nothing moves --------------------------------------------------------------------------------

    async def _look_at_stall(self) -> None:
        facts, terms = self._facts, self._terms()
        before = self._stall
        self._stall, due = rules.looked(before, facts.boottime_s(), facts.cursor(), facts.last(), terms.stalled_s)
        if self._stall.good_since_s != before.good_since_s:
            self._stall_began = facts.now()
        if before.told and not self._stall.told:
            self._unnoted = None
            if self._telling.stands(STALLED):
                now_ms = facts.now().wall_ms
                self._telling.happened(STALLED, *rules.drained_words(to_text(now_ms), terms.zone, now_ms))
            await self._kept.write(STALLED, None)
        if not due:
            return
        backlog = rules.backlog(self._stall, facts.cursor(), facts.boottime_s())
        packet = self._packet(terms, backlog)
        self._unsent += _letters(packet, terms)
        words = rules.stalled_words(packet, backlog.quiet_s, _told(terms), terms.zone, facts.now().wall_ms)
        self._telling.happened(STALLED, *words)
        self._unnoted = self._stall.target

    def _packet(self, terms: Terms, backlog: Backlog) -> Packet:
        journal, drain, now = self._facts.journal(), self._facts.drain(), self._facts.now()
        began = self._stall_began or now
        devices = tuple(one.device for one in journal.devices if one.pending_count and one.device != "agent")
        error = f"{drain.error_code}: {drain.error_text}" if drain.error_code is not None else None
        return Packet(
            "sync_stalled",
            terms.location_id,
            terms.location_name,
            terms.venue,
            to_text(began.wall_ms),
            to_text(now.wall_ms),
            devices[:DEVICES_MAX],
            journal.epoch,
            str(journal.cursor + 1),
            str(journal.last),
            journal.pending_count,
            error,
            terms.version,
            backlog.waited,
            backlog.arrived,
            backlog.moves,
        )

    # A long time without any sync -------------------------------------------------------------------------------------

    def _note_success(self) -> None:
        """All is in order where the cloud has taken something, or has answered while nothing waits."""
        drain = self._facts.drain()
        uploaded = drain.uploaded_count != self._uploaded_count
        heard = self._passed or drain.exchanges_count != self._exchanges_count
        self._uploaded_count, self._exchanges_count = drain.uploaded_count, drain.exchanges_count
        if uploaded or (heard and self._facts.cursor() >= self._facts.last()):
            self._last = LastSync(*self._facts.now())
        self._passed = False

    def _look_at_age(self) -> None:
        assert self._last is not None
        facts, terms = self._facts, self._terms()
        late = rules.overdue(self._last, facts.now())
        grade = rules.level(late.age_s, terms.overdue_h)
        if grade == 0:
            if self._grade:
                self._telling.lift(OVERDUE)
            self._grade = 0
            return
        words = rules.overdue_words(
            late, grade, facts.uplink(), facts.journal().pending_count, facts.disk().hours_until_full
        )
        self._telling.hold(OVERDUE, *words)
        if grade > self._grade:
            self._unsent += self._overdue_letters(late, grade, words.title, f"{words.text}\n\n{words.hint}\n", terms)
        self._grade = grade

    def _overdue_letters(self, late: Overdue, grade: int, title: str, text: str, terms: Terms) -> list[Letter]:
        assert self._last is not None
        key = f"{OVERDUE}:{round(self._last.lived_s)}:{grade}"
        facts = {
            "kind": OVERDUE,
            "location_id": terms.location_id,
            "location_name": terms.location_name,
            "venue": terms.venue,
            "level": grade,
            "age_s": round(late.age_s),
            "cause": self._facts.uplink().cause,
            "finding": self._facts.uplink().finding,
            "pending": self._facts.journal().pending_count,
        }
        subject = f"{terms.location_name}: {title}"
        return _to_all(key, subject, f"{subject}.\n\n{text}", facts, terms, (terms.contact_email, terms.support_email))

    async def _keep(self, always: bool = False) -> None:
        """Once the last success is so much later than what is kept of it; at the end in any case."""
        last, kept = self._last, self._last_kept
        if last is None or last == kept:
            return
        if always or kept is None or _apart_s(kept, last) >= KEEP_INTERVAL_S:
            await self._kept.write(LAST_SYNC, msgspec.to_builtins(last))
            self._last_kept = last


def _apart_s(before: LastSync, now: LastSync) -> float:
    return max(now.lived_s - before.lived_s, abs(now.wall_ms - before.wall_ms) / 1000)


def _letters(packet: Packet, terms: Terms) -> list[Letter]:
    subject = f"Sync {'slow' if packet.moving else 'stalled'}: {packet.location_name} ({packet.location_id})"
    key = f"{STALLED}:{packet.epoch}:{packet.first_sequence}"
    facts = rules.packet_facts(packet)
    text = f"{rules.packet_text(packet)}\n{msgspec.json.format(msgspec.json.encode(facts)).decode()}\n"
    return _to_all(key, subject, text, facts, terms, (terms.support_email,))


def _to_all(
    key: str, subject: str, text: str, facts: dict[str, Any], terms: Terms, addresses: tuple[str, ...]
) -> list[Letter]:
    """One letter for each address that is set, and one for the webhook."""
    found = [Letter(f"{key}:{to}", "mail", to, subject, text) for to in dict.fromkeys(addresses) if to]
    if terms.webhook_url:
        found.append(Letter(f"{key}:webhook", "webhook", terms.webhook_url, subject, "", "", facts))
    return found


def _told(terms: Terms) -> str:
    if terms.support_email or terms.webhook_url:
        return "Support is being told by itself."
    if terms.unmailed:
        return (
            f"Tell support ({terms.unmailed}), with the location ID and these times: no mail is sent, because no mail "
            "server is set in [alerts.smtp]."
        )
    return "Tell support, with the location ID and these times; no support address is set in [alerts]."
