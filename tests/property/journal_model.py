"""What the journal must hold, as a plain list and sets: no database, no hashing, no cleverness.

It is fed the same items as the real journal, one by one, and says what each must become. Everything is counted anew
from the list whenever somebody asks.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from agent.core import events
from agent.core.arrivals import Announced, GivenUp, Item, Outcome, Own

AGENT = "agent"
EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EXCERPT_BYTES_MAX = 262_144, 64, 4096

LOST_STEP = 2
"""Ranges that one commit declares lost; the rig's journal has the same."""

Span = tuple[int, int]


class Sent(NamedTuple):
    """What a device sends. `content` is the text of `data`, None for what must be refused; `id` None: unreadable."""

    device: str
    payload: bytes
    id: str | None
    epoch: str | None
    sequence: int | None
    content: str | None


class Told(NamedTuple):
    """A record of the box's own to be written."""

    kind: str
    data: dict[str, Any]


class Said(NamedTuple):
    """A device's word: it has counted up to `last`; or, with `lost`, the hole that begins there cannot be filled."""

    device: str
    epoch: str
    last: int
    lost: bool = False


class Step(NamedTuple):
    """The end of a commit: so many ranges that newer epochs have ended are lost in it."""

    ranges: int


Thing = Sent | Told | Said | Step


def an_event(device: str, id: str, epoch: str | None, sequence: int | None, content: str, time: str = "x") -> Sent:
    """An event that must be stored, or be a duplicate or a conflict of one before it."""
    place = f'"epoch":"{epoch}","sequence":"{sequence}",' if epoch is not None else ""
    head = f'{{"specversion":"1.0","id":"{id}","source":"/{device}","type":"pos.test.made"'
    payload = f'{head},"time":"{time}",{place}"data":{content}}}'
    return Sent(device, payload.encode(), id, epoch, sequence, content)


def a_refused(device: str, id: str, epoch: str | None, sequence: int | None) -> Sent:
    """An event whose type no device may send; its id, epoch and sequence can be read."""
    place = f'"epoch":"{epoch}","sequence":"{sequence}",' if epoch is not None else ""
    payload = f'{{"specversion":"1.0","id":"{id}","source":"/{device}","type":"nightsafe.forged",{place}"data":{{}}}}'
    return Sent(device, payload.encode(), id, epoch, sequence, None)


def garbage(device: str, word: str) -> Sent:
    """What is no event at all."""
    return Sent(device, f"not an event: {word}".encode(), None, None, None, None)


def as_item(thing: Thing) -> Item:
    """The same for the real journal, judged by the real intake's rules."""
    assert not isinstance(thing, Step)
    if isinstance(thing, Told):
        return Own(thing.kind, thing.data)
    if isinstance(thing, Said):
        return (GivenUp if thing.lost else Announced)(thing.device, thing.epoch, thing.last)
    return events.judge(thing.device, thing.payload, EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EXCERPT_BYTES_MAX)


class Entry(NamedTuple):
    """One record. `event` is a device's bytes; for the box's own records their kind and the members that matter."""

    device: str
    epoch: str | None
    sequence: int | None
    event: bytes | tuple[str, dict[str, Any]]


class Counting:
    """One device's epoch: which sequences are accounted for, by a record or by none."""

    def __init__(self) -> None:
        self.accounted: set[int] = set()
        self.expected = 0
        self.without_record: set[int] = set()
        self.lost: set[int] = set()
        self.open_gaps: list[Span] = []
        self.ended_upto = 0
        self.refused: list[str | None] = []

    @property
    def holes(self) -> list[Span]:
        return spans(set(range(1, self.top + 1)) - self.accounted)

    @property
    def to_lose(self) -> Span | None:
        """The lowest open hole that a newer epoch has ended."""
        return min((hole for hole in self.open_gaps if hole[0] <= self.ended_upto), default=None)

    @property
    def top(self) -> int:
        """The highest sequence that is known of."""
        return max(self.expected, *self.accounted, 0)


class Model:
    """The list, and who said what."""

    def __init__(self) -> None:
        self.records: list[Entry] = []
        self.cursor = 0
        self.contents: dict[tuple[str, str], str] = {}
        self.refusals: set[tuple[str, bytes]] = set()
        self.countings: dict[str, dict[str | None, Counting]] = {}
        self.newest: dict[str, str | None] = {}
        self.order: list[tuple[str, str | None]] = []

    def take(self, thing: Thing) -> Outcome:
        """What must become of it; its records are in the list afterwards."""
        if isinstance(thing, Told):
            self._own(thing.kind, thing.data)
            return Outcome.STORED
        if isinstance(thing, Said):
            return self._hear(thing)
        if isinstance(thing, Step):
            self._lose_some(thing.ranges)
            return Outcome.STORED
        if thing.content is None:
            return self._refuse(thing, "schema" if thing.id is not None else "malformed", Outcome.REFUSED)
        assert thing.id is not None
        known = self.contents.get((thing.device, thing.id))
        if known is not None:
            if known == thing.content:
                return Outcome.DUPLICATE
            return self._refuse(thing, "conflict", Outcome.CONFLICT)
        counting = self._counting(thing.device, thing.epoch)
        self.contents[thing.device, thing.id] = thing.content
        self.records.append(Entry(thing.device, thing.epoch, thing.sequence, thing.payload))
        if thing.sequence is not None and not self._account(thing.device, thing.epoch, counting, thing.sequence):
            data = {
                "condition": "sequence_reused",
                "device": thing.device,
                "sequence": str(thing.sequence),
                "id": thing.id,
            }
            self._own("nightsafe.condition.raised", data)
        return Outcome.STORED

    def _hear(self, said: Said) -> Outcome:
        if not said.lost:
            counting = self._counting(said.device, said.epoch)
            if said.last > counting.top:
                self._open(said.device, said.epoch, counting, (counting.top + 1, said.last))
                counting.expected = said.last
            return Outcome.STORED
        known = self.countings.get(said.device, {}).get(said.epoch)
        for first, last in list(known.open_gaps) if known is not None else ():
            if known is not None and first <= said.last <= last:
                known.open_gaps.remove((first, last))
                parts = spans(set(range(first, last + 1)) - known.accounted)
                for at in range(0, len(parts), LOST_STEP):
                    self._lose(said.device, said.epoch, known, parts[at : at + LOST_STEP])
        return Outcome.STORED

    def uploaded(self, device: str, epoch: str | None) -> Span:
        """The lowest and the highest contiguous sequence that may be told as uploaded.

        They differ only where one sequence was used twice, once refused and once stored.
        """
        counting = self.countings[device][epoch]
        mine = [
            (at, entry) for at, entry in enumerate(self.records, 1) if (entry.device, entry.epoch) == (device, epoch)
        ]
        up = {entry.sequence for at, entry in mine if at <= self.cursor and entry.sequence is not None}
        waiting = {entry.sequence for at, entry in mine if at > self.cursor and entry.sequence is not None}
        either = up | counting.without_record
        return contiguous(either - waiting), contiguous(either)

    def _own(self, kind: str, data: dict[str, Any]) -> None:
        self._counting(AGENT, None)
        self.records.append(Entry(AGENT, None, None, (kind, data)))

    def _refuse(self, sent: Sent, reason: str, outcome: Outcome) -> Outcome:
        if (sent.device, sent.payload) in self.refusals:
            return outcome
        self.refusals.add((sent.device, sent.payload))
        epoch = sent.epoch if sent.sequence is not None else self.newest.get(sent.device)
        counting = self._counting(sent.device, epoch)
        self._own("nightsafe.event.refused", {"device": sent.device, "id": sent.id, "reason": reason})
        counting.refused.append(sent.id)
        if sent.sequence is not None and sent.sequence not in counting.accounted:
            counting.without_record.add(sent.sequence)
            self._account(sent.device, sent.epoch, counting, sent.sequence, refused=True)
        elif sent.sequence is not None:
            counting.lost.discard(sent.sequence)
        return outcome

    def _counting(self, device: str, epoch: str | None) -> Counting:
        """An epoch seen for the first time ends the hope for what older ones lack."""
        own = self.countings.setdefault(device, {})
        if epoch not in own:
            if epoch is not None:
                self._end_all(own)
            own[epoch] = Counting()
            self.order.append((device, epoch))
            if epoch is not None or device not in self.newest:
                self.newest[device] = epoch
        return own[epoch]

    def _end_all(self, countings: dict[str | None, Counting]) -> None:
        for counting in countings.values():
            counting.ended_upto = max([counting.ended_upto, *(last for _, last in counting.open_gaps)])

    @property
    def ending(self) -> bool:
        """Whether something is to be lost still."""
        return any(counting.to_lose for own in self.countings.values() for counting in own.values())

    def _lose_some(self, ranges: int) -> None:
        """The oldest countings first, the lowest holes first; of a hole that is not through the rest stays open."""
        for device, epoch in self.order:
            counting, parts = self.countings[device][epoch], list[Span]()
            while len(parts) < ranges and (hole := counting.to_lose):
                missing = spans(set(range(hole[0], hole[1] + 1)) - counting.accounted)
                now = missing[: ranges - len(parts)]
                counting.open_gaps.remove(hole)
                if missing[len(now) :]:
                    counting.open_gaps.append((missing[len(now)][0], hole[1]))
                parts += now
            self._lose(device, epoch, counting, parts)
            ranges -= len(parts)

    def _lose(self, device: str, epoch: str | None, counting: Counting, parts: list[Span]) -> None:
        if not parts:
            return
        named = gap(device, epoch, (parts[0][0], parts[-1][1]))
        ranges = [[str(first), str(last)] for first, last in parts] if len(parts) > 1 else None
        self._own("nightsafe.gap.lost", {**named, "ranges": ranges})
        numbers = {number for first, last in parts for number in range(first, last + 1)}
        counting.without_record |= numbers
        counting.accounted |= numbers
        counting.lost |= numbers

    def _account(
        self, device: str, epoch: str | None, counting: Counting, sequence: int, *, refused: bool = False
    ) -> bool:
        """Count one sequence; False when it was used before. What was given up may come all the same, once."""
        if sequence in counting.accounted:
            found = sequence in counting.lost
            counting.lost.discard(sequence)
            return found
        top = counting.top
        counting.accounted.add(sequence)
        if sequence > top + 1:
            self._open(device, epoch, counting, (top + 1, sequence - 1))
        for first, last in list(counting.open_gaps):
            if refused and first <= sequence <= last:
                self._own("nightsafe.gap.lost", gap(device, epoch, (sequence, sequence)) | {"reason": "refused"})
            if counting.accounted.issuperset(range(first, last + 1)):
                counting.open_gaps.remove((first, last))
                if not refused:
                    self._own("nightsafe.gap.closed", gap(device, epoch, (first, last)))
        return True

    def _open(self, device: str, epoch: str | None, counting: Counting, span: Span) -> None:
        counting.open_gaps.append(span)
        self._own("nightsafe.gap.opened", gap(device, epoch, span))


def gap(device: str, epoch: str | None, span: Span) -> dict[str, Any]:
    return {"device": device, "epoch": epoch, "from": str(span[0]), "to": str(span[1])}


def contiguous(numbers: Iterable[int]) -> int:
    """The highest n such that each of 1..n is there."""
    there, n = set(numbers), 0
    while n + 1 in there:
        n += 1
    return n


def spans(numbers: Iterable[int]) -> list[Span]:
    """The same numbers as runs, ascending."""
    found: list[Span] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def own_of(event: bytes) -> tuple[str, dict[str, Any]]:
    """Kind and data of one of the box's own records."""
    plain = json.loads(event)
    return plain["type"], plain["data"]
