"""JSON values → [their one canonical form] → hashes. The JSON Canonicalization Scheme of RFC 8785.

Pure. Numbers are written as ECMAScript writes a binary64, keys are sorted by their UTF-16 code units. Never mends what
has no canonical form: that is a ValueError.
"""

import json
import math
from typing import Any, Final

EXACT_MAX: Final = 2**53
_escaped = json.encoder.encode_basestring
"""Escapes quotes, backslashes and control characters as the scheme wants it, and nothing else."""


def canonical(value: Any) -> bytes:
    """The canonical UTF-8 of a decoded JSON value. ValueError where a number or a text cannot be written."""
    return _written(value).encode("utf-8")  # a lone surrogate is a UnicodeEncodeError, which is a ValueError


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return f"{{{','.join(f'{_escaped(key)}:{_written(value[key])}' for key in keys)}}}"
    raise ValueError(f"no JSON value: {type(value).__name__}")


def _number(value: int | float) -> str:
    if isinstance(value, int) and -EXACT_MAX <= value <= EXACT_MAX:
        return str(value)
    try:
        wide = float(value)
    except OverflowError as error:
        raise ValueError("a number is not finite in binary64") from error
    if not math.isfinite(wide):
        raise ValueError("a number is not finite in binary64")
    if wide == 0:
        return "0"
    return f"{'-' * (wide < 0)}{_shortest(abs(wide))}"


def _shortest(value: float) -> str:
    """Number::toString of ECMAScript for a value above zero: the shortest digits that read back as the same value."""
    mantissa, _, exponent = repr(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or "0")
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        return digits.ljust(point, "0") if len(digits) <= point else f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    power = point - 1
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{tail}e{'+' if power > 0 else '-'}{abs(power)}"
