"""everywhere → [what holds right now] → status, page, metrics. Conditions by name, each from when it began.

Pure state: instants come in as seconds of boottime, and become wall time only when somebody looks, because the wall
clock may be set meanwhile. Raising what already holds changes only its words; it never sends anything.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

from agent.core.facts import Condition


class Conditions:
    """What holds, by id."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, Condition]] = {}

    def hold(
        self,
        id: str,
        at_s: float,
        severity: Literal["info", "warning", "critical"],
        title: str,
        text: str,
        hint: str = "",
    ) -> bool:
        """The condition holds; `hint` says what to do, and makes it an attention. True when it is new."""
        before = self._held.get(id)
        since_s = before[0] if before is not None else at_s
        self._held[id] = since_s, Condition(id, severity, bool(hint), title, text, hint, "")
        return before is None

    def lift(self, id: str) -> bool:
        """The condition does not hold any more. True when it did."""
        return self._held.pop(id, None) is not None

    def all(self, told: Callable[[float], str]) -> tuple[Condition, ...]:
        """What holds, oldest first; `told` says an instant of boottime as people read it."""
        held = sorted(self._held.values(), key=lambda one: one[0])
        return tuple(msgspec.structs.replace(condition, since=told(since_s)) for since_s, condition in held)
