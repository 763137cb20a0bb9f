"""people, a device → [pairing] → who may connect. How a device gets its secret. Pure state; instants are arguments.

A device that has read the box's QR code knows the authority's fingerprint and a one-time token, and is served at once.
One that was told eight digits knows nobody: it shows the fingerprint of whom it talks to, and gets its secret only when
a person has compared that with the box's own. Wrong digits end every pairing: nobody knows which one was meant.
"""

import hmac
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from agent.core.errors import Rejected

DIGITS: Final = 8
FINGERPRINT_SHOWN: Final = 20
"""Hex digits of the authority's fingerprint that people compare: 80 bits."""


class State(StrEnum):
    """How far a pairing is."""

    WAITING = "waiting"
    ASKED = "asked"
    CONFIRMED = "confirmed"
    DECLINED = "declined"
    PAIRED = "paired"
    ENDED = "ended"
    EXPIRED = "expired"


OPEN: Final = frozenset({State.WAITING, State.ASKED, State.CONFIRMED})


class Verdict(StrEnum):
    """What becomes of a device that gives a code."""

    WRONG = "wrong"
    NAME_DIFFERS = "name_differs"
    WAIT = "wait"
    RELEASE = "release"


class Terms(NamedTuple):
    """So long a pairing is open, so many wrong codes end all, so many may be open at once."""

    open_s: float
    tries_max: int
    count_max: int


class Pairing:
    """One device that is to be let in. `peer` is where the device with the right digits calls from."""

    __slots__ = ("code", "device", "ends_s", "label", "peer", "replace", "state", "token")

    def __init__(self, device: str, label: str, replace: bool, code: str, token: str, ends_s: float) -> None:
        self.device = device
        self.label = label
        self.replace = replace
        self.code = code
        self.token = token
        self.ends_s = ends_s
        self.state = State.WAITING
        self.peer = ""


class Pairings:
    """The pairings of this process, by device; the latest one of each."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._all: dict[str, Pairing] = {}
        self.tries_left = terms.tries_max

    def begin(self, device: str, label: str, replace: bool, code: str, token: str, now_s: float) -> Pairing:
        """Open one; an earlier one of the device ends. Raises Rejected where too many are open."""
        open_now = [one for one in self._all.values() if one.device != device and self._is_open(one, now_s)]
        if len(open_now) >= self._terms.count_max:
            raise Rejected("pairings_many", f"{len(open_now)} devices are being paired already.", "Finish these first.")
        if not open_now:
            self._all.clear()
            self.tries_left = self._terms.tries_max
        self._all.pop(device, None)
        made = self._all[device] = Pairing(device, label, replace, code, token, now_s + self._terms.open_s)
        return made

    def find(self, device: str, now_s: float) -> Pairing:
        """The latest one of a device. Raises Rejected where there is none."""
        found = self._all.get(device)
        if found is None:
            raise Rejected(
                "pairing_none", f"{device} is not being paired.", f"Begin: `nightsafe devices add {device}`."
            )
        self._is_open(found, now_s)
        return found

    def offer(self, code: str, name: str, peer: str, now_s: float) -> tuple[Verdict, Pairing | None]:
        """A device gives a code and the name it wants, empty for none."""
        found: Pairing | None = None
        for one in self._all.values():  # all of them, so that nobody learns from the time it takes
            fits = _same(code, one.token) or _same(code, one.code)
            if fits and self._is_open(one, now_s):
                found = one
        if found is None:
            self._note_wrong(now_s)
            return Verdict.WRONG, None
        if name not in ("", found.device):
            return Verdict.NAME_DIFFERS, found
        if _same(code, found.token) or (found.state is State.CONFIRMED and found.peer == peer):
            return Verdict.RELEASE, found
        if found.peer not in ("", peer):
            return Verdict.WRONG, None  # one device is being looked at; a second one is not that one
        found.state, found.peer = State.ASKED, peer
        return Verdict.WAIT, found

    def decide(self, device: str, good: bool, now_s: float) -> Pairing:
        """A person has compared the fingerprint that the device shows. Raises Rejected where no device has asked."""
        found = self.find(device, now_s)
        if found.state is not State.ASKED:
            text = f"No device has come for {device} yet." if found.state in OPEN else f"The pairing is {found.state}."
            raise Rejected("pairing_not_asked", text, "Enter the eight digits on the device first.")
        found.state = State.CONFIRMED if good else State.DECLINED
        return found

    def _note_wrong(self, now_s: float) -> None:
        open_now = [one for one in self._all.values() if self._is_open(one, now_s)]
        self.tries_left -= bool(open_now)
        if self.tries_left <= 0:
            for one in open_now:
                one.state = State.ENDED

    @staticmethod
    def _is_open(one: Pairing, now_s: float) -> bool:
        if one.state in OPEN and now_s >= one.ends_s:
            one.state = State.EXPIRED
        return one.state in OPEN


def fingerprint_shown(fingerprint: str) -> str:
    """What people compare: "12AB 34CD 56EF 7890 1234"."""
    shown = fingerprint[:FINGERPRINT_SHOWN].upper()
    return " ".join(shown[at : at + 4] for at in range(0, len(shown), 4))


def uri(host: str, port: int, fingerprint: str, token: str, device: str) -> str:
    """What the QR code holds. `port` is that of the pairing page."""
    return f"nightsafe:pair?host={host}&port={port}&fp={fingerprint}&code={token}&name={device}"


def to_facts(pairing: Pairing, now_s: float) -> Mapping[str, str | float | None]:
    """How far it is, for people and programs; no secret."""
    left_s = max(0.0, round(pairing.ends_s - now_s, 1)) if pairing.state in OPEN else 0.0
    return {"device": pairing.device, "state": pairing.state.value, "left_s": left_s, "peer": pairing.peer or None}


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
