"""JSON values → [their one canonical form] → hashes. The JSON Canonicalization Scheme of RFC 8785.

Pure; the scheme itself is the library's. Never mends what has no canonical form: that is a ValueError.
"""

from typing import Any, Final

import rfc8785

EXACT_MAX: Final = 2**53 - 1
"""Whole numbers up to here are the same in binary64."""


def canonical(value: Any) -> bytes:
    """The canonical UTF-8 of a decoded JSON value. ValueError where a number or a text cannot be written."""
    return rfc8785.dumps(_in_binary64(value))


def _in_binary64(value: Any) -> Any:
    """The same value with every whole number as binary64 holds it: the scheme knows no other numbers."""
    if isinstance(value, dict):
        return {key: _in_binary64(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_in_binary64(one) for one in value]
    if not isinstance(value, int) or abs(value) <= EXACT_MAX:
        return value
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("a number is not finite in binary64") from error
