"""journal → [drain: where to go on] → cloud. After a start or a cut: asks the cloud where it stands.

What the cloud has is believed only where its chain is ours. Forks and closed streams hold the drain.
"""

import structlog

from agent.core.answers import CloudRefused, Step, StreamState, place_of, step_after
from agent.core.errors import Held
from agent.drain.ports import Cloud, Journal

log = structlog.get_logger()

CATCH_UP_RECORDS_MAX = 5000
CATCH_UP_BYTES_MAX = 8 * 1024 * 1024
"""How much is read at once to count what the cloud already has."""


class Resumption:
    """Knows whether the stream is bound to this process."""

    def __init__(self, journal: Journal, cloud: Cloud) -> None:
        self._journal = journal
        self._cloud = cloud
        self._bound = False

    async def resume(self) -> StreamState:
        """Bring our cursor to the cloud's `next`. Raises CloudRefused, Transient, and Held where a person must look."""
        state = await self._state()
        if not state.open:
            raise Held(
                "stream_closed", "The cloud has closed this box's stream.", "Call support; recording goes on meanwhile."
            )
        await self._continue_at(state)
        log.info("drain_resumed", next=state.next, pending=self._journal.last() - state.next + 1)
        return state

    async def _state(self) -> StreamState:
        """Where the cloud stands. Opening binds the stream to this process: done once in its life, or when there is
        none."""
        epoch = self._journal.epoch()
        if self._bound:
            try:
                return await self._cloud.stream(epoch)
            except CloudRefused as refused:
                if step_after(refused.refusal) is not Step.OPEN:
                    raise
        state = await self._cloud.open_stream(epoch, "created")
        self._bound = True
        return state

    async def _continue_at(self, state: StreamState) -> None:
        base = self._journal.base()
        cursor = self._journal.cursor() - base
        place = place_of(state.next, cursor, self._journal.last())
        if place == "beyond":
            raise fork(state.next)
        if state.next > 1 and await self._journal.rechash(base + state.next - 1) != state.head:
            raise fork(state.next)
        if state.safe < state.next:
            self._journal.confirm(base + state.safe)
        if place == "ahead":
            await self._catch_up(base + state.next - 1, base + state.safe)

    async def _catch_up(self, to: int, safe: int) -> None:
        """The cloud committed more than we heard of: move the cursor over it, batch by batch."""
        cursor = self._journal.cursor()
        while cursor < to:
            records = await self._journal.batch(cursor, min(to - cursor, CATCH_UP_RECORDS_MAX), CATCH_UP_BYTES_MAX)
            cursor = records[-1].position
            await self._journal.advance(cursor, min(max(safe, self._journal.safe()), cursor), records)


def fork(next_: int) -> Held:
    """Our records and the cloud's are not the same history."""
    return Held(
        "fork",
        f"The cloud's records and this box's differ before record {next_}.",
        "Call support: another box may have used this identity, or an older copy was restored. Recording goes on.",
    )
