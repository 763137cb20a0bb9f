"""How long the cloud asks to wait, whatever this box believes what time it is."""

import pytest

from agent.cloud.client import retry_after_s

DATE = "Sun, 22 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "date", "wanted"),
    [
        (None, DATE, None),
        ("7", None, 7.0),
        (" 7 ", DATE, 7.0),
        ("Sun, 22 Nov 2026 12:00:09 GMT", DATE, 9.0),
        ("Sun, 22 Nov 2026 11:59:00 GMT", DATE, 0.0),
        ("Thu, 01 Jan 1970 00:00:09 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", 9.0),
        ("Sun, 22 Nov 2026 12:00:09 GMT", None, None),
        ("Sun, 22 Nov 2026 12:00:09 GMT", "yesterday", None),
        ("soon", DATE, None),
        ("-3", DATE, None),
    ],
)
def test_a_date_is_held_against_the_answers_own_date(value: str | None, date: str | None, wanted: float | None) -> None:
    assert retry_after_s(value, date) == wanted
