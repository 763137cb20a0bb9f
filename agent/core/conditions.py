"""everywhere → [what holds right now] → status, page, metrics. Conditions by name, each from when it began.

A condition is a *state*, which ends by itself, or *lasting*: it tells of something that has happened, and only a person
ends it. Pure: instants come in as seconds of boottime, or as a moment of an earlier start, and become wall time only
when somebody looks, because the wall clock may be set meanwhile. It never sends or writes anything.
"""

import shlex
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import msgspec

from agent.core.clock import Moment
from agent.core.facts import Condition

LASTING_MAX: Final = 200
"""So many lasting conditions stand at once; beyond it the oldest go, those that are not critical first."""

_SOONER: Final = float("-inf")

Severity = Literal["info", "warning", "critical"]
Since = float | Moment
"""Seconds of boottime; what an earlier start has told of is placed by its moment."""


class Words(NamedTuple):
    """What people are told; `hint` says what to do, and makes it an attention."""

    severity: Severity
    title: str
    text: str
    hint: str


class Standing(NamedTuple):
    """One condition, and since when."""

    since: Since
    condition: Condition


class Conditions:
    """What holds, by id."""

    def __init__(self) -> None:
        self._held: dict[str, Standing] = {}

    def hold(self, id: str, at_s: float, words: Words, lasting: bool = False) -> bool:
        """The condition holds. Where it does already, only its words change. True when it is new."""
        before = self._held.get(id)
        since = before.since if before is not None else at_s
        lasting = lasting or (before is not None and before.condition.lasting)
        self._held[id] = Standing(since, _condition(id, words, lasting))
        return before is None

    def recall(self, id: str, since: Moment, words: Words) -> None:
        """A lasting condition that an earlier start has told of; words of this start's own are newer."""
        before = self._held.get(id)
        self._held[id] = Standing(since, before.condition if before is not None else _condition(id, words, True))

    def lift(self, id: str) -> bool:
        """The state does not hold any more. True when it did."""
        found = self._held.get(id)
        if found is None or found.condition.lasting:
            return False
        del self._held[id]
        return True

    def acknowledge(self, id: str) -> Standing | None:
        """End a lasting condition: what happens from now on is new. None where there is none of this name."""
        found = self._held.get(id)
        return self._held.pop(id) if found is not None and found.condition.lasting else None

    def put_back(self, held: Standing) -> None:
        """It was not acknowledged after all."""
        self._held.setdefault(held.condition.id, held)

    def surplus(self) -> tuple[str, ...]:
        """End the lasting conditions that are too many, and name them."""
        count = sum(standing.condition.lasting for standing in self._held.values()) - LASTING_MAX
        if count <= 0:
            return ()
        lasting = [(id, standing) for id, standing in self._in_order() if standing.condition.lasting]
        lasting.sort(key=lambda one: one[1].condition.severity == "critical")
        gone = tuple(id for id, _ in lasting[:count])
        for id in gone:
            del self._held[id]
        return gone

    def get(self, id: str) -> Condition | None:
        """What holds under this name."""
        found = self._held.get(id)
        return found.condition if found is not None else None

    def all(self, told: Callable[[Since], str]) -> tuple[Condition, ...]:
        """What holds, oldest first; `told` says an instant as people read it."""
        return tuple(msgspec.structs.replace(held.condition, since=told(held.since)) for _, held in self._in_order())

    def _in_order(self) -> list[tuple[str, Standing]]:
        """Oldest first: what was recalled came before all of this start, in the order in which it is kept."""
        return sorted(self._held.items(), key=lambda one: _SOONER if isinstance(one[1].since, Moment) else one[1].since)


def ending(condition: Condition) -> str:
    """How it ends, in words."""
    if not condition.lasting:
        return "It ends by itself."
    return f"It stays until somebody ends it: nightsafe attention ack {shlex.quote(condition.id)} --reason '…'"


def _condition(id: str, words: Words, lasting: bool) -> Condition:
    return Condition(id, words.severity, bool(words.hint), words.title, words.text, words.hint, "", lasting)
