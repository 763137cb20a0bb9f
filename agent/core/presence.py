"""state topics, gate → [presence] → status, page, metrics. What a device says of itself, and what to make of it.

Pure: instants and durations come in as arguments. A device's words are taken as claims: bounded, harmless to show, and
never a reason to refuse its sales.
"""

import re
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from agent.core import cards
from agent.core.events import SEQUENCE_MAX, epoch_allowed
from agent.core.facts import DeviceState, VersionState
from agent.core.instants import to_ms
from agent.core.sentence import ago, count, lasted

STATE_BYTES_MAX: Final = 65_536
"""A longer state is not read."""
TEXT_CHARS_MAX: Final = 64
"""Name and version of an app, and of a menu."""
UNSENT_MAX: Final = 10**9
"""No device holds back more events."""
NAMED_MAX: Final = 5
"""So many devices are named in one text; the status has them all."""

Word = Literal["ready", "asleep", "background", "offline"]


class Said(msgspec.Struct, frozen=True):
    """What a device says of itself. `last` is the highest sequence of `epoch` that it has assigned, `unsent` what it
    has not had acknowledged."""

    state: Word
    app: str | None = None
    version: str | None = None
    menu_version: str | None = None
    epoch: str | None = None
    last: int | None = None
    unsent: int | None = None


class _State(msgspec.Struct):
    state: Word
    app: Any = msgspec.UNSET
    version: Any = msgspec.UNSET
    menu_version: Any = msgspec.UNSET
    epoch: Any = msgspec.UNSET
    last: Any = msgspec.UNSET
    pending: Any = msgspec.UNSET


_decode = msgspec.json.Decoder(_State).decode


def said_in(payload: bytes, before: Said | None) -> Said | None:
    """What a state topic's payload says; None where it is no state.

    What it leaves out of app and versions stands as before: a will names none. So do its counts while it is offline.
    What it says and cannot be shown or be true is not known any more.
    """
    if len(payload) > STATE_BYTES_MAX:
        return None
    try:
        state = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    known = before if before is not None else Said(state.state)
    kept = known if state.state == "offline" else Said(state.state)
    said = Said(
        state=state.state,
        app=known.app if state.app is msgspec.UNSET else _text(state.app),
        version=known.version if state.version is msgspec.UNSET else _text(state.version),
        menu_version=known.menu_version if state.menu_version is msgspec.UNSET else _text(state.menu_version),
        epoch=kept.epoch if state.epoch is msgspec.UNSET else _epoch(state.epoch),
        last=kept.last if state.last is msgspec.UNSET else sequence_said(state.last),
        unsent=kept.unsent if state.pending is msgspec.UNSET else _count(state.pending),
    )
    shown = " ".join(text for text in (said.app, said.version, said.menu_version) if text)
    if cards.text_clean(shown):
        return said
    return msgspec.structs.replace(said, app=None, version=None, menu_version=None)


def sequence_said(value: Any) -> int | None:
    """A sequence as devices write it, as text or as a number; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    return value if type(value) is int and 0 < value <= SEQUENCE_MAX else None


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_CHARS_MAX or not value.isprintable():
        return None
    return value.strip() or None if cards.text_clean(value) else None


def _epoch(value: Any) -> str | None:
    return value if isinstance(value, str) and epoch_allowed(value) and cards.text_clean(value) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= UNSENT_MAX else None


# Present or not -------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A device's open connection: how long no packet came, and how long it said in its CONNECT that may be."""

    silent_s: float
    keep_alive_s: float


def verdict(word: Word | None, line: Line | None, joined: bool, unanswered_s: float, limit_s: float) -> DeviceState:
    """How a device is. `joined` tells whether it was ever connected, `unanswered_s` how old a command is that it has
    answered with nothing, neither an event nor a state; 0 without any.

    A device that did not say it sleeps is `unresponsive` while its connection stands and either nothing at all comes,
    not even a ping, for longer than the limit and its own keep-alive, or only pings come and a command stays
    unanswered. Silence alone says nothing of one that neither said it is ready nor promised a sign of life.
    """
    if line is None:
        if word in ("asleep", "background"):
            return word
        return "offline" if word is not None or joined else "unknown"
    if word in ("asleep", "background"):
        return word
    silent = line.silent_s > max(limit_s, line.keep_alive_s) and (word == "ready" or line.keep_alive_s > 0)
    if silent or unanswered_s > limit_s:
        return "unresponsive"
    return "ready" if word == "ready" else "unknown"


# Versions -------------------------------------------------------------------------------------------------------------

_VERSION: Final = re.compile(
    r"[vV]?(?P<numbers>\d{1,18}(?:\.\d{1,18}){0,7})"
    r"(?:-(?P<pre>[0-9A-Za-z][0-9A-Za-z.-]*)|[._]?(?P<tail>[A-Za-z][0-9A-Za-z.-]*))?"
    r"(?:\+[0-9A-Za-z.-]+)?(?: ?\([0-9A-Za-z .:_-]*\))?",
    re.ASCII,
)
_PARTS: Final = re.compile("[0-9]+|[A-Za-z]+")

Order = tuple[tuple[int, ...], bool, tuple[tuple[int, int, str], ...]]


@lru_cache(maxsize=1024)
def version_order(version: str) -> Order | None:
    """A key that sorts versions; None for what is no version.

    Numbers are compared as numbers, missing ones are 0. A pre-release (`-rc.1`, `b2`) is below its release. Build
    information (`+522`, `(522)`) says nothing.
    """
    found = _VERSION.fullmatch(version.strip())
    if found is None:
        return None
    numbers = [int(part) for part in found["numbers"].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    before = found["pre"] or found["tail"]
    if before is None:
        return tuple(numbers), True, ()
    parts = _PARTS.findall(before.lower())
    return tuple(numbers), False, tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)


def version_state(version: str | None, minimum: str) -> VersionState | None:
    """A version beside the venue's minimum: `unknown` where it is none; None where there is no minimum."""
    least = version_order(minimum) if minimum else None
    if least is None:
        return None
    order = version_order(version) if version is not None else None
    if order is None:
        return "unknown"
    return "ok" if order >= least else "old"


def old_versions_text(devices: tuple[tuple[str, str], ...], minimum: str) -> str:
    """Which devices run an older app, (device, version), in words."""
    named = ", ".join(f"{device} ({version})" for device, version in devices[:NAMED_MAX])
    more = len(devices) - NAMED_MAX
    others = f" and {count(more, 'more device')}" if more > 0 else ""
    if len(devices) == 1:
        return f"{named} runs an app older than {minimum}. It goes on selling."
    return f"{named}{others} run an app older than {minimum}. They go on selling."


# In words -------------------------------------------------------------------------------------------------------------

_STATES: Final[dict[DeviceState, str]] = {
    "ready": "Ready",
    "asleep": "Asleep",
    "background": "Another app is open on it",
    "offline": "Not connected",
    "unknown": "Connected",
}


class Told(Protocol):
    """A device as the status has it."""

    @property
    def device(self) -> str: ...
    @property
    def state(self) -> DeviceState: ...
    @property
    def connected(self) -> bool: ...
    @property
    def silent_s(self) -> int | None: ...
    @property
    def unanswered_s(self) -> int | None: ...
    @property
    def last_seen_at(self) -> str | None: ...
    @property
    def app(self) -> str | None: ...
    @property
    def version(self) -> str | None: ...
    @property
    def version_state(self) -> VersionState | None: ...
    @property
    def unsent(self) -> int | None: ...


def state_word(state: str, connected: bool) -> str:
    """How a device is, in a word or two."""
    if state == "unresponsive":
        return "Does not answer"
    if not connected:
        return _STATES["offline"]
    return _STATES.get(state, _STATES["unknown"])  # type: ignore[call-overload,no-any-return]


def state_words(told: Told) -> str:
    """How a device is, for people; what to do about it, where there is something to do."""
    if told.state == "unresponsive":
        if told.unanswered_s is not None and told.unanswered_s > (told.silent_s or 0):
            what = f"has not answered for {lasted(told.unanswered_s)}"
        else:
            what = f"has said nothing for {lasted(told.silent_s or 0)}"
        return f"{told.device} is connected but {what}: open its app"
    if told.state == "unknown" and not told.connected:
        return ""
    return _STATES[told.state]


def presence_words(told: Told, now_ms: int) -> tuple[str, ...]:
    """What there is to say of a device, part by part: how it is, when it was seen, its app, what it holds back."""
    seen = "" if told.last_seen_at is None else f"seen {ago((now_ms - to_ms(told.last_seen_at)) / 1000)}"
    app = " ".join(part for part in (told.app, told.version) if part)
    if app and told.version_state == "old":
        app += " (too old for this venue)"
    elif told.version and told.version_state == "unknown":
        app += " (a version that cannot be compared)"
    unsent = f"{told.unsent:,} not yet sent by the {_kind(told.device)}" if told.unsent else ""
    return tuple(part for part in (state_words(told), seen, app, unsent) if part)


def _kind(device: str) -> str:
    return "till" if device.startswith("till") else "device"
