"""journal → [lineage: which stream a record belongs to] → drain, cloud. The streams of one journal, oldest first.

A record keeps its position in the journal for ever; its sequence is its position behind the base of its stream. Pure.
"""

from typing import NamedTuple


class Parent(NamedTuple):
    """The last record that a stream has in common with the one it continues; sequence 0 is before the first."""

    epoch: str
    sequence: int
    rechash: bytes


class Stream(NamedTuple):
    """One epoch of the journal: its records stand behind position `base`; `origin` is the prevhash of the first.

    `fenced`: another process writes this epoch at the cloud. `sealed` is None, or the position up to which records
    carry this stream's seals already, while the rest still carry those of the stream before.
    """

    epoch: str
    base: int
    origin: bytes
    parent: Parent | None
    reason: str
    fenced: bool = False
    sealed: int | None = None


class Lineage:
    """The streams by position. A stream takes over every record behind its base from those before it: its base is below
    theirs where the cloud has lost what they were. A stream whose end is at or below its base has no record left."""

    def __init__(self, streams: tuple[Stream, ...]) -> None:
        self._streams = streams
        self.present = next(stream for stream in reversed(streams) if stream.sealed is None)
        """The stream that new records belong to."""
        self.forming = streams[-1] if streams[-1].sealed is not None else None
        """The stream whose records are being sealed anew, if any; it comes after the present one."""

    def of(self, position: int) -> Stream:
        """The stream whose seal the record at `position` carries."""
        for stream in reversed(self._streams):
            if stream.base < position and (stream.sealed is None or position <= stream.sealed):
                return stream
        return self._streams[0]

    def named(self, epoch: str) -> Stream | None:
        """The stream of this epoch."""
        return next((stream for stream in self._streams if stream.epoch == epoch), None)

    def end_of(self, stream: Stream) -> int | None:
        """The last position of a stream that a later one has taken over from; None for the present one."""
        at = self._streams.index(stream)
        return min((later.base for later in self._streams[at + 1 :] if later.sealed is None), default=None)

    def all(self) -> tuple[Stream, ...]:
        """The streams, oldest first."""
        return self._streams
