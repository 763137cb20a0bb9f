"""[figures] Arithmetic of a measurement: latencies out of what was noted, and percentiles out of latencies. Pure."""

import math
from array import array
from collections.abc import Sequence
from typing import NamedTuple


class Note(NamedTuple):
    """At `at_ns`, the first `upto` events of one device were sent, or were acknowledged."""

    upto: int
    at_ns: int


def latencies_ns(sent: Sequence[Note], acked: Sequence[Note], from_ns: int, to_ns: int) -> "array[int]":
    """One latency for each acknowledged event that was sent at or after `from_ns` and before `to_ns`."""
    found = array("q")
    begin = batch = 0
    for upto, acked_ns in acked:
        while begin < upto:
            sent_upto, sent_ns = sent[batch]
            end = min(upto, sent_upto)
            if from_ns <= sent_ns < to_ns:
                found.extend([acked_ns - sent_ns] * (end - begin))
            begin = end
            batch += begin == sent_upto
    return found


def acked_between(acked: Sequence[Note], from_ns: int, to_ns: int) -> int:
    """How many events were acknowledged at or after `from_ns` and before `to_ns`."""
    before = max((note.upto for note in acked if note.at_ns < from_ns), default=0)
    return max((note.upto for note in acked if note.at_ns < to_ns), default=0) - before


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all values do not exceed: nearest rank. ValueError without values."""
    if not ascending:
        raise ValueError("no values")
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
