"""journal → [drain] → cloud. The loop: read a batch, send it, move the cursor as far as the cloud's answer covers it.

The upload attempt is the truth: no probe starts or stops it, and recording never waits for it. One request is in
flight; the next batch is read meanwhile. It never drops, skips or reorders.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from agent.core import batches
from agent.core.answers import BatchAnswer, CloudRefused, Step, step_after
from agent.core.errors import Held, JournalDamaged, NightsafeError, RecordDamaged, Transient
from agent.core.facts import DrainFacts
from agent.drain import feed
from agent.drain.aftermath import Aftermath
from agent.drain.feed import Hole, Load
from agent.drain.ports import Clock, Cloud, Journal, Limits, Telling
from agent.drain.progress import Progress
from agent.drain.resume import Resumption, heard_safe, highest_safe

log = structlog.get_logger()
T = TypeVar("T")

BEAT_S = 1.0
"""How often a waiting drain shows that it lives."""


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
        self._resumption = Resumption(journal, cloud, self._progress)
        self._aftermath = Aftermath(cloud, clock, limits, telling, chance, self._progress, self._first_sequence)
        self._beat: Callable[[], None] = lambda: None
        self._look = asyncio.Event()
        self._nudge = asyncio.Event()
        self._resumed = False
        self._ahead: asyncio.Task[Load | Hole | NightsafeError | None] | None = None
        self._stream = journal.lineage().present
        """The stream that is being sent: the present one, or an older one that the cloud has lost."""
        self._sent = journal.cursor()
        """Position up to which the cloud has everything: the cursor, or before it when the cloud lost records."""
        self._head = b""
        """The rechash that the cloud has there."""
        self._refused: tuple[Any, str] | None = None
        """The one record that the cloud cannot read in any form, and what it said."""
        self._min_interval_s = 0.0
        self._checked_s: float | None = None
        """When the cloud last said where it stands; None: it is to be asked."""
        self._differs = False
        """While idle the cloud was found to have another history than ours; to be resumed though nothing is pending."""
        self._unwritten_fence: str | None = None
        """An epoch that another process writes, while the journal does not know it: nothing is sent until it does."""

    def wake(self) -> None:
        """Look now: something was stored. It ends no back-off."""
        self._look.set()

    def reached(self) -> None:
        """The cloud answers again: do not sit out a back-off."""
        self._checked_s = None
        if self._progress.state == "waiting":
            self._aftermath.failures = 0
            self._nudge.set()

    def retry(self) -> None:
        """A person has acted: do not sit out a pause."""
        self._aftermath.failures = 0
        self._look.set()
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
            try:
                return await self._exchange(group)
            except CloudRefused as refused:  # what either asks for may itself meet a full or failing disk
                return self._after(await self._after_refusal(refused))
            except RecordDamaged as damaged:
                return self._after(await self._after_damage(damaged))
        except (Held, JournalDamaged) as held:
            self._resumed = False
            return self._after(self._aftermath.hold(held))
        except Transient as failed:
            self._resumed = False
            return self._after(self._aftermath.after_cut(failed))

    async def _exchange(self, group: asyncio.TaskGroup) -> float:
        """As `_turn`, where nothing fails."""
        if self._unwritten_fence is not None:
            await self._write_fence(self._unwritten_fence)
        if self._journal.doubt() is not None:
            self._resumed = False
        elif self._journal.lineage().present.fenced:
            raise await self._heeded(self._resumption.fenced())
        if not self._pending:
            await self._check()
        if not self._resumed:
            if not self._pending and not self._differs:
                return self._idle()
            await self._resume()
        load = await self._next_load()
        if load is None:
            return self._at_end()
        paced_s = 0.0
        if isinstance(load, Hole):
            await self._declare(load)
        else:
            paced_s = await self._send(load, group)
        return max(paced_s, min(self._min_interval_s, self._limits().retry_after_max_s))

    async def _check(self) -> None:
        """While idle: ask now and then whether the cloud still has everything, and the same. What it lacks is pending
        again; where its history is another, the drain resumes, which finds where they part."""
        now_s = self._clock.boottime_s()
        due = self._checked_s is None or now_s - self._checked_s >= self._limits().check_interval_s
        if not due or self._journal.cursor() == 0:
            return
        self._checked_s = now_s
        seen = await self._heeded(self._resumption.look())
        if seen is None:
            return
        self._differs = seen.differs
        if seen.differs:
            self._resumed = False
        elif seen.position < min(self._sent, self._journal.cursor()):
            self._sent, self._resumed = seen.position, False

    async def _after_damage(self, damaged: RecordDamaged) -> float:
        """The record is mended or set aside, and the upload goes on behind it."""
        self._resumed = False
        return 0.0 if await self._journal.repair(damaged.position) else BEAT_S

    async def _after_refusal(self, refused: CloudRefused) -> float:
        step = step_after(refused.refusal)
        self._resumed = self._resumed and refused.refusal.status not in (404, 409, 410)
        if step is Step.FORK:
            self._resumption.part("closed" if refused.refusal.status == 410 else "conflict")
        elif step is Step.FENCE:
            self._unwritten_fence = self._stream.epoch
            held = await self._heeded(self._resumption.fenced())
            pause_s = self._aftermath.hold(held)  # people are told before a disk that is full is waited for
            await self._write_fence(self._stream.epoch)
            return pause_s
        elif self._aftermath.gives_up(step):
            self._refused = self._aftermath.record, refused.text
            return 0.0
        return self._aftermath.after_refusal(refused)

    async def _write_fence(self, epoch: str) -> None:
        await self._journal.fence(epoch)
        self._unwritten_fence = None

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

    def _at_end(self) -> float:
        """Nothing more in this stream: the box is up to date, or the stream that continues it is next."""
        if self._stream == self._journal.lineage().present:
            return self._idle()
        self._resumed = False
        return 0.0

    @property
    def _pending(self) -> bool:
        return self._journal.last() > min(self._sent, self._journal.cursor())

    def _first_sequence(self) -> int:
        return self._sent - self._stream.base + 1

    async def _resume(self) -> None:
        stream, state = await self._heeded(self._resumption.resume())
        self._stream = stream
        self._sent = stream.base + state.next - 1
        self._head = state.head
        if self._sent < self._journal.cursor():
            self._progress.rewound(state.next)
            await self._journal.told()  # once the cloud has it again, nothing speaks of it any more
        self._aftermath.size = batches.limited(self._aftermath.size, state.records_max, state.bytes_max)
        self._min_interval_s = state.min_interval_s
        self._refused = None
        self._resumed, self._differs = True, False
        self._checked_s = self._clock.boottime_s()
        self._progress.exchanged()

    async def _next_load(self) -> Load | Hole | None:
        if self._refused is not None:
            return await feed.given_up(self._journal, *self._refused)
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return await self._load(self._sent)
        load = await ahead
        if isinstance(load, NightsafeError):
            raise load
        return load

    async def _load_ahead(self, after: int) -> Load | Hole | NightsafeError | None:
        """The batch behind the one in flight; a failure is raised only when it is that batch's turn."""
        try:
            return await self._load(after)
        except NightsafeError as error:
            return error

    async def _load(self, after: int) -> Load | Hole | None:
        gzip = self._limits().gzip
        return await feed.following(self._journal, self._cloud, self._stream, after, self._aftermath.size, gzip=gzip)

    async def _declare(self, hole: Hole) -> None:
        """Tell the cloud what this box cannot send, and go on behind it."""
        epoch = self._stream.epoch
        state = await self._heeded(
            self._cloud.put_hole(epoch, hole.first, hole.last, self._head, hole.rechash, hole.reason)
        )
        if state.next != hole.last + 1 or state.head != hole.rechash:
            raise _strange(f"it expects sequence {state.next} after the hole {hole.first} to {hole.last}")
        log.warning("hole_declared", epoch=epoch, first=hole.first, last=hole.last, reason=hole.reason)
        refused, self._refused = self._refused, None
        at = self._stream.base + hole.last
        covered = [refused[0]] if refused is not None else []
        if at > self._journal.cursor():
            await self._journal.advance(at, highest_safe(self._journal, self._stream, state.safe), covered)
        heard_safe(self._journal, self._stream, state.safe)
        self._sent, self._head = at, state.head
        self._resumption.went_through()
        self._aftermath.passed_over()

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None

    async def _send(self, load: Load, group: asyncio.TaskGroup) -> float:
        """Send one batch, the next one being read meanwhile; move the cursor as far as the answer covers it.

        Returns for how long the line is to be left to others then, in seconds.
        """
        records = load.records
        self._progress.state = "syncing"
        self._aftermath.sending(len(records), records[0])
        if records[-1].position < self._journal.last() and not self._aftermath.size.base64:
            self._ahead = group.create_task(self._load_ahead(records[-1].position), name="drain-ahead")
        began_s = self._clock.boottime_s()
        answer = await self._heeded(self._cloud.put(self._stream.epoch, load.body))
        took_s = self._clock.boottime_s() - began_s
        taken = await self._take(records, answer)
        if taken < len(records):
            self._drop_ahead()
        allowed_s = batches.allowed_s(self._cloud.travel_bytes(load.body), self._limits().bytes_per_s_max)
        self._aftermath.sent(max(took_s, allowed_s))
        return max(0.0, allowed_s - took_s)

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
            raise Transient(
                "cloud_differs", "The cloud's records and this box's differ.", "It is looked into by itself."
            )
        if answer.safe >= answer.next:
            raise _strange(f"it calls {answer.safe} safe and lacks {answer.next}")
        base = self._stream.base
        self._sent, self._head = base + answer.next - 1, answer.head
        self._resumption.went_through()
        if answer.rejected:
            self._progress.rejected(answer)  # before: it is written with the cursor
        new = [record for record in records[:count] if record.position > self._journal.cursor()]
        set_aside = [
            (records[one.sequence - first], f"{one.kind}: {one.detail}" if one.detail else one.kind)
            for one in answer.rejected
            if first <= one.sequence < answer.next
        ]
        if new:
            safe = highest_safe(self._journal, self._stream, answer.safe)
            await self._journal.advance(self._sent, safe, new, set_aside)
        else:  # it had them before, and says it again
            for record, words in set_aside:
                await self._journal.quarantine_record(record, words)
        heard_safe(self._journal, self._stream, answer.safe)
        self._progress.uploaded(count)
        return count


CALL = "Call support; nothing was dropped, and recording goes on."


def _strange(what: str) -> Held:
    return Held("answer_strange", f"The cloud's answer does not fit: {what}.", CALL)
