"""The verdict on an event against a slow and strict reading of the same bytes by Python's own json.

`judge` must never raise, whatever the bytes; and must store exactly what the reference calls an event.
"""

import json
import re
from typing import Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from agent.core.events import Event, Reason, judge

BYTES_MAX, DEPTH_MAX, EXCERPT_MAX = 2000, 8, 100


class Bad(Exception):
    """The reference's word for JSON that is not strict."""


def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in found}) < len(found):
        raise Bad("a key twice")
    return dict(found)


def real(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Bad("not finite")
    return value


def whole(text: str) -> int:
    real(text)
    return int(text)


def constant(text: str) -> None:
    raise Bad(text)


def check_leaves(value: Any, level: int = 0) -> None:
    """Text that UTF-8 can hold, no U+0000, no more than the allowed levels."""
    if isinstance(value, dict | list):
        if level == DEPTH_MAX:
            raise Bad("too deep")
        for inner in value if isinstance(value, list) else [*value, *value.values()]:
            check_leaves(inner, level + 1)
    elif isinstance(value, str):
        value.encode()
        if "\0" in value:
            raise Bad("U+0000")


def strict(body: bytes) -> Any:
    """The value of strict JSON. Raises Bad."""
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=pairs, parse_float=real, parse_int=whole, parse_constant=constant
        )
        check_leaves(value)
    except (ValueError, RecursionError) as error:
        raise Bad from error
    return value


def is_text(value: Any, longest: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= longest


def fits(said: dict[str, Any]) -> bool:
    """Whether strict JSON is an event of an unknown type."""
    kind = said.get("type")
    if not (
        said.get("specversion") == "1.0"
        and isinstance(said.get("specversion"), str)
        and is_text(said.get("id"), 256)
        and is_text(said.get("source"), 2048)
        and is_text(kind, 256)
        and not str(kind).startswith(("nightsafe.", "pos."))
        and all(said.get(name) is None or isinstance(said[name], str) for name in ("time", "subject"))
    ):
        return False
    epoch, sequence = said.get("epoch"), said.get("sequence")
    if epoch is None and sequence is None:
        return True
    return (
        isinstance(epoch, str)
        and re.fullmatch("[A-Za-z0-9._:-]{1,64}", epoch) is not None
        and isinstance(sequence, str)
        and sequence.isascii()
        and sequence.isdigit()
        and len(sequence) <= 20
        and 0 < int(sequence) < 2**63
    )


def expected(payload: bytes) -> Reason | None:
    """Why the reference refuses the payload, or None."""
    body = payload.strip(b" \t\r\n")
    if len(body) > BYTES_MAX:
        return Reason.TOO_LARGE
    if not (body.startswith(b"{") and body.endswith(b"}")):
        return Reason.MALFORMED
    try:
        value = strict(body)
    except Bad:
        return Reason.MALFORMED
    return None if isinstance(value, dict) and fits(value) else Reason.SCHEMA


# Text that is nearly JSON ---------------------------------------------------------------------------------------------

words = st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=len(text) % 2 == 0))
raw_strings = st.sampled_from(
    [
        '"a"', '"b"', '"\\u0061"', '"\\u0000"', '"\\ud800"', '"\\udc00"', '"\\ud83c\\udf7a"', '"\\/"', '"\\x"', '"\n"',
        '"é"', '"\\\\u0000"', '"\x7f"', '"\\ud800\\ud800"', '"\\uD83C"', '"', '"\\u00"', "'a'", '""',
        '"\\b\\f\\n\\r\\t\\""',
    ]
)  # fmt: skip
numbers = st.one_of(
    st.integers(-(10**11), 10**11).map(str),
    st.floats(-1e9, 1e9).map(lambda number: repr(round(number, 3))),
    st.sampled_from(
        [
            "1e999", "-1e999", "1e308", "1.8e308", "1e-999", "NaN", "Infinity", "-Infinity", "-0", "-0.0", "01", "+1",
            ".5", "1.", "1e", "1E+2", "0x1", "9" * 309, "1" + "0" * 308, "1" + "0" * 309, "9" * 400, "true",
            "false", "null", "nul",
        ]
    ),
)  # fmt: skip
blank = st.sampled_from(["", "", "", " ", "\n", "\t\r", "\f", "\u00a0"])


def objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.builds("{}{}:{}{}".format, blank, st.one_of(words, raw_strings), blank, inner)
    return st.lists(pair, max_size=4).map(lambda found: "{" + ",".join(found) + "}")


values = st.recursive(
    st.one_of(words, raw_strings, numbers),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda found: "[" + ",".join(found) + "]"),
        objects(inner),
        inner.map(lambda text: "[" * 3 + text + "]" * 3),
    ),
    max_leaves=8,
)
good = {
    "specversion": '"1.0"',
    "id": '"a"',
    "source": '"s"',
    "type": '"x"',
    "time": '"2026-11-22T10:15:00Z"',
    "epoch": '"e"',
    "sequence": '"7"',
    "subject": '"check/1"',
    "data": '{"x":1}',
}


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """An event with some of its attributes replaced, left out, doubled or added, and now and then a byte changed."""
    attributes = dict(good)
    for name in draw(st.lists(st.sampled_from(sorted(good)), max_size=2)):
        attributes[name] = draw(values)
    if draw(st.booleans()):
        for name in draw(st.sampled_from([("epoch", "sequence"), ("data",), ("time", "subject"), ("id",), ("epoch",)])):
            attributes.pop(name, None)
    listed = [(json.dumps(name), text) for name, text in attributes.items()]
    listed += draw(
        st.lists(st.tuples(st.one_of(words, st.sampled_from(['"id"', '"\\u0069d"', '"z"'])), values), max_size=1)
    )
    listed = draw(st.permutations(listed)) if draw(st.booleans()) else listed
    gap = draw(blank)
    text = gap + "{" + ",".join(f"{name}{gap}:{value}" for name, value in listed) + "}" + draw(blank)
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(raw) - 1))
        raw[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
        raw = raw or bytearray(b"{}")
    return bytes(raw)


@settings(max_examples=200, deadline=None)
@given(payloads())
@example(b'{"specversion":"1.0","id":"a","source":"s","type":"x","data":' + b"9" * 309 + b"}")
@example(b'{"specversion":"1.0","id":"a","source":"s","type":"x","data":[[[[[[[1]]]]]]]}')
@example(b'{"specversion":"1.0","id":"a","source":"s","type":"x","data":[[[[[[[[1]]]]]]]]}')
def test_judge_agrees_with_a_slow_strict_reading(payload: bytes) -> None:
    verdict = judge("till-1", payload, BYTES_MAX, DEPTH_MAX, EXCERPT_MAX)
    wanted = expected(payload)
    event(str(wanted))
    if isinstance(verdict, Event):
        assert wanted is None
        value = strict(payload)
        assert (verdict.id, verdict.type, verdict.epoch) == (value["id"], value["type"], value.get("epoch"))
        assert verdict.sequence == (int(value["sequence"]) if value.get("sequence") else None)
        assert verdict.body == payload.strip(b" \t\r\n")
    else:
        assert verdict.reason is wanted, verdict


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=100).map(lambda raw: b"{" + raw + b"}"),
        st.binary(max_size=60).map(lambda raw: b'{"specversion":"1.0","id":"' + raw + b'","source":"s","type":"x"}'),
        st.text(max_size=60).map(lambda text: ('{"cvv":"123","x":"' + text + '"}').encode("utf-8", "surrogatepass")),
    )
)
def test_judge_never_raises(payload: bytes) -> None:
    verdict = judge("till-1", payload, BYTES_MAX, DEPTH_MAX, EXCERPT_MAX)
    if not isinstance(verdict, Event):
        assert verdict.size == len(payload)
        assert verdict.excerpt.encode() or not payload
        assert verdict.detail
