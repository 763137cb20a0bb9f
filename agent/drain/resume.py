"""journal → [drain: where to go on] → cloud. After a start or a cut: asks the cloud where it stands, and believes it
only where its chain is ours.

Where the two histories have parted, the box goes on in a new epoch behind the last record in common. Never overwrites,
never skips, and never opens again an epoch that another process has taken over.
"""

from typing import NamedTuple

import structlog

from agent.core.answers import CloudRefused, Step, StreamState, step_after
from agent.core.errors import Held, Transient
from agent.core.lineage import Lineage, Parent, Stream
from agent.drain.ports import Cloud, Journal
from agent.drain.progress import Progress

log = structlog.get_logger()

CATCH_UP_RECORDS_MAX = 5000
CATCH_UP_BYTES_MAX = 8 * 1024 * 1024
"""How much is read at once to count what the cloud already has."""
FORKS_MAX = 2
"""New epochs in a row without a record that went through; then a person must look."""


class Standing(NamedTuple):
    """The stream to go on with, and the cloud's state of it."""

    stream: Stream
    state: StreamState


class Seen(NamedTuple):
    """Position up to which the cloud has the present stream, and whether that is another history than ours. Where the
    cloud has more than this box, the next upload tells whose it is: this box's past, or a copy that fences it."""

    position: int
    differs: bool


class Resumption:
    """Knows which streams are bound to this process, and why the present one must not be continued."""

    def __init__(self, journal: Journal, cloud: Cloud, progress: Progress) -> None:
        self._journal = journal
        self._cloud = cloud
        self._progress = progress
        self._bound: set[str] = set()
        self._part: str | None = None
        self._forks_count = 0
        self._began_at = journal.last()
        """Position of the last record that this process found when it started."""

    def part(self, why: str) -> None:
        """The cloud refuses to continue the present stream: `conflict` or `closed`."""
        self._part = why

    def went_through(self) -> None:
        """The cloud took something: a later fork is another story."""
        self._forks_count = 0

    async def resume(self) -> Standing:
        """Where to go on; our cursor is where the cloud stands then.

        Raises CloudRefused, Transient, RecordDamaged, and Held where a person must look.
        """
        await self._finish()
        stream = self._journal.lineage().present
        if stream.fenced and self._journal.doubt() is None:
            raise await self.fenced()
        standing = await self._open(stream)
        next_ = standing.state.next
        pending = self._journal.last() - standing.stream.base - next_ + 1
        log.info("drain_resumed", epoch=standing.stream.epoch, next=next_, pending=pending)
        return standing

    async def look(self) -> Seen | None:
        """What the cloud has of the present stream, None where it cannot be told. Asking binds nothing.

        Raises RecordDamaged where the record in question does not prove itself here.
        """
        stream = self._journal.lineage().present
        try:
            state = await self._state(stream.epoch)
            differs = await self._parted(stream, state) == "parted"
        except (CloudRefused, Transient) as error:
            log.debug("cloud_not_checked", code=error.code)
            return None
        return Seen(stream.base + state.next - 1 if state is not None else stream.base, differs)

    async def fenced(self) -> Held:
        """Another process writes this box's epoch, as far as the cloud knows: one from an older backup knows an earlier
        start of this box only."""
        stream = self._journal.lineage().present
        try:
            state = await self._state(stream.epoch)
            behind = state is not None and stream.base + state.next - 1 < self._journal.cursor()
            if state is not None and behind and await self._agrees(stream, state, state.next - 1):
                return forgetful()
        except (CloudRefused, Transient) as error:
            log.debug("cloud_not_checked", code=error.code)
        return fenced()

    async def _open(self, stream: Stream) -> Standing:
        """The present stream, bound to this process, or its parent where the cloud lacks that."""
        state = await self._state(stream.epoch)
        self._journal.lower(stream.base + _safe_of(state))
        why = self._journal.doubt() or self._part or await self._parted(stream, state)
        if why is not None:
            return await self._fork(stream, state, why)
        if state is None or stream.epoch not in self._bound:
            try:
                state = await self._cloud.open_stream(stream)
            except CloudRefused as refused:
                if step_after(refused.refusal) is not Step.PARENT:
                    raise
                return await self._parent_of(stream, refused)
            self._bound.add(stream.epoch)
            why = await self._parted(stream, state)
            if why is not None:
                return await self._fork(stream, state, why)
        heard_safe(self._journal, stream, _safe_of(state))
        await self._catch_up(stream.base + state.next - 1, highest_safe(self._journal, stream, _safe_of(state)))
        return Standing(stream, state)

    async def _state(self, epoch: str) -> StreamState | None:
        """The stream as the cloud has it, None when it has none. Asking binds nothing."""
        try:
            return await self._cloud.stream(epoch)
        except CloudRefused as refused:
            if step_after(refused.refusal) is not Step.OPEN:
                raise
            return None

    async def _parent_of(self, stream: Stream, refused: CloudRefused) -> Standing:
        """The cloud has lost what this stream continues: that comes first, as far as it is still kept here.

        Only a stream that this process has opened itself is opened again or continued: any other one may be another
        box's by now. What cannot be continued is left for a new epoch behind what the cloud still has.
        """
        lineage = self._journal.lineage()
        parent = lineage.named(stream.parent.epoch) if stream.parent is not None else None
        if parent is None or parent.fenced or parent.epoch not in self._bound:
            return await self._fork(lineage.present, None, "lost")
        state = await self._state(parent.epoch)
        self._journal.lower(parent.base + _safe_of(state))
        if state is None:
            try:
                state = await self._cloud.open_stream(parent)
            except CloudRefused as further:
                if step_after(further.refusal) is not Step.PARENT:
                    raise
                return await self._parent_of(parent, further)
        end = lineage.end_of(parent)
        at = parent.base + state.next - 1
        if not state.open or end is None or at >= end or not await self._agrees(parent, state, state.next - 1):
            return await self._fork(lineage.present, None, "lost")
        return Standing(parent, state)

    # Agreeing ---------------------------------------------------------------------------------------------------------

    async def _parted(self, stream: Stream, state: StreamState | None) -> str | None:
        """Why the cloud's stream is not ours any more, or None."""
        if state is None:
            return None
        if not state.open:
            return "closed"
        if stream.base + state.next - 1 > self._journal.last():
            return "beyond"
        agrees = await self._agrees(stream, state, state.next - 1)
        if agrees is None:  # not kept here any more: the nearest record above it that is kept speaks for it, or nothing
            first = await self._journal.first() - stream.base
            agrees = not 0 < first < state.next or await self._agrees(stream, state, first)
        return None if agrees else "parted"

    async def _agrees(self, stream: Stream, state: StreamState, sequence: int) -> bool | None:
        """Whether both have the same record at `sequence`; None where one of them has none. Raises RecordDamaged: a
        seal that has changed on the disk is no other history."""
        if sequence == 0:
            return True
        ours = await self._journal.rechash(stream.base + sequence)
        if sequence == state.next - 1:
            theirs: bytes | None = state.head
        else:
            theirs = await self._cloud.hash_at(stream.epoch, sequence)
        if ours is None or theirs is None:
            return None
        if ours != theirs:
            await self._journal.batch(stream.base + sequence - 1, 1, 1)
        return ours == theirs

    async def _last_common(self, stream: Stream, state: StreamState) -> int | None:
        """The highest sequence at which both agree, found by halving; None when they agree nowhere that we know of."""
        low = max(0, await self._journal.first() - 1 - stream.base)
        end = self._journal.lineage().end_of(stream)
        high = min((self._journal.last() if end is None else end) - stream.base, state.next - 1)
        if high <= low or await self._agrees(stream, state, high):
            return high
        if not await self._agrees(stream, state, low):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if await self._agrees(stream, state, middle):
                low = middle
            else:
                high = middle
        return low

    # Parting ----------------------------------------------------------------------------------------------------------

    async def _fork(self, stream: Stream, state: StreamState | None, why: str) -> Standing:
        """Go on in a new epoch behind the last record in common."""
        lost_since = why == "lost" and stream.epoch in self._bound  # the cloud had taken it: that was no refusal
        if self._forks_count >= FORKS_MAX and not lost_since:
            self._part = None  # the next attempt tries the present epoch once more
            raise Held(
                "fork_again",
                "The cloud refused the new epochs of this box as well.",
                "Call support: nothing was dropped or overwritten, and recording goes on.",
            )
        parent, base = await self._branch(stream, state)
        self._journal.lower(base)
        await self._catch_up(base, self._journal.safe())
        common = parent.sequence if parent is not None else 0
        lost = state.next - 1 - common if state is not None else 0
        if why == "parted" and base >= self._began_at:
            why = "beyond"  # the cloud had more than this box from its start: the box is the older copy
        reason = "restored" if why in ("restored", "beyond") else "forked"
        await self._journal.begin_stream(base, parent, reason, why)
        self._forks_count += 1  # a search that was cut off is none
        self._part = None
        self._progress.forked(why, common, max(0, lost))
        await self._seal()
        now = self._journal.lineage().present
        log.warning("epoch_forked", why=why, epoch=now.epoch, parent=parent and parent.epoch, common=common)
        return await self._open(now)

    async def _branch(self, stream: Stream, state: StreamState | None) -> tuple[Parent | None, int]:
        """What the new epoch continues, and the position behind which it begins: the nearest stream up the lineage that
        the cloud has, and what of it is ours. Asking binds nothing."""
        lineage = self._journal.lineage()
        while state is None or _empty(lineage, stream):
            older = lineage.named(stream.parent.epoch) if stream.parent is not None else None
            if older is None:
                return None, min(stream.base, lineage.present.base)
            stream, state = older, await self._state(older.epoch)
        common = await self._last_common(stream, state)
        if common is None:
            return None, await self._journal.first() - 1
        if common == 0:
            return Parent(stream.epoch, 0, stream.origin), stream.base
        ours = await self._journal.rechash(stream.base + common)
        return Parent(stream.epoch, common, ours or state.head), stream.base + common

    async def _finish(self) -> None:
        """End what another attempt or process has begun. People are told before: who ends it has told it."""
        forming = self._journal.lineage().forming
        if forming is None:
            return
        why = self._journal.doubt() or ("beyond" if forming.reason == "restored" else "parted")
        parent = forming.parent
        state = await self._state(parent.epoch) if parent is not None else None
        common = parent.sequence if parent is not None else 0
        self._progress.forked(why, common, max(0, state.next - 1 - common) if state is not None else 0)
        await self._seal()

    async def _seal(self) -> None:
        """Seal the records behind the last common one for the new epoch, in steps that let selling go on between."""
        while self._journal.lineage().forming is not None:
            await self._journal.seal_on()

    async def _catch_up(self, to: int, safe: int) -> None:
        """The cloud committed more than we heard of: move the cursor over it, batch by batch."""
        while (cursor := self._journal.cursor()) < to:
            found = await self._journal.batch(cursor, min(to - cursor, CATCH_UP_RECORDS_MAX), CATCH_UP_BYTES_MAX)
            records = [record for record in found if record.position <= to]
            reached = records[-1].position if records else to
            await self._journal.advance(reached, min(max(safe, self._journal.safe()), reached), records)
            if self._journal.cursor() == cursor:
                return  # the journal limps: its cursor follows when it is open again


def _empty(lineage: Lineage, stream: Stream) -> bool:
    """Whether a later stream has taken over every record of this one."""
    end = lineage.end_of(stream)
    return end is not None and end <= stream.base


def heard_safe(journal: Journal, stream: Stream, safe: int) -> None:
    """What the cloud calls safe of a stream is what may be deleted; a stream of which nothing is safe yet says nothing
    of the records before it."""
    if safe:
        journal.confirm(stream.base + safe)
    else:
        journal.lower(stream.base)


def highest_safe(journal: Journal, stream: Stream, safe: int) -> int:
    """The highest position that the cloud has ever called safe: what is not kept up to there was deleted."""
    return max(journal.safe(), stream.base + safe) if safe else journal.safe()


def _safe_of(state: StreamState | None) -> int:
    return min(state.safe, state.next - 1) if state is not None else 0


def forgetful() -> Held:
    """The cloud knows this box's epoch as it was, and an earlier start of this box: a backup was put back."""
    return Held(
        "fenced",
        "The cloud seems to have been restored from a backup: it lacks records that it had, and takes this box for "
        "another one. Uploading has stopped; recording goes on.",
        "If no copy of this box runs, run `nightsafe queue adopt`: what the cloud lacks goes up again.",
    )


def fenced() -> Held:
    """Another process writes this box's epoch."""
    return Held(
        "fenced",
        "Another box uploads under this box's identity, so this one has stopped uploading. It goes on recording.",
        "Find the copy (a cloned card or disk, or a second agent) and switch it off; then run `nightsafe queue adopt`.",
    )
