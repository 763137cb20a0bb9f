"""journal → [what goes up next] → cloud. The next batch of a stream, or the hole before the next record that is kept.

Reads and encodes only. Never sends, and never passes over a record that the journal still has.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from agent.core.batches import BatchSize
from agent.core.errors import Held
from agent.core.lineage import Stream
from agent.drain.ports import Cloud, Journal

HOLE_REASON_CHARS_MAX: Final = 900
"""A hole's reason, in characters: the cloud takes a thousand."""


class Load(NamedTuple):
    """A batch ready to be sent, with the records in it."""

    records: Sequence[Any]
    body: Any


class Hole(NamedTuple):
    """Records of the stream that this box cannot send, with the rechash of the last one."""

    first: int
    last: int
    rechash: bytes
    reason: str


async def following(
    journal: Journal, cloud: Cloud, stream: Stream, after: int, size: BatchSize, *, gzip: bool
) -> Load | Hole | None:
    """What comes behind position `after` in this stream; None at its end. Raises RecordDamaged."""
    end = journal.lineage().end_of(stream)
    if end is not None and after >= end:
        return None
    records = await journal.batch(after, size.records, size.bytes_max)
    if not records:
        return None
    if records[0].position != after + 1:
        return await _hole(journal, stream, after, records[0], end)
    return Load(records, await cloud.prepare(stream.epoch, records, gzip=gzip, base64=size.base64))


async def _hole(journal: Journal, stream: Stream, after: int, behind: Any, end: int | None) -> Hole:
    """Everything between `after` and the next record that is kept; at most to the end of the stream."""
    last, rechash = behind.position - 1, behind.prevhash
    if end is not None and last >= end:
        last, continuing = end, journal.lineage().of(end + 1)
        if continuing.parent is None:
            text = f"The end of the epoch {stream.epoch} is not here any more."
            raise Held("records_missing", text, "Call support; nothing was dropped, and recording goes on.")
        rechash = continuing.parent.rechash
    reason = await journal.missing_reason(after + 1, last)
    return Hole(after + 1 - stream.base, last - stream.base, rechash, reason[:HOLE_REASON_CHARS_MAX])


async def given_up(journal: Journal, record: Any, said: str) -> Hole:
    """The hole for a record that the cloud can take in no form; it is kept whole in quarantine here."""
    await journal.quarantine_record(record, said)
    digest = sha256(record.event).hexdigest()
    reason = f"Kept at the venue; SHA-256 of its event: {digest}. The cloud cannot take it: {said}"
    return Hole(record.sequence, record.sequence, record.rechash, reason[:HOLE_REASON_CHARS_MAX])
