"""The verdict on an event's bytes: what is stored, what is refused, and what a refusal still tells."""

import base64
import json
from hashlib import sha256
from typing import Any

import pytest

from agent.core.events import (
    DETAIL_CHARS_MAX,
    SEQUENCE_MAX,
    Event,
    Reason,
    Refusal,
    device_allowed,
    judge,
    refuse,
)
from tests.sales import counted, event, fields, padded, payment

BYTES_MAX, DEPTH_MAX, EXCERPT_MAX = 4096, 16, 200
CARD = "4111111111111111"


def verdict(payload: bytes) -> Event | Refusal:
    return judge("till-1", payload, BYTES_MAX, DEPTH_MAX, EXCERPT_MAX)


def stored(payload: bytes) -> Event:
    found = verdict(payload)
    assert isinstance(found, Event), found
    return found


def refused(payload: bytes) -> Refusal:
    found = verdict(payload)
    assert isinstance(found, Refusal), found
    return found


def raw(inner: bytes) -> bytes:
    """An event of an unknown type with these bytes as its data."""
    return b'{"specversion":"1.0","id":"a","source":"s","type":"x","data":' + inner + b"}"


# What is stored ------------------------------------------------------------------------------------------------------


def test_an_event_is_kept_from_its_first_brace_to_its_last() -> None:
    payload = counted("e1", 42, id="a")
    found = stored(b" \r\n\t" + payload + b"\n ")
    assert found.body == payload
    assert (found.device, found.id, found.type) == ("till-1", "a", "pos.payment.captured")
    assert (found.epoch, found.sequence) == ("e1", 42)


def test_content_is_type_and_data_and_nothing_else() -> None:
    same = [
        event(id="a", data={"x": 1}, type="x"),
        event(id="b", data={"x": 1}, type="x", time="2027-01-01T00:00:00Z", subject="check/1"),
        counted("e", 1, data={"x": 1}, type="x"),
    ]
    others = [
        event(id="a", data={"x": 2}, type="x"),
        event(id="a", data={"x": 1}, type="y"),
        b'{"specversion":"1.0","id":"a","source":"s","type":"x","data":{"x": 1}}',
        event(id="a", data=None, type="x"),
    ]
    assert len({stored(payload).digest for payload in same}) == 1
    assert len({stored(payload).digest for payload in same + others}) == 1 + len(others)


@pytest.mark.parametrize(
    ("sequence", "number"), [("1", 1), ("01", 1), (padded(42), 42), (str(SEQUENCE_MAX), SEQUENCE_MAX)]
)
def test_a_sequence_is_read_padded_and_unpadded(sequence: str, number: int) -> None:
    assert stored(event(epoch="e", sequence=sequence)).sequence == number


@pytest.mark.parametrize(
    "kind",
    ["pos.check.opened", "pos.check.updated", "pos.check.closed", "pos.check.voided"],
)
def test_checks_with_their_fields_are_stored(kind: str) -> None:
    line = {
        "id": "l1",
        "name": "IPA pint",
        "quantity": 2,
        "unit_amount": {"amount": 650, "currency": "GBP"},
        "modifiers": [{"id": "m", "name": "no foam"}],
        "vendor": "anything",
    }
    data = {
        "check_id": "1009",
        "table": "12",
        "covers": 4,
        "lines": [line],
        "total": {"amount": 1300, "currency": "GBP"},
        "business_date": "2026-11-22",
    }
    assert stored(event(type=kind, data=data)).type == kind


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        *((f"pos.payment.{what}", payment()) for what in ("authorized", "captured", "voided", "refunded", "reversed")),
        *(("pos.payment.captured", payment(tender=tender)) for tender in ("cash", "gift_card", "on_account", "other")),
        *((f"pos.order.{what}", {"order_id": "A-1"}) for what in ("accepted", "ready", "provided", "rejected")),
        ("pos.menu.loaded", {"menu_version": "7", "product_ids": ["p"], "option_ids": []}),
        ("pos.loyalty.accrued", {"points": 3}),
        ("pos.cash.drawer_opened", {"anything": 1}),
        ("pos.shift.ended", {}),
        ("com.vendor.anything", ["not", "an", "object"]),
        ("com.vendor.nothing", None),
    ],
)
def test_known_types_and_unknown_ones_are_stored(kind: str, data: Any) -> None:
    assert stored(event(type=kind, data=data)).type == kind


@pytest.mark.parametrize(
    "inner",
    [
        b"null", b"[]", b'"x"', b"-0", b"-0.0", b"1E2", b"1.10", b"9007199254740993", b"18446744073709551616",
        b"123456789012345678901234567890", b"1.7976931348623157e308", b"5e-324", b"1e-400", '"Müller 🍺"'.encode(),
        b'"\\ud83c\\udf7a"', b'"\\\\u0000"', b'"\\u001f"', b'{"a":{"a":1},"b":[{"a":1},{"a":1}]}', b'{"":1," ":2}',
        b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1),
    ],
)  # fmt: skip
def test_unusual_data_is_carried_untouched(inner: bytes) -> None:
    assert stored(raw(inner)).body == raw(inner)


# What is refused -----------------------------------------------------------------------------------------------------

# The bad inputs that reach the agent as payloads, by why they are refused.
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "no JSON": b"hello",
    "number": b"1",
    "string": b'"x"',
    "array": b"[" + event() + b"]",
    "two objects": event() + event(),
    "text behind": event() + b"x}",
    "cut": event()[:-10] + b"}",
    "byte order mark": b"\xef\xbb\xbf" + event(),
    "UTF-16": event().decode().encode("utf-16"),
    "single quotes": b"{'specversion':'1.0'}",
    "trailing comma": b'{"specversion":"1.0",}',
    "comment": b'{"specversion":"1.0"/**/}',
    "bad UTF-8 in data": raw(b'"\xff"'),
    "bad UTF-8 in a key": raw(b'{"\xc3(":1}'),
    "overlong UTF-8": raw(b'"\xc0\xaf"'),
    "surrogate in UTF-8": raw(b'"\xed\xa0\x80"'),
    "lone high surrogate": raw(b'"\\ud800"'),
    "lone low surrogate": raw(b'"\\udc00x"'),
    "lone surrogate in the id": event(id="ID").replace(b'"ID"', b'"\\udfff"'),
    "raw control character": raw(b'"\x01"'),
    "raw line break in a string": raw(b'"\n"'),
    "NUL": raw(b'"\\u0000"'),
    "NUL in a key": raw(b'{"a\\u0000":1}'),
    "NUL in the id": event(id="ID").replace(b'"ID"', b'"a\\u0000b"'),
    "NUL behind a backslash": raw(b'"\\\\\\u0000"'),
    "raw NUL": raw(b'"\0"'),
    "a key twice": b'{"id":"a",' + event()[1:],
    "a key twice, written otherwise": b'{"\\u0069d":"a",' + event()[1:],
    "a key twice in data": raw(b'{"a":1,"b":2,"a":1}'),
    "a key twice deep inside": raw(b'[{"x":[{"a":1,"\\u0061":1}]}]'),
    "NaN": raw(b"NaN"),
    "Infinity": raw(b"[Infinity]"),
    "-Infinity": raw(b"-Infinity"),
    "1e999": raw(b"1e999"),
    "-1e999 in an attribute": event()[:-1] + b',"x":-1e999}',
    "a number beyond binary64": raw(b"1" + b"0" * 309),
    "5000 digits": raw(b"9" * 3800),
    "leading zero": raw(b"01"),
    "plus": raw(b"+1"),
    "hexadecimal": raw(b"0x1"),
    "bare point": raw(b".5"),
    "too deep": raw(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX),
    "far too deep": raw(b"[" * 1900 + b"]" * 1900),
    "never closed": b'{"x":' + b"[" * 3000 + b"}",
    "too deep in an attribute": event()[:-1] + b',"x":' + b'{"x":' * 20 + b"1" + b"}" * 20 + b"}",
}

SCHEMA: dict[str, bytes] = {
    "no specversion": event(specversion=None),
    "another specversion": event(specversion="0.3"),
    "no id": event(id=None),
    "empty id": event(id=""),
    "long id": event(id="x" * 257),
    "number as id": event(id=7),
    "null as id": event(id="ID").replace(b'"ID"', b"null"),
    "no source": event(source=None),
    "empty source": event(source=""),
    "no type": event(type=None),
    "empty type": event(type=""),
    "time is no text": event(time=1795342500),
    "epoch without sequence": event(epoch="e"),
    "sequence without epoch": event(sequence="1"),
    "number as sequence": event(epoch="e", sequence=1),
    "sequence 0": event(epoch="e", sequence="0"),
    "negative sequence": event(epoch="e", sequence="-1"),
    "sequence beyond the counter": event(epoch="e", sequence=str(SEQUENCE_MAX + 1)),
    "sequence of 21 digits": event(epoch="e", sequence="0" * 20 + "1"),
    "sequence in other digits": event(epoch="e", sequence="٣"),
    "sequence with a blank": event(epoch="e", sequence=" 1"),
    "empty sequence": event(epoch="e", sequence=""),
    "empty epoch": event(epoch="", sequence="1"),
    "long epoch": event(epoch="e" * 65, sequence="1"),
    "epoch that is a wildcard": event(epoch="#", sequence="1"),
    "epoch of two topic levels": event(epoch="a/b", sequence="1"),
    "epoch with a line break": event(epoch="a\n", sequence="1"),
    "epoch beyond ASCII": event(epoch="é", sequence="1"),
    "the box's own type": event(type="nightsafe.order.rejected"),
    "payment without data": event(data=None),
    "payment data is no object": event(data=[]),
    "payment without id": event(data=payment(payment_id=None)),
    "payment without amount": event(data={"payment_id": "p", "tender": "cash"}),
    "bool as amount": event(data=payment(amount={"amount": True, "currency": "GBP"})),
    "money as float": event(data=payment(amount={"amount": 12.5, "currency": "GBP"})),
    "money as text": event(data=payment(amount={"amount": "1250", "currency": "GBP"})),
    "money beyond 2^53": event(data=payment(amount={"amount": 2**53, "currency": "GBP"})),
    "money beyond 2^63": event(data=payment(amount={"amount": 2**63, "currency": "GBP"})),
    "bare amount": event(data=payment(amount=1250)),
    "no currency": event(data=payment(amount={"amount": 1})),
    "unknown tender": event(data=payment(tender="barter")),
    "text as bool": event(data=payment(offline="false")),
    "last4 of five": event(data=payment(card={"last4": "42424"})),
    "check without id": event(type="pos.check.closed", data={"table": "1"}),
    "lines are no list": event(type="pos.check.closed", data={"check_id": "1", "lines": {}}),
    "order answer without order": event(type="pos.order.accepted", data={}),
    "menu without version": event(type="pos.menu.loaded", data={"product_ids": []}),
    "cash data is no object": event(type="pos.cash.counted", data=7),
    "data in two ways": event(type="x", data_base64="3q0="),
    "data_base64 is no base64": event(type="x", data=None, data_base64="3q0"),
    "data_base64 is no text": event(type="x", data=None, data_base64=7),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_strict_json_is_malformed(what: str) -> None:
    assert refused(MALFORMED[what]).reason is Reason.MALFORMED


@pytest.mark.parametrize("what", SCHEMA)
def test_what_breaks_its_schema_is_refused_as_that(what: str) -> None:
    found = refused(SCHEMA[what])
    assert found.reason is Reason.SCHEMA
    assert found.detail


def test_a_broken_schema_in_broken_json_is_malformed() -> None:
    assert refused(b'{"id":7,"id":8}').reason is Reason.MALFORMED


def test_size_is_counted_without_the_white_space_around() -> None:
    room = BYTES_MAX - len(event(type="x", data="", id="a"))
    fitting = event(type="x", data="x" * room, id="a")
    assert len(fitting) == BYTES_MAX
    assert stored(b" " * 50 + fitting + b" " * 50).body == fitting
    over = refused(event(type="x", data="x" * (room + 1), id="a"))
    assert over.reason is Reason.TOO_LARGE
    assert f"{BYTES_MAX + 1} bytes" in over.detail


# What a refusal tells ------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_event_as_far_as_it_can_be_read() -> None:
    payload = counted("e1", 7, id="a", data=payment(tender="barter"))
    found = refused(payload)
    assert (found.device, found.id, found.epoch, found.sequence) == ("till-1", "a", "e1", 7)
    assert found.sha256 == sha256(payload).hexdigest()
    assert (found.size, found.payload) == (len(payload), payload)
    assert found.excerpt == payload.decode()[:EXCERPT_MAX]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id": 7}, (None, "e", 1)),
        ({"id": "x" * 257}, (None, "e", 1)),
        ({"epoch": 7}, ("a", None, None)),
        ({"epoch": "a/b"}, ("a", None, None)),
        ({"sequence": 1}, ("a", None, None)),
        ({"sequence": "0"}, ("a", None, None)),
        ({"sequence": "x"}, ("a", None, None)),
        ({"sequence": str(SEQUENCE_MAX + 1)}, ("a", None, None)),
        ({"epoch": None}, ("a", None, None)),
        ({"specversion": None}, ("a", "e", 1)),
    ],
)
def test_only_what_is_surely_meant_is_told(changes: dict[str, Any], told: tuple[str | None, str | None, int]) -> None:
    found = refused(event(**{"id": "a", "epoch": "e", "sequence": "1", "type": "x"} | changes))
    assert (found.id, found.epoch, found.sequence) == told


def test_the_excerpt_is_valid_text_even_where_it_is_cut_or_broken() -> None:
    payload = b'{"x": "' + "é".encode() * 200
    found = refused(payload)
    assert found.excerpt == '{"x": "' + "é" * ((EXCERPT_MAX - 7) // 2) + "\ufffd"
    assert found.payload == payload
    unreadable = refused(payload + b"\xff")
    assert unreadable.excerpt.isascii()
    assert unreadable.payload is None  # what cannot be read may hold anything


def test_what_a_refusal_says_is_bounded_though_it_repeats_the_device() -> None:
    assert refused(event(specversion="x" * 1000)).detail.endswith("x…")
    assert len(refused(event(specversion="x" * 1000)).detail) == DETAIL_CHARS_MAX + 1


CARDS: dict[str, bytes] = {
    "in a value": event(data=payment(card={"token": CARD})),
    "in a key": raw(b'{"' + CARD.encode() + b'":1}'),
    "as a number": raw(CARD.encode()),
    "as a float": raw(CARD.encode() + b".0"),
    "as a number with an exponent": raw(b"4111.111111111111e12"),
    "negative": raw(b"-" + CARD.encode()),
    "in the id": event(id=CARD),
    "in the type": event(type=f"x.{CARD}", data=1),
    "in the source": event(source=f"/cards/{CARD}", type="x"),
    "in the epoch": event(epoch=CARD, sequence="1"),
    "in an extension": event(vendor=[{"deep": CARD}]),
    "in text": event(type="x", data=f"paid with {CARD}, thanks"),
    "in base64": event(type="x", data=None, data_base64=base64.b64encode(f"x {CARD} y".encode()).decode()),
    "escaped": raw(b'"' + "".join(f"\\u{ord(digit):04x}" for digit in CARD).encode() + b'"'),
    "in JSON in a string": event(type="x", data=json.dumps({"card": CARD})),
    "verification value": event(data=payment(cvv="123")),
    "verification value as number": event(type="x", data={"card": {"CVC2": 1234}}),
    "verification value spelled out": event(type="x", data={"security_code": "123"}),
    "track 1": event(type="x", data=f"%B{CARD}^DOE/JOHN^2512101"),
    "track 2": event(type="x", data=f";{CARD}=2512101?"),
}
CARDS_MALFORMED: dict[str, bytes] = {
    "behind a duplicate key": b'{"id":"a","id":"b",' + CARDS["in a value"][1:],
    "as a duplicate key": raw(f'{{"{CARD}":1,"{CARD}":2}}'.encode()),
    "in cut JSON": CARDS["in a value"][:-20],
    "in no JSON": f"card {CARD}".encode(),
    "escaped in cut JSON": CARDS["escaped"][:-1],
    "in bad UTF-8": raw(f'"\xff{CARD}"'.encode("latin-1")),
    "too deep": raw(b"[" * 20 + CARD.encode() + b"]" * 20),
    "in UTF-16": CARDS["in text"].decode().encode("utf-16"),
    "verification value in cut JSON": b'{"cvv":"123"',
    "in base64 in cut JSON": CARDS["in base64"][:-1],
}
CARDS_SCHEMA: dict[str, bytes] = {
    "as specversion": event(specversion=CARD),
    "as tender without an envelope": b'{"tender":"' + CARD.encode() + b'"}',
    "as sequence": event(epoch="e", sequence=CARD + "x"),
    "verification value without an envelope": b'{"cvv":"123"}',
    "verification value in a schema refusal": event(specversion=None, cvc=123),
    "in base64 beside data": event(type="x", data_base64=base64.b64encode(CARD.encode()).decode()),
    "in base64 of another schema": event(
        specversion=None, data=None, data_base64=base64.b64encode(CARD.encode()).decode()
    ),
}


@pytest.mark.parametrize("where", CARDS)
def test_a_card_number_refuses_the_event(where: str) -> None:
    assert refused(CARDS[where]).reason is Reason.CARD_NUMBER


@pytest.mark.parametrize("where", CARDS | CARDS_MALFORMED | CARDS_SCHEMA)
def test_nothing_of_a_card_stays_in_a_refusal(where: str) -> None:
    found = refused((CARDS | CARDS_MALFORMED | CARDS_SCHEMA)[where])
    assert found.payload is None
    kept = json.dumps([found.id, found.epoch, found.sequence, found.detail, found.excerpt])
    assert CARD not in kept
    assert "NDExMTExMTExMTExMTExMQ" not in kept
    assert "IDQxMTExMTExMTExMTExMTE" not in kept
    assert not any(char.isdigit() for char in found.excerpt)
    assert '"123"' not in kept


def test_a_card_number_as_tender_is_named_as_such_and_not_as_a_wrong_word() -> None:
    assert refused(event(data=payment(tender=CARD))).reason is Reason.CARD_NUMBER


def test_a_card_number_beyond_the_excerpt_masks_it_all_the_same() -> None:
    found = refused(event(type="x", data="9" * 5 + " " * 300 + CARD))
    assert found.payload is None
    assert "99999" not in found.excerpt


@pytest.mark.parametrize(
    "more", [{}, {"data": None, "data_base64": "3q2+7w=="}, {"subject": "Café \uff11"}, {"time": None}]
)
def test_a_refusal_of_the_journals_keeps_what_holds_no_card(more: dict[str, Any]) -> None:
    payload = event(**{"id": "a", "type": "x", "epoch": "e", "sequence": padded(7)} | more)
    found = refuse("till-1", payload, Reason.CONFLICT, "said before", EXCERPT_MAX)
    assert (found.reason, found.id, found.sequence, found.detail) == (Reason.CONFLICT, "a", 7, "said before")
    assert found.payload == payload


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("till-1", True), ("1", True), ("a" * 63, True), ("a--", True),
        ("", False), ("-a", False), ("a" * 64, False), ("Till", False), ("a_b", False), ("a/b", False), ("a+", False),
        ("till-1\n", False), ("t\u0131ll", False), ("\uff11", False), ("agent", False),
        ("venue", False), ("nightsafe", False),
    ],
)  # fmt: skip
def test_names_of_devices(name: str, allowed: bool) -> None:
    assert device_allowed(name) is allowed


def test_the_templates_of_these_tests_are_valid() -> None:
    assert stored(event()).type == "pos.payment.captured"
    assert stored(raw(b"1")).type == "x"
    assert stored(json.dumps(fields(type="x", data=None)).encode()).type == "x"
