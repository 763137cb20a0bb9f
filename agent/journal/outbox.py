"""alerts → [journal: letters] → disk. Letters that wait for their server, over kills and restarts; small kept facts.

A letter is durable before its occasion counts as told. Written beside the commits of events. Never sends anything.
"""

import sqlite3
from typing import Any, Final

import msgspec

from agent.core import cards
from agent.core.errors import Rejected
from agent.core.letters import TEXT_BYTES_MAX, End, Letter, Waiting
from agent.journal.database import SQL
from agent.journal.told import harmless
from agent.journal.writing import Writing

WAITING_MAX: Final = 1_000
"""So many letters wait at once."""
ENDED_KEPT_MAX: Final = 10_000
"""So many letters behind the newest are known, and their keys with them."""
ENDED_KEEP_S: Final = 400 * 86_400.0

_letter = msgspec.json.Decoder(Letter).decode


class Outbox:
    """The table of letters."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing

    async def queue(self, letter: Letter) -> bool:
        """Durable when this returns; False where its occasion has a letter already.

        Raises Rejected where the letter is too long or too many wait, Transient and JournalDamaged where nothing can be
        written now.
        """
        message = msgspec.json.encode(letter).decode()
        if not cards.text_clean(message):
            message = cards.masked(message.encode()).decode()
        if len(message) > TEXT_BYTES_MAX:
            raise Rejected("letter_long", f"A letter is at most {TEXT_BYTES_MAX} bytes.", "Call support.")
        lived_s = self._writing.lived().total_s

        def write(connection: sqlite3.Connection) -> bool:
            (waiting,) = connection.execute(SQL["count_letters_waiting"]).fetchone()
            if waiting >= WAITING_MAX:
                raise Rejected("letters_many", f"{WAITING_MAX} letters wait already.", "Look at [alerts.smtp].")
            return connection.execute(SQL["add_letter"], (letter.key, message, lived_s)).rowcount > 0

        return await self._writing.change(write)

    async def waiting(self) -> tuple[Waiting, ...]:
        """Every letter that waits, the oldest first. Raises JournalDamaged while the journal limps."""

        def read(connection: sqlite3.Connection) -> tuple[Waiting, ...]:
            rows = connection.execute(SQL["read_letters_waiting"]).fetchall()
            return tuple(Waiting(id, _letter(message), *rest) for id, message, *rest in rows)

        return await self._writing.run(read)

    async def tried(self, waiting: Waiting, detail: str) -> None:
        """It was tried once more, in vain."""
        values = (waiting.tries_count + 1, harmless(detail), waiting.id)
        await self._writing.change(lambda connection: connection.execute(SQL["note_letter_tried"], values))

    async def ended(self, waiting: Waiting, end: End, detail: str = "") -> None:
        """It waits no longer."""
        lived_s = self._writing.lived().total_s

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(SQL["end_letter"], (end, harmless(detail), lived_s, waiting.id))
            connection.execute(SQL["remove_letters_ended"], (lived_s - ENDED_KEEP_S, ENDED_KEPT_MAX))

        await self._writing.change(write, must=True)

    def lived_s(self) -> float:
        """Seconds that the box has run."""
        return self._writing.lived().total_s


class KeptFacts:
    """Small facts by name."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing

    async def read(self, name: str) -> Any:
        """What was kept, None where nothing was. Raises JournalDamaged while the journal limps."""
        row = await self._writing.run(lambda connection: connection.execute(SQL["read_kept_fact"], (name,)).fetchone())
        try:
            return None if row is None else msgspec.json.decode(row[0])
        except msgspec.DecodeError:  # no seal proves such a row
            return None

    async def write(self, name: str, value: Any) -> None:
        """Keep it, or with None forget it."""
        if value is None:
            await self._writing.change(lambda connection: connection.execute(SQL["remove_kept_fact"], (name,)))
            return
        text = msgspec.json.encode(value).decode()
        await self._writing.change(lambda connection: connection.execute(SQL["write_kept_fact"], (name, text)))
