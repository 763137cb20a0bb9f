"""[core] How often the venue PIN may be tried. A PIN is short, so this is what guards it. Instants are boottime.

Few times from one address within minutes, and few times a day from one address and in all. An address from which
somebody has logged in is bound by its own tries alone, so that a guesser cannot shut people out who are at work.
"""

from typing import Final, NamedTuple

from agent.core.lockout import ADDRESS_FACTOR, Lockout
from agent.core.lockout import Terms as LockoutTerms

DAY_S: Final = 86_400.0
ALL: Final = "page"
"""Under what name the tries of all addresses are counted together."""


class Terms(NamedTuple):
    """`tries_max` wrong PINs from one address within `lockout_s` lock it out for as long, four times as many every new
    one; `day_max` wrong PINs in all lock every new one out for a day, a quarter of them the address they came from."""

    tries_max: int
    lockout_s: float
    day_max: int


class PinTries:
    """Wrong PINs by address."""

    def __init__(self, terms: Terms) -> None:
        self._lockouts = (
            Lockout(LockoutTerms(terms.tries_max, terms.lockout_s, terms.lockout_s)),
            Lockout(LockoutTerms(max(1, terms.day_max // ADDRESS_FACTOR), DAY_S, DAY_S)),
        )

    def left_s(self, address: str, now_s: float) -> float:
        """For how long no PIN is taken from there; 0 where one is."""
        return max(one.left_s(ALL, address, now_s) for one in self._lockouts)

    def refused(self, address: str, now_s: float) -> bool:
        """A wrong PIN came from there; returns whether it is one that begins a lock-out."""
        return any([one.refused(ALL, address, now_s) for one in self._lockouts])  # a list: both of them count

    def let_in(self, address: str, now_s: float) -> None:
        """The right PIN came from there."""
        for one in self._lockouts:
            one.let_in(ALL, address, now_s)
