"""device → gate → ingest → [quarantine] ← a person. What was refused, and what a person decides about it.

Nothing leaves quarantine by itself: it is dismissed or resubmitted, by somebody, for a reason, and both are kept.
"""

import asyncio
from typing import NamedTuple, Protocol

from agent.core import events
from agent.core.arrivals import Item, Outcome, Settle
from agent.core.errors import Rejected
from agent.core.events import Event


class Held(NamedTuple):
    """A refused event as the journal keeps it."""

    device: str
    payload: bytes | None
    reason: str
    state: str


class Journal(Protocol):
    """Where refused events are kept, and where they go when they are good after all."""

    def submit(self, item: Item, settle: Settle) -> None: ...
    async def quarantined(self, number: int) -> tuple[str, bytes | None, str, str] | None: ...
    async def settle_quarantined(self, number: int, state: str, actor: str, note: str) -> None: ...


class Quarantine:
    """The two things that a person can do. Limits as at the gate."""

    def __init__(self, journal: Journal, event_bytes_max: int, event_depth_max: int, excerpt_bytes_max: int) -> None:
        self._journal = journal
        self._limits = (event_bytes_max, event_depth_max, excerpt_bytes_max)

    async def dismiss(self, number: int, actor: str, note: str) -> None:
        """Take it off the list; it stays in the journal. Raises Rejected when there is no such open entry."""
        await self._open(number)
        await self._journal.settle_quarantined(number, "dismissed", actor, note)

    async def resubmit(self, number: int, actor: str, note: str) -> None:
        """Judge its bytes again, and store them if they are good now. Raises Rejected with the reason otherwise.

        Its sequence was used up when it was refused, so it is stored without counting again.
        """
        held = await self._open(number)
        if held.reason == "cloud_refused":
            raise Rejected(
                "quarantine_stored",
                f"Event {number} is stored and counted; it is the cloud that cannot take it.",
                "Send support what `nightsafe queue quarantine show` prints, then dismiss it.",
            )
        if held.payload is None:
            raise Rejected(
                "quarantine_masked",
                f"Event {number} was not kept whole, because a card number may stand in it.",
                "Let the device send a corrected event with a new id, then dismiss this one.",
            )
        verdict = events.judge(held.device, held.payload, *self._limits)
        if not isinstance(verdict, Event):
            raise _still_refused(number, f"{verdict.reason.value}: {verdict.detail}")
        outcome = await self._store(verdict._replace(sequence=None))
        if outcome not in (Outcome.STORED, Outcome.DUPLICATE):
            raise _still_refused(number, outcome.value)
        await self._journal.settle_quarantined(number, "resubmitted", actor, note)

    async def _open(self, number: int) -> Held:
        found = await self._journal.quarantined(number)
        if found is None or found[3] != "open":
            raise Rejected(
                "quarantine_none",
                f"There is no open entry {number} in quarantine.",
                "See `nightsafe queue quarantine list`.",
            )
        return Held(*found)

    async def _store(self, event: Event) -> Outcome:
        told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def settle(_: Item, outcome: Outcome) -> None:
            if not told.done():
                told.set_result(outcome)

        self._journal.submit(event, settle)
        return await told


def _still_refused(number: int, why: str) -> Rejected:
    return Rejected(
        "quarantine_refused",
        f"Event {number} is refused again: {why}.",
        "Let the device send a corrected event with a new id, then dismiss this one.",
    )
