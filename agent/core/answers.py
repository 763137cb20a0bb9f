"""drain → cloud → [what its answer means] → drain. The contract's table of answers as values.

Pure. An answer that is not understood holds the drain; no answer ever drops a record.
"""

from enum import Enum
from typing import NamedTuple

import msgspec

from agent.core.errors import NightsafeError


class StreamState(NamedTuple):
    """A stream as the cloud has it; `head` is 32 bytes, `next` the first sequence it lacks."""

    next: int
    head: bytes
    safe: int
    open: bool
    records_max: int
    bytes_max: int
    min_interval_s: float


class RejectedRecord(NamedTuple):
    """A record that the cloud keeps aside; its sequence is used up."""

    sequence: int
    kind: str
    detail: str


class BatchAnswer(NamedTuple):
    """What became of a batch."""

    next: int
    head: bytes
    safe: int
    accepted: int
    duplicate: int
    rejected: tuple[RejectedRecord, ...]


class Refusal(msgspec.Struct, frozen=True):
    """An error answer of the cloud. `kind` is the problem's type, empty when the body told none."""

    status: int
    kind: str = ""
    detail: str = ""
    next: int | None = None
    head: bytes | None = None
    sequence: int | None = None
    records_max: int | None = None
    bytes_max: int | None = None
    retry_after_s: float | None = None
    successor: str | None = None


class CloudRefused(NightsafeError):
    """The cloud answered with an error status."""

    def __init__(self, refusal: Refusal) -> None:
        words = refusal.detail or refusal.kind or "no reason given"
        super().__init__(f"cloud_{refusal.status}", f"The cloud answered {refusal.status}: {words}.")
        self.refusal = refusal


class Step(Enum):
    """What the drain does next."""

    OPEN = "open the stream"
    RESUME = "continue at the cloud's next"
    LIMIT = "send less at once"
    SPLIT = "find the record that the cloud cannot read"
    WAIT = "wait as asked"
    BACK_OFF = "back off"
    LOG_IN = "read the token again"
    FORK = "go on in a new epoch"
    FENCE = "another process writes this epoch"
    PARENT = "bring the parent up first"
    HOLD = "a person must look"


_BY_KIND = {
    (404, "urn:nightsafe:no-stream"): Step.OPEN,
    (409, "urn:nightsafe:gap"): Step.RESUME,
    (400, "urn:nightsafe:malformed"): Step.SPLIT,
    (409, "urn:nightsafe:conflict"): Step.FORK,
    (409, "urn:nightsafe:fenced"): Step.FENCE,
    (409, "urn:nightsafe:no-parent"): Step.PARENT,
}
_BY_STATUS = {
    401: Step.LOG_IN,
    413: Step.LIMIT,
    429: Step.WAIT,
    500: Step.BACK_OFF,
    502: Step.BACK_OFF,
    503: Step.WAIT,
    504: Step.BACK_OFF,
}


def step_after(refusal: Refusal) -> Step:
    """The drain's next step after this answer."""
    step = _BY_KIND.get((refusal.status, refusal.kind))
    if step is not None:
        return step
    if refusal.status == 410 and refusal.kind.startswith("urn:nightsafe:"):
        return Step.FORK
    return _BY_STATUS.get(refusal.status, Step.HOLD)
