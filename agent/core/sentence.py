"""facts → [the one sentence] → page, tills, command line. What holds, since when, and what to do, in plain words.

Pure. Says only what the facts show: a cloud that fails is never called a failed internet connection.
"""

import re
from datetime import tzinfo
from typing import Final, Protocol

from agent.core.diagnosis import WORDS
from agent.core.facts import Condition, DrainFacts, Finding, JournalFacts, UplinkCause, UplinkFacts, UplinkState
from agent.core.instants import local_time

_OFFLINE: Final[dict[UplinkCause, tuple[str, str]]] = {
    "none": ("the cloud has not been heard from", ""),
    "link": WORDS["unreachable"],
    "gateway": WORDS["gateway_silent"],
    "dns": WORDS["lookup_failed"],
    "captive_portal": WORDS["captive_portal"],
    "tls": WORDS["tls_failed"],
    "clock": WORDS["clock_wrong"],
    "firewall": WORDS["blocked"],
    "cloud": ("the cloud does not answer as it should", "It resumes by itself."),
    "cloud_slow": WORDS["slow"],
    "auth": WORDS["token_refused"],
}
"""Per cause: what holds, and what to do about it; used where nothing finer was found."""

_DEGRADED: Final[dict[UplinkCause, tuple[str, str]]] = {
    "cloud_slow": ("The cloud answers slowly", ""),
    "auth": ("The cloud refuses this box's uploads", "Tell support: the box needs a new token."),
}
_UPLOADS_FAIL: Final = ("The cloud answers, but uploads fail", "It tries again by itself.")
SPANS_MAX: Final = 3
"""So many ranges of missing events are named in words; the facts have them all."""


def what_held(uplink: UplinkState, cause: UplinkCause, finding: Finding) -> str:
    """What was wrong, as words that stand behind a time."""
    if uplink == "offline":
        return WORDS.get(finding, _OFFLINE[cause])[0]
    words = _DEGRADED.get(cause, _UPLOADS_FAIL)[0]
    return f"{words[0].lower()}{words[1:]}"


def sentence(
    journal: JournalFacts,
    drain: DrainFacts,
    uplink: UplinkFacts,
    conditions: tuple[Condition, ...],
    eta_s: int | None,
    zone: tzinfo,
    now_ms: int,
) -> str:
    """The plain text for venue staff: the worst thing first, then that selling goes on, then what to do."""
    if not journal.writable:
        return _not_writable(conditions)
    if drain.state == "held":
        reason = (drain.error_text or "the cloud's answer needs a person").rstrip(". ")
        return _join(f"Uploading is stopped: {reason}.", _keep_selling(journal), "Tell support.")
    since = local_time(uplink.since, zone, now_ms)
    if uplink.state == "offline" and uplink.cause == "none":
        return _join("The cloud has not been reached yet.", _keep_selling(journal), _attention(conditions))
    if uplink.state == "offline":
        what, remedy = WORDS.get(uplink.finding, _OFFLINE[uplink.cause])
        return _join(f"Offline since {since}: {what}.", _keep_selling(journal), remedy, _attention(conditions))
    if uplink.state == "degraded":
        what, remedy = _DEGRADED.get(uplink.cause, _UPLOADS_FAIL)
        return _join(f"{what} since {since}.", _keep_selling(journal), remedy, _attention(conditions))
    return _join("Online.", _online(journal, drain, eta_s, zone, now_ms), _attention(conditions))


def _online(journal: JournalFacts, drain: DrainFacts, eta_s: int | None, zone: tzinfo, now_ms: int) -> str:
    if journal.pending_count == 0:
        return "Everything is in the cloud."
    records = count(journal.pending_count, "record")
    if drain.state == "waiting":
        again = f" at {local_time(drain.next_attempt_at, zone, now_ms)}" if drain.next_attempt_at else " soon"
        verb = "is" if journal.pending_count == 1 else "are"
        return f"{records} {verb} safe on this box; sending goes on{again}."
    left = "" if eta_s is None else f", {duration(eta_s)} left"
    return f"Sending {records} to the cloud{left}."


def _keep_selling(journal: JournalFacts) -> str:
    if journal.pending_count == 0:
        return "Keep selling: new sales are kept safe on this box."
    verb = "is" if journal.pending_count == 1 else "are"
    return f"Keep selling: {count(journal.pending_count, 'record')} {verb} safe on this box."


def _not_writable(conditions: tuple[Condition, ...]) -> str:
    what = "Sales cannot be recorded on this box right now."
    tills = "The tills keep them and try again."
    worst = next((one for one in conditions if one.severity == "critical"), None)
    if worst is None:
        return _join(what, tills, "Tell support.")
    return _join(what, f"{worst.title.rstrip('. ')}.", tills, worst.hint or "Tell support.")


def _attention(conditions: tuple[Condition, ...]) -> str:
    needed = [one for one in conditions if one.attention]
    if not needed:
        return ""
    more = f" (and {len(needed) - 1} more)" if len(needed) > 1 else ""
    return f"Needs attention: {needed[0].title.rstrip('. ')}{more}."


class Counted(Protocol):
    """A device's completeness; sequences are unpadded strings."""

    @property
    def device(self) -> str: ...
    @property
    def gaps(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def lost_events(self) -> int: ...
    @property
    def lost(self) -> tuple[tuple[str, str, str], ...]: ...


def incomplete(device: Counted) -> tuple[str, ...]:
    """What of a device's events is not here, in words: those that may come still, and those that were given up."""
    lines = []
    if device.gaps:
        spans = [_span(*gap) for gap in device.gaps]
        asked = "it" if len(spans) == 1 and device.gaps[0][0] == device.gaps[0][1] else "them"
        lines.append(f"{device.device} has not delivered its {_listed(spans)}: it is asked for {asked}.")
    if device.lost:
        spans = [f"{_span(first, last)} of epoch {epoch}" for epoch, first, last in device.lost]
        lines.append(f"{device.device} has lost {count(device.lost_events, 'event')}: {_listed(spans)}.")
    return tuple(lines)


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts names as people count: till-2 before till-10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name))


def _span(first: str, last: str) -> str:
    return f"event {first}" if first == last else f"events {first} to {last}"


def _listed(spans: list[str]) -> str:
    more = len(spans) - SPANS_MAX
    return ", ".join(spans[:SPANS_MAX]) + (f" and {count(more, 'more range')}" if more > 0 else "")


def count(number: int, noun: str) -> str:
    """`1 record`, `1,204 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time to wait as people say it: `less than a minute`, `about 4 minutes`, `about 3 hours`."""
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {count(minutes, 'minute')}"
    hours = round(seconds / 3600)
    return f"about {count(hours, 'hour')}" if hours < 48 else f"about {count(round(hours / 24), 'day')}"


def lasted(seconds: float) -> str:
    """How long something has held, never rounded up: `40 seconds`, `6 minutes`, `3 hours`, `4 days`."""
    for unit_s, noun in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit_s:
            return count(int(seconds // unit_s), noun)
    return count(max(0, int(seconds)), "second")


def ago(seconds: float) -> str:
    """How long ago something was, shortly: `just now`, `2 min ago`, `3 h ago`, `4 days ago`."""
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    return f"{int(seconds // 3600)} h ago" if seconds < 86_400 else f"{lasted(seconds)} ago"


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
