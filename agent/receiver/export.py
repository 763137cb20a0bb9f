"""ledger → [export] → operator. A venue's records as lines of JSON, as they were received.

Streams page by page; never holds a venue in memory, and never changes a record but where its line would break.
"""

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec

from agent.receiver.ledger import LedgerReader

Show = Literal["records", "rejected", "holes"]

_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def line_of(text: bytes) -> bytes:
    """A record as one line: as received, or with `data_base64` where the event's bytes contain a line break."""
    if b"\n" not in text and b"\r" not in text:
        return text
    line: dict[str, Any] = {}
    for name, value in _members(text).items():
        plain = bytes(value)
        if b"\n" not in plain and b"\r" not in plain:
            line[name] = value
        elif name == "data":
            line["data_base64"] = b64encode(plain).decode()
        else:
            line[name] = msgspec.json.decode(plain)
    return _encode(line)


async def lines(reader: LedgerReader, venue: str, show: Show = "records") -> AsyncIterator[bytes]:
    """Chunks of whole lines: the venue's records, what is in quarantine, or its holes."""
    if show == "records":
        async for records in reader.records(venue):
            yield _joined([line_of(text) for text in records])
    elif show == "rejected":
        async for rejected in reader.rejected(venue):
            yield _joined(
                [
                    _encode(
                        {
                            "epoch": one.epoch,
                            "sequence": one.sequence,
                            "type": one.type,
                            "detail": one.detail,
                            "record": msgspec.Raw(line_of(one.text)),
                        }
                    )
                    for one in rejected
                ]
            )
    else:
        async for holes in reader.holes(venue):
            yield _joined(
                [
                    _encode(
                        {
                            "epoch": epoch,
                            "first": hole.first,
                            "last": hole.last,
                            "prevhash": hole.prevhash.hex(),
                            "rechash": hole.rechash.hex(),
                            "reason": hole.reason,
                            "declared_at": hole.declared_at,
                        }
                    )
                    for epoch, hole in ((one.epoch, one.hole) for one in holes)
                ]
            )


def _joined(page: list[bytes]) -> bytes:
    return b"".join([line + b"\n" for line in page])
