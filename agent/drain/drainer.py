"""journal → [drain] → cloud. The loop that sends batches, and what it does with each answer of the contract's table.

The upload attempt is the truth: no probe starts or stops it. Whatever it does not understand holds it, with words; it
never drops, and recording never waits for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, Protocol

import structlog

from agent.core import backoff, batches
from agent.core.answers import BatchAnswer, CloudRefused, Refusal, Step, StreamState, place_of, step_after
from agent.core.batches import BatchSize
from agent.core.errors import Held, NightsafeError, Transient
from agent.core.facts import DrainFacts, SyncState
from agent.core.instants import to_text

log = structlog.get_logger()

RATE_WINDOW_S = 5.0
"""Time over which the rate is averaged."""


class Record(Protocol):
    """A record as the journal reads it."""

    @property
    def position(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def device_epoch(self) -> int: ...
    @property
    def device_sequence(self) -> int | None: ...
    @property
    def rechash(self) -> bytes: ...
    @property
    def event(self) -> bytes: ...


class Journal(Protocol):
    """What the drain needs of the journal. Positions are `base` + sequence."""

    def epoch(self) -> str: ...
    def base(self) -> int: ...
    def last(self) -> int: ...
    def cursor(self) -> int: ...
    def safe(self) -> int: ...
    async def batch(self, after: int, records_max: int, bytes_max: int) -> Sequence[Any]: ...
    async def rechash(self, position: int) -> bytes | None: ...
    async def advance(self, cursor: int, safe: int, uploaded: Sequence[Any]) -> None: ...


class Cloud(Protocol):
    """What the drain needs of the cloud. Raises CloudRefused for its errors, Transient for the way there."""

    async def stream(self, epoch: str) -> StreamState: ...
    async def open_stream(self, epoch: str, reason: str) -> StreamState: ...
    async def prepare(self, epoch: str, records: Sequence[Any], *, gzip: bool, base64: bool) -> Any: ...
    async def put(self, epoch: str, batch: Any) -> BatchAnswer: ...
    def read_token(self) -> None: ...


class Clock(Protocol):
    def wall_ms(self) -> int: ...
    def boottime_s(self) -> float: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def batch_records_first(self) -> int: ...
    @property
    def batch_records_max(self) -> int: ...
    @property
    def batch_bytes_max(self) -> int: ...
    @property
    def batch_target_s(self) -> float: ...
    @property
    def backoff_first_s(self) -> float: ...
    @property
    def backoff_max_s(self) -> float: ...
    @property
    def retry_after_max_s(self) -> float: ...
    @property
    def gzip(self) -> bool: ...
    @property
    def look_interval_s(self) -> float: ...
    @property
    def poison_attention_s(self) -> float: ...
    @property
    def refused_retry_s(self) -> float: ...


class Telling(Protocol):
    """Where the drain says what holds; a `hint` makes it an attention."""

    def hold(self, id: str, severity: Literal["info", "warning", "critical"], title: str, text: str, hint: str) -> None: ...
    def lift(self, id: str) -> None: ...


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
        self._telling = telling
        self._chance = chance
        self._beat: Callable[[], None] = lambda: None
        first = limits()
        self._size = BatchSize(first.batch_records_first, first.batch_records_max, first.batch_bytes_max)
        self._look = asyncio.Event()
        self._bound = False
        self._resumed = False
        self._ahead: asyncio.Task[Load | None] | None = None
        self._failures = 0
        self._server_errors = 0
        self._alone_since_s: float | None = None
        self._tried_token = False
        self._min_interval_s = 0.0
        self._state: SyncState = "idle"
        self._rate = _Rate()
        self._uploaded_count = 0
        self._rejected_count = 0
        self._last_success_at: str | None = None
        self._error: NightsafeError | None = None
        self._next_attempt_at: str | None = None

    def wake(self) -> None:
        """Look now: something was stored, or the cloud can be reached again."""
        self._look.set()

    def reached(self) -> None:
        """The cloud answers again: do not sit out a back-off."""
        if self._state == "waiting":
            self._failures = 0
            self._look.set()

    def heed(self, beat: Callable[[], None]) -> None:
        """Beat with every turn of the loop."""
        self._beat = beat

    def facts(self) -> DrainFacts:
        """The drain at this instant."""
        return DrainFacts(
            state=self._state,
            rate_per_s=self._rate.per_s(self._clock.boottime_s()),
            batch_records=self._size.records,
            uploaded_count=self._uploaded_count,
            rejected_count=self._rejected_count,
            last_success_at=self._last_success_at,
            error_code=self._error.code if self._error else None,
            error_text=self._error.text if self._error else None,
            next_attempt_at=self._next_attempt_at,
        )

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Send until `stop`; the request in flight ends first."""
        ready()
        async with asyncio.TaskGroup() as group:
            waking = group.create_task(self._wake_on(stop), name="drain-stop")
            while not stop.is_set():
                self._beat()
                pause_s = await self._turn(group)
                if pause_s > 0 and not stop.is_set():
                    await self._pause(pause_s, stop)
            self._drop_ahead()
            waking.cancel()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._look.set()

    async def _pause(self, pause_s: float, stop: asyncio.Event) -> None:
        """Wait; while idle, whatever is stored ends it; while waiting, only a reason to try again does."""
        until_s = self._clock.boottime_s() + pause_s
        self._look.clear()
        while not stop.is_set() and (left_s := until_s - self._clock.boottime_s()) > 0:
            self._beat()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, BEAT_S)):
                    await self._look.wait()
            if self._look.is_set() and (self._state == "idle" or (self._state == "waiting" and self._failures == 0)):
                return
            self._look.clear()

    # One turn ---------------------------------------------------------------------------------------------------------

    async def _turn(self, group: asyncio.TaskGroup) -> float:
        """One exchange with the cloud, or a look that finds nothing; returns the seconds to wait after it."""
        try:
            if not self._resumed:
                if self._journal.last() == self._journal.cursor() and self._error is None and self._failures == 0:
                    return self._idle()
                await self._resume()
            load = await self._next_load(group)
            if load is None:
                return self._idle()
            self._state = "syncing"
            await self._send(load, group)
            return self._min_interval_s
        except CloudRefused as refused:
            self._drop_ahead()
            return self._after_refusal(refused)
        except Held as held:
            self._drop_ahead()
            return self._held(held)
        except Transient as failed:
            self._drop_ahead()
            self._resumed = False
            self._size = batches.halved(self._size)
            return self._back_off(failed, failed.retry_after_s)

    def _idle(self) -> float:
        self._state = "idle"
        self._recovered()
        return self._limits().look_interval_s

    async def _next_load(self, group: asyncio.TaskGroup) -> Load | None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return await ahead
        return await self._load(self._journal.cursor())

    async def _load(self, after: int) -> Load | None:
        records = await self._journal.batch(after, self._size.records, self._size.bytes_max)
        if not records:
            return None
        size = self._size
        body = await self._cloud.prepare(self._journal.epoch(), records, gzip=self._limits().gzip, base64=size.base64)
        return Load(records, body)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None

    async def _send(self, load: Load, group: asyncio.TaskGroup) -> None:
        """Send one batch, the next one being read meanwhile; move the cursor as far as the answer allows."""
        records = load.records
        if records[-1].position < self._journal.base() + self._journal.last() and not self._size.base64:
            self._ahead = group.create_task(self._load(records[-1].position), name="drain-ahead")
        began_s = self._clock.boottime_s()
        answer = await self._cloud.put(self._journal.epoch(), load.body)
        took_s = self._clock.boottime_s() - began_s
        taken = await self._take(records, answer)
        if taken < len(records):
            self._drop_ahead()
        self._size = batches.succeeded(self._size, len(records), took_s, self._limits().batch_target_s)
        self._server_errors = 0
        self._alone_since_s = None
        self._recovered()

    async def _take(self, records: Sequence[Any], answer: BatchAnswer) -> int:
        """Check what the cloud says it has against our own chain, and move the cursor; returns how many it covers."""
        first, last = records[0].sequence, records[-1].sequence
        if not first <= answer.next <= last + 1:
            raise _strange(f"it expects sequence {answer.next} after a batch of {first} to {last}")
        count = answer.next - first
        if count == 0:
            raise Transient("nothing_taken", "The cloud took nothing of a batch.", "It is sent again by itself.")
        if records[count - 1].rechash != answer.head:
            raise _fork(answer.next)
        if answer.safe >= answer.next:
            raise _strange(f"it calls {answer.safe} safe and lacks {answer.next}")
        base = self._journal.base()
        safe = max(self._journal.safe(), base + answer.safe)
        await self._journal.advance(base + answer.next - 1, safe, records[:count])
        self._uploaded_count += count
        self._rate.add(self._clock.boottime_s(), count)
        self._last_success_at = to_text(self._clock.wall_ms())
        if answer.rejected:
            self._tell_rejected(answer)
        return count

    # Resuming ---------------------------------------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Ask the cloud where it stands, bind the stream to this process, and continue at its `next`."""
        epoch = self._journal.epoch()
        state = await self._state_of(epoch)
        self._size = batches.limited(self._size, state.records_max, state.bytes_max)
        self._min_interval_s = state.min_interval_s
        if not state.open:
            raise _hold("stream_closed", "The cloud has closed this box's stream.", "Call support: the box must open a new stream.")
        await self._continue_at(state.next, state.head, state.safe)
        self._resumed = True
        self._last_success_at = to_text(self._clock.wall_ms())
        log.info("drain_resumed", next=state.next, pending=self._journal.last() - state.next + 1)

    async def _state_of(self, epoch: str) -> StreamState:
        """Where the cloud stands. The stream is opened, and so bound to this process, once in its life or when the cloud
        has none."""
        if self._bound:
            try:
                return await self._cloud.stream(epoch)
            except CloudRefused as refused:
                if step_after(refused.refusal) is not Step.OPEN:
                    raise
        state = await self._cloud.open_stream(epoch, "created")
        self._bound = True
        return state

    async def _continue_at(self, next_: int, head: bytes | None, safe: int) -> None:
        base, cursor = self._journal.base(), self._journal.cursor() - self._journal.base()
        place = place_of(next_, cursor, self._journal.last())
        if place == "beyond":
            raise _fork(next_)
        if head is not None and next_ > 1 and await self._journal.rechash(base + next_ - 1) != head:
            raise _fork(next_)
        if place == "rewound":
            raise _hold(
                "cloud_rewound",
                f"The cloud expects record {next_} again, though it had confirmed {cursor}.",
                "Call support: the cloud may have been restored from a backup. Nothing is lost; all records are here.",
            )
        if place == "ahead":
            await self._catch_up(base + cursor, base + next_ - 1, base + safe)

    async def _catch_up(self, cursor: int, to: int, safe: int) -> None:
        """The cloud committed more than we heard of: count it as uploaded, batch by batch."""
        while cursor < to:
            records = await self._journal.batch(cursor, min(to - cursor, self._size.ceiling), self._size.bytes_max)
            cursor = records[-1].position
            await self._journal.advance(cursor, min(max(safe, self._journal.safe()), cursor), records)
            self._uploaded_count += len(records)

    # After an answer that is no success -------------------------------------------------------------------------------

    def _after_refusal(self, refused: CloudRefused) -> float:
        refusal = refused.refusal
        step = step_after(refusal)
        if step in (Step.OPEN, Step.RESUME):
            self._resumed = False
            self._error = refused
            return self._back_off(refused, None) if self._failures else self._again(refused)
        if step is Step.LIMIT:
            return self._send_less(refused, refusal)
        if step is Step.SPLIT:
            return self._split(refused)
        if step is Step.LOG_IN:
            return self._log_in(refused)
        if step is Step.HOLD:
            return self._held(_hold(refused.code, refused.text, "Call support with this message; recording goes on."))
        self._server_errors += step is Step.BACK_OFF
        if self._server_errors >= 2 and step is Step.BACK_OFF:
            self._size = batches.halved(self._size)
            self._note_alone(refused)
        return self._back_off(refused, refusal.retry_after_s)

    def _again(self, error: NightsafeError) -> float:
        """Try again at once, but only once in a row."""
        self._failures += 1
        log.debug("drain_again", code=error.code)
        return 0.0

    def _send_less(self, refused: CloudRefused, refusal: Refusal) -> float:
        if self._size.records == 1:
            return self._held(_hold(refused.code, refused.text, "Call support: one record is larger than the cloud takes."))
        ceiling = refusal.records_max or self._size.records // 2
        self._size = batches.limited(batches.halved(self._size), ceiling, refusal.bytes_max)
        return 0.0

    def _split(self, refused: CloudRefused) -> float:
        """The cloud cannot read a batch: find the one record, then send that one in another form."""
        if self._size.records > 1:
            self._size = batches.halved(self._size)
            return 0.0
        if not self._size.base64:
            self._size = BatchSize(1, self._size.ceiling, self._size.bytes_max, base64=True)
            return 0.0
        return self._held(_hold(refused.code, refused.text, "Call support: the cloud cannot read one record of this box."))

    def _log_in(self, refused: CloudRefused) -> float:
        if not self._tried_token:
            self._tried_token = True
            self._cloud.read_token()
            return 0.0
        self._telling.hold(
            "cloud_auth",
            "critical",
            "The cloud does not accept this box",
            "The cloud refuses the box's token. Sales are recorded and kept.",
            "Put a valid token into the token file (`[cloud] token_file`); it is read again by itself.",
        )
        self._cloud.read_token()
        return self._back_off(refused, None)

    def _note_alone(self, refused: CloudRefused) -> None:
        """One record that keeps failing alone is named after a while; it is still tried."""
        if self._size.records > 1:
            return
        now_s = self._clock.boottime_s()
        self._alone_since_s = self._alone_since_s if self._alone_since_s is not None else now_s
        if now_s - self._alone_since_s >= self._limits().poison_attention_s:
            record = self._journal.cursor() - self._journal.base() + 1
            self._telling.hold(
                "record_stuck",
                "critical",
                "One record does not get through",
                f"The cloud fails on record {record}: {refused.text}",
                "Call support with the record's number; everything behind it is kept and waits.",
            )

    def _back_off(self, error: NightsafeError, asked_s: float | None) -> float:
        limits = self._limits()
        self._failures += 1
        if asked_s is not None:
            pause_s = backoff.asked_pause_s(asked_s, self._chance(), limits.backoff_first_s, limits.retry_after_max_s)
        else:
            pause_s = backoff.pause_s(self._failures, self._chance(), limits.backoff_first_s, limits.backoff_max_s)
        self._note_error("waiting", error, pause_s)
        return pause_s

    def _held(self, held: NightsafeError) -> float:
        self._failures += 1
        self._resumed = False
        pause_s = self._limits().refused_retry_s
        self._telling.hold("drain_held", "critical", "Uploading is held", held.text, held.hint)
        self._note_error("held", held, pause_s)
        return pause_s

    def _note_error(self, state: SyncState, error: NightsafeError, pause_s: float) -> None:
        tell = log.warning if self._error is None or self._error.code != error.code else log.debug
        tell("drain_failed", code=error.code, reason=error.text, again_in_s=round(pause_s, 3))
        self._state = state
        self._error = error
        self._next_attempt_at = to_text(self._clock.wall_ms() + int(pause_s * 1000))

    def _recovered(self) -> None:
        if self._error is not None:
            log.info("drain_recovered", after=self._error.code)
            for condition in ("drain_held", "cloud_auth", "record_stuck"):
                self._telling.lift(condition)
        self._error = None
        self._failures = 0
        self._tried_token = False
        self._next_attempt_at = None

    def _tell_rejected(self, answer: BatchAnswer) -> None:
        self._rejected_count += len(answer.rejected)
        for one in answer.rejected:
            log.warning("record_rejected", sequence=one.sequence, type=one.kind, detail=one.detail)
        first = answer.rejected[0]
        self._telling.hold(
            "records_rejected",
            "warning",
            "The cloud has set records aside",
            f"{self._rejected_count} so far, the first of the last batch is {first.sequence}: {first.detail or first.kind}.",
            "Call support with the record's number; the cloud keeps it, and everything else went on.",
        )


class _Rate:
    """Records a second, averaged over a few seconds."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, at_s: float, count: int) -> None:
        self._points = [point for point in self._points if point[0] > at_s - RATE_WINDOW_S]
        self._points.append((at_s, count))

    def per_s(self, at_s: float) -> float:
        recent = [point for point in self._points if point[0] > at_s - RATE_WINDOW_S]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(at_s - recent[0][0], 1.0)


BEAT_S = 1.0
"""How often a waiting drain shows that it lives."""


def _hold(code: str, text: str, hint: str) -> Held:
    return Held(code, text, hint)


def _strange(what: str) -> Held:
    return Held("answer_strange", f"The cloud's answer does not fit: {what}.", "Call support; nothing was dropped.")


def _fork(next_: int) -> Held:
    return Held(
        "fork",
        f"The cloud's records and this box's differ before record {next_}.",
        "Call support: another box may have used this identity, or an older copy was restored. Recording goes on.",
    )
