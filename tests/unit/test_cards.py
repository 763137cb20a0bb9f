"""The card guard on single strings and bytes: what is a card number, and what only looks like one."""

import random
import subprocess
import sys
from hashlib import sha256
from uuid import UUID, uuid4

import jiter
import pytest

from agent.core import cards
from agent.core.events import Event, Refusal, judge
from agent.core.ids import uuid7
from tests.sales import event, fields, padded

# Numbers that the schemes publish for testing, one or more of each length.
PUBLISHED = [
    "4111111111111111", "4242424242424242", "4000056655665556", "5555555555554444", "2223003122003222",
    "5105105105105100", "378282246310005", "371449635398431", "30569309025904", "38520000023237", "36227206271667",
    "6011111111111117", "6011000990139424",
    "3530111333300000", "3566002020360505", "6200000000000005", "6205500000000000004",
    "6304000000000000", "6759649826438453", "4917610000000000003", "4222222222222", "5019717010103742",
]  # fmt: skip

FULLWIDTH, ARABIC = ("".join(chr(zero + int(digit)) for digit in PUBLISHED[0]) for zero in (0xFF10, 0x0660))


def luhn_wrong(number: str) -> str:
    """The same number with another last digit."""
    return number[:-1] + str((int(number[-1]) + 1) % 10)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(r"'\u0663' * 300_000", id="in a row: a quarter of an hour, were it the square of the length"),
        pytest.param(r"'1 ' * 5_000_000", id="apart: a minute and a half, were each window cut out by itself"),
    ],
)
def test_a_long_text_of_odd_digits_costs_no_more_than_its_length(text: str) -> None:
    look = f"from agent.core import cards; assert cards.text_clean({text})"
    subprocess.run([sys.executable, "-c", look], check=True, timeout=60)


@pytest.mark.parametrize("number", PUBLISHED)
def test_published_numbers_are_found_and_the_check_digit_counts(number: str) -> None:
    assert not cards.text_clean(number)
    assert not cards.text_clean(f"paid with {number}.")
    assert cards.text_clean(luhn_wrong(number))


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111", "4111-1111-1111-1111", "4111 - 1111 - 1111 - 1111", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "4111.1111.1111.1111", "4111/1111/1111/1111", "4111_1111_1111_1111", "4111\t1111\t1111\t1111",
        "4111\n1111\n1111\n1111", "4111, 1111, 1111, 1111", "4.1.1.1.1.1.1.1.1.1.1.1.1.1.1.1", "3782 822463 10005",
        "3782.822463.10005", "4111\u00a01111\u00a01111\u00a01111", "4111\u20131111\u20131111\u20131111",
        "4111\u200b1111\u200b1111\u200b1111", "411111\u00ad1111\u00ad111111", "41 11 11 11 11 11 11 11",
        FULLWIDTH, ARABIC, "4111111111111111 12/27 123", "12 4111111111111111",
        "table 12 4111 1111 1111 1111 exp 12 27", "1234 4111 1111 1111 1111", "2026-11-22 4111 1111 1111 1111",
        "x4111111111111111x", "PAN4111111111111111END", "4111111111111111D25121011000", "(4111111111111111)",
        "%B4111111111111111^DOE/JOHN^2512101", ";4111111111111111=25121011000?", "b4111111111111^X^",
        "0199c0de-1111-7111-8111-111111111111 4111111111111111",
    ],
)  # fmt: skip
def test_a_number_is_found_however_it_is_written(text: str) -> None:
    assert not cards.text_clean(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "4242", "411111111111", "00000000000000000042", padded(4111111111111111), "2026-11-22T10:15:00.120Z",
        "1795342500120", "1795342500120000", "20261122101500120", "2026-11-22 10:15:00.120 2026-11-22 10:16:00.340",
        "192.168.100.200", "10.99.0.1:1883", "+44 20 7946 0958", "+49 1512 3456789", "0044 20 7946 0958",
        "3.141592653589793", "51.5073509, -0.1277583", "A-1009", "#000123456789", "GB29 NWBK 6016 1331 9268 19",
        "4006381333931", "5000159407236", "4 006381 333931", "9780306406157", "1.234.567,89", "4111 1111 1111",
        "tok_4a8Bf91Zq0", "411111111111111111111111", "41111111-1111-4111-8111-111111111111",
    ],
)  # fmt: skip
def test_what_is_no_card_number_is_left_alone(text: str) -> None:
    assert cards.text_clean(text)


def test_no_telephone_number_in_its_international_form_is_a_card_number() -> None:
    assert all(cards.text_clean(f"+49151{number:08d}") for number in range(12_345_000, 12_347_000))


def test_no_article_number_is_a_card_number() -> None:
    for country in ("400", "440", "500", "509", "540", "560", "570", "622", "690"):
        for article in range(100_000_000, 100_000_300):
            twelve = f"{country}{article}"
            check = -sum(int(char) * (3 if index % 2 else 1) for index, char in enumerate(twelve)) % 10
            assert cards.text_clean(f"{twelve}{check}")


@pytest.mark.parametrize("seed", [1, 2])
def test_ids_are_no_card_numbers(seed: int) -> None:
    """10,000 UUIDs of versions 4 and 7 as event ids, and hashes as tokens: none refused."""
    chance = random.Random(seed)
    for at in range(2500):
        for name in (
            str(UUID(bytes=chance.randbytes(16), version=4)),
            uuid7(1_795_342_500_000 + at * 7, chance.randbytes(10)),
        ):
            verdict = judge("till-1", event(id=name, epoch=name, sequence=padded(at + 1)), 262_144, 64, 4096)
            assert isinstance(verdict, Event), (name, verdict)
        assert cards.text_clean(sha256(name.encode()).hexdigest())
        assert cards.text_clean(sha256(name.encode()).hexdigest()[:32].upper())


@pytest.mark.parametrize(
    ("key", "value", "clean"),
    [
        ("cvv", "123", False), ("CVV2", "1234", False), ("cvc", 123, False), ("card_cvv", " 123 ", False),
        ("cvn", "000", False), ("security_code", "123", False), ("card security code", "123", False),
        ("security-value", "123", False), ("verification_value", "1234", False), ("cvv_code", "123", False),
        ("cvv", True, True), ("cvv", None, True), ("cvv", "", True), ("cvv", "matched", True), ("cvv", 12, True),
        ("cvv_result", "M", True), ("covers", 123, True), ("cv", "123", True), ("verified", "123", True),
    ],
)  # fmt: skip
def test_verification_values_are_found_by_their_names(key: str, value: object, clean: bool) -> None:
    payload = event(type="x", data={"card": {key: value}})
    assert isinstance(judge("till-1", payload, 262_144, 64, 4096), Event) is clean


@pytest.mark.parametrize(
    ("number", "clean"),
    [
        (b"4111111111111111", False), (b"4111111111111111.0", False), (b"4.111111111111111e15", False),
        (b"41111111111111110e-1", False), (b"4111.111111111111e12", False), (b"-4111111111111111", False),
        (b"4111111111111111.5", True), (b"4111111111111112", True), (b"41111111111111111111", True),
        (b"1e300", True), (b"0.4111111111111111", True), (b"1795342500120", True),
    ],
)  # fmt: skip
def test_numbers_are_judged_by_their_value(number: bytes, clean: bool) -> None:
    payload = b'{"specversion":"1.0","id":"a","source":"s","type":"x","data":%b}' % number
    assert isinstance(judge("till-1", payload, 262_144, 64, 4096), Event) is clean


def test_the_first_look_clears_an_ordinary_sale_and_never_one_with_a_card() -> None:
    def cleared(payload: bytes, sequence: str | None) -> bool:
        return cards.clearly_clean(payload, cards.flattened(payload, sequence))

    sale = fields(
        id=str(uuid4()), epoch="e", sequence=padded(42), data={"name": "Café brûlée \u2013 £6", "amount": 650}
    )
    assert cleared(event(**sale), padded(42))
    for text in ("4111.1111.1111.1111", FULLWIDTH, ARABIC, "4111\n1111\n1111\n1111"):
        assert not cleared(event(**sale | {"subject": text}), padded(42))


def test_masking_leaves_no_digit_and_nothing_beyond_ascii() -> None:
    assert cards.masked(f"4111 {FULLWIDTH[:4]} é x".encode()) == b"**** ???????????? ?? x"


def test_the_guard_reads_only_what_is_strict() -> None:
    with pytest.raises(ValueError, match="duplicate"):
        cards.clean(b'{"a":"4111111111111111","a":1}', cards.RUN)
    assert jiter.from_json(b"{}") == {}


def test_a_refusal_is_what_a_card_gets() -> None:
    assert isinstance(judge("till-1", event(subject=PUBLISHED[0]), 262_144, 64, 4096), Refusal)
