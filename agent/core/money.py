"""minor units → [money in words] → page, command line. What people write for an amount, by the currency's own decimals.

Pure. Sums and comparisons are made in minor units only.
"""

import re
from typing import Final

NO_DECIMALS: Final = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF")
) | {"XPF"}
THREE_DECIMALS: Final = frozenset(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"])
"""ISO 4217; all other currencies count two."""

_WRITTEN: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,3}))?", re.ASCII)


def decimals_of(currency: str) -> int:
    """How many digits of an amount in minor units stand behind the point."""
    return 0 if currency in NO_DECIMALS else 3 if currency in THREE_DECIMALS else 2


def money_text(amount: int, currency: str) -> str:
    """`12.50 GBP`."""
    decimals = decimals_of(currency)
    digits = f"{abs(amount):0{decimals + 1}d}"
    point = f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
    return f"{'-' * (amount < 0)}{point} {currency}"


def minor_units(text: str, currency: str) -> int | None:
    """What people write for an amount: with a point as `money_text` has it, without one minor units already. None where
    it is neither."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        return None
    whole, behind = found.groups()
    if behind is None:
        return int(whole)
    decimals = decimals_of(currency)
    return int(whole + behind) if len(behind) == decimals else None
