"""journal → [mend: what a damaged record was] → journal. Finds the original of a row whose bytes changed on the disk.

A change is believed only where the SHA-256 seal proves it, or, for what stands beside the event, the row's CRC. What no
proof covers is rebuilt from the sealed event or said to be unknown, never guessed. Pure; the work is bounded.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import product
from typing import Any, NamedTuple

import msgspec

from agent.core import chain
from agent.core.instants import to_text

FLIP_WORK_BYTES_MAX = 256 * 1024 * 1024
"""Bytes hashed at most in the search for one flipped bit of an event: every bit of events up to 8 KiB, and of larger
ones the bytes that look wrong and then as many as fit. 0.2 s on a PC, 2 s on a small board; never on the writer."""
EACH_WORK_BYTES_MAX = 1024 * 1024 * 1024
"""Bytes hashed at most in such searches for all records that are looked at in one go."""
UNKNOWN_BOOT = "unknown"
"""The boot of a record whose own is not known any more; its uptime is 0 and its clock unsynced then."""


class Row(NamedTuple):
    """A row of the log as it was read: where it is damaged, any field may be of any type."""

    position: int
    device_epoch: int
    device_sequence: int | None
    boot: int
    recorded_ms: int
    uptime_ms: int
    synced: int
    prevhash: bytes
    rechash: bytes
    event: bytes
    beside: int | None


class Around(NamedTuple):
    """What is known of a row's place: its sequence, the rechash before it and the prevhash behind it (None: unknown),
    and the (device, epoch) of each counting's row."""

    sequence: int
    before: bytes | None
    after: bytes | None
    countings: Mapping[int, tuple[str, str | None]]


class Mended(NamedTuple):
    """The original, and what had changed. `place` is (device, epoch) where the counting's row must be looked up:
    then device_epoch, boot and beside of `row` are to be filled in. `renamed` is a counting whose device's name in the
    tables is wrong, with the right one."""

    row: Row
    what: tuple[str, ...]
    place: tuple[str, str | None] | None = None
    renamed: tuple[int, str] | None = None


def seal_holds(row: Row, sequence: int, device: str | None) -> bool:
    """Whether the row's seal holds; fields of strange types do not."""
    try:
        text = to_text(row.recorded_ms)
        return device is not None and chain.rechash(row.prevhash, sequence, text, device, row.event) == row.rechash
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False


def beside_holds(row: Row) -> bool:
    """Whether what stands beside the event is what was written; rows of the first schema have no proof and pass."""
    if row.beside is None:
        return True
    return _crc(row) == row.beside


def sound(row: Row, sequence: int, device: str | None) -> bool:
    """Whether a row proves itself as the record with this sequence, of this device."""
    return seal_holds(row, sequence, device) and beside_holds(row)


def mend(row: Row, around: Around, work_bytes: int = FLIP_WORK_BYTES_MAX) -> Mended | None:
    """The original of a damaged row, or None where no proof can be found; see FLIP_WORK_BYTES_MAX for the work."""
    sealed = _mend_sealed(_plain(row), around, min(work_bytes, FLIP_WORK_BYTES_MAX))
    if sealed is None:
        return None
    found, device, what, renamed = sealed
    beside = _mend_beside(found, device, around, renamed)
    return beside._replace(what=(*what, *beside.what)) if beside is not None else None


def mend_each(cases: Sequence[tuple[Row, Around]], work_bytes: int = EACH_WORK_BYTES_MAX) -> list[Mended | None]:
    """The original of each row, or None, as `mend`; all of them together cost at most `work_bytes`."""
    found: list[Mended | None] = []
    for row, around in cases:
        original = mend(row, around, work_bytes)
        if isinstance(row.event, bytes) and (original is None or "event" in original.what):
            work_bytes = max(0, work_bytes - min(FLIP_WORK_BYTES_MAX, 4 * len(row.event) ** 2))
        found.append(original)
    return found


def _plain(row: Row) -> Row:
    """Text where bytes belong is the same bytes under a changed type."""
    event, prevhash, rechash = (
        value.encode() if isinstance(value, str) else value for value in (row.event, row.prevhash, row.rechash)
    )
    return row._replace(event=event, prevhash=prevhash, rechash=rechash)


# What the seal covers -------------------------------------------------------------------------------------------------

_Sealed = tuple[Row, str, tuple[str, ...], tuple[int, str] | None]


def _mend_sealed(row: Row, around: Around, work_bytes: int) -> _Sealed | None:
    if not isinstance(row.event, bytes):
        return None
    return (
        _by_neighbours(row, around)
        or _by_time(row, around)
        or _by_name(row, around)
        or _by_event(row, around, work_bytes)
    )


def _names(row: Row, around: Around) -> list[str]:
    """Every device's name, the row's own first."""
    own = around.countings.get(row.device_epoch) if isinstance(row.device_epoch, int) else None
    names = [own[0]] if own is not None else []
    return list(dict.fromkeys([*names, *(name for name, _ in around.countings.values())]))


def _by_neighbours(row: Row, around: Around) -> _Sealed | None:
    """The neighbours keep a second copy of both hashes, and any device may be the right one."""
    text = _text(row.recorded_ms)
    befores = [one for one in dict.fromkeys((row.prevhash, around.before)) if isinstance(one, bytes)]
    seals = [one for one in dict.fromkeys((row.rechash, around.after)) if isinstance(one, bytes)]
    if text is None:
        return None
    for name, before in product(_names(row, around), befores):
        seal = chain.rechash(before, around.sequence, text, name, row.event)
        if seal in seals:
            what = [label for label, old, new in (("prevhash", row.prevhash, before), ("rechash", row.rechash, seal))
                    if old != new]  # fmt: skip
            return row._replace(prevhash=before, rechash=seal), name, tuple(what), None
    return None


def _by_time(row: Row, around: Around) -> _Sealed | None:
    """One flipped bit in the time."""
    own = _own_name(row, around)
    if own is None or not isinstance(row.recorded_ms, int):
        return None
    for bit in range(48):
        flipped = row._replace(recorded_ms=row.recorded_ms ^ (1 << bit))
        if seal_holds(flipped, around.sequence, own):
            return flipped, own, ("recorded_ms",), None
    return None


def _by_name(row: Row, around: Around) -> _Sealed | None:
    """One flipped bit in the table's name of the device: then it is the name that is wrong, not the row."""
    own = _own_name(row, around)
    if own is None:
        return None
    name = bytearray(own.encode())
    for at, bit in product(range(len(name)), range(8)):
        name[at] ^= 1 << bit
        right = name.decode("utf-8", "replace")
        if seal_holds(row, around.sequence, right):
            return row, right, ("device name",), (row.device_epoch, right)
        name[at] ^= 1 << bit
    return None


def _by_event(row: Row, around: Around, left_bytes: int) -> _Sealed | None:
    """One flipped bit in the event, the bytes that look wrong first."""
    own, text = _own_name(row, around), _text(row.recorded_ms)
    if own is None or text is None or not isinstance(row.prevhash, bytes):
        return None
    event, wanted = bytearray(row.event), row.rechash
    begun = sha256(b"%b%020d\n%b\n%b\n" % (row.prevhash, around.sequence, text.encode(), own.encode()))
    done = 0
    for at in _suspects(row.event):
        if at > done:
            begun.update(row.event[done:at])
            done = at
        elif at < done:
            begun = sha256(b"%b%020d\n%b\n%b\n%b" % (row.prevhash, around.sequence, text.encode(), own.encode(),
                           row.event[:at]))  # fmt: skip
            done = at
        left_bytes -= 8 * (len(event) - at)
        if left_bytes < 0:
            return None
        for bit in range(8):
            event[at] ^= 1 << bit
            trial = begun.copy()
            trial.update(memoryview(event)[at:])
            if trial.digest() == wanted:
                return row._replace(event=bytes(event)), own, ("event",), None
            event[at] ^= 1 << bit
    return None


def _suspects(event: bytes) -> Iterator[int]:
    """Where to look: bytes that JSON in plain letters would not have, then all."""
    odd = {at for at, byte in enumerate(event) if byte < 0x20 or byte > 0x7E}
    yield from sorted(odd)
    yield from (at for at in range(len(event)) if at not in odd)


def _own_name(row: Row, around: Around) -> str | None:
    own = around.countings.get(row.device_epoch) if isinstance(row.device_epoch, int) else None
    return own[0] if own is not None else None


def _text(recorded_ms: Any) -> str | None:
    try:
        return to_text(recorded_ms)
    except (TypeError, ValueError, OverflowError):
        return None


# What stands beside it ------------------------------------------------------------------------------------------------


class _Place(msgspec.Struct):
    epoch: str | None = None
    sequence: str | None = None


_place = msgspec.json.Decoder(_Place).decode

_BITS = {"device_epoch": 40, "device_sequence": 44, "boot": 40, "uptime_ms": 48, "synced": 8}
"""How many low bits of a column may have one that flipped."""


def _mend_beside(row: Row, device: str, around: Around, renamed: tuple[int, str] | None) -> Mended | None:
    """The columns that the CRC covers, for a row whose seal holds as the device's."""

    def fits(candidate: Row) -> bool:
        own = around.countings.get(candidate.device_epoch)
        if own is None:
            return False
        name = renamed[1] if renamed is not None and renamed[0] == candidate.device_epoch else own[0]
        return name == device

    if _whole(row) and beside_holds(row) and fits(row):
        return Mended(row, (), None, renamed)
    for column, candidate in _flipped(row):
        if _whole(candidate) and beside_holds(candidate) and fits(candidate):
            return Mended(candidate, (column,), None, renamed)
    near = isinstance(row.beside, int) and _bits(_crc(row) or 0, row.beside) == 1
    if near and _whole(row) and fits(row) and _may_be(row.device_sequence, row.event):
        return Mended(row._replace(beside=_crc(row)), ("beside",), None, renamed)
    return _rebuilt(row, device, renamed)


def _flipped(row: Row) -> Iterator[tuple[str, Row]]:
    """The row with one bit of one column turned; a sequence of NULL may have been lost whole as well."""
    if row.beside is None:
        return
    for column, bits in _BITS.items():
        value = getattr(row, column)
        if isinstance(value, int):
            for bit in range(bits):
                turned: dict[str, Any] = {column: value ^ (1 << bit)}
                yield column, row._replace(**turned)
    yield from (("synced", row._replace(synced=value)) for value in (0, 1))
    _, sequence = own_place(row.event)
    yield from (("device_sequence", row._replace(device_sequence=value)) for value in (None, sequence))


def _rebuilt(row: Row, device: str, renamed: tuple[int, str] | None) -> Mended:
    """The device's counting as the sealed event names it; when and in which boot is not known any more."""
    epoch, sequence = own_place(row.event) if device != "agent" else (None, None)
    fresh = row._replace(device_epoch=0, device_sequence=sequence, boot=0, uptime_ms=0, synced=0, beside=None)
    return Mended(fresh, ("beside, rebuilt from the event",), (device, epoch), renamed)


def own_place(event: bytes) -> tuple[str | None, int | None]:
    """(epoch, sequence) as an event names them itself; (None, None) where it does not."""
    try:
        place = _place(event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    text = place.sequence or ""
    if not place.epoch or not (text.isascii() and text.isdigit() and len(text) <= 20):
        return None, None
    return place.epoch, int(text)


def _may_be(sequence: int | None, event: bytes) -> bool:
    """A row counts as its event says, or not at all (one that was resubmitted)."""
    return sequence is None or sequence == own_place(event)[1]


def _whole(row: Row) -> bool:
    """Whether the columns beside the event are of the types that they are written with."""
    ints = (row.device_epoch, row.boot, row.uptime_ms, row.synced)
    return all(isinstance(one, int) for one in ints) and isinstance(row.device_sequence, int | None)


def _crc(row: Row) -> int | None:
    try:
        return chain.beside(row.device_epoch, row.device_sequence, row.boot, row.uptime_ms, row.synced)
    except (struct.error, TypeError):  # a column of another type or size
        return None


def _bits(one: int, other: int) -> int:
    return (one ^ other).bit_count()
