"""box → [who may speak] → server. The bearer tokens of a file; read again when the file changes.

Never keeps a token in clear, never logs one.
"""

from hashlib import sha256
from pathlib import Path
from typing import Literal

import structlog

from agent.core.errors import SettingsInvalid

log = structlog.get_logger()

ANY_VENUE = "*"


class Tokens:
    """A line of the file is `TOKEN`, good for every venue, or `VENUE TOKEN`; `#` begins a comment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._venues: dict[bytes, set[str]] = {}
        self._refresh()
        if not self._venues:
            raise SettingsInvalid("tokens_empty", f"{path} holds no token.", "Write one on a line of its own.")

    def judge(self, token: str | None, venue: str) -> Literal["ok", "unauthorized", "forbidden"]:
        """Whether this token may speak for this venue."""
        try:
            self._refresh()
        except SettingsInvalid as error:
            log.warning("tokens_unreadable", error=error.text)
        venues = self._venues.get(_digest(token)) if token else None
        if venues is None:
            return "unauthorized"
        return "ok" if venue in venues or ANY_VENUE in venues else "forbidden"

    def _refresh(self) -> None:
        try:
            facts = self._path.stat()
            stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if stamp == self._stamp:
                return
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            text = f"The tokens of {self._path} cannot be read: {error}."
            raise SettingsInvalid("tokens_unreadable", text, "Name a readable file.") from error
        self._venues = _parse(lines)
        self._stamp = stamp


def _parse(lines: list[str]) -> dict[bytes, set[str]]:
    venues: dict[bytes, set[str]] = {}
    for line in lines:
        words = line.partition("#")[0].split()
        if words:
            venues.setdefault(_digest(words[-1]), set()).add(words[0] if len(words) > 1 else ANY_VENUE)
    return venues


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
