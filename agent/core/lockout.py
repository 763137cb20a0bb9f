"""[core] Who may try to log in again, after how many refusals. Instants are boottime in seconds, passed in.

Devices' secrets are 256 random bits, so this is no guard of theirs: it keeps a device with a wrong secret, or somebody
who guesses, from costing the box and the broker work, and tells people. A device that has logged in from an address is
not locked out by what is tried from there under other names (several may share one behind a router).
"""

from collections import OrderedDict
from typing import Final, NamedTuple

ENTRIES_MAX: Final = 4_096
"""Pairs of address and name, and addresses, that are remembered; the longest unused go first."""
NAME_CHARS_MAX: Final = 64
"""Names are told apart by so many characters, which no device's name is longer than."""
ADDRESS_FACTOR: Final = 4
"""An address may be refused this many times as often as one name from it."""

Key = tuple[str, str]
"""Address and name; the name is empty for the address as a whole."""


class Terms(NamedTuple):
    """So many refusals within `window_s` lock out for `lockout_s`."""

    tries_max: int
    window_s: float
    lockout_s: float


class _Tries:
    __slots__ = ("count", "good", "since_s", "until_s")

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self.count = 0
        self.until_s = float("-inf")
        self.good = False


class Lockout:
    """Refused logins by address and name."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._tries: OrderedDict[Key, _Tries] = OrderedDict()

    def locked(self, address: str, name: str, now_s: float) -> bool:
        """Whether this one is not to be asked about now."""
        return self.left_s(address, name, now_s) > 0

    def left_s(self, address: str, name: str, now_s: float) -> float:
        """For how long this one is not to be asked about; 0 where it may be."""
        own, whole = self._tries.get((address, name[:NAME_CHARS_MAX])), self._tries.get((address, ""))
        until_s = now_s
        if own is not None:
            until_s = max(until_s, own.until_s)
        if whole is not None and not (own is not None and own.good):
            until_s = max(until_s, whole.until_s)
        return until_s - now_s

    def refused(self, address: str, name: str, now_s: float) -> bool:
        """A login was refused; returns whether it is the one that begins a lock-out. One without a name counts for the
        address alone."""
        own = bool(name) and self._note((address, name[:NAME_CHARS_MAX]), self.terms.tries_max, now_s)
        whole = self._note((address, ""), self.terms.tries_max * ADDRESS_FACTOR, now_s)
        return own or whole

    def fresh(self, address: str, name: str, now_s: float) -> bool:
        """Whether no refusal of this one was counted within the window."""
        tries = self._tries.get((address, name[:NAME_CHARS_MAX]))
        return tries is None or tries.count == 0 or now_s - tries.since_s > self.terms.window_s

    def let_in(self, address: str, name: str, now_s: float) -> None:
        """A login succeeded: earlier refusals of this one are forgotten."""
        tries = self._of((address, name[:NAME_CHARS_MAX]), now_s)
        tries.good, tries.count, tries.until_s = True, 0, float("-inf")

    def forget(self, name: str) -> None:
        """A device was revoked or has a new secret: nothing that was known of it holds."""
        for key in [key for key in self._tries if key[1] == name and name]:
            del self._tries[key]

    def _note(self, key: Key, tries_max: int, now_s: float) -> bool:
        tries = self._of(key, now_s)
        if now_s - tries.since_s > self.terms.window_s:
            tries.since_s, tries.count = now_s, 0
        tries.count += 1
        if tries.count < tries_max or now_s < tries.until_s:
            return False
        tries.until_s = now_s + self.terms.lockout_s
        tries.count = 0
        tries.good = False
        return True

    def _of(self, key: Key, now_s: float) -> _Tries:
        tries = self._tries.get(key)
        if tries is None:
            tries = self._tries[key] = _Tries(now_s)
            if len(self._tries) > ENTRIES_MAX:
                self._tries.popitem(last=False)
        else:
            self._tries.move_to_end(key)
        return tries
