"""[frames] → generator → gate. Whole PUBLISH frames, made before the clock starts: realistic events, no two alike.

Pure but for speed: a device's frames lie in one block of memory, and every field that differs from frame to frame is
filled in for all frames at once, a column of bytes at a time. Nothing here is sent or timed.
"""

import random
from array import array
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, chain, cycle, islice
from typing import Final, NamedTuple

from agent.core.ids import CHANCE_BYTES, uuid7

PACKET_IDS: Final = 65_535
"""Packet ids run 1 … 65,535 and begin again."""

# What stands in a template for a byte that differs from event to event; none of them occurs in JSON.
_SEQUENCE, _MS, _HEX, _VARIANT, _DIGIT, _LETTER, _CLOCK = (chr(number) for number in range(1, 8))
_UUID7: Final = f"{_MS * 8}-{_MS * 4}-7{_HEX * 3}-{_VARIANT}{_HEX * 3}-{_HEX * 12}"
_UUID4: Final = f"{_HEX * 8}-{_HEX * 4}-4{_HEX * 3}-{_VARIANT}{_HEX * 3}-{_HEX * 12}"

_HEX_SYMBOLS: Final = b"0123456789abcdef"
_CHANCE: Final = {
    _HEX: _HEX_SYMBOLS * 16,
    _VARIANT: b"89ab" * 64,
    _DIGIT: (b"0123456789" * 26)[:256],
    _LETTER: b"abcdefghijklmnop" * 16,
}
"""Marker to the byte that each random byte becomes."""
_CLOCK_PLACES: Final = (
    (600_000, 6), (60_000, 10), (10_000, 6), (1_000, 10), (100, 10), (10, 10), (1, 10),
)  # fmt: skip
"""Minutes, seconds and milliseconds as digits: how many events each digit stays, and how many values it has."""


def _line(name: str, price: int, modifiers: str = "") -> str:
    unit = f'{{"amount":{price},"currency":"GBP"}}'
    return f'{{"id":"ln-{_DIGIT * 6}","name":"{name}","quantity":1,"unit_amount":{unit},"modifiers":[{modifiers}]}}'


def _check(kind: str, lines: list[str], rest: str) -> tuple[str, str]:
    total = f'{{"amount":3{_DIGIT * 3},"currency":"GBP"}}'
    data = (
        f'"table":"1{_DIGIT}","covers":2,"lines":[{",".join(lines)}],"total":{total},"business_date":"2026-11-22"{rest}'
    )
    return kind, data


def _payment(tender: str, rest: str) -> tuple[str, str]:
    amount = f'{{"amount":3{_DIGIT * 3},"currency":"GBP"}}'
    return "pos.payment.captured", f'"payment_id":"{_UUID4}","amount":{amount},"tender":"{tender}",{rest}'


_EVENTS: Final = (
    _payment(
        "card",
        f'"card":{{"token":"tok_{_LETTER * 24}","last4":"{_DIGIT * 4}","brand":"visa"}},"offline":false,'
        f'"authorization_code":"{_DIGIT * 6}","training":false,"gratuity":{{"amount":2{_DIGIT * 2},"currency":"GBP"}},'
        '"entry_mode":"contactless","terminal":{"vendor":"Ingenico","model":"Desk/5000","firmware":"11.20.4"},'
        '"server":{"id":"staff-7","name":"Maya"},"shift_id":"shift-2026-11-22-am","revenue_centre":"main bar"',
    ),
    _check(
        "pos.check.updated",
        [
            _line("House burger", 1450, '{"name":"medium rare"},{"name":"no onion"}'),
            _line("Chips", 450),
            _line("Pale ale, pint", 620),
        ],
        ',"server":"staff-7"',
    ),
    _payment(
        "cash",
        f'"offline":false,"training":false,"tendered":{{"amount":5{_DIGIT * 3},"currency":"GBP"}},'
        f'"change":{{"amount":1{_DIGIT * 2},"currency":"GBP"}},"drawer":{{"id":"drawer-1","opened":true}},'
        '"rounding":{"amount":0,"currency":"GBP"},"receipt":{"printed":true,"language":"en-GB"},"counted_by":"staff-3","reference":"drawer-1/14",'
        '"server":{"id":"staff-3","name":"Idris"},"shift_id":"shift-2026-11-22-am","revenue_centre":"main bar"',
    ),
    _check(
        "pos.check.updated",
        [
            _line("Flat white", 380, '{"name":"oat milk"},{"name":"extra shot"}'),
            _line("Almond croissant", 340),
            _line("Sparkling water", 290),
        ],
        "",
    ),
)


class Deck(NamedTuple):
    """One device's frames in the order of their sequence: frame n is `block[offsets[n]:offsets[n + 1]]`."""

    block: bytes | bytearray
    offsets: "array[int]"
    heads: tuple[int, ...]
    """Bytes before the event in each frame, in turn."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def events(self) -> Iterator[bytes]:
        """Each frame's event alone."""
        for index in range(len(self)):
            start = self.offsets[index] + self.heads[index % len(self.heads)]
            yield bytes(self.block[start : self.offsets[index + 1]])


class _Template(NamedTuple):
    frame: bytes
    head: int
    packet_id_at: int
    slots: tuple[tuple[int, str, int], ...]
    """Where, which marker, and the how-manyth of its kind in this event."""


def deck(device: str, level: int, first: int, count: int, since_ms: int) -> Deck:
    """Frames for the device's sequences `first` … `first + count - 1`, at QoS 1, packet ids from 1.

    `level` is MQTT's protocol level, 4 or 5. Ids are UUIDv7, one millisecond apart from `since_ms`; the same device,
    `first` and `since_ms` give the same frames, and the device's epoch follows from its name and `since_ms` alone.
    """
    epoch = uuid7(since_ms, random.Random(f"{device} {since_ms}").randbytes(CHANCE_BYTES))
    templates = [_template(device, epoch, level, kind, data) for kind, data in _EVENTS]
    turns = -(-count // len(templates))
    stride = sum(len(template.frame) for template in templates)
    block = bytearray().join(template.frame for template in templates) * turns
    chance = random.Random(f"{device} {since_ms} {first}")
    at = 0
    for turn, template in enumerate(templates):
        _fill(block, stride, at, turn, len(templates), template, (first, turns * len(templates), since_ms), chance)
        at += len(template.frame)
    lengths = islice(cycle([len(template.frame) for template in templates]), count)
    offsets = array("Q", accumulate(chain((0,), lengths)))
    return Deck(block, offsets, tuple(template.head for template in templates))


def _fill(
    block: bytearray,
    stride: int,
    at: int,
    turn: int,
    turns: int,
    template: _Template,
    numbers: tuple[int, int, int],
    chance: random.Random,
) -> None:
    """Fill every slot of one template in all its frames; the template comes `turn`-th of each `turns` frames."""
    first, count, since_ms = numbers
    rows = count // turns
    high, low = _packet_ids(count)
    block[at + template.packet_id_at :: stride] = high[turn::turns]
    block[at + template.packet_id_at + 1 :: stride] = low[turn::turns]
    for where, marker, place in template.slots:
        if marker == _SEQUENCE:
            column = _counted(first, count, 10 ** (19 - place), b"0123456789")[turn::turns]
        elif marker == _MS:
            column = _counted(since_ms + first, count, 16 ** (11 - place), _HEX_SYMBOLS)[turn::turns]
        elif marker == _CLOCK:
            stays, values = _CLOCK_PLACES[place]
            column = _counted(first, count, stays, b"0123456789"[:values])[turn::turns]
        else:
            column = chance.randbytes(rows).translate(_CHANCE[marker])
        block[at + where :: stride] = column


def _template(device: str, epoch: str, level: int, kind: str, data: str) -> _Template:
    check_id = f"chk-{_DIGIT * 8}"
    time = f"2026-11-22T10:{_CLOCK * 2}:{_CLOCK * 2}.{_CLOCK * 3}Z"
    event = (
        f'{{"specversion":"1.0","id":"{_UUID7}","source":"/devices/{device}","type":"{kind}","time":"{time}",'
        f'"epoch":"{epoch}","sequence":"{_SEQUENCE * 20}","subject":"check/1{_DIGIT * 3}",'
        f'"datacontenttype":"application/json","data":{{"check_id":"{check_id}",{data}}}}}'
    ).encode()
    topic = f"pos/v1/{device}/events".encode()
    variable = len(topic).to_bytes(2) + topic + b"\0\0" + (b"\0" if level == 5 else b"")
    length = len(variable) + len(event)
    fixed = bytes((0x32, length & 0x7F | 0x80, length >> 7))
    assert 0x80 <= length < 0x4000, length
    head = len(fixed) + len(variable)
    seen: dict[str, int] = {}
    slots = []
    for index, byte in enumerate(event):
        marker = chr(byte)
        if byte < 0x20:
            slots.append((head + index, marker, seen.get(marker, 0)))
            seen[marker] = seen.get(marker, 0) + 1
    return _Template(fixed + variable + event, head, len(fixed) + 2 + len(topic), tuple(slots))


@lru_cache(maxsize=64)
def _counted(first: int, count: int, stays: int, symbols: bytes) -> bytes:
    """One digit of the numbers `first` … `first + count - 1`; it keeps each of its values for `stays` numbers."""
    period = stays * len(symbols)
    if period <= count:
        pattern = b"".join(symbols[value : value + 1] * stays for value in range(len(symbols)))
        begin = first % period
        return (pattern * (count // period + 2))[begin : begin + count]
    column, number = bytearray(), first
    while len(column) < count:
        left = min(stays - number % stays, count - len(column))
        column += symbols[number // stays % len(symbols) :][:1] * left
        number += left
    return bytes(column)


@lru_cache(maxsize=4)
def _packet_ids(count: int) -> tuple[bytes, bytes]:
    """The high and the low bytes of `count` packet ids."""
    ids = acknowledgements()
    times = count // PACKET_IDS + 1
    return (ids[2 : 4 * PACKET_IDS : 4] * times)[:count], (ids[3 : 4 * PACKET_IDS : 4] * times)[:count]


@lru_cache(maxsize=1)
def acknowledgements() -> bytes:
    """The successful PUBACKs of two whole rounds of packet ids, four bytes each, in order."""
    return b"".join(b"\x40\x02" + number.to_bytes(2) for number in range(1, PACKET_IDS + 1)) * 2
