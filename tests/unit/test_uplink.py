"""The uplink's state follows the evidence, and never runs ahead of it."""

import random
from typing import get_args

import pytest

from agent.core import uplink as machine
from agent.core.uplink import ProbeOutcome, ProbeResult, Uplink

DEBOUNCE_S = 10.0


def passed(uplink: Uplink, at_s: float, took_s: float = 0.1) -> Uplink:
    return machine.probed(uplink, ProbeResult("passed"), at_s - took_s, at_s, DEBOUNCE_S)


def failed(uplink: Uplink, outcome: ProbeOutcome, at_s: float, took_s: float = 0.1) -> Uplink:
    return machine.probed(uplink, ProbeResult(outcome), at_s - took_s, at_s, DEBOUNCE_S)


def online(at_s: float = 100.0) -> Uplink:
    return passed(machine.start(0.0), at_s)


def shown(uplink: Uplink) -> tuple[str, str]:
    return uplink.shown.state, uplink.shown.cause


def raw(uplink: Uplink) -> tuple[str, str]:
    return uplink.raw.state, uplink.raw.cause


def test_before_any_evidence_it_is_not_online_and_claims_no_cause() -> None:
    assert shown(machine.start(5.0)) == ("offline", "none")
    assert shown(machine.passed_time(machine.start(5.0), 500.0, DEBOUNCE_S)) == ("offline", "none")


def test_online_is_said_at_once_after_a_probe_or_an_upload_that_succeeded() -> None:
    assert shown(passed(machine.start(0.0), 1.0)) == ("online", "none")
    assert shown(machine.upload_succeeded(machine.start(0.0), 1.0, DEBOUNCE_S)) == ("online", "none")


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        ("lookup_failed", "dns"),
        ("unreachable", "link"),
        ("refused", "cloud"),
        ("tls_failed", "tls"),
        ("no_answer", "cloud"),
        ("server_error", "cloud"),
        ("not_health", "cloud"),
    ],
)
def test_a_failure_claims_only_what_one_probe_can_show(outcome: ProbeOutcome, cause: str) -> None:
    assert raw(failed(machine.start(0.0), outcome, 1.0)) == ("offline", cause)


def test_every_outcome_of_a_probe_speaks_for_a_cause() -> None:
    assert {outcome for outcome in get_args(ProbeOutcome) if machine.cause_of(outcome) == "none"} == {"passed"}


def test_A1_8_a_cloud_that_fails_is_not_called_a_failed_link() -> None:
    for outcome in ("refused", "no_answer", "server_error", "not_health"):
        assert raw(failed(online(), outcome, 110.0))[1] == "cloud"


def test_offline_is_debounced_for_people_and_dates_from_the_attempt_that_failed() -> None:
    state = failed(online(), "unreachable", 120.0, took_s=5.0)
    assert raw(state) == ("offline", "link")
    assert state.raw.since_s == 115.0
    assert shown(state) == ("online", "none")
    assert shown(machine.passed_time(state, 124.9, DEBOUNCE_S)) == ("online", "none")
    late = machine.passed_time(state, 125.0, DEBOUNCE_S)
    assert shown(late) == ("offline", "link")
    assert late.shown.since_s == 115.0


def test_a_blip_is_never_shown_and_leaves_since_alone() -> None:
    state = passed(failed(online(), "unreachable", 120.0), 125.0)
    assert state.raw.since_s == 125.0
    assert state.shown == online().shown


def test_recovery_is_shown_at_once() -> None:
    state = machine.passed_time(failed(online(), "unreachable", 120.0), 200.0, DEBOUNCE_S)
    state = passed(state, 210.0)
    assert shown(state) == ("online", "none")
    assert state.shown.since_s == 210.0


def test_while_offline_since_outlives_a_change_of_cause() -> None:
    state = machine.passed_time(failed(online(), "unreachable", 120.0), 200.0, DEBOUNCE_S)
    began_s = state.shown.since_s
    state = failed(state, "lookup_failed", 210.0)
    assert shown(state) == ("offline", "dns")
    assert state.shown.since_s == began_s


def test_an_upload_that_succeeded_while_a_probe_was_under_way_outweighs_its_failure() -> None:
    state = machine.upload_succeeded(online(), 118.0, DEBOUNCE_S)
    assert raw(failed(state, "no_answer", 120.0, took_s=5.0)) == ("online", "none")
    assert raw(failed(state, "no_answer", 120.0, took_s=1.0)) == ("offline", "cloud")


def test_a_failed_upload_stands_until_an_upload_succeeds() -> None:
    state = machine.upload_failed(online(), "link", 110.0, DEBOUNCE_S)
    assert raw(state) == ("offline", "link")
    state = passed(state, 112.0)
    assert raw(state) == ("degraded", "link")
    assert raw(machine.upload_succeeded(state, 113.0, DEBOUNCE_S)) == ("online", "none")
    assert raw(machine.upload_failure_lifted(state, 113.0, DEBOUNCE_S)) == ("online", "none")


def test_a_drain_that_hears_from_the_cloud_but_still_fails_is_degraded() -> None:
    state = machine.upload_failed(online(), "link", 110.0, DEBOUNCE_S)
    assert raw(machine.upload_answered(state, 111.0, DEBOUNCE_S)) == ("degraded", "link")


def test_an_upload_that_only_knows_that_nothing_came_back_leaves_what_a_probe_found() -> None:
    state = failed(online(), "refused", 110.0)
    assert raw(machine.upload_failed(state, "link", 111.0, DEBOUNCE_S)) == ("offline", "cloud")
    assert raw(machine.upload_failed(online(), "link", 111.0, DEBOUNCE_S)) == ("offline", "link")


@pytest.mark.parametrize(
    ("code", "cause", "again"),
    [
        ("unreachable", "link", True),
        ("timeout", "link", True),
        ("refused", "cloud", True),
        ("cloud_401", "auth", False),
        ("cloud_429", "cloud", False),
        ("cloud_503", "cloud", False),
        ("not_an_answer", "cloud", False),
        ("cloud_409", None, False),
        ("fork", None, False),
        ("disk_full", None, False),
    ],
)
def test_the_drains_failures_speak_for_what_they_show(code: str, cause: str | None, again: bool) -> None:
    assert machine.upload_cause(code) == cause
    assert machine.worth_retrying(code) is again


def test_a_refused_token_is_degraded_because_the_cloud_itself_answered() -> None:
    state = machine.upload_failed(machine.start(0.0), "auth", 1.0, DEBOUNCE_S)
    assert shown(state) == ("degraded", "auth")
    blocked = failed(online(), "unreachable", 110.0)
    assert raw(machine.upload_failed(blocked, "auth", 111.0, DEBOUNCE_S)) == ("degraded", "auth")


def test_a_failing_cloud_is_degraded_while_probes_pass_and_offline_when_they_fail_too() -> None:
    state = machine.upload_failed(online(), "cloud", 110.0, DEBOUNCE_S)
    assert raw(state) == ("degraded", "cloud")
    assert raw(failed(state, "server_error", 112.0)) == ("offline", "cloud")
    unknown = machine.upload_failed(machine.start(0.0), "cloud", 1.0, DEBOUNCE_S)
    assert raw(unknown) == ("offline", "cloud")


def test_slow_probes_in_a_row_make_it_degraded_and_one_fast_one_ends_it() -> None:
    state = passed(online(), 110.0, took_s=3.0)
    assert raw(state) == ("online", "none")
    state = passed(state, 120.0, took_s=3.0)
    assert raw(state) == ("degraded", "cloud_slow")
    assert raw(passed(state, 130.0)) == ("online", "none")
    assert raw(machine.upload_succeeded(state, 130.0, DEBOUNCE_S)) == ("online", "none")


@pytest.mark.parametrize("seed", range(5))
def test_A1_6_after_a_thousand_random_flaps_the_state_agrees_with_the_truth_at_rest(seed: int) -> None:
    chance = random.Random(seed)
    state, at_s, up = machine.start(0.0), 0.0, False
    outcomes: list[ProbeOutcome] = ["lookup_failed", "unreachable", "refused", "tls_failed", "no_answer"]
    for _ in range(1000):
        up = not up
        for _ in range(chance.randrange(4)):
            at_s += chance.uniform(0.2, 6.0)
            if chance.random() < 0.5:
                state = passed(state, at_s) if up else failed(state, chance.choice(outcomes), at_s)
            elif up:
                state = machine.upload_succeeded(state, at_s, DEBOUNCE_S)
            else:
                state = machine.upload_failed(state, chance.choice(["link", "dns", "cloud"]), at_s, DEBOUNCE_S)
            assert state.raw.state != "online" or up
        if chance.random() < 0.1:
            state, at_s = at_rest(state, at_s, up)
            assert shown(state)[0] == ("online" if up else "offline")
            assert raw(state) == shown(state)


def at_rest(state: Uplink, at_s: float, up: bool) -> tuple[Uplink, float]:
    """One probe and one upload attempt with the truth, then time for the debounce."""
    if up:
        state = machine.upload_succeeded(passed(state, at_s + 5.0), at_s + 6.0, DEBOUNCE_S)
    else:
        state = machine.upload_failed(failed(state, "unreachable", at_s + 5.0), "link", at_s + 6.0, DEBOUNCE_S)
    at_s += 6.0 + DEBOUNCE_S
    return machine.passed_time(state, at_s, DEBOUNCE_S), at_s


def test_an_upload_that_got_no_answer_is_offline_though_a_probe_passed_before() -> None:
    online = machine.probed(machine.start(0.0), ProbeResult("passed"), 1.0, 1.1, 10.0)
    assert online.raw.state == "online"
    cut = machine.upload_failed(online, "cloud", 5.0, 10.0, answered=False)
    assert (cut.raw.state, cut.raw.cause) == ("offline", "cloud")
    assert machine.passed_time(cut, 15.0, 10.0).shown.state == "offline"
    refused = machine.upload_failed(online, "cloud", 5.0, 10.0)
    assert refused.raw.state == "degraded"
