"""everywhere → [what holds right now] → status, page, metrics. Conditions by name, each from when it began.

Pure state: instants come in as text. Raising what already holds changes only its words; it never sends anything.
"""

from typing import Literal

from agent.core.facts import Condition


class Conditions:
    """What holds, by id."""

    def __init__(self) -> None:
        self._held: dict[str, Condition] = {}

    def hold(
        self, id: str, at: str, severity: Literal["info", "warning", "critical"], title: str, text: str, hint: str = ""
    ) -> bool:
        """The condition holds; `hint` says what to do, and makes it an attention. True when it is new."""
        before = self._held.get(id)
        since = before.since if before is not None else at
        self._held[id] = Condition(id, severity, bool(hint), title, text, hint, since)
        return before is None

    def lift(self, id: str) -> bool:
        """The condition does not hold any more. True when it did."""
        return self._held.pop(id, None) is not None

    def all(self) -> tuple[Condition, ...]:
        """What holds, oldest first."""
        return tuple(sorted(self._held.values(), key=lambda condition: condition.since))
