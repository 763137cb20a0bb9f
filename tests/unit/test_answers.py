"""What the drain does after each answer of the cloud, row by row of the contract's table."""

import pytest

from agent.core.answers import CloudRefused, Refusal, Step, step_after

U = "urn:nightsafe:"


@pytest.mark.parametrize(
    ("status", "kind", "step"),
    [
        (404, U + "no-stream", Step.OPEN),
        (409, U + "gap", Step.RESUME),
        (400, U + "malformed", Step.SPLIT),
        (413, "", Step.LIMIT),
        (413, U + "too-large", Step.LIMIT),
        (429, "", Step.WAIT),
        (503, U + "busy", Step.WAIT),
        (500, "", Step.BACK_OFF),
        (502, "", Step.BACK_OFF),
        (504, "", Step.BACK_OFF),
        (401, U + "token", Step.LOG_IN),
        (409, U + "conflict", Step.FORK),
        (409, U + "fenced", Step.FENCE),
        (409, U + "no-parent", Step.PARENT),
        (410, U + "closed", Step.FORK),
        (410, U + "moved", Step.FORK),
    ],
)
def test_each_answer_has_its_step(status: int, kind: str, step: Step) -> None:
    assert step_after(Refusal(status, kind)) is step


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (403, ""), (404, ""), (400, ""), (409, ""), (400, U + "conflict"), (410, ""), (410, "urn:other:gone"),
        (418, ""), (301, ""), (451, U + "no-stream"), (200, ""), (501, ""), (599, ""), (409, "urn:other:gap"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_understood_holds_and_drops_nothing(status: int, kind: str) -> None:
    assert step_after(Refusal(status, kind)) is Step.HOLD


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Refusal(503), "The cloud answered 503: no reason given."),
        (Refusal(409, U + "gap"), "The cloud answered 409: urn:nightsafe:gap."),
        (Refusal(409, U + "gap", "1 is missing"), "The cloud answered 409: 1 is missing."),
    ],
)
def test_a_refusal_says_what_the_cloud_said(refusal: Refusal, words: str) -> None:
    error = CloudRefused(refusal)
    assert (error.code, error.text) == (f"cloud_{refusal.status}", words)
