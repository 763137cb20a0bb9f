"""device → gate → [the card guard] → journal. Finds card numbers, track data and verification values in an event.

Pure. It errs towards looking twice: a cheap look over the bytes clears nearly every event, and only what is left is
decoded and judged by issuer, length and Luhn. It never keeps or returns what it found.
"""

import re
from typing import Any

import jiter

_FLATTEN = bytes.maketrans(b"123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"000000000abcdefghijklmnopqrstuvwxyz")
_ASCII = bytes(range(128))
_MARKS = bytes(code for code in range(256) if code >= 128 or not chr(code).isalnum())
RUN = b"0" * 13
"""What a card number leaves in flattened bytes: the shortest has 13 digits."""
_MASK = bytes.maketrans(b"0123456789", b"**********")
_ENCODED = re.compile(rb"[A-Za-z+/=*]{16,}")
_SPACES = " \u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000"
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
_HIDDEN = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_JOIN = f"[{_SPACES}{re.escape(_DASHES)}{_HIDDEN}]*"
_MANY = re.compile(r"\d(?:[\W_]*\d){7}")
# Digits that only blanks and dashes part, however they are grouped.
_CANDIDATE = re.compile(rf"\+?\d(?:{_JOIN}\d){{12,}}")
# Groups as they stand on cards, or single digits, whatever parts them and whatever stands beside.
_MARK = r"[\W_]{1,3}"
_GROUPED = re.compile(
    rf"(?<![\d+])(?=(\+?(?:\d{{13,19}}|(?:\d{{4}}{_MARK}){{3}}\d{{1,7}}|\d{{4}}{_MARK}\d{{6}}{_MARK}\d{{4,5}}))(?!\d))"
)
_SINGLES = re.compile(rf"(?<!\d)\+?\d(?:{_MARK}\d(?!\d)){{12,}}")
_UUID = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_UUIDS = re.compile(_UUID)
_HASHES = re.compile(r"(?<![0-9A-Za-z])(?=(?:[0-9]*[A-Fa-f]){4})(?:[0-9a-f]{32,}|[0-9A-F]{32,})(?![0-9A-Za-z])")
# What is no card number and has many digits: UUIDs, and a sequence with its padding.
_PLAIN = re.compile(rf'{_UUID}|"[0-9]{{20}}"'.encode())
_TRACK = re.compile(r"%?[Bb]\d{8,19}\^|;\d{8,19}=")
_VERIFICATION = re.compile(
    r"(?i)^(?:card[_ -]?)?(?:cvv2?|cvc2?|cvn2?|cvv[_ -]?code|(?:security|verification)[_ -]?(?:value|code))$"
)

_NO_DIGITS = {code: None for code in range(128) if not chr(code).isdigit()}
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_DOUBLED = str.maketrans("0123456789", "0246813579")
_LENGTHS = frozenset(range(13, 20))

# First digits, as ranges, with the lengths they are issued in: ISO/IEC 7812 as the card schemes publish it.
_ISSUERS: tuple[tuple[int, int, frozenset[int]], ...] = (
    (4, 4, frozenset({13, 16, 18, 19})),
    (51, 55, frozenset({16})),
    (2221, 2720, frozenset({16})),
    (34, 34, frozenset({15})),
    (37, 37, frozenset({15})),
    (300, 305, frozenset({14, 16, 19})),
    (3095, 3095, frozenset({14, 16, 19})),
    (36, 36, frozenset(range(14, 20))),
    (38, 39, frozenset({14, 16, 19})),
    (6011, 6011, frozenset(range(16, 20))),
    (644, 649, frozenset(range(16, 20))),
    (65, 65, frozenset(range(16, 20))),
    (3528, 3589, frozenset(range(16, 20))),
    (62, 62, frozenset(range(16, 20))),
    (81, 81, frozenset(range(16, 20))),
    (50, 50, frozenset(range(13, 20))),
    (56, 58, frozenset(range(13, 20))),
    (6304, 6304, frozenset(range(13, 20))),
    (6390, 6390, frozenset(range(13, 20))),
    (67, 67, frozenset(range(13, 20))),
    (2200, 2204, frozenset(range(16, 20))),
    (9792, 9792, frozenset({16})),
    (60, 60, frozenset({16})),
)


def flattened(body: bytes, sequence: str | None) -> bytes:
    """The bytes for the first look: letters and digits alone, in lower case, every digit 0, and the event's own
    zero-padded `sequence` taken out, since padding is no card number."""
    if sequence is not None and len(sequence) >= 13 and sequence.startswith("00000000"):
        body = body.replace(sequence.encode(), b"", 1)
    return body.translate(_FLATTEN, _MARKS)


def clean(body: bytes, flat: bytes) -> bool:
    """Whether strict JSON holds no card data; `flat` is what `flattened` made of it. ValueError if it is not strict."""
    if clearly_clean(body, flat):
        return True
    return _decoded_clean(jiter.from_json(body, catch_duplicate_keys=True))


def clearly_clean(body: bytes, flat: bytes) -> bool:
    """Whether the bytes alone show that nothing is to be found: no run of 13 digits, no escapes, no other digits.

    The envelope's own `specversion` is the one "cv" that an event without verification values has.
    """
    if b"\\" in body or (not body.isascii() and _has_other_digits(body)):
        return False
    if RUN in flat and RUN in _PLAIN.sub(b"x", body).translate(_FLATTEN, _MARKS):
        return False
    if b"verif" in flat or b"securityc" in flat or b"securityv" in flat:
        return False
    own = flat.count(b"cv")
    return own == 0 or (own == 1 and b"specversion" in flat)


def _has_other_digits(body: bytes) -> bool:
    """Whether digits beyond ASCII stand in it, or what is no UTF-8."""
    try:
        return any(map(str.isdecimal, body.translate(None, _ASCII).decode()))
    except UnicodeDecodeError:
        return True


def masked(head: bytes) -> bytes:
    """The same bytes with every digit, everything beyond ASCII and what may be base64 replaced: no number is left."""
    plain = bytes(byte if byte < 128 else 63 for byte in head).translate(_MASK)
    return _ENCODED.sub(lambda found: b"*" * len(found[0]), plain)


def text_clean(text: str) -> bool:
    """Whether one decoded string holds no card number and no track data."""
    if len(text) < 10 or not _MANY.search(text):
        return True
    if _TRACK.search(text):
        return False
    if "-" in text:
        text = _UUIDS.sub("x", text)
    if len(text) >= 32:
        text = _HASHES.sub("x", text)
    if not text.isascii():
        text = _OTHER_DIGIT.sub(lambda found: str(int(found[0])), text)
    return not (
        any(_is_card(found[0]) for found in _CANDIDATE.finditer(text))
        or any(_is_card(found[1]) for found in _GROUPED.finditer(text))
        or any(_holds_card(found[0]) for found in _SINGLES.finditer(text))
    )


def _decoded_clean(value: Any) -> bool:
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if not text_clean(item):
                return False
        elif isinstance(item, dict):
            for key, inner in item.items():
                if not text_clean(key) or (_VERIFICATION.match(key) and _is_verification_value(inner)):
                    return False
                stack.append(inner)
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, int | float) and not isinstance(item, bool) and not _number_clean(item):
            return False
    return True


def _number_clean(number: float) -> bool:
    if isinstance(number, float):
        return not number.is_integer() or abs(number) >= 1e19 or not _is_card(str(abs(int(number))))
    return not _is_card(str(abs(number)) if abs(number) < 10**20 else "")


def _is_verification_value(value: Any) -> bool:
    """Three or four digits, as text or number."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return isinstance(text, str) and 3 <= len(text.strip()) <= 4 and text.strip().isdecimal()


def _is_card(run: str) -> bool:
    """Whether the digits of a run, all of them, are a card number."""
    digits = _digits(run)
    return len(digits) in _LENGTHS and _is_number(digits, run.startswith("+"))


def _holds_card(run: str) -> bool:
    """Whether some of single digits that stand in a row are a card number: from each on, as many as one may have."""
    digits = _digits(run)
    return any(_is_number(digits[at : at + 19], at == 0 and run.startswith("+")) for at in range(len(digits) - 12))


def _digits(run: str) -> str:
    return run.translate(_NO_DIGITS) if run.isascii() else "".join(filter(str.isdecimal, run))


def _is_number(digits: str, international: bool) -> bool:
    if len(digits) not in _ISSUED[int(digits[:4])] or not _luhn(digits):
        return False
    return len(digits) > 13 or not (international or _ean(digits))  # 13: a telephone or article number; cards no more


def _ean(digits: str) -> bool:
    """Whether the last of 13 digits is the check digit of an article number (EAN-13)."""
    return sum(int(char) * (3 if index % 2 else 1) for index, char in enumerate(digits)) % 10 == 0


def _luhn(digits: str) -> bool:
    return (sum(map(int, digits[::-2])) + sum(map(int, digits[-2::-2].translate(_DOUBLED)))) % 10 == 0


def _issued() -> tuple[frozenset[int], ...]:
    """By the first four digits, the lengths that card numbers which begin so are issued in."""
    table = [frozenset[int]()] * 10_000
    for low, high, lengths in _ISSUERS:
        room = 10 ** (4 - len(str(low)))
        for first in range(low * room, (high + 1) * room):
            table[first] |= lengths
    return tuple(table)


_ISSUED = _issued()
