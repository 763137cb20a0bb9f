"""journal, drain, uplink, conditions → [status] → tills, page, command line, metrics. One picture, joined from facts.

Pure: shapes and the rules that fill them. Holds no payloads, and never decides anything about records.
"""

import math
from collections.abc import Mapping
from datetime import tzinfo
from typing import Final

import msgspec

from agent.core.diagnosis import CloudPart, UplinkPart, parts
from agent.core.facts import (
    Condition,
    DeviceFacts,
    DeviceState,
    DiskFacts,
    DiskLevel,
    DrainFacts,
    Finding,
    JournalFacts,
    PresenceFacts,
    SweepFacts,
    SyncState,
    UplinkCause,
    UplinkFacts,
    UplinkState,
    VersionState,
)
from agent.core.instants import to_text
from agent.core.sentence import sentence

SOCKET_NAME: Final = "nightsafe.sock"
"""The Unix socket's file in the state directory, where the agent answers the command line."""
ETA_S_MAX: Final = 7 * 86_400
"""A longer estimate says nothing to anybody: then there is none."""


class SyncStatus(msgspec.Struct, frozen=True):
    """How far the journal is up. `progress` runs from 0 to 1 over the backlog that was there when this drain began."""

    state: SyncState
    pending: int
    pending_bytes: int
    oldest_at: str | None
    rate_per_s: float
    eta_s: int | None
    progress: float


class VenueStatus(msgspec.Struct, frozen=True):
    """The retained `pos/v1/venue/status`, field by field."""

    venue: str
    state: UplinkState
    cause: UplinkCause
    since: str
    sentence: str
    sync: SyncStatus
    last_sync_at: str | None
    safe_to_power_off: bool
    time: str


class DeviceStatus(msgspec.Struct, frozen=True):
    """One device's share. Sequences are unpadded strings; `eta_s` is the latest at which all of its records are up.

    `stored` is the receipt's: each of 1..stored came, was refused, or is named as lost. `complete` stops before the
    first that is lost: each of 1..complete is on this box. `lost` are the latest lost ranges, (epoch, from, to).

    `state` is how the device is; `connected` to `said_last` are as in `facts.PresenceFacts`: what it says of itself.
    `pending` are records that the cloud lacks, `unsent` events that this box lacks, by the device's own count.
    """

    device: str
    epoch: str | None
    stored: str | None
    uploaded: str | None
    gaps: tuple[tuple[str, str], ...]
    refused: int
    events: int
    pending: int
    pending_bytes: int
    eta_s: int | None
    last_event_at: str | None
    complete: str | None = None
    lost_events: int = 0
    lost: tuple[tuple[str, str, str], ...] = ()
    state: DeviceState = "unknown"
    connected: bool = False
    said: str | None = None
    last_seen_at: str | None = None
    silent_s: int | None = None
    unanswered_s: int | None = None
    app: str | None = None
    version: str | None = None
    version_state: VersionState | None = None
    menu_version: str | None = None
    unsent: int | None = None
    said_epoch: str | None = None
    said_last: str | None = None


class JournalStatus(msgspec.Struct, frozen=True):
    """The journal's own figures; sequences are unpadded strings. `attentions_left_out` were ended by the box itself, in
    all its time, because too many stood at once."""

    epoch: str
    last: str
    cursor: str
    safe: str
    quarantined: int
    writable: bool
    commits: int
    attentions_left_out: int = 0


class DrainStatus(msgspec.Struct, frozen=True):
    """The drain's own figures; `error_code` and `error_text` stand while the last failure lasts."""

    batch_records: int
    uploaded: int
    rejected: int
    error_code: str | None
    error_text: str | None
    next_attempt_at: str | None


class DiskStatus(msgspec.Struct, frozen=True):
    """The file system of the state directory, in bytes; `free_bytes` is what the agent may use. The rest as in
    DiskFacts."""

    total_bytes: int
    free_bytes: int
    level: DiskLevel = "normal"
    journal_bytes: int = 0
    journal_bytes_max: int = 0
    reserve_kept: bool = False
    hours_until_full: float | None = None
    wear_used_percent: int | None = None
    wear_days_left: int | None = None
    shed_count: int = 0


class ClockStatus(msgspec.Struct, frozen=True):
    """How good the box's clock is: whether the kernel calls it synchronised now, and whether it ever did in this boot,
    so that what happened in it can be placed in true time."""

    synced: bool
    offset_known: bool
    boot: str


class UplinkStatus(msgspec.Struct, frozen=True):
    """The way to the internet, for itself; `finding` says what exactly is wrong on the way to the cloud."""

    state: UplinkPart
    cause: UplinkCause
    since: str
    finding: Finding = ""


class CloudStatus(msgspec.Struct, frozen=True):
    """The cloud, for itself: unknown while no way leads there."""

    state: CloudPart


class Details(msgspec.Struct, frozen=True):
    """What `/api/v1/status` says beyond the venue's status.

    `timezone` is a tz database name, `gate` holds counters by name, `uptime_s` is the agent's,
    `business_date` is today's by the venue's cut-off, `sweep` is the search for damage, `uplink` and `cloud` are the
    two that the venue's one state joins.
    """

    name: str
    location: str
    timezone: str
    devices: tuple[DeviceStatus, ...]
    conditions: tuple[Condition, ...]
    disk: DiskStatus
    versions: Mapping[str, str]
    journal: JournalStatus
    drain: DrainStatus
    gate: Mapping[str, int]
    uptime_s: int
    clock: ClockStatus
    business_date: str
    sweep: SweepFacts | None = None
    uplink: UplinkStatus | None = None
    cloud: CloudStatus | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """The one read model: everything that people and machines are shown comes out of one of these."""

    status: VenueStatus
    details: Details


def to_json(snapshot: Snapshot) -> bytes:
    """The body of `/api/v1/status`: the venue's status with the details beside its fields."""
    return msgspec.json.encode(msgspec.to_builtins(snapshot.status) | msgspec.to_builtins(snapshot.details))


def from_json(body: bytes) -> Snapshot:
    """The other way, for the command line. msgspec.DecodeError when it is anything else."""
    return Snapshot(status=msgspec.json.decode(body, type=VenueStatus), details=msgspec.json.decode(body, type=Details))


class Progress(msgspec.Struct, frozen=True):
    """One drain, from its begin to nothing pending: sequences after `begin` up to `end` were waiting when it began."""

    epoch: str = ""
    begin: int = 0
    end: int = 0
    moving: bool = False
    share: float = 1.0


def progressed(progress: Progress, journal: JournalFacts, state: SyncState) -> Progress:
    """The drain's progress after another look at the journal. Within one drain it never goes back.

    A pause (waiting, held) does not end a drain; a new one begins where sending resumes after the former was done, or
    resumes with more than the former began with.
    """
    if journal.pending_count == 0:
        return Progress(epoch=journal.epoch)
    moving = state == "syncing"
    fresh = progress.epoch != journal.epoch or progress.end == 0
    if moving and not progress.moving:
        fresh = fresh or journal.cursor >= progress.end or journal.pending_count > progress.end - progress.begin
    if fresh:
        return Progress(journal.epoch, journal.cursor, journal.last, moving, 0.0)
    share = (journal.cursor - progress.begin) / max(1, progress.end - progress.begin)
    return msgspec.structs.replace(progress, moving=moving, share=max(progress.share, min(1.0, share)))


def eta_s(journal: JournalFacts, drain: DrainFacts) -> int | None:
    """Whole seconds until nothing is pending at the measured rate; None when nothing moves or nobody can tell."""
    if journal.pending_count == 0 or drain.state != "syncing" or drain.rate_per_s <= 0:
        return None
    left_s = math.ceil(journal.pending_count / drain.rate_per_s)
    return left_s if left_s <= ETA_S_MAX else None


def safe_to_power_off(journal: JournalFacts) -> bool:
    """What devices were told is always on disk; this is False while a commit runs, or while none can succeed."""
    return journal.writable and not journal.committing


def venue_status(
    journal: JournalFacts,
    drain: DrainFacts,
    uplink: UplinkFacts,
    conditions: tuple[Condition, ...],
    progress: Progress,
    *,
    venue: str,
    zone: tzinfo,
    now_ms: int,
) -> VenueStatus:
    """The status of the venue at `now_ms`, the wall clock in milliseconds since 1970."""
    left_s = eta_s(journal, drain)
    return VenueStatus(
        venue=venue,
        state=uplink.state,
        cause=uplink.cause,
        since=uplink.since,
        sentence=sentence(journal, drain, uplink, conditions, left_s, zone, now_ms),
        sync=SyncStatus(
            state=drain.state,
            pending=journal.pending_count,
            pending_bytes=journal.pending_bytes,
            oldest_at=journal.oldest_pending_at,
            rate_per_s=round(drain.rate_per_s, 1) if drain.state == "syncing" else 0.0,
            eta_s=left_s,
            progress=math.floor(progress.share * 1000) / 1000,
        ),
        last_sync_at=drain.last_success_at,
        safe_to_power_off=safe_to_power_off(journal),
        time=to_text(now_ms),
    )


def device_status(facts: DeviceFacts, left_s: int | None, presence: PresenceFacts | None = None) -> DeviceStatus:
    """One device; `left_s` is the whole journal's estimate, which bounds each device's because nothing overtakes."""
    here = presence if presence is not None else PresenceFacts()
    seen = [at for at in (here.last_seen_at, facts.last_event_at) if at is not None]
    return DeviceStatus(
        device=facts.device,
        epoch=facts.epoch,
        stored=_unpadded(facts.stored),
        uploaded=_unpadded(facts.uploaded),
        gaps=tuple((str(first), str(last)) for first, last in facts.gaps),
        refused=facts.refused_count,
        events=facts.stored_count,
        pending=facts.pending_count,
        pending_bytes=facts.pending_bytes,
        eta_s=left_s if facts.pending_count else None,
        last_event_at=facts.last_event_at,
        complete=_unpadded(facts.complete),
        lost_events=facts.lost_count,
        lost=tuple((epoch, str(first), str(last)) for epoch, first, last in facts.lost),
        state=here.state,
        connected=here.connected,
        said=here.said,
        last_seen_at=max(seen, default=None),
        silent_s=here.silent_s,
        unanswered_s=here.unanswered_s,
        app=here.app,
        version=here.version,
        version_state=here.version_state,
        menu_version=here.menu_version,
        unsent=here.unsent,
        said_epoch=here.epoch,
        said_last=_unpadded(here.last),
    )


def unheard(device: str) -> DeviceFacts:
    """A device of which the journal has nothing."""
    return DeviceFacts(device, None, None, None, (), 0, 0, 0, 0, None)


def journal_status(facts: JournalFacts) -> JournalStatus:
    """The journal's own figures as they are shown."""
    return JournalStatus(
        epoch=facts.epoch,
        last=str(facts.last),
        cursor=str(facts.cursor),
        safe=str(facts.safe),
        quarantined=facts.quarantined_count,
        writable=facts.writable,
        commits=facts.commits_count,
        attentions_left_out=facts.attentions_left_out,
    )


def disk_status(total_bytes: int, free_bytes: int, facts: DiskFacts) -> DiskStatus:
    """The disk as it is shown."""
    return DiskStatus(total_bytes, free_bytes, **msgspec.structs.asdict(facts))


def drain_status(facts: DrainFacts) -> DrainStatus:
    """The drain's own figures as they are shown."""
    return DrainStatus(
        batch_records=facts.batch_records,
        uploaded=facts.uploaded_count,
        rejected=facts.rejected_count,
        error_code=facts.error_code,
        error_text=facts.error_text,
        next_attempt_at=facts.next_attempt_at,
    )


def uplink_status(facts: UplinkFacts) -> tuple[UplinkStatus, CloudStatus]:
    """The way and the cloud, each for itself."""
    way, cloud = parts(facts.state, facts.cause)
    return UplinkStatus(way, facts.cause, facts.since, facts.finding), CloudStatus(cloud)


def _unpadded(sequence: int | None) -> str | None:
    return None if sequence is None else str(sequence)
