"""probes, uploads → [uplink state] → status. Says what the evidence shows about the way to the cloud, and no more.

Pure: every instant is an argument, in seconds of boottime. It is for people and pacing only: it never gates recording,
and an upload's own outcome outweighs any probe.

    offline   nothing gets through (cause `none`: nothing has been tried yet, so nothing is claimed)
    degraded  the cloud answers, but uploads fail, are refused, or answers are slow
    online    said only after a successful exchange with the cloud, and until evidence speaks against it

What one HTTP probe can tell honestly: a name that cannot be looked up is `dns`; a refused TLS handshake is `tls`; a
connection that was refused or that stood and got no proper answer is `cloud`, because the way there worked; every
other failure of the network is `link`. A look at all layers (`diagnosis.py`) says more while offline lasts, and stands
until the next one.
"""

from typing import Final, Literal

import msgspec

from agent.core.diagnosis import Diagnosis
from agent.core.facts import Finding, UplinkCause, UplinkState

SLOW_AFTER_S: Final = 2.0
"""A probe that passes but takes longer than this speaks for `cloud_slow`, in seconds."""
SLOW_PROBES: Final = 2
"""So many slow probes in a row make the uplink `degraded`; one fast probe or one upload ends it."""

ProbeOutcome = Literal[
    "passed",
    "lookup_failed",
    "unreachable",
    "refused",
    "tls_failed",
    "tls_not_now",
    "no_answer",
    "server_error",
    "not_health",
]
"""How one probe ended. `tls_not_now`: the dates of a certificate do not hold by this box's clock. `no_answer`: it was
connected, then came silence or a cut. `not_health`: an answer, but not the cloud's."""

_CAUSES: Final[dict[ProbeOutcome, UplinkCause]] = {
    "passed": "none",
    "lookup_failed": "dns",
    "unreachable": "link",
    "refused": "cloud",
    "tls_failed": "tls",
    "tls_not_now": "tls",
    "no_answer": "cloud",
    "server_error": "cloud",
    "not_health": "cloud",
}


_UPLOAD_CAUSES: Final[dict[str, UplinkCause]] = {
    "lookup_failed": "dns",
    "unreachable": "link",
    "timeout": "link",
    "refused": "cloud",
    "tls_failed": "tls",
    "tls_not_now": "tls",
    "no_answer": "cloud",
    "not_an_answer": "cloud",
    "nothing_taken": "cloud",
    "cloud_401": "auth",
    "cloud_429": "cloud",
}
"""By the drain's error code, beside `cloud_5xx`. Other codes are answers of a working cloud, or faults of this box."""
_UNANSWERED: Final = frozenset(
    {"lookup_failed", "unreachable", "timeout", "refused", "tls_failed", "tls_not_now", "no_answer"}
)
"""Codes of uploads that got no answer, so that an answer to anybody is a reason to try again."""


class ProbeResult(msgspec.Struct, frozen=True):
    """What one probe found; `detail` is for the log, without addresses of other machines or payloads."""

    outcome: ProbeOutcome
    detail: str = ""


class Reading(msgspec.Struct, frozen=True):
    """One state of the uplink, and since when in seconds of boottime. While offline, `since_s` outlives its causes."""

    state: UplinkState
    cause: UplinkCause
    since_s: float
    finding: Finding = ""


class Uplink(msgspec.Struct, frozen=True):
    """The evidence so far. `raw` follows it at once; `shown` is for people: its "offline" is debounced.

    `outcome` is the last failed probe's while nothing gets through, `diagnosis` what a look at all layers said then.
    """

    raw: Reading
    shown: Reading
    exchanged_s: float | None = None
    blocked: UplinkCause | None = None
    outcome: ProbeOutcome | None = None
    diagnosis: Diagnosis | None = None
    upload_failure: UplinkCause | None = None
    slow_count: int = 0


def start(at_s: float) -> Uplink:
    """Nothing is known: not online, and no cause is claimed."""
    unknown = Reading("offline", "none", at_s)
    return Uplink(raw=unknown, shown=unknown)


def cause_of(outcome: ProbeOutcome) -> UplinkCause:
    """What a probe's outcome speaks for."""
    return _CAUSES[outcome]


def upload_cause(code: str) -> UplinkCause | None:
    """What a failed upload speaks for; None when it says nothing about the way to the cloud."""
    return "cloud" if code.startswith("cloud_5") else _UPLOAD_CAUSES.get(code)


def worth_retrying(code: str) -> bool:
    """Whether an upload that failed so may succeed now that the cloud answers: it was not the cloud that said no."""
    return code in _UNANSWERED


def probed(uplink: Uplink, result: ProbeResult, began_s: float, at_s: float, debounce_s: float) -> Uplink:
    """A probe that began at `began_s` ended at `at_s`. A failure is void if the cloud answered in between."""
    if result.outcome == "passed":
        slow_count = min(uplink.slow_count + 1, SLOW_PROBES) if at_s - began_s > SLOW_AFTER_S else 0
        now = msgspec.structs.replace(_open(uplink, at_s), slow_count=slow_count)
        return _settle(now, at_s, at_s, debounce_s)
    if uplink.exchanged_s is not None and began_s < uplink.exchanged_s:
        return _settle(uplink, at_s, at_s, debounce_s)
    now = msgspec.structs.replace(uplink, blocked=cause_of(result.outcome), outcome=result.outcome)
    return _settle(now, began_s, at_s, debounce_s)


def diagnosed(uplink: Uplink, outcome: ProbeOutcome, found: Diagnosis, at_s: float, debounce_s: float) -> Uplink:
    """All layers were looked at after a probe that ended so. Void where probes have ended otherwise since: what was
    found before stands until the next look."""
    if uplink.blocked is None or uplink.outcome != outcome:
        return uplink
    now = msgspec.structs.replace(uplink, diagnosis=found if found.finding else None)
    return _settle(now, at_s, at_s, debounce_s)


def upload_succeeded(uplink: Uplink, at_s: float, debounce_s: float) -> Uplink:
    """The cloud committed something of ours: there is no better evidence."""
    now = msgspec.structs.replace(_open(uplink, at_s), upload_failure=None, slow_count=0)
    return _settle(now, at_s, at_s, debounce_s)


def upload_answered(uplink: Uplink, at_s: float, debounce_s: float) -> Uplink:
    """The drain heard from the cloud, but what failed before has not succeeded yet."""
    now = _open(uplink, at_s)
    return _settle(now, at_s, at_s, debounce_s)


def upload_failed(
    uplink: Uplink, cause: UplinkCause, at_s: float, debounce_s: float, *, answered: bool = True
) -> Uplink:
    """An attempt to upload failed. It stands, whatever probes say, until an upload succeeds or is no longer wanted.

    One that was not even `answered` speaks for offline at once; a probe may say more of the cause.
    """
    blocked = _blocked_by(uplink, cause) if answered else uplink.blocked or cause
    now = msgspec.structs.replace(uplink, upload_failure=cause, blocked=blocked)
    return _settle(now, at_s, at_s, debounce_s)


def upload_failure_lifted(uplink: Uplink, at_s: float, debounce_s: float) -> Uplink:
    """Nothing failed stands any more: the drain has nothing left to send."""
    return _settle(msgspec.structs.replace(uplink, upload_failure=None), at_s, at_s, debounce_s)


def passed_time(uplink: Uplink, at_s: float, debounce_s: float) -> Uplink:
    """Only time has passed: an offline that has lasted long enough becomes visible."""
    return _settle(uplink, at_s, at_s, debounce_s)


def _open(uplink: Uplink, at_s: float) -> Uplink:
    """Something got through."""
    return msgspec.structs.replace(uplink, exchanged_s=at_s, blocked=None, outcome=None, diagnosis=None)


def _blocked_by(uplink: Uplink, cause: UplinkCause) -> UplinkCause | None:
    """Whether anything gets through, after an upload failed for this cause."""
    if cause == "auth":
        return None  # the cloud itself refused: the way there works
    if cause == "cloud":
        return uplink.blocked and cause
    if cause == "link":
        return uplink.blocked or cause  # it only knows that nothing came back: what a probe found says more
    return cause


def _judge(uplink: Uplink) -> tuple[UplinkState, UplinkCause, Finding]:
    if uplink.blocked is not None:
        found = uplink.diagnosis
        return ("offline", uplink.blocked, "") if found is None else ("offline", found.cause, found.finding)
    return *_judge_open(uplink), ""


def _judge_open(uplink: Uplink) -> tuple[UplinkState, UplinkCause]:
    if uplink.upload_failure == "auth":
        return "degraded", "auth"
    if uplink.exchanged_s is None:
        return "offline", uplink.upload_failure or "none"
    if uplink.upload_failure is not None:
        return "degraded", uplink.upload_failure
    if uplink.slow_count >= SLOW_PROBES:
        return "degraded", "cloud_slow"
    return "online", "none"


def _settle(uplink: Uplink, since_s: float, at_s: float, debounce_s: float) -> Uplink:
    """The same evidence with `raw` and `shown` brought up to date; a new state dates from `since_s`."""
    state, cause, finding = _judge(uplink)
    raw = uplink.raw
    if (state, cause, finding) != (raw.state, raw.cause, raw.finding):
        lasting = state == raw.state == "offline"
        raw = Reading(state, cause, raw.since_s if lasting else since_s, finding)
    return msgspec.structs.replace(uplink, raw=raw, shown=_shown(uplink.shown, raw, at_s, debounce_s))


def _shown(shown: Reading, raw: Reading, at_s: float, debounce_s: float) -> Reading:
    if (raw.state, raw.cause, raw.finding) == (shown.state, shown.cause, shown.finding):
        return shown
    newly_offline = raw.state == "offline" and shown.state != "offline"
    return shown if newly_offline and at_s - raw.since_s < debounce_s else raw
