"""What the drain does after each answer of the cloud, row by row of the contract's table."""

import pytest

from agent.core.answers import CloudRefused, Place, Refusal, Step, place_of, step_after

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
    ],
)
def test_each_answer_has_its_step(status: int, kind: str, step: Step) -> None:
    assert step_after(Refusal(status, kind)) is step


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (403, ""), (404, ""), (400, ""), (409, ""), (409, U + "conflict"), (409, U + "fenced"), (410, U + "moved"),
        (418, ""), (301, ""), (451, U + "no-stream"), (200, ""), (501, ""), (599, ""), (409, "urn:other:gap"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_understood_holds_and_drops_nothing(status: int, kind: str) -> None:
    assert step_after(Refusal(status, kind)) is Step.HOLD


@pytest.mark.parametrize(
    ("next_", "cursor", "last", "place"),
    [
        (1, 0, 0, "at"),
        (1, 0, 10, "at"),
        (6, 5, 10, "at"),
        (11, 10, 10, "at"),
        (7, 5, 10, "ahead"),
        (11, 5, 10, "ahead"),
        (5, 5, 10, "rewound"),
        (1, 10, 10, "rewound"),
        (12, 5, 10, "beyond"),
        (2, 0, 0, "beyond"),
    ],
)
def test_the_clouds_next_lies_somewhere_against_ours(next_: int, cursor: int, last: int, place: Place) -> None:
    assert place_of(next_, cursor, last) == place


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
