"""journal → [drain] → cloud. The loop: read a batch, send it, move the cursor as far as the cloud's answer covers it.

The upload attempt is the truth: no probe starts or stops it, and recording never waits for it. One request is in
flight; the next batch is read meanwhile. It never drops, skips or reorders.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from agent.core import batches
from agent.core.answers import BatchAnswer, CloudRefused
from agent.core.errors import Held, JournalDamaged, NightsafeError, Transient
from agent.core.facts import DrainFacts
from agent.drain.aftermath import Aftermath
from agent.drain.ports import Clock, Cloud, Journal, Limits, Telling
from agent.drain.progress import Progress
from agent.drain.resume import Resumption, fork

T = TypeVar("T")

BEAT_S = 1.0
"""How often a waiting drain shows that it lives."""


class Load(NamedTuple):
    """A batch ready to be sent, with the records in it."""

    records: Sequence[Any]
    body: Any


class Drain:
    """The drain's stage."""

    name = "drain"

    def __init__(
        self,
        journal: Journal,
        cloud: Cloud,
        clock: Clock,
        limits: Callable[[], Limits],
        telling: Telling,
        chance: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._cloud = cloud
        self._clock = clock
        self._limits = limits
        self._progress = Progress(clock, telling)
        self._resumption = Resumption(journal, cloud)
        self._aftermath = Aftermath(cloud, clock, limits, telling, chance, self._progress, self._first_sequence)
        self._beat: Callable[[], None] = lambda: None
        self._look = asyncio.Event()
        self._nudge = asyncio.Event()
        self._resumed = False
        self._ahead: asyncio.Task[Load | NightsafeError | None] | None = None
        self._sent = journal.cursor()
        """Position up to which the cloud has everything: the cursor, or before it when the cloud lost records."""
        self._min_interval_s = 0.0

    def wake(self) -> None:
        """Look now: something was stored. It ends no back-off."""
        self._look.set()

    def reached(self) -> None:
        """The cloud answers again: do not sit out a back-off."""
        if self._progress.state == "waiting":
            self._aftermath.failures = 0
            self._nudge.set()

    def heed(self, beat: Callable[[], None]) -> None:
        """Beat with every turn of the loop."""
        self._beat = beat

    def facts(self) -> DrainFacts:
        """The drain at this instant."""
        return self._progress.facts(self._aftermath.size.records)

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Send until `stop`; the request in flight ends first."""
        ready()
        async with asyncio.TaskGroup() as group:
            waking = group.create_task(self._wake_on(stop), name="drain-stop")
            while not stop.is_set():
                self._beat()
                pause_s = await self._turn(group)
                if pause_s > 0 and not stop.is_set():
                    await self._pause(pause_s)
            self._drop_ahead()
            waking.cancel()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._look.set()
        self._nudge.set()

    async def _pause(self, pause_s: float) -> None:
        """Wait. While idle, whatever is stored ends it; while waiting, only the news that the cloud answers again."""
        until_s = self._clock.boottime_s() + pause_s
        event = self._look if self._progress.state == "idle" else self._nudge
        while (left_s := until_s - self._clock.boottime_s()) > 0:
            self._beat()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, BEAT_S)):
                    await event.wait()
            if event.is_set():
                event.clear()
                return

    async def _turn(self, group: asyncio.TaskGroup) -> float:
        """One exchange with the cloud, or a look that finds nothing; returns the seconds to wait after it."""
        self._aftermath.sending(0)
        try:
            if not self._resumed:
                if not self._pending:
                    return self._idle()
                await self._resume()
            load = await self._next_load()
            if load is None:
                return self._idle()
            await self._send(load, group)
            return self._min_interval_s
        except CloudRefused as refused:
            self._resumed = self._resumed and refused.refusal.status not in (404, 409)
            return self._after(self._aftermath.after_refusal(refused))
        except (Held, JournalDamaged) as held:
            self._resumed = False
            return self._after(self._aftermath.hold(held))
        except Transient as failed:
            self._resumed = False
            return self._after(self._aftermath.after_cut(failed))

    async def _heeded(self, work: Coroutine[Any, Any, T]) -> T:
        """`work` to its end, with a sign of life each second: an upload may take long, and bounds itself."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                self._beat()
                await asyncio.wait({task}, timeout=BEAT_S)
        finally:
            task.cancel()
        return task.result()

    def _after(self, pause_s: float) -> float:
        """After a failure what was read ahead is read again, in the new size."""
        self._drop_ahead()
        return pause_s

    def _idle(self) -> float:
        self._progress.state = "idle"
        self._aftermath.recovered()
        return self._limits().look_interval_s

    @property
    def _pending(self) -> bool:
        return self._journal.last() > self._sent - self._journal.base()

    def _first_sequence(self) -> int:
        return self._sent - self._journal.base() + 1

    async def _resume(self) -> None:
        state = await self._heeded(self._resumption.resume())
        self._sent = self._journal.base() + state.next - 1
        if self._sent < self._journal.cursor():
            self._progress.rewound(state.next)
        self._aftermath.size = batches.limited(self._aftermath.size, state.records_max, state.bytes_max)
        self._min_interval_s = state.min_interval_s
        self._resumed = True
        self._progress.exchanged()

    async def _next_load(self) -> Load | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return await self._load(self._sent)
        load = await ahead
        if isinstance(load, NightsafeError):
            raise load
        return load

    async def _load_ahead(self, after: int) -> Load | NightsafeError | None:
        """The batch behind the one in flight; a failure is raised only when it is that batch's turn."""
        try:
            return await self._load(after)
        except NightsafeError as error:
            return error

    async def _load(self, after: int) -> Load | None:
        size = self._aftermath.size
        records = await self._journal.batch(after, size.records, size.bytes_max)
        if not records:
            return None
        if records[0].position != after + 1:
            raise Held("records_missing", f"Record {after + 1 - self._journal.base()} is not here any more.", CALL)
        epoch, gzip = self._journal.epoch(), self._limits().gzip
        return Load(records, await self._cloud.prepare(epoch, records, gzip=gzip, base64=size.base64))

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None

    async def _send(self, load: Load, group: asyncio.TaskGroup) -> None:
        """Send one batch, the next one being read meanwhile; move the cursor as far as the answer covers it."""
        records = load.records
        self._progress.state = "syncing"
        self._aftermath.sending(len(records))
        if records[-1].sequence < self._journal.last() and not self._aftermath.size.base64:
            self._ahead = group.create_task(self._load_ahead(records[-1].position), name="drain-ahead")
        began_s = self._clock.boottime_s()
        answer = await self._heeded(self._cloud.put(self._journal.epoch(), load.body))
        took_s = self._clock.boottime_s() - began_s
        taken = await self._take(records, answer)
        if taken < len(records):
            self._drop_ahead()
        self._aftermath.sent(took_s)

    async def _take(self, records: Sequence[Any], answer: BatchAnswer) -> int:
        """Check what the cloud says it has against our own chain, and move the cursor; returns how many it covers."""
        first: int = records[0].sequence
        last: int = records[-1].sequence
        if answer.next > last + 1:
            # A request that we had given up on came in late: it is asked for, and believed where its chain is ours.
            raise Transient("cloud_ahead", "The cloud has more than was just sent.", "It is asked by itself.")
        if answer.next < first:
            raise _strange(f"it expects sequence {answer.next} after a batch of {first} to {last}")
        count = answer.next - first
        if count == 0:
            raise Transient("nothing_taken", "The cloud took nothing of a batch.", "It is sent again by itself.")
        if records[count - 1].rechash != answer.head:
            raise fork(answer.next)
        if answer.safe >= answer.next:
            raise _strange(f"it calls {answer.safe} safe and lacks {answer.next}")
        base = self._journal.base()
        self._sent = base + answer.next - 1
        new = [record for record in records[:count] if record.position > self._journal.cursor()]
        if new:
            await self._journal.advance(self._sent, max(self._journal.safe(), base + answer.safe), new)
        self._journal.confirm(base + answer.safe)
        self._progress.uploaded(count)
        if answer.rejected:
            self._progress.rejected(answer)
        return count


CALL = "Call support; nothing was dropped, and recording goes on."


def _strange(what: str) -> Held:
    return Held("answer_strange", f"The cloud's answer does not fit: {what}.", CALL)
