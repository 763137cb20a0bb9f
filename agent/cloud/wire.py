"""drain → [the bodies of the cloud contract] → receiver. What stands on the wire, for both ends: the box and the cloud.

Pure: bytes in, values out, and back. Never opens a connection, never reads a clock, and never writes an event anew: the
device's bytes stand in a batch as they came.
"""

import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from agent.core.errors import Transient

BATCH_TYPE: Final = "application/cloudevents-batch+json"
EVENT_TYPE: Final = "application/cloudevents+json"
HEALTH_TYPE: Final = "application/health+json"
JSON_TYPE: Final = "application/json"
EVENTS_TYPE: Final = "text/event-stream"
PROBLEM_TYPE: Final = "application/problem+json"

INSTANCE_HEADER: Final = "Nightsafe-Instance"
PREVHASH_HEADER: Final = "Nightsafe-Prevhash"
DIGEST_HEADER: Final = "Content-Digest"

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""The longest answer that either end looks at, in bytes: a batch answer that rejects every record fits."""
SEQUENCE_MAX: Final = 10**12 - 1
"""The highest sequence of an epoch: a thousand records a second for thirty years."""

Epoch = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", max_length=36)]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Instance = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,128}$(?!\n)")]
"""Names one process start; printable ASCII, so that it fits into a header."""
Sequence = Annotated[int, msgspec.Meta(ge=1, le=SEQUENCE_MAX)]
Position = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]
"""A sequence, or 0: before the first record."""
Count = Annotated[int, msgspec.Meta(ge=0)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


# A batch of records


class Record(NamedTuple):
    """One record as the journal has it; `rechash` is its 32 bytes, `event` the device's bytes."""

    sequence: int
    recordedtime: str
    clock: str
    boot: str
    uptime_ms: int
    device: str
    event_id: str
    event: bytes
    rechash: bytes


_NO_DATA: Final = msgspec.Raw(b"")  # this very object is what `omit_defaults` leaves out


class WireRecord(msgspec.Struct, gc=False, omit_defaults=True):
    """One element of a batch, its members in the order in which they are written. Of the last two, one is there."""

    specversion: Literal["1.0"]
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    source: str
    type: Literal["nightsafe.record.v1"]
    epoch: str
    sequence: str
    recordedtime: str
    clock: Literal["synced", "unsynced"]
    boot: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    uptime_ms: Count
    device: str
    rechash: str
    datacontenttype: Literal["application/cloudevents+json"]
    data: msgspec.Raw = _NO_DATA
    data_base64: str = ""


_encode = msgspec.json.Encoder().encode
_batch = msgspec.json.Decoder(list[WireRecord]).decode


def source_of(venue: str) -> str:
    """The CloudEvents `source` of a venue's records."""
    return f"urn:nightsafe:{venue}"


def encode_batch(venue: str, epoch: str, records: Iterable[Record], base64: bool = False) -> bytes:
    """The body of a records PUT. With `base64` the events travel as `data_base64`: for bytes that are no plain JSON."""
    source, kind, raw, shape = source_of(venue), "nightsafe.record.v1", msgspec.Raw, WireRecord
    return _encode(
        [
            shape(
                "1.0",
                f"{device}/{event_id}",
                source,
                kind,  # type: ignore[arg-type]  # a Literal behind a local name
                epoch,
                f"{sequence:020d}",
                recordedtime,
                clock,  # type: ignore[arg-type]  # the journal's own column, checked where it is written
                boot,
                uptime_ms,
                device,
                rechash.hex(),
                "application/cloudevents+json",
                _NO_DATA if base64 else raw(event),
                b64encode(event).decode() if base64 else "",
            )
            for sequence, recordedtime, clock, boot, uptime_ms, device, event_id, event, rechash in records
        ]
    )


def decode_batch(body: bytes) -> list[WireRecord]:
    """The records of a batch; `data` is cut from `body`, not parsed. Raises ValueError with words if it is none."""
    try:
        if not body.isascii():
            body.decode()  # what is cut as raw text is not looked at otherwise
        return _batch(body)
    except RecursionError as error:
        raise ValueError("the body is nested too deeply") from error


def encode_records(records: WireRecord | list[WireRecord]) -> bytes:
    """One element of a batch, or all of it, as this project writes it."""
    return _encode(records)


def event_of(record: WireRecord) -> bytes:
    """The device's bytes, whichever way they travelled. Raises ValueError when they came in both ways, or in none."""
    plain, coded = bytes(record.data), record.data_base64
    if bool(plain) == bool(coded):
        raise ValueError("a record carries either data or data_base64")
    try:
        return plain or a2b_base64(coded, strict_mode=True)
    except Base64Error as error:
        raise ValueError(f"data_base64: {error}") from error


# The other bodies


class Limits(msgspec.Struct, frozen=True):
    """What one batch may be: `bytes` of decoded body; `min_interval_s` is the wished time between two batches."""

    records: Annotated[int, msgspec.Meta(ge=1)]
    bytes: Annotated[int, msgspec.Meta(ge=1)]
    min_interval_s: Annotated[float, msgspec.Meta(ge=0)]


class ParentRef(msgspec.Struct, frozen=True):
    """Where a stream continues another: the last record that both have. Sequence 0: none."""

    epoch: Epoch
    sequence: Position
    rechash: Hash


class OpenStream(msgspec.Struct, frozen=True):
    """Body of POST streams."""

    epoch: Epoch
    parent: ParentRef | None
    instance: Instance
    reason: Literal["created", "restored", "forked"]


class StreamAnswer(msgspec.Struct, frozen=True):
    """A stream as the cloud has it: `next` is the first sequence it lacks, `head` the rechash before it."""

    epoch: str
    next: Sequence
    head: Hash
    safe: Position
    limits: Limits
    state: Literal["open", "closed"]
    time: str


class HashAnswer(msgspec.Struct, frozen=True):
    """The rechash at one sequence; at 0 the first prevhash of the stream."""

    sequence: Position
    rechash: Hash


class RejectedRecord(msgspec.Struct, frozen=True):
    """A record that the cloud keeps in quarantine; its sequence is consumed."""

    sequence: Sequence
    type: str
    detail: str


class BatchAnswer(msgspec.Struct, frozen=True):
    """What became of a batch: `accepted` records are new, rejected ones among them; `duplicate` ones were there."""

    next: Sequence
    head: Hash
    safe: Position
    accepted: Count
    duplicate: Count
    rejected: list[RejectedRecord]


class HoleBody(msgspec.Struct, frozen=True):
    """Body of PUT holes: the rechash before the first record that is missing, and that of the last one."""

    reason: _Text
    prevhash: Hash
    rechash: Hash


class HealthAnswer(msgspec.Struct, frozen=True):
    """Body of GET /v1/health."""

    status: Literal["pass", "warn", "fail"]
    cloud: str
    time: str


class TimeAnswer(msgspec.Struct, frozen=True):
    """What a heartbeat is answered with."""

    time: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error body (RFC 9457); members that this contract adds are None where they do not apply."""

    type: str = "about:blank"
    title: str = ""
    status: int | None = None
    detail: str = ""
    next: Sequence | None = None
    head: Hash | None = None
    sequence: Position | None = None
    limits: Limits | None = None
    successor: str | None = None


class NotAnAnswer(Transient):
    """Something answered, but not the cloud: the media type, the size or the body is not what the contract says."""

    def __init__(self, text: str) -> None:
        super().__init__("not_an_answer", text, "A proxy or a captive portal may stand between this box and the cloud.")


T = TypeVar("T")


def encode(body: msgspec.Struct) -> bytes:
    """Any of the bodies above as JSON."""
    return _encode(body)


def decode(kind: type[T], body: bytes) -> T:
    """A body of this kind. Raises ValueError with words that name the member at fault."""
    try:
        value: T = _decoder(kind).decode(body)  # type: ignore[arg-type]  # a class is hashable
        return value
    except RecursionError as error:
        raise ValueError("the body is nested too deeply") from error


def read_answer(kind: type[T], content_type: str | None, body: bytes) -> T:
    """A success answer of this kind, or NotAnAnswer: a captive portal's page never counts."""
    wanted = (JSON_TYPE, HEALTH_TYPE) if kind in (HealthAnswer, TimeAnswer) else (JSON_TYPE,)
    return _read(kind, wanted, content_type, body)


def read_problem(content_type: str | None, body: bytes) -> Problem:
    """The problem that an error answer carries, or NotAnAnswer when it carries none."""
    return _read(Problem, (PROBLEM_TYPE,), content_type, body)


def media_type(content_type: str | None) -> str:
    """The media type without its parameters, lower-case; empty when there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def _read(kind: type[T], wanted: tuple[str, ...], content_type: str | None, body: bytes) -> T:
    found = media_type(content_type)
    if found not in wanted:
        raise NotAnAnswer(f"The answer is {found or 'of no media type'}, not {wanted[0]}.")
    if len(body) > ANSWER_BYTES_MAX:
        raise NotAnAnswer(f"The answer is longer than {ANSWER_BYTES_MAX} bytes.")
    try:
        return decode(kind, body)
    except ValueError as error:
        raise NotAnAnswer(f"The answer is no {kind.__name__}: {error}.") from error


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


# Content-Digest (RFC 9530)

_MEMBER = re.compile(r"""([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):(?:;[^,"]*)?""", re.ASCII)


def content_digest(body: bytes) -> str:
    """The header's value for these bytes, encoded as they travel."""
    return f"sha-256=:{b64encode(sha256(body).digest()).decode()}:"


def digest_fault(header: str | None, body: bytes) -> str | None:
    """What is wrong with the digest of `body`, in words; None when its sha-256 is there and agrees.

    Other algorithms may stand beside it and are not looked at.
    """
    members = _members(header or "")
    if members is None:
        return "Content-Digest cannot be read: send sha-256=:base64:"
    coded = members.get("sha-256")
    if coded is None:
        return "Content-Digest carries no sha-256: send sha-256=:base64: over the body as encoded"
    try:
        digest = a2b_base64(coded.rstrip("=") + "=" * (-len(coded.rstrip("=")) % 4))
    except Base64Error:
        return "the sha-256 of Content-Digest is not base64"
    return None if digest == sha256(body).digest() else "the body does not agree with its Content-Digest: send it again"


def _members(header: str) -> dict[str, str] | None:
    """A dictionary of byte sequences (RFC 8941), the last of a name winning; None when it is something else."""
    members: dict[str, str] = {}
    for part in header.split(",") if header.strip(" \t") else ():
        match = _MEMBER.fullmatch(part.strip(" \t"))
        if match is None:
            return None
        members[match[1]] = match[2]
    return members
