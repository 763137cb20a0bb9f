"""broker, gate → [presence] → status. Which devices are here, how they are, which app they run, when each was seen.

What devices say comes from their state topics and wills, what their connections show from the gate, once a second. A
small file keeps it over restarts, since the broker forgets. It holds nothing that must survive, and never bears on what
is stored: an old app, or no word at all, sells like any other.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from agent.core.conditions import Severity
from agent.core.events import device_allowed
from agent.core.facts import PresenceFacts
from agent.core.instants import to_text
from agent.core.presence import Line, Said, old_versions_text, said_in, verdict, version_state
from agent.core.sentence import count, natural
from agent.runtime.files import write_whole

log = structlog.get_logger()

FILE_NAME: Final = "presence.json"
LOOK_S: Final = 1.0
"""How often the gate is asked who is connected."""
SAVE_APP_S: Final = 5.0
"""Shortest time between two writings where a device or its app is new."""
SAVE_SEEN_S: Final = 60.0
"""Where only states, counts and signs of life have changed: a kill forgets this much of them."""
OLD_TOLD_S: Final = 7 * 86_400.0
"""People are told of a device's old app until it was not seen for this long, in seconds that the box has run."""
OLD_CONDITION: Final = "device_versions"


class Journal(Protocol):
    """The little that matters here of what is durable."""

    def stored_count(self, device: str) -> int: ...
    def lived_s(self) -> float: ...


class Clock(Protocol):
    """Boottime, what places it in another boot, and what an instant is for people."""

    def boottime_s(self) -> float: ...
    def boot_id(self) -> str: ...
    def wall_ms_at(self, boottime_s: float) -> int: ...


class Seen(msgspec.Struct, frozen=True):
    """An instant of some boot: wall time as it was believed, and the seconds that the box had run by then."""

    boot: str
    uptime_ms: int
    wall_ms: int
    lived_s: float


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def version_min(self) -> str: ...
    @property
    def unresponsive_s(self) -> float: ...


class Telling(Protocol):
    """Where people are told."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def lift(self, id: str) -> None: ...


class Kept(msgspec.Struct, frozen=True):
    """One device in the file."""

    device: str
    said: Said | None
    seen: Seen | None
    joined: bool


Saved = tuple[str, Said | None, float | None, bool]
"""What of a device was compared with what is written already."""


class Asked(NamedTuple):
    """The oldest command that a device has not answered: when it went out, and how many events had come."""

    at_s: float
    events_count: int


class _Known:
    """One device. Instants are boottime in seconds; `before` is when an earlier start has seen it last."""

    __slots__ = ("asked", "before", "joined", "line", "said", "seen_s", "spoke_s")

    def __init__(self) -> None:
        self.said: Said | None = None
        self.line: Line | None = None
        self.joined = False
        self.seen_s: float | None = None
        self.before: Seen | None = None
        self.asked: Asked | None = None
        self.spoke_s = float("-inf")
        """When it last told its state itself."""


class Presence:
    """The stage that knows how devices are."""

    name = "presence"

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        lines: Callable[[], Mapping[str, Line]],
        clock: Clock,
        instant_ms: Callable[[Seen], int],
        telling: Telling,
        count_max: int,
        limits: Callable[[], Limits],
    ) -> None:
        """`lines` are the gate's connections; `instant_ms` says an earlier boot's instant as well as is known now."""
        self._path = directory / FILE_NAME
        self._journal = journal
        self._lines = lines
        self._clock = clock
        self._instant_ms = instant_ms
        self._telling = telling
        self._count_max = count_max
        self._limits = limits
        self._known: dict[str, _Known] = {}
        self._facts: Mapping[str, PresenceFacts] = {}
        self._stale = True
        self._old: tuple[Mapping[str, str], str] = ({}, "")
        self._new_app = False
        self._saved_s = float("-inf")
        self._saved: list[Saved] = []
        self._refused_count = 0
        self._load()

    def counts(self) -> Mapping[str, int]:
        """Counters by name, which only grow: `states_refused` were no states."""
        return {"states_refused": self._refused_count}

    def facts(self) -> Mapping[str, PresenceFacts]:
        """Every device that is known, by name, as of the last second."""
        if self._stale:
            self._look()
            limits, now_s = self._limits(), self._clock.boottime_s()
            self._facts = {device: self._told(known, limits, now_s) for device, known in self._known.items()}
            self._stale = False
        return self._facts

    def heard(self, device: str, payload: bytes, retained: bool) -> None:
        """A device's state topic; empty where it was cleared. What is `retained` was said some time before, and what
        says `offline` may be its will: neither is a sign of life."""
        if not payload:
            if (known := self._known.get(device)) is not None:
                known.said, self._stale = None, True
            return
        known = self._known.get(device)
        before = known.said if known is not None else None
        said = said_in(payload, before)
        if said is None:
            self._refused_count += 1
            log.debug("state_refused", device=device, size=len(payload))
            return
        known = self._entry(device)
        if known is None:
            return
        self._new_app = self._new_app or before is None or _app(said) != _app(before)
        known.said, self._stale = said, True
        if not retained and said.state != "offline":
            known.seen_s, known.asked = self._clock.boottime_s(), None
            known.spoke_s = known.seen_s

    def asked(self, device: str) -> None:
        """A command went out to this device."""
        known = self._known.get(device)
        if known is not None and known.asked is None and device in self._lines():
            known.asked = Asked(self._clock.boottime_s(), self._journal.stored_count(device))

    def mark(self, device: str) -> Asked:
        """This instant, for a device that something is shown to now."""
        return Asked(self._clock.boottime_s(), self._journal.stored_count(device))

    def unanswered(self, device: str, mark: Asked) -> None:
        """What it was shown then should be answered by now: if neither an event nor a state has come since, it counts
        like a command without an answer."""
        known = self._known.get(device)
        if known is None or known.asked is not None or device not in self._lines():
            return
        if known.spoke_s < mark.at_s and self._journal.stored_count(device) == mark.events_count:
            known.asked, self._stale = mark, True

    def forget(self, device: str) -> None:
        """The device may not come any more."""
        self._known.pop(device, None)
        self._stale = True

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Look once a second, and write down what has changed, until `stop`."""
        ready()
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await stop.wait()
            self._look()
            self._stale = True
            self._judge_versions()
            waited_s = self._clock.boottime_s() - self._saved_s
            if waited_s >= (SAVE_APP_S if self._new_app else SAVE_SEEN_S):
                await self._save()
        await self._save()

    def _look(self) -> None:
        """Who is connected, and what became of commands."""
        now_s, lines = self._clock.boottime_s(), self._lines()
        for device, known in self._known.items():
            known.line = lines.get(device)
            asked = known.asked
            if asked and (known.line is None or self._journal.stored_count(device) != asked.events_count):
                known.asked = None
        for device, line in lines.items():
            entry = self._entry(device) if device_allowed(device) else None
            if entry is not None:
                entry.line, entry.joined = line, True
                entry.seen_s = max(entry.seen_s or 0.0, now_s - line.silent_s)

    def _entry(self, device: str) -> _Known | None:
        """What is known of a device, from now on; None where there is no room for one more."""
        known = self._known.get(device)
        if known is None:
            if len(self._known) >= self._count_max:
                least = min(self._known, key=self._worth)
                if self._known[least].line is not None:
                    return None
                del self._known[least]
            known = self._known[device] = _Known()
        return known

    def _worth(self, device: str) -> tuple[bool, bool, float, float]:
        """Who has not said anything, or was not seen for long, makes room first; never who is connected."""
        known = self._known[device]
        before_s = known.before.lived_s if known.before is not None else 0.0
        return known.line is not None, known.said is not None, known.seen_s or 0.0, before_s

    def _told(self, known: _Known, limits: Limits, now_s: float) -> PresenceFacts:
        said, line = known.said, known.line
        unanswered_s = now_s - known.asked.at_s if known.asked is not None else 0.0
        word = said.state if said is not None else None
        version = said.version if said is not None else None
        return PresenceFacts(
            state=verdict(word, line, known.joined, unanswered_s, limits.unresponsive_s),
            said=word,
            connected=line is not None,
            last_seen_at=self._seen_at(known),
            silent_s=int(line.silent_s) if line is not None else None,
            unanswered_s=int(unanswered_s) if known.asked is not None else None,
            app=said.app if said is not None else None,
            version=version,
            version_state=version_state(version, limits.version_min) if said is not None else None,
            menu_version=said.menu_version if said is not None else None,
            epoch=said.epoch if said is not None else None,
            last=said.last if said is not None else None,
            unsent=said.unsent if said is not None else None,
        )

    def _seen_at(self, known: _Known) -> str | None:
        if known.seen_s is not None:
            return to_text(self._clock.wall_ms_at(known.seen_s))
        return to_text(self._instant_ms(known.before)) if known.before is not None else None

    # Versions ---------------------------------------------------------------------------------------------------------

    def _judge_versions(self) -> None:
        """One condition for all devices with an old app; it ends when each has a newer one, or is long gone."""
        minimum = self._limits().version_min
        found = {}
        for device, known in self._known.items():
            version = known.said.version if minimum and known.said is not None else None
            if version is not None and version_state(version, minimum) == "old" and self._is_about(known):
                found[device] = version
        if (found, minimum) == self._old:
            return
        self._old = found, minimum
        if not found:
            self._telling.lift(OLD_CONDITION)
            return
        named = tuple(sorted(found.items(), key=lambda one: natural(one[0])))
        self._telling.hold(
            OLD_CONDITION,
            "warning",
            f"{count(len(found), 'device')} with an old app",
            old_versions_text(named, minimum),
            "Update the app there when there is time.",
        )

    def _is_about(self, known: _Known) -> bool:
        seen = self._seen(known)
        return known.line is not None or (seen is not None and self._journal.lived_s() - seen.lived_s < OLD_TOLD_S)

    # Over a restart ---------------------------------------------------------------------------------------------------

    def _seen(self, known: _Known) -> Seen | None:
        """When a device was last seen, in a form that outlives this boot."""
        at_s = known.seen_s
        if at_s is None:
            return known.before
        lived_s = self._journal.lived_s() - (self._clock.boottime_s() - at_s)
        return Seen(self._clock.boot_id(), int(at_s * 1000), self._clock.wall_ms_at(at_s), lived_s)

    def _load(self) -> None:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=list[Kept])
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("presence_not_read", reason=str(error), hint="Devices tell it again when they connect.")
            return
        for one in kept[: self._count_max]:
            if device_allowed(one.device):
                known = self._known[one.device] = _Known()
                known.said, known.before, known.joined = one.said, one.seen, one.joined
        self._saved = [(name, one.said, one.seen_s, one.joined) for name, one in self._known.items()]

    async def _save(self) -> None:
        """Write down what has changed; a disk that takes nothing is tried again later."""
        self._saved_s, self._new_app = self._clock.boottime_s(), False
        now = [(name, one.said, one.seen_s, one.joined) for name, one in self._known.items()]
        if now == self._saved:
            return
        kept = [Kept(name, one.said, self._seen(one), one.joined) for name, one in self._known.items()]
        try:
            await asyncio.to_thread(write_whole, self._path, msgspec.json.encode(kept))
            self._saved = now
        except OSError as error:
            log.debug("presence_not_written", reason=str(error))


def _app(said: Said) -> tuple[str | None, str | None, str | None]:
    return said.app, said.version, said.menu_version
