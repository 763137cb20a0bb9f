"""ingest → [open checks] → every till. The last known state of each open check, so that any device can pick it up.

Folded from stored events in the order of the log. A late event of the same device, older by its own counting than what
is known, changes nothing: a check that was closed is not opened again by a gap being filled. Pure state.
"""

from collections import OrderedDict
from collections.abc import Container, Iterable
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from agent.core.events import Event

PREFIX: Final = "pos.check."
ENDED: Final = frozenset({"pos.check.closed", "pos.check.voided"})
TOPIC: Final = "pos/v1/venue/checks/"
TOPIC_SAFE: Final = "._-~:"
"""What of a check's id stands in its topic as it is, beside letters and digits; all else is percent-encoded."""
ENDED_MAX: Final = 10_000
"""Ended checks that are remembered, so that late events do not open them again; the latest."""


class Seen(NamedTuple):
    """One stored event of a check, in the order of the log; `body` as the device wrote it."""

    check_id: str
    type: str
    device: str
    epoch: str | None
    sequence: int | None
    body: bytes

    @property
    def ends(self) -> bool:
        """Whether the check is not open any more."""
        return self.type in ENDED


class _CheckId(msgspec.Struct):
    check_id: str


class _About(msgspec.Struct):
    data: _CheckId


class _Counted(_About):
    type: str
    epoch: str | None = None
    sequence: str | None = None


class _Whole(msgspec.Struct):
    id: str
    data: msgspec.Raw
    time: str | None = None


_about = msgspec.json.Decoder(_About).decode
_counted = msgspec.json.Decoder(_Counted).decode
_whole = msgspec.json.Decoder(_Whole).decode


def seen_as(event: Event) -> Seen | None:
    """What an event that was judged just now says of a check; None where it is of none."""
    try:
        check_id = _about(event.body).data.check_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Seen(check_id, event.type, event.device, event.epoch, event.sequence, event.body)


def seen_in(device: str, body: bytes) -> Seen | None:
    """What an event of the log says of a check; None where it is of none."""
    try:
        found = _counted(body)
        sequence = int(found.sequence) if found.sequence is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None
    if not found.type.startswith(PREFIX):
        return None
    return Seen(found.data.check_id, found.type, device, found.epoch, sequence, body)


def concerns_check(event: Event) -> bool:
    """Whether it is an event of a check."""
    return event.type.startswith(PREFIX)


def topic_of(check_id: str) -> str:
    """Where the state of a check is retained."""
    return TOPIC + quote(check_id, safe=TOPIC_SAFE)


def encode(seen: Seen) -> bytes:
    """What tills read: whose word it is, when by that device's clock, and the check as that device wrote it."""
    whole = _whole(seen.body)
    return msgspec.json.encode(
        {
            "check_id": seen.check_id,
            "type": seen.type,
            "device": seen.device,
            "id": whole.id,
            "time": whole.time,
            "data": whole.data,
        }
    )


class _Open:
    __slots__ = ("after", "at_s", "seen")

    def __init__(self, seen: Seen, after: int, at_s: float) -> None:
        self.seen = seen
        self.after = after
        self.at_s = at_s


class OpenChecks:
    """The open checks of the venue, at most `count_max`: the one whose last word is the oldest makes room."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._ended: OrderedDict[str, Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def note(self, seen: Seen, after: int, at_s: float) -> tuple[str, ...]:
        """Fold in one event that stands behind position `after` of the log; returns the checks that changed."""
        known = self._open.get(seen.check_id)
        last = known.seen if known is not None else self._ended.get(seen.check_id)
        if last is not None and _is_older(seen, last):
            return ()
        if seen.ends:
            self._ended[seen.check_id] = seen._replace(body=b"")
            self._ended.move_to_end(seen.check_id)
            if len(self._ended) > ENDED_MAX:
                self._ended.popitem(last=False)
            return (seen.check_id,) if self._open.pop(seen.check_id, None) is not None else ()
        self._ended.pop(seen.check_id, None)
        self._open[seen.check_id] = _Open(seen, after, at_s)
        self._open.move_to_end(seen.check_id)
        if len(self._open) <= self._count_max:
            return (seen.check_id,)
        return (seen.check_id, self._open.popitem(last=False)[0])

    def ended(self, countings: Container[tuple[str, str | None]]) -> tuple[Seen, ...]:
        """Ended checks whose end was told in one of these countings (device, epoch), without their bodies."""
        return tuple(one for one in self._ended.values() if (one.device, one.epoch) in countings)

    def remember(self, ended: Iterable[Seen]) -> None:
        """What had ended before the log is read again."""
        self._ended.update((one.check_id, one) for one in ended)

    def let_go(self, before_s: float) -> tuple[str, ...]:
        """Forget the checks of which nothing was heard since; returns them."""
        gone = [check_id for check_id, one in self._open.items() if one.at_s < before_s]
        for check_id in gone:
            del self._open[check_id]
        return tuple(gone)

    def get(self, check_id: str) -> Seen | None:
        """The last word about an open check; None where it is not open."""
        found = self._open.get(check_id)
        return found.seen if found is not None else None

    def all(self) -> tuple[str, ...]:
        """Every open check, the one with the oldest last word first."""
        return tuple(self._open)

    @property
    def after(self) -> int | None:
        """Every last word stands behind this position of the log; None where no check is open."""
        return min((one.after for one in self._open.values()), default=None)


def _is_older(seen: Seen, last: Seen) -> bool:
    """Whether the same device had counted further when it said the last word."""
    if seen.sequence is None or last.sequence is None:
        return False
    return (seen.device, seen.epoch) == (last.device, last.epoch) and seen.sequence < last.sequence
