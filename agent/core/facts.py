"""What each part of the box knows about itself, as frozen values: the vocabulary between stages, the page and the CLI.

Instants are RFC 3339 UTC strings with milliseconds; counts are records; bytes are the events' own bytes.
"""

from typing import Literal

import msgspec

UplinkState = Literal["online", "degraded", "offline"]
UplinkCause = Literal[
    "none", "link", "gateway", "dns", "captive_portal", "tls", "clock", "firewall", "cloud", "cloud_slow", "auth"
]
Finding = Literal[
    "",
    "no_carrier",
    "no_address",
    "no_route",
    "gateway_silent",
    "provider",
    "unreachable",
    "lookup_failed",
    "captive_portal",
    "clock_wrong",
    "tls_failed",
    "blocked",
    "refused",
    "no_answer",
    "server_error",
    "not_health",
    "slow",
    "token_refused",
]
"""What exactly was found on the way to the cloud, finer than a cause."""
SyncState = Literal["idle", "syncing", "waiting", "held"]
DiskLevel = Literal["normal", "shed", "refuse"]
DeviceState = Literal["ready", "asleep", "background", "offline", "unresponsive", "unknown"]
VersionState = Literal["ok", "old", "unknown"]


class DeviceFacts(msgspec.Struct, frozen=True):
    """One device as the journal knows it; `stored` and `uploaded` are contiguous sequences of its newest epoch.

    `complete` is the highest n of that epoch of which each of 1..n came to this box: lost ones count in `stored` only.
    `lost_count` events were declared lost, of all epochs; `lost` are their latest ranges, (epoch, first, last).
    """

    device: str
    epoch: str | None
    stored: int | None
    uploaded: int | None
    gaps: tuple[tuple[int, int], ...]
    refused_count: int
    stored_count: int
    pending_count: int
    pending_bytes: int
    last_event_at: str | None
    complete: int | None = None
    lost_count: int = 0
    lost: tuple[tuple[str, int, int], ...] = ()


class PresenceFacts(msgspec.Struct, frozen=True):
    """One device as its own words and its connection show it; all of its texts are harmless to show.

    `said` is its last word, `state` what to make of it. `silent_s` is how long its open connection has brought nothing,
    `unanswered_s` how old a command is that it has not answered. `last` and `unsent` are its own counts of its events.
    """

    state: DeviceState = "unknown"
    said: Literal["ready", "asleep", "background", "offline"] | None = None
    connected: bool = False
    last_seen_at: str | None = None
    silent_s: int | None = None
    unanswered_s: int | None = None
    app: str | None = None
    version: str | None = None
    version_state: VersionState | None = None
    menu_version: str | None = None
    epoch: str | None = None
    last: int | None = None
    unsent: int | None = None


class JournalFacts(msgspec.Struct, frozen=True):
    """The journal at this instant. `last` and `cursor` are sequences of the present epoch."""

    epoch: str
    last: int
    cursor: int
    safe: int
    pending_count: int
    pending_bytes: int
    oldest_pending_at: str | None
    quarantined_count: int
    committing: bool
    writable: bool
    commits_count: int
    devices: tuple[DeviceFacts, ...]
    attentions_left_out: int = 0


class SweepFacts(msgspec.Struct, frozen=True):
    """The search for damage at this instant: where it is, and what it found since the agent's start.

    `structure` is the database file's own; `checked_count` are the records of this round, `position` the last of them.
    """

    state: Literal["starting", "structure", "checking", "resting"] = "starting"
    structure: Literal["unknown", "sound", "damaged"] = "unknown"
    position: int = 0
    checked_count: int = 0
    damaged_count: int = 0
    rounds_count: int = 0


class DrainFacts(msgspec.Struct, frozen=True):
    """The drain at this instant. `error_code` is the last failure's stable code while it lasts, else None.

    Exchanges that went well and attempts that failed are counted: instants may be told anew, counts tell them apart.
    """

    state: SyncState
    rate_per_s: float
    batch_records: int
    uploaded_count: int
    rejected_count: int
    last_success_at: str | None
    error_code: str | None
    error_text: str | None
    next_attempt_at: str | None
    exchanges_count: int = 0
    failures_count: int = 0


class UplinkFacts(msgspec.Struct, frozen=True):
    """The way to the cloud as evidence has it, and since when; `finding` is finer than the cause, or empty
    (`core/diagnosis.py`)."""

    state: UplinkState
    cause: UplinkCause
    since: str
    finding: Finding = ""


class UplinkChange(msgspec.Struct, frozen=True):
    """One change of the raw state: `at` in the time of people, as well as it is known."""

    at: str
    state: UplinkState
    cause: UplinkCause
    finding: Finding = ""


class DiskFacts(msgspec.Struct, frozen=True):
    """Room on the disk as far as it matters here; None is what nobody can tell.

    `journal_bytes` of `journal_bytes_max` hold something; `hours_until_full` is at the rate of the last hour;
    `wear_used_percent` is what the device says of its own life, `shed_count` the box's own records that were left out.
    """

    level: DiskLevel = "normal"
    journal_bytes: int = 0
    journal_bytes_max: int = 0
    reserve_kept: bool = False
    hours_until_full: float | None = None
    wear_used_percent: int | None = None
    wear_days_left: int | None = None
    shed_count: int = 0


class Condition(msgspec.Struct, frozen=True):
    """Something that holds, by name; `attention` when a person must act. `id` is stable while it holds.

    `lasting` tells of something that has happened: only a person ends it. A state ends by itself.
    """

    id: str
    severity: Literal["info", "warning", "critical"]
    attention: bool
    title: str
    text: str
    hint: str
    since: str
    lasting: bool = False
