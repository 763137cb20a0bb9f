"""The lowest layer that fails is the cause, and what nobody could see is not claimed."""

import pytest

from agent.core.diagnosis import CAUSES, WORDS, Layer, judge, parts
from agent.core.sentence import _OFFLINE


def failed(name: str, finding: str) -> Layer:
    return Layer(name, "failed", "", finding)  # type: ignore[arg-type]


def fine(*names: str) -> list[Layer]:
    return [Layer(name, "ok") for name in names]  # type: ignore[arg-type]


def finding(*layers: Layer) -> str:
    return judge(layers).finding


def test_nothing_failed_is_no_cause() -> None:
    assert judge(fine("link", "address", "gateway", "dns", "portal", "others", "clock", "tls", "cloud")).cause == "none"
    assert judge([]).cause == "none"


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        ("link", "no_carrier"),
        ("address", "no_address"),
        ("gateway", "gateway_silent"),
        ("portal", "captive_portal"),
    ],
)
def test_the_lowest_layer_is_the_cause_whatever_fails_above(layer: str, found: str) -> None:
    above = [failed("dns", "lookup_failed"), failed("others", "provider"), failed("cloud", "unreachable")]
    assert finding(failed(layer, found), *above) == found


def test_a_cloud_out_of_reach_is_a_firewall_only_where_others_answer_and_the_provider_only_where_none_does() -> None:
    gone = failed("cloud", "unreachable")
    assert finding(gone, *fine("others")) == "blocked"
    assert finding(gone, failed("others", "provider")) == "provider"
    assert finding(gone, Layer("others", "unknown")) == "unreachable"
    assert finding(gone) == "unreachable"


def test_names_that_fail_while_nobody_answers_are_the_providers_fault() -> None:
    assert finding(failed("dns", "lookup_failed"), failed("others", "provider")) == "provider"
    assert finding(failed("dns", "lookup_failed"), *fine("others")) == "lookup_failed"


def test_a_wrong_clock_explains_a_certificate_and_nothing_else() -> None:
    wrong = failed("clock", "clock_wrong")
    assert finding(wrong, failed("tls", "tls_failed")) == "clock_wrong"
    assert finding(wrong, failed("cloud", "server_error")) == "server_error"
    assert finding(wrong, *fine("tls", "cloud")) == ""


def test_A1_8_a_failed_cloud_is_no_failed_way_and_the_other_way_round() -> None:
    assert parts("online", "none") == ("up", "up")
    for cause, cloud in (("cloud", "failing"), ("cloud_slow", "slow"), ("auth", "refusing")):
        for state in ("offline", "degraded"):
            assert parts(state, cause) == ("up", cloud)  # type: ignore[arg-type]
    for cause in ("link", "gateway", "dns", "captive_portal", "tls", "clock", "firewall"):
        assert parts("offline", cause) == ("down", "unknown")  # type: ignore[arg-type]
    assert parts("offline", "none") == ("unknown", "unknown")


def test_every_finding_has_a_cause_and_words_that_say_what_to_do() -> None:
    assert set(CAUSES) == set(WORDS) | {""}
    assert set(CAUSES.values()) == set(_OFFLINE)
    for what, remedy in WORDS.values():
        assert what[0].islower()
        assert remedy.endswith(".")
