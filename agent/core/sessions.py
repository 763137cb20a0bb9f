"""[core] Who is logged in at the page, in memory alone. Instants are boottime in seconds, tokens are made outside.

A session ends when nobody uses it for a while, after its longest life, with the process, or with the PIN it was opened
by. Keeps no token: whoever read this memory could not call with it.
"""

from hashlib import sha256
from typing import NamedTuple


class Terms(NamedTuple):
    """A session ends `idle_s` after its last use and `life_s` after its beginning; `count_max` are open at once."""

    idle_s: float
    life_s: float
    count_max: int


class Session:
    """Somebody who knows the PIN. `form_token` stands in each form that this one may send."""

    __slots__ = ("form_token", "since_s", "used_s")

    def __init__(self, form_token: str, now_s: float) -> None:
        self.form_token = form_token
        self.since_s = self.used_s = now_s


class Sessions:
    """The open ones, by the digest of their token."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._open: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, token: str, form_token: str, now_s: float) -> Session:
        """Begin one; where too many are open, the one that was unused for the longest ends."""
        self._tidy(now_s)
        while len(self._open) >= self._terms.count_max:
            del self._open[min(self._open, key=lambda one: self._open[one].used_s)]
        made = self._open[_digest(token)] = Session(form_token, now_s)
        return made

    def find(self, token: str, now_s: float) -> Session | None:
        """The one of this token, which is used by that; None where it has ended or never was."""
        self._tidy(now_s)
        found = self._open.get(_digest(token))
        if found is not None:
            found.used_s = now_s
        return found

    def end(self, token: str) -> None:
        """It holds no more."""
        self._open.pop(_digest(token), None)

    def end_all(self) -> int:
        """None holds any more; returns how many did."""
        count = len(self._open)
        self._open.clear()
        return count

    def _tidy(self, now_s: float) -> None:
        idle_s, life_s, _ = self._terms
        over = [one for one, it in self._open.items() if now_s - it.used_s >= idle_s or now_s - it.since_s >= life_s]
        for one in over:
            del self._open[one]


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "replace")).digest()
