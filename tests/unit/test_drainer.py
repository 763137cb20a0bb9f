"""The drain's turns, with a journal and a cloud of a few hashes: what it notices while idle, and what it tells when."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from agent.core.answers import BatchAnswer, CloudRefused, Refusal, RejectedRecord, StreamState
from agent.core.errors import RecordDamaged
from agent.core.lineage import Lineage, Parent, Stream
from agent.drain.drainer import Drain
from agent.settings.uplink import DrainSettings

LAST = 9
OURS = [bytes((number,)) * 32 for number in range(LAST + 1)]
"""The rechash at each position."""
OTHERS = [bytes((100 + number,)) * 32 for number in range(LAST + 1)]


class Record(NamedTuple):
    position: int
    sequence: int
    prevhash: bytes
    rechash: bytes
    device_epoch: int = 1
    device_sequence: int | None = None
    event: bytes = b"{}"


class Journal:
    """Nine records, all of them uploaded. `damaged` is one whose seal does not hold any more."""

    def __init__(self, story: list[str]) -> None:
        self.story = story
        self.streams = [Stream("e0", 0, OURS[0], None, "created")]
        self.at = LAST
        self.hashes = list(OURS)
        self.damaged: int | None = None

    def lineage(self) -> Lineage:
        return Lineage(tuple(self.streams))

    def doubt(self) -> None: ...

    def confirm(self, safe: int) -> None: ...

    def lower(self, bound: int) -> None: ...

    def last(self) -> int:
        return LAST

    def cursor(self) -> int:
        return self.at

    def safe(self) -> int:
        return 0

    async def first(self) -> int:
        return 1

    async def rechash(self, position: int) -> bytes:
        return self.hashes[position]

    async def batch(self, after: int, records_max: int, bytes_max: int) -> list[Record]:
        wanted = range(after + 1, min(LAST, after + records_max) + 1)
        if self.damaged in wanted:
            raise RecordDamaged(self.damaged)
        base = self.streams[-1].base
        return [Record(at, at - base, self.hashes[at - 1], self.hashes[at]) for at in wanted]

    async def repair(self, position: int) -> bool:
        self.story.append(f"repaired {position}")
        self.hashes[position], self.damaged = OURS[position], None
        return True

    async def begin_stream(self, base: int, parent: Parent | None, reason: str, why: str) -> None:
        self.story.append(f"{reason} behind {base}")
        self.streams.append(Stream(f"e{len(self.streams)}", base, OURS[base], parent, reason))

    async def advance(
        self, cursor: int, safe: int, uploaded: list[Any], set_aside: Sequence[tuple[Any, str]] = ()
    ) -> None:
        apart = "".join(f", {record.position} apart: {words}" for record, words in set_aside)
        self.story.append(f"cursor {cursor}{apart}")
        self.at = cursor

    async def told(self) -> None:
        self.story.append("durable")


class Cloud:
    """Has `hashes` of the first epoch, as many as `has`; sets aside what is in `poison`."""

    def __init__(self, story: list[str]) -> None:
        self.story = story
        self.hashes = list(OURS)
        self.has = LAST
        self.poison: tuple[int, ...] = ()
        self.others: dict[str, StreamState] = {}
        self.asked_count = 0

    async def stream(self, epoch: str) -> StreamState:
        self.asked_count += 1
        if epoch in self.others:
            return self.others[epoch]
        if epoch != "e0":
            raise CloudRefused(Refusal(404, "urn:nightsafe:no-stream"))
        return StreamState(self.has + 1, self.hashes[self.has], 0, True, 100, 10_000, 0.0)

    async def open_stream(self, stream: Stream) -> StreamState:
        if stream.epoch != "e0":
            self.others[stream.epoch] = StreamState(1, stream.origin, 0, True, 100, 10_000, 0.0)
        return await self.stream(stream.epoch)

    async def hash_at(self, epoch: str, sequence: int) -> bytes:
        return self.hashes[sequence]

    async def prepare(self, epoch: str, records: list[Record], *, gzip: bool, base64: bool) -> list[Record]:
        return records

    def travel_bytes(self, batch: object) -> int:
        return 1000

    async def put(self, epoch: str, batch: list[Record]) -> BatchAnswer:
        self.story.append(f"sent to {epoch}: {batch[0].position} to {batch[-1].position}")
        last = batch[-1]
        self.has = last.position
        rejected = tuple(RejectedRecord(one, "urn:nightsafe:schema", "no") for one in self.poison)
        return BatchAnswer(last.sequence + 1, last.rechash, 0, len(batch), 0, rejected)


class Clock:
    now_s = 1000.0

    def boottime_s(self) -> float:
        return self.now_s

    def wall_ms_at(self, boottime_s: float) -> int:
        return int(boottime_s * 1000)


class Telling:
    def __init__(self, story: list[str]) -> None:
        self.story = story

    def hold(self, id: str, *words: str) -> None:
        self.story.append(f"held {id}")

    def happened(self, id: str, *words: str) -> None:
        self.story.append(f"told {id}")

    def lift(self, id: str) -> None: ...


class World:
    def __init__(self) -> None:
        self.story: list[str] = []
        self.journal, self.cloud, self.clock = Journal(self.story), Cloud(self.story), Clock()
        self.limits = DrainSettings()

    def begin(self) -> "World":
        parts: Any = (self.journal, self.cloud, self.clock, lambda: self.limits, Telling(self.story), lambda: 0.5)
        self.drain = Drain(*parts)
        return self

    async def turns(self, count: int) -> list[str]:
        """What happens in so many turns, the first of them when the cloud is to be asked again."""
        self.clock.now_s += self.limits.check_interval_s
        self.story.clear()
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                await self.drain._turn(group)
            self.drain._drop_ahead()
        return self.story


async def test_an_idle_box_and_a_cloud_that_agree_are_left_alone() -> None:
    world = World().begin()
    assert await world.turns(3) == []
    assert await world.turns(3) == []
    assert world.cloud.asked_count == 2, "one look each interval"


async def test_a_cloud_restored_from_another_copy_of_the_same_length_is_found_while_nothing_is_sold() -> None:
    world = World().begin()
    await world.turns(1)
    world.cloud.hashes = OURS[:5] + OTHERS[5:]
    story = await world.turns(3)
    assert story == ["forked behind 4", "told forked", "told cloud_rewound", "durable", "sent to e1: 5 to 9"]
    assert world.journal.streams[-1].parent == Parent("e0", 4, OURS[4])


async def test_a_shorter_copy_with_other_records_is_found_while_nothing_is_sold() -> None:
    world = World().begin()
    world.cloud.hashes, world.cloud.has = OURS[:5] + OTHERS[5:], 7
    assert "forked behind 4" in await world.turns(3)


async def test_a_cloud_that_has_more_than_an_idle_box_is_no_reason_to_part() -> None:
    """Another box may write this epoch: the next upload is fenced then, and a person must look."""
    world = World().begin()
    world.cloud.hashes, world.cloud.has = [*OURS, OTHERS[0]], LAST + 1
    assert await world.turns(2) == []


async def test_a_record_that_has_changed_on_the_disk_is_mended_and_no_reason_to_part() -> None:
    world = World().begin()
    world.journal.damaged = LAST
    world.journal.hashes[LAST] = OTHERS[LAST]
    assert await world.turns(3) == [f"repaired {LAST}"]


async def test_what_the_cloud_lacks_again_is_told_durably_before_it_goes_up() -> None:
    world = World().begin()
    await world.turns(1)
    world.cloud.has = 6
    story = await world.turns(2)
    assert story == ["told cloud_rewound", "durable", "sent to e0: 7 to 9"]


async def test_what_the_cloud_sets_aside_is_told_before_the_cursor_moves_over_it() -> None:
    world = World()
    world.journal.at, world.cloud.has, world.cloud.poison = 6, 6, (8,)
    world.begin()
    assert await world.turns(1) == [
        "sent to e0: 7 to 9",
        "told records_rejected",
        "cursor 9, 8 apart: urn:nightsafe:schema: no",
    ]
