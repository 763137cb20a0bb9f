"""[how much one caller may do] A token bucket: so many at once, so many a second. Pure: instants are arguments."""


class Allowance:
    """`per_s` a second on average, and as many more at once as were left unused before, up to `at_once`."""

    __slots__ = ("_at_once", "_at_s", "_left", "_per_s")

    def __init__(self, per_s: float, at_once: float, now_s: float) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._left = at_once
        self._at_s = now_s

    def take(self, now_s: float, count: float = 1.0) -> float:
        """Take `count`; returns for how many seconds nothing more may be taken, 0 if more may be."""
        self._left = min(self._at_once, self._left + (now_s - self._at_s) * self._per_s) - count
        self._at_s = now_s
        return max(0.0, (1 - self._left) / self._per_s) if self._left < 1 else 0.0
