"""Notices: one a condition, the worst first, the same while it holds, and silent once somebody has muted it."""

import msgspec

from agent.core.facts import Condition, UplinkFacts
from agent.core.notices import NOTICES_MAX, Mutes, notices
from agent.core.status import Snapshot
from tests.integration.box import Box

SINCE = "2026-11-22T10:10:00.000Z"


def snapshot(*conditions: Condition, uplink: UplinkFacts | None = None, pending: int = 0) -> Snapshot:
    box = Box()
    if uplink is not None:
        box.uplink = uplink
    found = box.snapshot()
    sync = msgspec.structs.replace(found.status.sync, pending=pending)
    return Snapshot(
        msgspec.structs.replace(found.status, sync=sync, sentence=f"{pending} records are safe on this box."),
        msgspec.structs.replace(found.details, conditions=conditions),
    )


def condition(id: str, severity: str = "warning", *, attention: bool = True, since: str = SINCE) -> Condition:
    return Condition(id, severity, attention, f"Title of {id}", "Text.", "Hint.", since)  # type: ignore[arg-type]


OFFLINE = UplinkFacts("offline", "gateway", SINCE, "gateway_silent")


def test_A1_11_an_offline_is_one_notice_that_stays_the_same_whatever_is_sold() -> None:
    told = [notices(snapshot(uplink=OFFLINE, pending=count), "") for count in (0, 1, 50)]
    assert told[0] == told[1] == told[2]
    (one,) = told[0].notices
    assert (one.id, one.since, one.min_version) == ("offline", SINCE, None)
    assert one.text.startswith("The router does not answer. Keep selling")


def test_nothing_is_told_while_all_is_well_or_nobody_has_to_act() -> None:
    assert notices(snapshot(), "").notices == ()
    assert notices(snapshot(condition("note", attention=False)), "").notices == ()


def test_the_worst_comes_first_then_the_oldest_and_not_more_than_people_read() -> None:
    many = [condition(f"c{number:02}", since=f"2026-11-22T10:{number:02}:00.000Z") for number in range(30)]
    told = notices(snapshot(*many, condition("grave", "critical")), "").notices
    assert len(told) == NOTICES_MAX
    assert [one.id for one in told[:3]] == ["grave", "c00", "c01"]


def test_A5_5_plain_notices_are_for_every_version_and_the_others_name_the_oldest_that_shows_them() -> None:
    told = notices(snapshot(condition("disk_full"), condition("sequence_reused:till-1"), uplink=OFFLINE), "1.14.10")
    assert {one.id: one.min_version for one in told.notices} == {
        "disk_full": None, "offline": None, "sequence_reused:till-1": "1.14.10",
    }  # fmt: skip


def test_A1_11_a_muted_notice_stays_away_until_its_condition_begins_anew() -> None:
    mutes, everything = Mutes(), notices(snapshot(condition("one"), condition("two")), "")
    assert mutes.mute("one", everything)
    assert mutes.of(everything) == {"one"}
    assert [one.id for one in notices(snapshot(condition("one"), condition("two")), "", {"one"}).notices] == ["two"]
    again = notices(snapshot(condition("one", since="2026-11-22T11:00:00.000Z")), "")
    assert mutes.of(again) == frozenset()


def test_what_keeps_sales_from_being_stored_cannot_be_muted_nor_what_is_not_told() -> None:
    mutes, everything = Mutes(), notices(snapshot(condition("grave", "critical")), "")
    assert not mutes.mute("grave", everything)
    assert not mutes.mute("unknown", everything)
