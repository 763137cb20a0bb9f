"""server → [judge of a batch] → ledger. Recomputes every rechash and says which records may stand, which are set aside.

Pure: the decoded body and the address go in. What is returned is a prefix of the batch; nothing after the first record
that cannot be trusted is in it.
"""

import json
import re
from typing import Final, NamedTuple

import msgspec

from agent.cloud.wire import WireRecord, decode_batch, encode_records, event_of, source_of
from agent.core.chain import rechash
from agent.core.events import DEVICE_PATTERN
from agent.receiver.ledger import Rejection, Row

SCHEMA_PROBLEM: Final = "urn:nightsafe:schema"
DETAIL_CHARS_MAX: Final = 300
"""How much of a decoder's words goes into an answer, in characters."""

_DEVICE = re.compile(DEVICE_PATTERN, re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


class Address(NamedTuple):
    """Where a batch says it belongs: its URL, and the rechash before its first record."""

    venue: str
    epoch: str
    first: int
    last: int
    prevhash: bytes


class Malformed(NamedTuple):
    """The body is no batch for this address. Nothing of it may be taken."""

    detail: str


class Judged(NamedTuple):
    """The records that may be taken, in order. `broken` is the sequence after them whose rechash is not its own."""

    rows: list[Row]
    broken: int | None


class _Event(msgspec.Struct):
    """What a device's event must be, to be more than bytes."""

    specversion: str
    id: str
    type: str


_event = msgspec.json.Decoder(_Event).decode


def judge(body: bytes, address: Address) -> Judged | Malformed:
    """Read and verify a decoded body."""
    try:
        records = decode_batch(body)
        count = address.last - address.first + 1
        if len(records) != count:
            return Malformed(f"the body has {len(records)} records, the address {count}")
        texts = _texts(body, records)
        return _verify(records, texts, address)
    except ValueError as error:
        return Malformed(str(error)[:DETAIL_CHARS_MAX])
    except RecursionError:
        return Malformed("a record is nested too deeply")


def _texts(body: bytes, records: list[WireRecord]) -> list[bytes]:
    """Each record's JSON as it was received.

    A body that this project wrote comes out the same when written again; only another sender's is cut a second time.
    """
    if encode_records(records) == body:
        return [encode_records(record) for record in records]
    texts = [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])]
    for text in texts:
        names = [name for name, _ in json.loads(text, object_pairs_hook=list)]
        if len(set(names)) != len(names):
            raise ValueError("a record has the same member twice")
    return texts


def _verify(records: list[WireRecord], texts: list[bytes], address: Address) -> Judged | Malformed:
    source, epoch, head = source_of(address.venue), address.epoch, address.prevhash
    rows: list[Row] = []
    broken: int | None = None
    devices: set[str] = set()
    for sequence, (record, text) in enumerate(zip(records, texts, strict=True), address.first):
        device = record.device
        if device not in devices:
            if _DEVICE.fullmatch(device) is None:
                return Malformed(f"{sequence}: device is no device name")
            devices.add(device)
        if record.sequence != f"{sequence:020d}":
            return Malformed(f"{sequence}: sequence is {record.sequence[:40]}, not the next one in 20 digits")
        if record.epoch != epoch or record.source != source:
            return Malformed(f"{sequence}: source or epoch is not that of the address")
        if _TIME.fullmatch(record.recordedtime) is None:
            return Malformed(f"{sequence}: recordedtime is no RFC 3339 time")
        event = event_of(record)
        if broken is not None:
            continue
        head = rechash(head, sequence, record.recordedtime, device, event)
        if head.hex() != record.rechash:
            broken = sequence
            continue
        rows.append(Row(head, text, _rejection(record, event)))
    return Judged(rows, broken)


def _rejection(record: WireRecord, event: bytes) -> Rejection | None:
    """Why the event is kept in quarantine, or None: it is a JSON object with the members that make it an event."""
    try:
        found = _event(event)
    except (ValueError, RecursionError) as error:
        return Rejection(SCHEMA_PROBLEM, f"the event: {str(error)[:DETAIL_CHARS_MAX]}")
    if record.id != f"{record.device}/{found.id}":
        return Rejection(SCHEMA_PROBLEM, "the record's id is not the device and the event's id")
    return None
