"""[sim: story] What happened, in order, each with the instant and who did it; and one hash over all of it.

Two runs of one seed have equal hashes or the simulation is broken. Nothing here decides anything.
"""

from collections.abc import Callable, MutableMapping
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn

import structlog

QUIET = frozenset({"debug"})
"""Levels of the agent's log that are left out."""


class Line(NamedTuple):
    """One thing that happened."""

    at_s: float
    who: str
    what: str
    facts: dict[str, Any]

    def __str__(self) -> str:
        facts = " ".join(f"{name}={value}" for name, value in self.facts.items())
        minutes, seconds = divmod(self.at_s, 60)
        return f"{int(minutes):4d}:{seconds:06.3f}  {self.who:<10} {self.what} {facts}".rstrip()


class Story:
    """The lines of one run."""

    def __init__(self, now_s: Callable[[], float], root: str) -> None:
        self._now_s = now_s
        self._root = root
        self._hash = sha256()
        self.lines: list[Line] = []

    def tell(self, who: str, what: str, **facts: Any) -> None:
        """Something happened."""
        line = Line(self._now_s(), who, what, facts)
        self.lines.append(line)
        self._hash.update(str(line).encode())

    def note(self, data: bytes) -> None:
        """Something that is for the hash only. Where the world's files lie is another place each time."""
        self._hash.update(data.replace(self._root.encode(), b""))

    def digest(self) -> str:
        """Of everything so far."""
        return self._hash.hexdigest()

    def hear_log(self, who: Callable[[], str | None]) -> None:
        """Take structlog's lines in, from all who use it; `who` is None for one who is dead."""

        def take(_: Any, level: str, facts: MutableMapping[str, Any]) -> NoReturn:
            name = who()
            if level not in QUIET and name is not None:
                event = str(facts.pop("event", ""))
                error = facts.pop("exc_info", None)
                if isinstance(error, BaseException):
                    facts["error_kind"] = repr(error)
                self.tell(name, event, **{key: self._plain(value) for key, value in facts.items()})
            raise structlog.DropEvent

        structlog.configure(processors=[take], cache_logger_on_first_use=False)

    def _plain(self, value: Any) -> str:
        return str(value).replace(self._root, "…")[:300]
