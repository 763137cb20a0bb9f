"""probes, drain, journal → [escalation] → letters, conditions. When a sync that does not come about is told to support.

Pure. *Good* is an uplink whose health question the cloud answers at every probe: uploads that fail, are refused or held
never reset that. Ages count the time that the box has run; time switched off counts where both ends of it are known.
"""

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any, Final, NamedTuple

import msgspec

from agent.core.conditions import Words
from agent.core.diagnosis import WORDS
from agent.core.facts import UplinkFacts
from agent.core.instants import local_time
from agent.core.sentence import count, duration

HOUR_S: Final = 3_600.0


MOVING_S: Final = 120.0
"""A backlog of which something has arrived within so long is moving, in seconds."""


class Backlog(NamedTuple):
    """Of `waited` records so many have `arrived`, the last of them `quiet_s` ago; None where none has."""

    waited: int
    arrived: int
    quiet_s: float | None

    @property
    def moves(self) -> bool:
        """Whether it shrinks, though not fast enough."""
        return self.arrived > 0 and self.quiet_s is not None and self.quiet_s < MOVING_S


class Stall(msgspec.Struct, frozen=True):
    """The stretch of good uplink that runs now: since when (boottime, s), up to which position there was to drain then,
    and whether that was told already. `first` is how far the cloud had everything when it was first looked at, `seen`
    how far it had since, and `moved_s` when that last grew."""

    good_since_s: float | None = None
    target: int = 0
    told: bool = False
    first: int | None = None
    seen: int = 0
    moved_s: float | None = None


def probed(stall: Stall, passed: bool, at_s: float, last: int) -> Stall:
    """A probe has ended; `last` is the position of the last durable record."""
    if not passed:
        return msgspec.structs.replace(stall, good_since_s=None)
    if stall.good_since_s is not None:
        return stall
    return Stall(at_s, stall.target if stall.told else last, stall.told)


def looked(stall: Stall, at_s: float, cursor: int, last: int, after_s: float) -> tuple[Stall, bool]:
    """Time has passed, and the cloud has everything up to `cursor`; True where it is to be told now, once."""
    if stall.target and cursor >= stall.target:
        since_s = None if stall.good_since_s is None else at_s
        return Stall(since_s, last), False
    good_since_s = stall.good_since_s
    if good_since_s is None:
        return stall, False
    stall = _followed(stall, at_s, cursor)
    if not stall.told and cursor >= last:
        return Stall(at_s, last), False
    if stall.told or at_s - good_since_s < after_s:
        return stall, False
    return msgspec.structs.replace(stall, told=True), True


def _followed(stall: Stall, at_s: float, cursor: int) -> Stall:
    if stall.first is None:
        return msgspec.structs.replace(stall, first=cursor, seen=cursor)
    if cursor > stall.seen:
        return msgspec.structs.replace(stall, seen=cursor, moved_s=at_s)
    return stall


def backlog(stall: Stall, cursor: int, at_s: float) -> Backlog:
    """What has become of what waited when the stretch began."""
    first = cursor if stall.first is None else min(stall.first, stall.target)
    quiet_s = None if stall.moved_s is None else at_s - stall.moved_s
    return Backlog(stall.target - first, max(0, min(cursor, stall.target) - first), quiet_s)


class Packet(msgspec.Struct, frozen=True):
    """What support needs to look for what does not arrive: instants are RFC 3339, sequences unpadded strings."""

    kind: str
    location_id: str
    location_name: str
    venue: str
    from_at: str = msgspec.field(name="from")
    to: str = ""
    device_ids: tuple[str, ...] = ()
    epoch: str = ""
    first_sequence: str = ""
    last_sequence: str = ""
    pending: int = 0
    last_cloud_error: str | None = None
    version: str = ""
    waited: int = 0
    arrived: int = 0
    moving: bool = False


def packet_text(packet: Packet) -> str:
    """The same for people."""
    devices = ", ".join(packet.device_ids) or "none"
    how = (
        "sales reach the cloud, but so slowly that what waited has not arrived in time"
        if packet.moving
        else "sales do not reach the cloud although it can be reached"
    )
    return (
        f"{packet.location_name} ({packet.location_id}): {how}.\n\n"
        f"Location ID:      {packet.location_id}\n"
        f"Location name:    {packet.location_name}\n"
        f"Venue:            {packet.venue}\n"
        f"From:             {packet.from_at}\n"
        f"To:               {packet.to}\n"
        f"Devices:          {devices}\n"
        f"Records waiting:  {packet.pending:,} (sequence {packet.first_sequence} to {packet.last_sequence} of epoch "
        f"{packet.epoch})\n"
        f"Of the backlog:   {packet.arrived:,} of {packet.waited:,} records have arrived between From and To\n"
        f"Last cloud error: {packet.last_cloud_error or 'none told'}\n"
        f"Nightsafe:        {packet.version}\n\n"
        "All records are safe on the box. Do not charge guests again until it is known which payments were posted.\n"
    )


def packet_facts(packet: Packet) -> dict[str, Any]:
    """The packet as JSON values."""
    found: dict[str, Any] = msgspec.to_builtins(packet)
    return found


def stalled_words(packet: Packet, quiet_s: float | None, told: str, zone: tzinfo, now_ms: int) -> Words:
    """What people are told of it: that nothing moves, or that it moves too slowly, and what to do."""
    left = packet.waited - packet.arrived
    still = f"{count(left, 'record')} still {'waits' if left == 1 else 'wait'}"
    of_them = f"Of {count(packet.waited, 'record')} that waited then, {packet.arrived:,} have arrived"
    error = f"Last cloud error: {packet.last_cloud_error or 'none told'}."
    since = f"The cloud can be reached since {local_time(packet.from_at, zone, now_ms)}."
    careful = "Do not charge guests again until it is known which payments were posted."
    if packet.moving:
        text = f"{since} {of_them}, and {still}: the backlog shrinks, but slowly. {error}"
        return Words("warning", "Sales reach the cloud slowly", text, f"{told} It goes on by itself. {careful}")
    if packet.arrived and quiet_s is not None:
        text = f"{since} {of_them}, and none for {duration(quiet_s).removeprefix('about ')}; {still}. {error}"
    else:
        text = f"{since} What waited then is still not in it: {count(left, 'record')}. {error}"
    return Words("critical", "Sales do not reach the cloud", text, f"{told} {careful}")


def drained_words(at: str, zone: tzinfo, now_ms: int) -> Words:
    """What takes the place of it once that backlog has arrived."""
    text = f"What had waited is in the cloud since {local_time(at, zone, now_ms)}. Nothing of it is missing."
    return Words("info", "Sales reached the cloud late", text, "Tell support that it is over, if they were told.")


class LastSync(msgspec.Struct, frozen=True):
    """When all was last in order: in seconds that the box had run, and in wall time; `known` where that is true."""

    lived_s: float
    wall_ms: int
    known: bool


class Now(NamedTuple):
    """This instant by the same clocks."""

    lived_s: float
    wall_ms: int
    known: bool


class Overdue(NamedTuple):
    """How long nothing has reached the cloud, in seconds; `powered` where time switched off is not in it."""

    age_s: float
    powered: bool


def overdue(last: LastSync, now: Now) -> Overdue:
    """How long ago it was."""
    powered_s = max(0.0, now.lived_s - last.lived_s)
    if not (last.known and now.known):
        return Overdue(powered_s, True)
    return Overdue(max(powered_s, (now.wall_ms - last.wall_ms) / 1000), False)


def level(age_s: float, steps_h: Sequence[float]) -> int:
    """How many of the steps, in hours, it is over."""
    return sum(age_s > step * HOUR_S for step in steps_h)


def overdue_words(
    late: Overdue, grade: int, uplink: UplinkFacts, pending: int, hours_until_full: float | None
) -> Words:
    """What people are told: how long, why, what to do, and when the box is full."""
    how_long = duration(late.age_s).removeprefix("about ")
    counted = " (counted while the box was on: its clock is not set)" if late.powered else ""
    why, remedy = _why(uplink)
    text = f"{why} {count(pending, 'record')} {'is' if pending == 1 else 'are'} safe on this box{counted}."
    if grade > 1:
        text += f" {_forecast(hours_until_full)}"
    title = f"Nothing has reached the cloud for {how_long}"
    return Words("critical" if grade > 1 else "warning", title, text, f"{remedy} Selling goes on meanwhile.")


_UPLOADS: Final = ("The cloud can be reached, but uploads do not succeed.", "Tell support.")
_REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    "auth": ("The cloud refuses this box.", "Tell support: the box needs a new token."),
}


def _why(uplink: UplinkFacts) -> tuple[str, str]:
    if uplink.state != "offline":
        return _REFUSED.get(uplink.cause, _UPLOADS)
    what, remedy = WORDS.get(uplink.finding, ("the cloud is not reached", "See `nightsafe netcheck`."))
    return f"{what[0].upper()}{what[1:]}.", remedy


def _forecast(hours_until_full: float | None) -> str:
    if hours_until_full is None:
        return "At the present rate the disk is not about to be full."
    return f"At the present rate the disk is full in {duration(hours_until_full * HOUR_S)}."
