"""journal → [drain: after a failure] → cloud. What to do with each answer that is no success, and how long to wait.

Follows the contract's table of answers. Shrinks batches, waits, reads the token again, or holds; it never drops.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from agent.core import backoff, batches
from agent.core.answers import CloudRefused, Refusal, Step, step_after
from agent.core.batches import BatchSize
from agent.core.errors import Held, NightsafeError, Transient
from agent.drain.ports import Clock, Cloud, Limits, Telling
from agent.drain.progress import Progress
from agent.drain.resume import fenced

log = structlog.get_logger()


class Aftermath:
    """The size of the next batch, and how many attempts have failed in a row."""

    def __init__(
        self,
        cloud: Cloud,
        clock: Clock,
        limits: Callable[[], Limits],
        telling: Telling,
        chance: Callable[[], float],
        progress: Progress,
        first_sequence: Callable[[], int],
    ) -> None:
        self._cloud = cloud
        self._clock = clock
        self._limits = limits
        self._telling = telling
        self._chance = chance
        self._progress = progress
        self._first_sequence = first_sequence
        first = limits()
        self.size = BatchSize(first.batch_records_first, first.batch_records_max, first.batch_bytes_max)
        self.failures = 0
        self.record: Any = None
        """The first record of the batch that is on its way."""
        self._sent_count = 0
        self._server_errors = 0
        self._alone_since_s: float | None = None
        self._tried_token = False

    def sending(self, count: int, first: Any = None) -> None:
        """So many records are on their way: what is answered next is said of these. 0: it is said of no batch."""
        self._sent_count = count
        self.record = first

    def sent(self, took_s: float) -> None:
        """The batch went through."""
        self.size = batches.succeeded(self.size, self._sent_count, took_s, self._limits().batch_target_s)
        self._server_errors = 0
        self._alone_since_s = None
        self.recovered()

    def passed_over(self) -> None:
        """A hole was declared; records go in their usual form again."""
        self.size = msgspec.structs.replace(self.size, base64=False)
        self.recovered()

    def gives_up(self, step: Step) -> bool:
        """Whether the one record that was sent last can be sent in no other form."""
        return step in (Step.SPLIT, Step.LIMIT) and self._sent_count == 1 and self.size.base64

    def recovered(self) -> None:
        """Something went through, or nothing is left to send."""
        self._progress.recovered()
        self.failures = 0
        self._tried_token = False

    def after_cut(self, error: Transient) -> float:
        """The way to the cloud failed; seconds to wait. A batch that was cut is halved."""
        if self._sent_count:
            self.size = batches.halved(self.size, self._sent_count)
        return self._back_off(error, error.retry_after_s)

    def after_refusal(self, refused: CloudRefused) -> float:
        """The cloud answered with an error; seconds to wait."""
        refusal = refused.refusal
        match step_after(refusal):
            case Step.OPEN | Step.RESUME | Step.FORK | Step.PARENT:
                return self._at_once(refused) if self.failures == 0 else self._back_off(refused, None)
            case Step.LIMIT:
                return self._send_less(refused, refusal)
            case Step.SPLIT:
                return self._split(refused)
            case Step.LOG_IN:
                return self._log_in(refused)
            case Step.WAIT:
                return self._back_off(refused, refusal.retry_after_s)
            case Step.BACK_OFF:
                return self._after_server_error(refused)
            case Step.FENCE:
                return self.hold(fenced())
            case Step.HOLD:
                return self.hold(Held(refused.code, refused.text, "Call support with this message; recording goes on."))

    def hold(self, held: NightsafeError) -> float:
        """A person must look; seconds until it is tried again all the same."""
        self.failures += 1
        pause_s = self._limits().refused_retry_s
        self._telling.hold("drain_held", "critical", "Uploading is held", held.text, held.hint)
        self._progress.failed("held", held, pause_s)
        return pause_s

    def _at_once(self, error: NightsafeError) -> float:
        """Go on where the cloud says, at once, but only once in a row."""
        self.failures += 1
        self._progress.error = error
        return 0.0

    def _send_less(self, refused: CloudRefused, refusal: Refusal) -> float:
        if self._sent_count <= 1:
            return self._split(refused)
        ceiling = refusal.records_max
        if ceiling is None and refusal.bytes_max is None:
            ceiling = self._sent_count // 2  # the limit itself was not told
        self.size = batches.limited(batches.halved(self.size, self._sent_count), ceiling, refusal.bytes_max)
        return 0.0

    def _split(self, refused: CloudRefused) -> float:
        """The cloud cannot read a batch: find the one record, then send that one in another form."""
        if self._sent_count > 1:
            self.size = batches.halved(self.size, self._sent_count)
            return 0.0
        if self._sent_count:
            self.size = msgspec.structs.replace(self.size, records=1, base64=True)
            return 0.0
        hint = "Call support: the cloud does not understand this box. Everything is kept, and recording goes on."
        return self.hold(Held(refused.code, refused.text, hint))

    def _log_in(self, refused: CloudRefused) -> float:
        self._cloud.read_token()
        if not self._tried_token:
            self._tried_token = True
            return 0.0
        self._telling.hold(
            "cloud_auth",
            "critical",
            "The cloud does not accept this box",
            "The cloud refuses the box's token. Sales are recorded and kept.",
            "Put a valid token into the token file (`[cloud] token_file`); it is read again by itself.",
        )
        return self._back_off(refused, None)

    def _after_server_error(self, refused: CloudRefused) -> float:
        self._server_errors += 1
        if self._server_errors >= 2 and self._sent_count:
            self.size = batches.halved(self.size, self._sent_count)
        if self._sent_count == 1:
            self._note_alone(refused)
        return self._back_off(refused, refused.refusal.retry_after_s)

    def _note_alone(self, refused: CloudRefused) -> None:
        """One record that keeps failing alone is named after a while; it is still tried."""
        now_s = self._clock.boottime_s()
        if self._alone_since_s is None:
            self._alone_since_s = now_s
        if now_s - self._alone_since_s >= self._limits().poison_attention_s:
            self._telling.hold(
                "record_stuck",
                "critical",
                "One record does not get through",
                f"The cloud fails on record {self._first_sequence()}: {refused.text}",
                "Call support with the record's number; everything behind it is kept and waits.",
            )

    def _back_off(self, error: NightsafeError, asked_s: float | None) -> float:
        limits = self._limits()
        self.failures += 1
        if asked_s is not None:
            pause_s = backoff.asked_pause_s(asked_s, self._chance(), limits.backoff_first_s, limits.retry_after_max_s)
        else:
            pause_s = backoff.pause_s(self.failures, self._chance(), limits.backoff_first_s, limits.backoff_max_s)
        self._progress.failed("waiting", error, pause_s)
        return pause_s
