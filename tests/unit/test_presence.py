"""What is made of a device's words, its connection and its version."""

import json
from typing import Any

import msgspec
import pytest

from agent.core.instants import to_ms
from agent.core.presence import (
    STATE_BYTES_MAX,
    Line,
    Said,
    old_versions_text,
    presence_words,
    said_in,
    sequence_said,
    state_words,
    verdict,
    version_order,
    version_state,
)
from agent.core.sentence import ago, lasted
from agent.core.status import DeviceStatus, device_status, unheard

LIMIT_S = 300.0
HERE = Line(silent_s=3.0, keep_alive_s=60.0)


def said(before: Said | None = None, **state: Any) -> Said | None:
    return said_in(json.dumps({"state": "ready"} | state).encode(), before)


def device(**fields: Any) -> DeviceStatus:
    return msgspec.structs.replace(device_status(unheard("till-2"), None), **fields)


# The verdict ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "line", "joined", "told"),
    [
        ("ready", HERE, True, "ready"),
        ("asleep", HERE, True, "asleep"),
        ("background", HERE, True, "background"),
        ("offline", HERE, True, "unknown"),
        (None, HERE, True, "unknown"),
        ("ready", None, True, "offline"),
        ("ready", None, False, "offline"),
        ("offline", None, False, "offline"),
        ("asleep", None, True, "asleep"),
        ("background", None, True, "background"),
        (None, None, True, "offline"),
        (None, None, False, "unknown"),
    ],
)
def test_a_word_holds_only_as_far_as_the_connection_bears_it_out(
    word: Any, line: Line | None, joined: bool, told: str
) -> None:
    assert verdict(word, line, joined, 0.0, LIMIT_S) == told


@pytest.mark.parametrize(
    ("silent_s", "keep_alive_s", "unanswered_s", "told"),
    [
        (300.0, 60.0, 0.0, "ready"),
        (300.1, 60.0, 0.0, "unresponsive"),
        (300.1, 0.0, 0.0, "unresponsive"),
        (599.0, 600.0, 0.0, "ready"),
        (601.0, 600.0, 0.0, "unresponsive"),
        (10.0, 60.0, 300.0, "ready"),
        (10.0, 60.0, 300.1, "unresponsive"),
    ],
)
def test_A6_2_ready_and_silent_or_not_answering_for_too_long_is_unresponsive(
    silent_s: float, keep_alive_s: float, unanswered_s: float, told: str
) -> None:
    assert verdict("ready", Line(silent_s, keep_alive_s), True, unanswered_s, LIMIT_S) == told


@pytest.mark.parametrize("word", ["asleep", "background"])
def test_who_said_it_sleeps_is_never_unresponsive(word: Any) -> None:
    assert verdict(word, Line(9e9, 60.0), True, 9e9, LIMIT_S) == word


@pytest.mark.parametrize("word", ["offline", None])
def test_who_said_nothing_is_unresponsive_where_it_breaks_its_promise_or_leaves_a_command(word: Any) -> None:
    assert verdict(word, Line(300.1, 60.0), True, 0.0, LIMIT_S) == "unresponsive"
    assert verdict(word, Line(1.0, 60.0), True, 300.1, LIMIT_S) == "unresponsive"
    assert verdict(word, Line(9e9, 0.0), True, 0.0, LIMIT_S) == "unknown"


# Words of a device ----------------------------------------------------------------------------------------------------


def test_a_state_is_taken_field_by_field() -> None:
    full = said(app="Sarda POS", version="1.14.10", menu_version="m-7", epoch="e1", last="42", pending=3, applied=["x"])
    assert full == Said("ready", "Sarda POS", "1.14.10", "m-7", "e1", 42, 3)


def test_a_will_keeps_what_it_does_not_name() -> None:
    before = said(app="Sarda", version="1.2", menu_version="m", epoch="e1", last="7", pending=2)
    assert before is not None
    assert said(before, state="offline") == msgspec.structs.replace(before, state="offline")
    assert said(before) == Said("ready", "Sarda", "1.2", "m")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"ready"',
        b"{}",
        b'{"state":null}',
        b'{"state":"READY"}',
        b'{"state":"unresponsive"}',
        b'{"state":"ready"',
        b'{"state":"ready"}}',
        b'\xff\xfe{"state":"ready"}',
        b"[" * 50_000,
        b'{"state":"ready","app":"\\ud800"}',
        b'{"state":"ready","app":"' + b"x" * STATE_BYTES_MAX + b'"}',
    ],
)
def test_what_is_no_state_says_nothing(payload: bytes) -> None:
    assert said_in(payload, None) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x" * 65,
        "a\x1b[31m",
        "a\nb",
        "a\u202eb",
        "a\u200bb",
        "4111 1111 1111 1111",
        7,
        1.5,
        True,
        [],
        {},
    ],
)
def test_a_text_that_cannot_be_shown_is_not_known_any_more(text: Any) -> None:
    before = said(app="Sarda", version="1.2", menu_version="m")
    assert said(before, app=text, version=text, menu_version=text) == Said("ready")


def test_a_card_number_in_two_pieces_is_not_put_together_again() -> None:
    assert said(app="4111 1111", version="1111 1111") == Said("ready")


@pytest.mark.parametrize("pending", [-1, 10**9 + 1, 4111111111111111, 1.0, True, "3", None, 10**400])
def test_a_count_that_cannot_be_is_not_known(pending: Any) -> None:
    told = said_in(f'{{"state":"ready","pending":{json.dumps(pending)}}}'.encode(), None)
    assert told is None or told.unsent is None


def test_sequences_come_as_text_or_number() -> None:
    assert [sequence_said(one) for one in ("42", 42, "0042")] == [42, 42, 42]
    assert [sequence_said(one) for one in (0, "-1", "٤٢", 1.0, True, 10**12, "9" * 21, None)] == [None] * 8


# Versions -------------------------------------------------------------------------------------------------------------


def test_A5_5_versions_are_ordered_as_numbers_and_pre_releases_are_lower() -> None:
    ordered = [
        "0.9",
        "1",
        "1.2.9",
        "1.14.9",
        "1.14.10-alpha",
        "1.14.10-alpha.1",
        "1.14.10-alpha.beta",
        "1.14.10-beta.2",
        "1.14.10-beta.11",
        "1.14.10rc1",
        "1.14.10-rc.2",
        "1.14.10",
        "1.14.10.1",
        "1.15-rc1",
        "1.15",
        "2",
        "10.0",
    ]
    keys = [version_order(one) for one in ordered]
    assert None not in keys
    assert keys == sorted(keys, key=lambda key: key or ((), False, ()))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "same", ["1.14.10", "v1.14.10", "1.14.10.0", "01.14.010", "1.14.10+522", "1.14.10 (522)", " 1.14.10 "]
)
def test_versions_that_say_the_same_are_equal(same: str) -> None:
    assert version_order(same) == version_order("1.14.10")


@pytest.mark.parametrize("none", ["", "latest", "1..2", ".1", "1.", "1,2", "1.٢", "x1", "1.2 3", "9" * 19, "-1"])
def test_what_is_no_version_is_unknown_and_never_old(none: str) -> None:
    assert version_order(none) is None
    assert version_state(none, "1.14.10") == "unknown"


def test_A2_7_a_version_is_judged_by_the_venues_minimum_if_there_is_one() -> None:
    assert version_state("1.14.9", "1.14.10") == "old"
    assert version_state("1.14.10-rc.1", "1.14.10") == "old"
    assert version_state("1.14.10", "1.14.10") == "ok"
    assert version_state("1.15", "1.14.10") == "ok"
    assert version_state(None, "1.14.10") == "unknown"
    assert version_state("0.1", "") is None


def test_the_devices_with_an_old_app_are_named_up_to_a_bound() -> None:
    assert old_versions_text((("till-1", "1.9"),), "2") == "till-1 (1.9) runs an app older than 2. It goes on selling."
    many = tuple((f"till-{number}", "1") for number in range(1, 8))
    assert old_versions_text(many, "2").startswith(
        "till-1 (1), till-2 (1), till-3 (1), till-4 (1), till-5 (1) and 2 more"
    )


# In words -------------------------------------------------------------------------------------------------------------


def test_A6_2_an_unresponsive_device_is_told_with_what_to_do() -> None:
    silent = device(state="unresponsive", connected=True, silent_s=371)
    assert state_words(silent) == "till-2 is connected but has said nothing for 6 minutes: open its app"
    deaf = device(state="unresponsive", connected=True, silent_s=4, unanswered_s=371)
    assert state_words(deaf) == "till-2 is connected but has not answered for 6 minutes: open its app"


def test_a_device_is_told_part_by_part() -> None:
    seen_at = "2026-11-22T10:06:40.000Z"
    now_ms = to_ms(seen_at) + 120_000
    told = device(state="ready", connected=True, last_seen_at=seen_at, app="Sarda", version="1.9", unsent=3)
    assert presence_words(told, now_ms) == ("Ready", "seen 2 min ago", "Sarda 1.9", "3 not yet sent by the till")
    old = msgspec.structs.replace(told, version_state="old", unsent=0)
    assert presence_words(old, now_ms)[2:] == ("Sarda 1.9 (too old for this venue)",)
    odd = msgspec.structs.replace(told, version="blue", version_state="unknown", unsent=None)
    assert presence_words(odd, now_ms)[2:] == ("Sarda blue (a version that cannot be compared)",)
    assert presence_words(device(), now_ms) == ()


def test_durations_are_never_rounded_up() -> None:
    assert [lasted(one) for one in (40, 60, 119, 3599, 7200, 200_000)] == [
        "40 seconds",
        "1 minute",
        "1 minute",
        "59 minutes",
        "2 hours",
        "2 days",
    ]
    assert [ago(one) for one in (-5, 59, 60, 3600, 90_000)] == [
        "just now",
        "just now",
        "1 min ago",
        "1 h ago",
        "1 day ago",
    ]
