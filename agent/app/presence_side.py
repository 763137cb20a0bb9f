"""[app: presence] Joins what is known of devices to the journal, the gate and the session."""

from collections.abc import Callable, Mapping
from pathlib import Path

from agent.app.joints import Live, Telling
from agent.core.clock import Moment
from agent.core.presence import Line
from agent.ingest.presence import Presence, Seen
from agent.journal.writer import Journal
from agent.lan.session import Session
from agent.runtime.clock import Clock


class PresenceJournal:
    """The journal as presence needs it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def stored_count(self, device: str) -> int:
        """How many events of a device are durable."""
        known = self._journal.book.devices.get(device)
        return known.figures.stored_count if known is not None else 0

    def lived_s(self) -> float:
        """Seconds that the box has run."""
        return self._journal.lived_s()

    def instant_ms(self, seen: Seen) -> int:
        """When it truly was, as well as is known of the clock of that boot."""
        book = self._journal.book
        row = book.boots.get(seen.boot)
        return seen.wall_ms if row is None else book.instant_ms(Moment(seen.wall_ms, seen.uptime_ms, row))


class Commanding:
    """The session for who gives commands: presence hears of each that went out."""

    def __init__(self, session: Session, asked: Callable[[str], None]) -> None:
        self._session = session
        self._asked = asked

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Publish, and return when the broker has taken it. Raises Transient while it is away."""
        await self._session.publish(topic, payload, retain=retain, qos=qos)
        _, _, device, kind = topic.split("/", 3)
        if kind == "commands":
            self._asked(device)


def make_presence(
    directory: Path,
    journal: Journal,
    lines: Callable[[], Mapping[str, Line]],
    clock: Clock,
    telling: Telling,
    live: Live,
) -> Presence:
    """The stage, joined; `lines` are the gate's connections."""
    side = PresenceJournal(journal)
    count_max = live.settings.devices.known_max
    return Presence(directory, side, lines, clock, side.instant_ms, telling, count_max, lambda: live.settings.devices)
