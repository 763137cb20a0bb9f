"""Where the drain goes on: what counts as a fork, with a journal and a cloud of a few hashes."""

from typing import Any

import pytest

from agent.core.answers import StreamState
from agent.core.errors import Held, Transient
from agent.core.lineage import Lineage, Parent, Stream
from agent.drain.resume import FORKS_MAX, Resumption

OURS = [bytes((number,)) * 32 for number in range(10)]
"""The rechash at each position."""


class Journal:
    """Ten records under one epoch; a fork begins another one."""

    def __init__(self) -> None:
        self.streams = [Stream("e0", 0, OURS[0], None, "created")]
        self.said: list[tuple[str, int]] = []

    def lineage(self) -> Lineage:
        return Lineage(tuple(self.streams))

    def doubt(self) -> None: ...

    def confirm(self, safe: int) -> None:
        self.said.append(("safe", safe))

    def lower(self, bound: int) -> None:
        self.said.append(("no more than", bound))

    def last(self) -> int:
        return 9

    cursor = safe = last

    async def first(self) -> int:
        return 1

    async def rechash(self, position: int) -> bytes:
        return OURS[position]

    async def batch(self, after: int, records_max: int, bytes_max: int) -> list[Any]:
        return []

    async def begin_stream(self, base: int, parent: Parent | None, reason: str, why: str) -> None:
        self.streams.append(Stream(f"e{len(self.streams)}", base, OURS[base], parent, reason))


class Cloud:
    """Has other records than we from the fifth on. `cuts` requests for a hash are lost on the way."""

    def __init__(self, cuts: int, closed: bool = False) -> None:
        self.cuts = cuts
        self.safe = 0
        self.closed = closed

    async def stream(self, epoch: str) -> StreamState:
        head = b"other" if epoch == "e0" else OURS[0]
        return StreamState(8 if epoch == "e0" else 1, head, self.safe, not self.closed, 100, 10_000, 0.0)

    async def open_stream(self, stream: Stream) -> StreamState:
        return await self.stream(stream.epoch)

    async def hash_at(self, epoch: str, sequence: int) -> bytes:
        if self.cuts:
            self.cuts -= 1
            raise Transient("no_answer", "Cut.")
        return OURS[sequence] if sequence < 5 else b"other"


class Restored(Cloud):
    """Has ours up to the sixth, and calls so much safe."""

    def __init__(self, safe: int) -> None:
        super().__init__(cuts=0)
        self.safe = safe

    async def stream(self, epoch: str) -> StreamState:
        return (await super().stream(epoch))._replace(next=7, head=OURS[6])


class Progress:
    def forked(self, why: str, common: int, beyond: int) -> None: ...


def resumption(cloud: Cloud) -> tuple[Resumption, Journal]:
    journal: Any = Journal()
    progress: Any = Progress()
    there: Any = cloud
    return Resumption(journal, there, progress), journal


async def test_a_search_for_the_last_common_record_that_is_cut_off_is_no_fork() -> None:
    resuming, journal = resumption(Cloud(cuts=FORKS_MAX + 2))
    for _ in range(FORKS_MAX + 2):
        with pytest.raises(Transient):
            await resuming.resume()
    standing = await resuming.resume()
    assert standing.stream.epoch == "e1"
    assert standing.stream.parent == Parent("e0", 4, OURS[4])
    assert len(journal.streams) == 2


async def test_epochs_that_the_cloud_refuses_one_after_another_hold_the_drain() -> None:
    resuming, journal = resumption(Cloud(cuts=0, closed=True))
    with pytest.raises(Held):
        await resuming.resume()
    assert len(journal.streams) == 1 + FORKS_MAX


async def test_what_the_cloud_calls_safe_when_it_is_asked_is_what_may_be_deleted_and_no_more() -> None:
    resuming, journal = resumption(Restored(safe=5))
    await resuming.resume()
    assert journal.said == [("no more than", 5), ("safe", 5)]


async def test_a_stream_without_a_safe_record_says_nothing_of_what_stands_before_it() -> None:
    """Only the parent's own word makes the parent's records safe; a fork may only take from that."""
    resuming, journal = resumption(Cloud(cuts=0))
    await resuming.resume()
    assert {word for word, _ in journal.said} == {"no more than"}
    assert min(bound for _, bound in journal.said) == 0
