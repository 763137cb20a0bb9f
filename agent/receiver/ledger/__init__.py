"""server → [ledger]. Where the cloud keeps streams, records, holes and rejections: what a ledger must do, in its words.

Values and the protocol only; one file beside this one for each technology. A ledger never judges a record's content and
never answers before what it was given is durable.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

Reason = Literal["created", "restored", "forked"]


class Parent(msgspec.Struct, frozen=True):
    """The last record that a stream has in common with the one it continues; sequence 0 is before the first."""

    epoch: str
    sequence: int
    rechash: bytes


class Opening(msgspec.Struct, frozen=True):
    """A wish to open or bind a stream. `instance` is the process start that may write from now on."""

    venue: str
    epoch: str
    parent: Parent | None
    instance: str
    reason: Reason
    opened_at: str


class Stream(msgspec.Struct, frozen=True):
    """A stream as it stands: `next` is the first sequence that it lacks, `head` the rechash before it.

    `safe` is the highest sequence that the box may delete; `origin` the first prevhash.
    """

    venue: str
    epoch: str
    next: int
    head: bytes
    safe: int
    origin: bytes
    instance: str
    state: Literal["open", "closed"]
    successor: str | None


class Rejection(NamedTuple):
    """Why a record is kept in quarantine: a problem type, and words."""

    type: str
    detail: str


class Row(msgspec.Struct, frozen=True, gc=False):
    """A record whose rechash was recomputed; `text` is the JSON object as it was received."""

    rechash: bytes
    text: bytes
    rejection: Rejection | None


class Hole(NamedTuple):
    """Records first..last that the box no longer has: the rechash before them, and that of the last one."""

    first: int
    last: int
    prevhash: bytes
    rechash: bytes
    reason: str
    declared_at: str


# What comes of a call


class Opened(NamedTuple):
    """The stream is bound to the caller; `created` when it was not there before."""

    stream: Stream
    created: bool


class Appended(NamedTuple):
    """The rows are durable: `accepted` were new, `duplicate` were there. `rejected` by sequence, old ones too."""

    stream: Stream
    accepted: int
    duplicate: int
    rejected: list[tuple[int, Rejection]]


class Declared(NamedTuple):
    """The hole is durable, now or since an earlier call."""

    stream: Stream


class NoStream(NamedTuple):
    """There is no such stream."""


class NoParent(NamedTuple):
    """The parent is unknown here, or has no such record. `stream` is the parent where it is known."""

    stream: Stream | None
    detail: str


class Closed(NamedTuple):
    """The stream takes nothing any more."""

    successor: str | None


class Fenced(NamedTuple):
    """Another instance is bound to the stream."""


class Gap(NamedTuple):
    """The call does not join on to the stream, which goes on at `stream.next`."""

    stream: Stream


class Conflict(NamedTuple):
    """The ledger has other content at `sequence`; nothing from there on was taken."""

    stream: Stream
    sequence: int
    detail: str


class Rejected(msgspec.Struct, frozen=True):
    """A record in quarantine, for readers."""

    epoch: str
    sequence: int
    type: str
    detail: str
    text: bytes


class EpochHole(msgspec.Struct, frozen=True):
    """A hole with its epoch, for readers."""

    epoch: str
    hole: Hole


class Ledger(Protocol):
    """The writing side. Every answer is about what is durable; a failure to store raises core.errors.Transient."""

    async def open(self, opening: Opening) -> Opened | NoParent | Closed | Conflict:
        """Open the stream, or bind it to the caller's instance: the last caller wins."""

    async def stream(self, venue: str, epoch: str) -> Stream | None:
        """The stream as it stands."""

    async def hash_at(self, venue: str, epoch: str, sequence: int) -> bytes | None:
        """The rechash at `sequence` (0: the origin); None without one there, as inside a hole."""

    async def append(
        self, venue: str, epoch: str, instance: str, first: int, prevhash: bytes, rows: Sequence[Row]
    ) -> Appended | NoStream | Closed | Fenced | Gap | Conflict:
        """Take rows first, first+1, …, all in one commit; rows that are there already are compared and counted."""

    async def declare_hole(
        self, venue: str, epoch: str, instance: str, hole: Hole
    ) -> Declared | NoStream | Closed | Fenced | Gap | Conflict:
        """Take the hole in the place of its records."""

    async def close_stream(self, venue: str, epoch: str, successor: str | None) -> Stream | None:
        """An operator's act: the stream takes nothing any more. None when there is no such stream."""

    async def keep_health(self, venue: str, received_at: str, body: bytes) -> None:
        """Keep the venue's last heartbeat."""

    async def close(self) -> None:
        """Let go of the ledger; calls under way end first."""


class LedgerReader(Protocol):
    """The reading side, beside a writer or without one. Pages are bounded; order: opening of epochs, sequence."""

    def records(self, venue: str) -> AsyncIterator[list[bytes]]:
        """Pages of records as they were received; those in quarantine are not among them."""

    async def streams(self) -> list[tuple[str, str]]:
        """Every stream, as venue and epoch."""

    def records_after(self, venue: str, epoch: str, after: int) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Pages of one epoch's records behind `after`, each with its sequence; without those in quarantine."""

    def rejected(self, venue: str) -> AsyncIterator[list[Rejected]]:
        """Pages of what is in quarantine."""

    def holes(self, venue: str) -> AsyncIterator[list[EpochHole]]:
        """Pages of declared holes."""

    async def health(self, venue: str) -> bytes | None:
        """The venue's last heartbeat."""

    async def close(self) -> None:
        """Let go of the ledger."""
