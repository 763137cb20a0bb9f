"""The bodies on the wire: batches that carry an event's bytes untouched, digests, answers that count and others."""

import json
from base64 import b64decode, b64encode
from hashlib import sha256, sha512

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cloud import wire

EPOCH = "0199c0de-0000-7000-8000-000000000001"
EVENT = b'{"specversion":"1.0","id":"0199","type":"t","data":{}}'


def record(event: bytes = EVENT, event_id: str = "0199", sequence: int = 1235, device: str = "till-1") -> wire.Record:
    when = "2026-11-22T10:15:00.131Z"
    return wire.Record(sequence, when, "synced", "boot-1", 81234, device, event_id, event, b"\x07\xaa" + bytes(30))


# Batches


def test_a_record_has_the_members_of_the_contract_in_their_order() -> None:
    (element,) = json.loads(wire.encode_batch("demo", EPOCH, [record()]), object_pairs_hook=list)
    assert element == [
        ("specversion", "1.0"),
        ("id", "till-1/0199"),
        ("source", "urn:nightsafe:demo"),
        ("type", "nightsafe.record.v1"),
        ("epoch", EPOCH),
        ("sequence", "00000000000000001235"),
        ("recordedtime", "2026-11-22T10:15:00.131Z"),
        ("clock", "synced"),
        ("boot", "boot-1"),
        ("uptime_ms", 81234),
        ("device", "till-1"),
        ("rechash", "07aa" + "00" * 30),
        ("datacontenttype", "application/cloudevents+json"),
        ("data", [("specversion", "1.0"), ("id", "0199"), ("type", "t"), ("data", [])]),
    ]


def test_an_event_id_is_escaped_as_json_wants_it() -> None:
    odd = 'a"b\\c\u0000\u2028é\U0001f37a\n'
    (element,) = json.loads(wire.encode_batch("demo", EPOCH, [record(event_id=odd)]))
    assert element["id"] == f"till-1/{odd}"


def test_an_empty_batch_is_an_empty_array() -> None:
    assert wire.encode_batch("demo", EPOCH, []) == b"[]"


def test_base64_carries_bytes_that_are_no_json() -> None:
    event = b'{"a":"\xff\n'
    body = wire.encode_batch("demo", EPOCH, [record(event)], base64=True)
    (element,) = json.loads(body)
    assert "data" not in element
    assert b64decode(element["data_base64"]) == event
    (decoded,) = wire.decode_batch(body)
    assert wire.event_of(decoded) == event


white = st.text(" \t\r\n", max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """JSON objects in any dress: key order, escapes, white space inside the braces, UTF-8 or \\u."""
    members = draw(st.dictionaries(st.text(), values, max_size=4))
    ascii_only, indent = draw(st.booleans()), draw(st.sampled_from([None, 0, 1, "\t"]))
    text = json.dumps(members, ensure_ascii=ascii_only, indent=indent, separators=draw(separators))
    return ("{" + draw(white) + text[1:]).encode("utf-8", "replace")


separators = st.sampled_from([(",", ":"), (" , ", " : "), (",\r\n", ":\t"), ("\n,", "\n: ")])


@given(st.lists(st.tuples(events(), st.text(st.characters(codec="utf-8"), min_size=1)), max_size=5), st.booleans())
def test_any_event_survives_the_wire_byte_for_byte(sent: list[tuple[bytes, str]], base64: bool) -> None:
    records = [record(event, event_id, at) for at, (event, event_id) in enumerate(sent, 1)]
    got = wire.decode_batch(wire.encode_batch("demo", EPOCH, records, base64))
    assert [wire.event_of(one) for one in got] == [event for event, _ in sent]
    assert [one.id for one in got] == [f"till-1/{event_id}" for _, event_id in sent]
    assert [int(one.sequence) for one in got] == list(range(1, len(sent) + 1))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b"[{}]",
        b"[" * 100_000,
        b"<html></html>",
        wire.encode_batch("demo", EPOCH, [record()])[:-1],
        wire.encode_batch("demo", EPOCH, [record()]) + b"x",
        wire.encode_batch("demo", EPOCH, [record(b'{"a":"\xff"}')]),
        wire.encode_batch("demo", EPOCH, [record()]).replace(b'"synced"', b'"maybe"'),
        wire.encode_batch("demo", EPOCH, [record()]).replace(b"81234", b"-1"),
        wire.encode_batch("demo", EPOCH, [record()]).replace(b"record.v1", b"record.v2"),
    ],
)
def test_what_is_no_batch_is_refused_with_words(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.decode_batch(body)


def test_a_record_carries_its_event_in_one_way_only() -> None:
    (plain,) = wire.decode_batch(wire.encode_batch("demo", EPOCH, [record()]))
    both = msgspec.structs.replace(plain, data_base64="e30=")
    neither = msgspec.structs.replace(plain, data=msgspec.Raw(b""))
    broken = msgspec.structs.replace(neither, data_base64="e30")
    for wrong in (both, neither, broken):
        with pytest.raises(ValueError, match="data_base64"):
            wire.event_of(wrong)


# Digests


def test_the_digest_of_rfc_9530_is_made_and_read() -> None:
    # The example of RFC 9530, appendix B.1.
    body = b'{"hello": "world"}\n'
    assert wire.content_digest(body) == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    assert wire.digest_fault(wire.content_digest(body), body) is None


@pytest.mark.parametrize("spelling", ["{other}, {ours}", "{ours},{other}", " {ours} ", "{ours};q=1 , x=:AAAA:"])
def test_other_algorithms_may_stand_beside_ours(spelling: str) -> None:
    other = f"sha-512=:{b64encode(sha512(b'x').digest()).decode()}:"
    assert wire.digest_fault(spelling.format(ours=wire.content_digest(b"x"), other=other), b"x") is None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "sha-256",
        "sha-256=abc",
        "sha-256=:!!:",
        "sha-256=::",
        "SHA-256=:" + b64encode(sha256(b"x").digest()).decode() + ":",
        "sha-512=:" + b64encode(sha512(b"x").digest()).decode() + ":",
        wire.content_digest(b"y"),
        wire.content_digest(b"x") + ", " + wire.content_digest(b"y"),
        "sha-256=:" + b64encode(sha256(b"x").digest()[:16]).decode() + ":",
    ],
)
def test_a_digest_that_is_missing_broken_or_other_is_a_fault(header: str | None) -> None:
    assert wire.digest_fault(header, b"x")


# Answers


ANSWER = b'{"next":3,"head":"%b","safe":2,"accepted":2,"duplicate":0,"rejected":[],"later":1}' % (b"ab" * 32)


def test_an_answer_counts_by_media_type_and_body() -> None:
    answer = wire.read_answer(wire.BatchAnswer, "application/json; charset=utf-8", ANSWER)
    assert answer == wire.BatchAnswer(3, "ab" * 32, 2, 2, 0, [])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<html>Welcome, accept our terms</html>"),
        ("text/html", ANSWER),
        (None, ANSWER),
        ("application/json", b"<html></html>"),
        ("application/json", b""),
        ("application/json", b"[]"),
        ("application/json", ANSWER[:-1]),
        ("application/json", ANSWER.replace(b'"next":3', b'"next":"3"')),
        ("application/json", ANSWER.replace(b'"next":3', b'"next":0')),
        ("application/json", ANSWER.replace(b"abab", b"ABAB")),
        ("application/json", ANSWER.replace(b'"safe":2,', b"")),
        ("application/json", b"[" * 100_000),
        ("application/json", ANSWER + b" " * wire.ANSWER_BYTES_MAX),
    ],
)
def test_anything_else_is_not_an_answer(content_type: str | None, body: bytes) -> None:
    with pytest.raises(wire.NotAnAnswer) as caught:
        wire.read_answer(wire.BatchAnswer, content_type, body)
    assert caught.value.code == "not_an_answer"
    assert caught.value.hint


def test_a_problem_keeps_the_contracts_own_members() -> None:
    limits = wire.Limits(100, 1000, 0)
    problem = wire.Problem("urn:nightsafe:too-large", "More", 413, "Send less.", limits=limits)
    assert wire.read_problem("application/problem+json", wire.encode(problem)) == problem
    assert set(json.loads(wire.encode(problem))) == {"type", "title", "status", "detail", "limits"}


def test_a_problem_may_have_members_nobody_knows_and_lack_those_of_the_rfc() -> None:
    problem = wire.read_problem("application/problem+json", b'{"type":"urn:nightsafe:gap","next":7,"trace":"x"}')
    assert (problem.type, problem.next, problem.head, problem.status) == ("urn:nightsafe:gap", 7, None, None)


def test_a_gateways_error_page_is_no_problem() -> None:
    with pytest.raises(wire.NotAnAnswer):
        wire.read_problem("text/html", b"<h1>502 Bad Gateway</h1>")
    with pytest.raises(wire.NotAnAnswer):
        wire.read_problem("application/json", b"{}")


@pytest.mark.parametrize(
    "made",
    [
        wire.HealthAnswer("pass", "x", "t"),
        wire.StreamAnswer(EPOCH, 1, "00" * 32, 0, wire.Limits(5000, 1 << 23, 0.5), "open", "t"),
        wire.HashAnswer(0, "00" * 32),
        wire.TimeAnswer("t"),
    ],
)
def test_bodies_come_back_as_they_went(made: msgspec.Struct) -> None:
    assert wire.read_answer(type(made), "application/json", wire.encode(made)) == made


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": "0199C0DE-0000-7000-8000-000000000001"},
        {"epoch": EPOCH + "\n"},
        {"instance": ""},
        {"instance": "a\n"},
        {"instance": "a b"},
        {"reason": "because"},
        {"parent": {"epoch": EPOCH, "sequence": -1, "rechash": "00" * 32}},
        {"parent": {"epoch": EPOCH, "sequence": 1, "rechash": "00" * 31}},
    ],
)
def test_opening_a_stream_is_read_strictly(wrong: dict[str, object]) -> None:
    right: dict[str, object] = {"epoch": EPOCH, "parent": None, "instance": "i", "reason": "created"}
    assert wire.decode(wire.OpenStream, json.dumps(right).encode())
    with pytest.raises(ValueError, match=r"."):
        wire.decode(wire.OpenStream, json.dumps(right | wrong).encode())
