"""journal → [drain: how it fares] → status. What the drain says of itself, and of its troubles.

Keeps figures only; decides nothing. A trouble is logged once when it begins and once when it ends.
"""

import structlog

from agent.core.answers import BatchAnswer
from agent.core.errors import NightsafeError
from agent.core.facts import DrainFacts, SyncState
from agent.core.instants import to_text
from agent.drain.ports import Clock, Telling

log = structlog.get_logger()

RATE_WINDOW_S = 5.0
"""Time over which the rate is averaged."""
_COPY_HINT = (
    "If this box's disk or card was restored or exchanged, nothing is to be done. If a copy of it may run elsewhere, "
    "find it and switch it off. Tell support either way."
)
FORKS = {
    "restored": (
        "This box's data were restored or damaged",
        "The end of this box's records was missing when it started; record {common} is the last that it shares with "
        "the cloud, which has {beyond} later ones.",
        _COPY_HINT,
    ),
    "beyond": (
        "An older copy of this box's data was put back",
        "The cloud has {beyond} records of this box that the box itself does not know any more; record {common} is the "
        "last that both have.",
        _COPY_HINT,
    ),
    "parted": (
        "This box's records and the cloud's have parted",
        "Behind record {common} the cloud has {beyond} records under this box's identity that are not this box's.",
        _COPY_HINT,
    ),
    "conflict": (
        "The cloud has other records than this box",
        "The cloud refused this box's records behind record {common} because it has others in their place.",
        _COPY_HINT,
    ),
    "closed": (
        "The cloud has closed this box's epoch",
        "The cloud's operator closed the epoch behind record {common}.",
        "Nothing is to be done at the venue; support may want to know.",
    ),
    "lost": (
        "The cloud has lost the end of an epoch",
        "The cloud lacks the end of what this box had uploaded; record {common} is the last that both have. The rest "
        "goes up again.",
        "Tell the cloud's operator: it may have been restored from a backup. Nothing is lost here.",
    ),
    "adopted": (
        "This box uploads again",
        "A person decided that this box goes on by itself; record {common} is the last that it shares with the cloud's "
        "old epoch, which has {beyond} more.",
        "Make sure that the other copy stays switched off.",
    ),
}
"""What people are told when uploading goes on in a new epoch, by cause: title, words, what to do."""
CONDITIONS = ("drain_held", "cloud_auth", "record_stuck")
"""What does not hold any more once something goes through."""


class Progress:
    """State, counts, rate, and the failure that stands."""

    def __init__(self, clock: Clock, telling: Telling) -> None:
        self._clock = clock
        self._telling = telling
        self.state: SyncState = "idle"
        self.error: NightsafeError | None = None
        self._uploaded_count = 0
        self._rejected_count = 0
        self._exchanges_count = 0
        self._failures_count = 0
        self._last_success_s: float | None = None
        self._next_attempt_s: float | None = None
        self._points: list[tuple[float, int]] = []

    def facts(self, batch_records: int) -> DrainFacts:
        """The drain at this instant."""
        return DrainFacts(
            state=self.state,
            rate_per_s=self._rate_per_s(),
            batch_records=batch_records,
            uploaded_count=self._uploaded_count,
            rejected_count=self._rejected_count,
            last_success_at=self._told(self._last_success_s),
            error_code=self.error.code if self.error else None,
            error_text=self.error.text if self.error else None,
            next_attempt_at=self._told(self._next_attempt_s),
            exchanges_count=self._exchanges_count,
            failures_count=self._failures_count,
        )

    def _told(self, at_s: float | None) -> str | None:
        """An instant of boottime as the wall clock is known now."""
        return to_text(self._clock.wall_ms_at(at_s)) if at_s is not None else None

    def exchanged(self) -> None:
        """The cloud has answered well."""
        self._exchanges_count += 1
        self._last_success_s = self._clock.boottime_s()

    def uploaded(self, count: int) -> None:
        """The cloud has so many records more."""
        now_s = self._clock.boottime_s()
        self._points = [point for point in self._points if point[0] > now_s - RATE_WINDOW_S]
        self._points.append((now_s, count))
        self._uploaded_count += count
        self.exchanged()

    def rejected(self, answer: BatchAnswer) -> None:
        """The cloud set records aside: their sequences are used up, and people are told."""
        self._rejected_count += len(answer.rejected)
        for one in answer.rejected:
            log.warning("record_rejected", sequence=one.sequence, type=one.kind, detail=one.detail)
        first = answer.rejected[0]
        self._telling.happened(
            "records_rejected",
            "warning",
            "The cloud has set records aside",
            f"{self._rejected_count} so far; of the last batch record {first.sequence}: {first.detail or first.kind}.",
            "They wait in `nightsafe queue quarantine list`: send support what it shows, then dismiss each. Everything "
            "else went on.",
        )

    def rewound(self, next_: int) -> None:
        """The cloud lacks records that it had confirmed; they are sent again, and people are told."""
        log.warning("cloud_rewound", next=next_)
        self._telling.happened(
            "cloud_rewound",
            "warning",
            "The cloud had lost records",
            f"The cloud asked for record {next_} again, though it had confirmed later ones. They are sent again.",
            "Tell the cloud's operator: it may have been restored from a backup. Nothing is lost here.",
        )

    def forked(self, why: str, common: int, beyond: int) -> None:
        """Uploading goes on under a new epoch; people are told why, in words."""
        title, text, hint = FORKS.get(why, FORKS["parted"])
        text = text.format(common=common, beyond=beyond)
        text += " Uploading goes on in a new epoch: nothing was overwritten, and every record goes up once."
        self._telling.happened("forked", "warning", title, text, hint)

    def failed(self, state: SyncState, error: NightsafeError, pause_s: float) -> None:
        """An attempt failed; the next one comes in `pause_s` seconds."""
        new = self.error is None or self.error.code != error.code
        tell = log.warning if new else log.debug
        tell("drain_failed", code=error.code, reason=error.text, again_in_s=round(pause_s, 3))
        self.state = state
        self.error = error
        self._failures_count += 1
        self._next_attempt_s = self._clock.boottime_s() + pause_s

    def recovered(self) -> None:
        """Something went through, or nothing is left to send: no failure stands any more."""
        if self.error is None:
            return
        log.info("drain_recovered", after=self.error.code)
        for condition in CONDITIONS:
            self._telling.lift(condition)
        self.error = None
        self._next_attempt_s = None

    def _rate_per_s(self) -> float:
        now_s = self._clock.boottime_s()
        recent = [point for point in self._points if point[0] > now_s - RATE_WINDOW_S]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(now_s - recent[0][0], 1.0)
