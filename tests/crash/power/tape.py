"""recorder → [the tape] → disks. Every change that a folder saw, in order, with what outside witnesses wrote between.

A tape is a file of records, each behind its length. It knows nothing of SQLite, and nothing of what is right.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

Kind = Literal["write", "truncate", "grow", "sync", "sync_failed", "create", "rename", "unlink", "sync_folder", "note"]

LENGTH_BYTES: Final = 4
WITNESSES: Final = "/tills/"
"""What is written below this folder of the mount is no part of the box's disk: it is what somebody outside saw."""


class Op(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One change. `file` is a number of its own for each file that ever was; `path` is as seen in the mount.

    `place`: the offset of a write; the length of a truncate, or at least that of a grow; for a sync the number of
    records on the tape when it began, for only what was written before that is covered by it.
    """

    kind: Kind
    file: int
    place: int
    path: str
    data: bytes = b""
    new_path: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Op).decode


def packed(op: Op) -> bytes:
    """The record as it stands on the tape."""
    body = _encode(op)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def read(path: Path) -> Iterator[Op]:
    """The whole records of a tape, in order."""
    data = memoryview(path.read_bytes())
    at = 0
    while at + LENGTH_BYTES <= len(data):
        end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        if end > len(data):
            return
        yield _decode(data[at + LENGTH_BYTES : end])
        at = end


def change(content: bytearray, op: Op) -> None:
    """Do one write, truncate or grow to a file's content."""
    if op.kind == "write":
        if len(content) < op.place:
            content.extend(bytes(op.place - len(content)))
        content[op.place : op.place + len(op.data)] = op.data
    elif len(content) < op.place:
        content.extend(bytes(op.place - len(content)))
    elif op.kind == "truncate":
        del content[op.place :]
