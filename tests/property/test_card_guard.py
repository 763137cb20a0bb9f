"""The card guard against numbers made for it: any issuer, any length, written in any way, anywhere in an event."""

import json
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent.core import cards
from agent.core.events import Event, Reason, Refusal, judge
from tests.sales import fields, padded

# First digits and lengths as the schemes publish them, written down again: the guard's own table is under test.
ISSUED = {
    "visa": (["4"], [16, 18, 19]),
    "mastercard": (["51", "52", "53", "54", "55", "2221", "2300", "2500", "2720"], [16]),
    "amex": (["34", "37"], [15]),
    "diners": (["300", "305", "3095", "36", "38", "39"], [14, 16, 19]),
    "discover": (["6011", "644", "649", "65"], [16, 19]),
    "jcb": (["3528", "3589"], [16, 19]),
    "unionpay": (["62", "81"], [16, 17, 18, 19]),
    "maestro": (["50", "56", "58", "6304", "6390", "67"], [14, 15, 16, 17, 18, 19]),
}


def with_check_digit(digits: str) -> str:
    """The digits and the last one that makes them pass Luhn."""
    total = sum(
        sum(divmod(int(char) * 2, 10)) if index % 2 == 0 else int(char) for index, char in enumerate(reversed(digits))
    )
    return digits + str(-total % 10)


@st.composite
def numbers(draw: st.DrawFn) -> str:
    prefixes, lengths = ISSUED[draw(st.sampled_from(sorted(ISSUED)))]
    prefix, length = draw(st.sampled_from(prefixes)), draw(st.sampled_from(lengths))
    rest = draw(st.text("0123456789", min_size=length - len(prefix) - 1, max_size=length - len(prefix) - 1))
    return with_check_digit(prefix + rest)


joins = st.text(" -\u00a0\u2009\u2013\u2212\u200b\u00ad", max_size=3)
marks = st.sampled_from([" ", "-", ".", "/", "_", ",", "\t", "\n", ":", "|", ", ", " - ", "\u00b7", "…"])


@st.composite
def written(draw: st.DrawFn) -> str:
    """A card number as somebody might write it."""
    number = draw(numbers())
    way = draw(st.sampled_from(["plain", "joined", "grouped", "single", "other digits", "among digits"]))
    if way == "joined":
        return "".join(digit + draw(joins) for digit in number[:-1]) + number[-1]
    if way == "among digits":
        mark = draw(marks)
        return (
            draw(st.sampled_from(["", "12", "2026"])) + mark + number + mark + draw(st.sampled_from(["12/27", "123"]))
        )
    if way == "grouped":
        ends = (4, 10) if len(number) == 15 and number[0] == "3" else (4, 8, 12)
        return draw(marks).join(number[low:high] for low, high in zip((0, *ends), (*ends, None), strict=True))
    if way == "single":
        return draw(marks).join(number)
    if way == "other digits":
        zero = ord(draw(st.sampled_from("\u0660\u0966\uff10")))
        return "".join(chr(zero + int(digit)) for digit in number)
    return number


beside = st.one_of(st.just(""), st.text("abcXYZ .:#é", max_size=8))


@st.composite
def planted(draw: st.DrawFn) -> dict[str, Any]:
    """An event with a card number somewhere in it."""
    text: Any = draw(written())
    event = fields(type="x", epoch="e", sequence=padded(7), data={"a": [1, {"b": "c"}]})
    place = draw(
        st.sampled_from(["value", "key", "deep", "id", "subject", "type", "extension", "number", "nested json"])
    )
    if place == "number":
        event["data"] = int(draw(numbers()))
        return event
    framed = draw(beside) + text + draw(beside)
    if place == "nested json":
        framed = json.dumps({"pan": draw(numbers())})
    if place in ("id", "subject", "type"):
        event[place] = framed[:200]
    elif place == "key":
        event["data"] = {framed: 1}
    elif place == "extension":
        event["vendor"] = framed
    else:
        event["data"] = [[{"x": framed}]] if place == "deep" else framed
    return event


@settings(max_examples=200, deadline=None)
@given(planted(), st.booleans())
def test_a_card_number_is_refused_wherever_and_however_it_is_written(event: dict[str, Any], escaped: bool) -> None:
    payload = json.dumps(event, ensure_ascii=escaped).encode()
    verdict = judge("till-1", payload, 262_144, 64, 4096)
    assert isinstance(verdict, Refusal), payload
    assert verdict.reason is Reason.CARD_NUMBER
    assert verdict.payload is None
    for kept in (verdict.id or "", verdict.detail, verdict.excerpt):
        assert cards.text_clean(kept)


@settings(max_examples=200, deadline=None)
@given(planted(), st.data())
def test_nothing_of_a_card_stays_when_the_event_is_broken_as_well(event: dict[str, Any], data: st.DataObject) -> None:
    payload = json.dumps(event).encode()
    at = data.draw(st.integers(0, len(payload)))
    broken = payload[:at] + data.draw(st.sampled_from([b"", b'"', b"}", b"\xff", b","])) + payload[at:]
    verdict = judge("till-1", broken, 262_144, 64, 4096)
    assume(isinstance(verdict, Refusal))
    assert isinstance(verdict, Refusal)
    if verdict.payload is not None:
        assert cards.text_clean(verdict.payload.decode("utf-8", "replace"))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.uuids().map(str),
        st.datetimes().map(lambda at: at.isoformat() + "Z"),
        st.integers(1, 10**12 - 1).map(padded),
        st.integers(1_500_000_000_000, 2_200_000_000_000).map(str),
        st.integers(0, 10**12 - 1).map(lambda number: f"{number:012d}"),
        st.text("abcdefghijklmnopqrstuvwxyz -.", max_size=40),
    )
)
def test_what_events_are_full_of_is_not_refused(text: str) -> None:
    event = fields(type="x", subject=text, data={text or "empty": [text]})
    assert isinstance(judge("till-1", json.dumps(event).encode(), 262_144, 64, 4096), Event)
