"""The status says what holds, since when and what to do, in one plain sentence, and its figures never flatter."""

from typing import get_args
from zoneinfo import ZoneInfo

import msgspec
import pytest

from agent.core import status
from agent.core.facts import Condition, DeviceFacts, DrainFacts, JournalFacts, UplinkCause, UplinkFacts
from agent.core.instants import local_time, to_ms, to_text
from agent.core.sentence import duration, natural
from agent.core.status import Progress

LONDON = ZoneInfo("Europe/London")
NOW_MS = to_ms("2026-06-22T20:00:00.000Z")

TILL = DeviceFacts(
    device="till-1",
    epoch="0199bfff-0000-7000-8000-000000000000",
    stored=42,
    uploaded=5,
    gaps=((17, 19),),
    refused_count=1,
    stored_count=43,
    pending_count=37,
    pending_bytes=20_480,
    last_event_at="2026-06-22T19:59:59.000Z",
)
JOURNAL = JournalFacts(
    epoch="0199c0de-0000-7000-8000-000000000000",
    last=100,
    cursor=100,
    safe=90,
    pending_count=0,
    pending_bytes=0,
    oldest_pending_at=None,
    quarantined_count=0,
    committing=False,
    writable=True,
    commits_count=50,
    devices=(TILL,),
)
DRAIN = DrainFacts(
    state="idle",
    rate_per_s=0.0,
    batch_records=50,
    uploaded_count=100,
    rejected_count=0,
    last_success_at="2026-06-22T19:59:00.000Z",
    error_code=None,
    error_text=None,
    next_attempt_at=None,
)
ONLINE = UplinkFacts(state="online", cause="none", since="2026-06-22T17:00:00.000Z")
OFFLINE = UplinkFacts(state="offline", cause="link", since="2026-06-22T18:02:30.000Z")
FULL = Condition(
    id="disk_full",
    severity="critical",
    attention=True,
    title="The disk is full",
    text="Nothing more can be stored.",
    hint="Delete files that are not Nightsafe's.",
    since="2026-06-22T19:00:00.000Z",
)
GAP = Condition(
    id="gap:till-1",
    severity="warning",
    attention=True,
    title="Events of till-1 are missing",
    text="17 to 19",
    hint="",
    since="2026-06-22T19:00:00.000Z",
)


def pending(count: int, **changes: object) -> JournalFacts:
    return msgspec.structs.replace(
        JOURNAL, pending_count=count, cursor=100 - count, pending_bytes=count * 500, **changes
    )


def drain(**changes: object) -> DrainFacts:
    return msgspec.structs.replace(DRAIN, **changes)


def uplink(state: str, cause: str) -> UplinkFacts:
    return msgspec.structs.replace(OFFLINE, state=state, cause=cause)


def built(
    journal: JournalFacts = JOURNAL,
    drain: DrainFacts = DRAIN,
    uplink: UplinkFacts = ONLINE,
    conditions: tuple[Condition, ...] = (),
    progress: Progress | None = None,
) -> status.VenueStatus:
    return status.venue_status(
        journal, drain, uplink, conditions, progress or Progress(), venue="demo", zone=LONDON, now_ms=NOW_MS
    )


@pytest.mark.parametrize(
    ("status_now", "sentence"),
    [
        (built(), "Online. Everything is in the cloud."),
        (
            built(pending(37), drain(state="syncing", rate_per_s=0.2)),
            "Online. Sending 37 records to the cloud, about 3 minutes left.",
        ),
        (built(pending(1), drain(state="syncing")), "Online. Sending 1 record to the cloud."),
        (
            built(pending(37), drain(state="waiting", next_attempt_at="2026-06-22T20:05:10.000Z")),
            "Online. 37 records are safe on this box; sending goes on at 21:05.",
        ),
        (
            built(pending(1), drain(state="waiting")),
            "Online. 1 record is safe on this box; sending goes on soon.",
        ),
        (
            built(uplink=uplink("offline", "none")),
            "The cloud has not been reached yet. Keep selling: new sales are kept safe on this box.",
        ),
        (
            built(pending(37), drain(state="waiting"), OFFLINE),
            "Offline since 19:02: no connection to the cloud gets through. Keep selling: 37 records are safe on this "
            "box. Check the router and its cables.",
        ),
        (
            built(pending(1), drain(state="waiting"), uplink("offline", "cloud")),
            "Offline since 19:02: the cloud does not answer as it should. Keep selling: 1 record is safe on this box. "
            "It resumes by itself.",
        ),
        (
            built(pending(1_204), drain(state="waiting"), uplink("degraded", "auth")),
            "The cloud refuses this box's uploads since 19:02. Keep selling: 1,204 records are safe on this box. "
            "Tell support: the box needs a new token.",
        ),
        (
            built(pending(2), drain(state="waiting"), uplink("degraded", "link")),
            "The cloud answers, but uploads fail since 19:02. Keep selling: 2 records are safe on this box. "
            "It tries again by itself.",
        ),
        (
            built(uplink=uplink("degraded", "cloud_slow")),
            "The cloud answers slowly since 19:02. Keep selling: new sales are kept safe on this box.",
        ),
        (
            built(pending(37), drain(state="held", error_code="fenced", error_text="Another box uses this journal.")),
            "Uploading is stopped: Another box uses this journal. Keep selling: 37 records are safe on this box. "
            "Tell support.",
        ),
        (
            built(msgspec.structs.replace(JOURNAL, writable=False), conditions=(GAP, FULL)),
            "Sales cannot be recorded on this box right now. The disk is full. The tills keep them and try again. "
            "Delete files that are not Nightsafe's.",
        ),
        (
            built(msgspec.structs.replace(JOURNAL, writable=False)),
            "Sales cannot be recorded on this box right now. The tills keep them and try again. Tell support.",
        ),
        (
            built(conditions=(GAP, FULL)),
            "Online. Everything is in the cloud. Needs attention: Events of till-1 are missing (and 1 more).",
        ),
    ],
)
def test_the_sentence_says_what_since_when_and_what_to_do(status_now: status.VenueStatus, sentence: str) -> None:
    assert status_now.sentence == sentence


@pytest.mark.parametrize("state", ["offline", "degraded"])
@pytest.mark.parametrize("cause", get_args(UplinkCause))
def test_every_cause_has_its_words(state: str, cause: str) -> None:
    words = built(uplink=uplink(state, cause)).sentence
    assert "Keep selling" in words
    assert cause == "none" or "since 19:02" in words


def test_A1_8_a_cloud_that_fails_is_never_worded_as_a_failed_internet_connection() -> None:
    words = built(uplink=uplink("offline", "cloud")).sentence
    assert "internet" not in words.lower()
    assert "router" not in words.lower()


def test_an_instant_of_another_day_names_the_day() -> None:
    assert local_time("2026-06-21T18:02:00.000Z", LONDON, NOW_MS) == "21 Jun 19:02"
    assert to_text(to_ms("2026-06-21T18:02:00.007Z")) == "2026-06-21T18:02:00.007Z"


def test_durations_are_said_as_people_say_them() -> None:
    said = [duration(seconds) for seconds in (0, 59, 60, 89 * 60, 90 * 60, 3 * 3600, 50 * 3600)]
    assert said == [
        "less than a minute",
        "less than a minute",
        "about 1 minute",
        "about 89 minutes",
        "about 2 hours",
        "about 3 hours",
        "about 2 days",
    ]


def test_the_status_on_the_wire_has_the_contracts_fields_and_no_others() -> None:
    body = msgspec.to_builtins(built())
    assert list(body) == [
        "venue",
        "state",
        "cause",
        "since",
        "sentence",
        "sync",
        "last_sync_at",
        "safe_to_power_off",
        "time",
    ]
    assert list(body["sync"]) == [
        "state",
        "pending",
        "pending_bytes",
        "oldest_at",
        "rate_per_s",
        "eta_s",
        "progress",
    ]


def test_A2_5_powering_off_is_safe_except_while_a_commit_runs_or_none_can_succeed() -> None:
    assert built(pending(37), drain(state="waiting"), OFFLINE).safe_to_power_off
    assert not built(msgspec.structs.replace(JOURNAL, committing=True)).safe_to_power_off
    assert not built(msgspec.structs.replace(JOURNAL, writable=False)).safe_to_power_off


def test_A2_1_the_estimate_comes_from_the_measured_rate_and_only_while_something_moves() -> None:
    assert built(pending(90), drain(state="syncing", rate_per_s=20.0)).sync.eta_s == 5
    assert built(pending(90), drain(state="syncing")).sync.eta_s is None
    assert built(pending(90), drain(state="syncing", rate_per_s=0.0001)).sync.eta_s is None
    waiting = built(pending(90), drain(state="waiting", rate_per_s=20.0)).sync
    assert (waiting.eta_s, waiting.rate_per_s) == (None, 0.0)


def test_A2_1_every_device_has_its_own_figures() -> None:
    shown = status.device_status(TILL, 7)
    assert (shown.pending, shown.pending_bytes, shown.eta_s) == (37, 20_480, 7)
    assert (shown.stored, shown.uploaded, shown.gaps) == ("42", "5", (("17", "19"),))
    done = msgspec.structs.replace(TILL, pending_count=0, epoch=None, stored=None, uploaded=None)
    assert status.device_status(done, 7).eta_s is None
    assert status.device_status(done, 7).stored is None


def looked(progress: Progress, last: int, cursor: int, state: str, epoch: str = "a") -> Progress:
    facts = msgspec.structs.replace(JOURNAL, epoch=epoch, last=last, cursor=cursor, pending_count=last - cursor)
    return status.progressed(progress, facts, state)  # type: ignore[arg-type]


def test_progress_is_the_share_of_the_backlog_that_was_there_when_the_drain_began() -> None:
    progress = looked(Progress(), 1, 0, "waiting")
    progress = looked(progress, 1000, 0, "waiting")
    assert progress.share == 0.0
    progress = looked(progress, 1000, 0, "syncing")
    progress = looked(progress, 1500, 250, "syncing")
    assert progress.share == 0.25
    progress = looked(progress, 2000, 1000, "syncing")
    assert progress.share == 1.0
    assert looked(progress, 2000, 2000, "idle").share == 1.0


def test_progress_never_goes_back_within_a_drain_that_is_cut_again_and_again() -> None:
    progress, shares = Progress(), []
    for cursor in range(0, 1000, 10):
        for state in ("syncing", "waiting"):
            progress = looked(progress, 1000 + cursor // 10, cursor, state)
            shares.append(progress.share)
    assert shares == sorted(shares)
    assert shares[-1] > 0.98


def test_a_drain_that_resumes_with_a_larger_backlog_or_after_it_was_done_is_a_new_one() -> None:
    half = looked(looked(Progress(), 100, 0, "syncing"), 100, 50, "syncing")
    assert looked(looked(half, 900, 50, "waiting"), 900, 50, "syncing").share == 0.0
    done = looked(half, 110, 100, "syncing")
    assert done.share == 1.0
    assert looked(looked(done, 120, 100, "waiting"), 120, 100, "syncing").share == 0.0
    assert looked(half, 60, 10, "syncing", epoch="b").share == 0.0


def test_what_the_http_face_says_can_be_read_back() -> None:
    details = status.Details(
        name="Demo Bar",
        location="demo-1",
        timezone="Europe/London",
        devices=(status.device_status(TILL, None),),
        conditions=(GAP,),
        disk=status.DiskStatus(total_bytes=10, free_bytes=5),
        versions={"nightsafe": "1"},
        journal=status.journal_status(JOURNAL),
        drain=status.drain_status(DRAIN),
        gate={"connections": 3},
        uptime_s=17,
        clock=status.ClockStatus(synced=True, offset_known=True, boot="b"),
        business_date="2026-06-22",
    )
    snapshot = status.Snapshot(status=built(), details=details)
    assert status.from_json(status.to_json(snapshot)) == snapshot


def test_devices_are_sorted_as_people_count() -> None:
    names = ["till-10", "till-2", "bar", "1-kiosk", "till", "till-2-b"]
    assert sorted(names, key=natural) == ["1-kiosk", "bar", "till", "till-2", "till-2-b", "till-10"]
