"""The original of a damaged record: found where a proof holds, and never guessed."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from agent.core import chain, mend
from agent.core.instants import to_text
from agent.core.mend import Around, Mended, Row, beside_holds, seal_holds, sound
from tests.sales import counted, event

BEFORE, SEQUENCE = b"\x11" * 32, 41
COUNTINGS = {3: ("till-1", "e1"), 4: ("till-2", "e1"), 5: ("till-1", None), 1: ("agent", None)}
AROUND = Around(SEQUENCE, BEFORE, None, COUNTINGS)


def whole(body: bytes | None = None, counting: int = 3, sequence: int | None = 42) -> Row:
    """A sound record of till-1."""
    body = body if body is not None else counted("e1", 42, id="a")
    recorded_ms, uptime_ms, boot = 1_795_342_500_000, 81_234, 2
    seal = chain.rechash(BEFORE, SEQUENCE, to_text(recorded_ms), COUNTINGS[counting][0], body)
    crc = chain.beside(counting, sequence, boot, uptime_ms, 1)
    return Row(7, counting, sequence, boot, recorded_ms, uptime_ms, 1, BEFORE, seal, body, crc)


def around(row: Row) -> Around:
    """With what the next record knows."""
    return AROUND._replace(after=row.rechash)


def turned(value: Any, bit: int) -> Any:
    """The value with one bit turned; bytes count from their first."""
    if isinstance(value, bytes):
        changed = bytearray(value)
        changed[bit // 8 % len(changed)] ^= 1 << bit % 8
        return bytes(changed)
    return value ^ (1 << bit)


def test_a_sound_record_needs_nothing() -> None:
    row = whole()
    assert sound(row, SEQUENCE, "till-1")
    assert mend.mend(row, around(row)) == Mended(row, ())


@pytest.mark.parametrize("column", ["device_epoch", "device_sequence", "boot", "recorded_ms", "uptime_ms", "prevhash",
                                    "rechash", "event", "beside"])  # fmt: skip
@pytest.mark.parametrize("bit", [0, 1, 5, 13, 30])
def test_one_flipped_bit_of_any_column_is_put_right(column: str, bit: int) -> None:
    row = whole()
    damaged = row._replace(**{column: turned(getattr(row, column), bit)})
    assert not sound(damaged, SEQUENCE, COUNTINGS.get(damaged.device_epoch, ("", None))[0])
    found = mend.mend(damaged, around(row))
    assert found is not None
    assert (found.row, found.what) == (row, (column,))


@pytest.mark.parametrize("seed", range(40))
def test_any_single_bit_of_an_event_is_found(seed: int) -> None:
    row = whole(event(id="long", note="x" * 700, epoch="e1", sequence="42"))
    bit = Random(seed).randrange(len(row.event) * 8)
    found = mend.mend(row._replace(event=turned(row.event, bit)), AROUND)
    assert found is not None
    assert found.row == row


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: row._replace(event=turned(turned(row.event, 80), 200)),
        lambda row: row._replace(event=b"", beside=1),
        lambda row: row._replace(event=None),
        lambda row: row._replace(prevhash=turned(row.prevhash, 3), event=turned(row.event, 80)),
        lambda row: row._replace(recorded_ms="yesterday"),
        lambda row: row._replace(recorded_ms=2**63),
        lambda row: row._replace(rechash=None, event=turned(row.event, 9)),
    ],
)
def test_what_no_proof_covers_is_not_guessed(spoil: Callable[[Row], Row]) -> None:
    assert mend.mend(spoil(whole()), AROUND) is None


def test_a_lost_hash_is_taken_from_the_neighbour() -> None:
    row = whole()
    damaged = row._replace(prevhash=b"gone", rechash=None)
    found = mend.mend(damaged, around(row))
    assert found is not None
    assert (found.row, set(found.what)) == (row, {"prevhash", "rechash"})


def test_an_event_read_as_text_is_the_same_bytes() -> None:
    row = whole()
    found = mend.mend(row._replace(event=row.event.decode()), AROUND)  # type: ignore[arg-type]
    assert found is not None
    assert found.row == row


def test_a_flipped_bit_in_a_devices_name_is_the_names_fault() -> None:
    row = whole()
    wrong = AROUND._replace(countings=COUNTINGS | {3: ("tinl-1", "e1"), 5: ("tinl-1", None)})
    found = mend.mend(row, wrong)
    assert found is not None
    assert (found.row, found.renamed) == (row, (3, "till-1"))


def test_what_stands_beside_is_rebuilt_from_the_sealed_event_when_it_is_gone() -> None:
    row = whole()
    found = mend.mend(row._replace(device_epoch=99, device_sequence=7, boot=5, uptime_ms=1, beside=12345), AROUND)
    assert found is not None
    assert found.place == ("till-1", "e1")
    assert (found.row.event, found.row.device_sequence) == (row.event, 42)
    assert (found.row.boot, found.row.uptime_ms, found.row.synced) == (0, 0, 0), "honest, not guessed"


def test_a_sequence_that_was_not_counted_may_stay_so() -> None:
    """A refused event that was resubmitted is stored without its number."""
    row = whole(sequence=None)
    found = mend.mend(row._replace(uptime_ms=row.uptime_ms ^ 8), AROUND)
    assert found is not None
    assert found.row == row


def test_rows_of_the_first_schema_have_no_proof_beside() -> None:
    row = whole()._replace(beside=None)
    assert beside_holds(row)
    assert seal_holds(row, SEQUENCE, "till-1")
    assert mend.mend(row, AROUND) == Mended(row, ())


def test_the_search_is_bounded() -> None:
    """An event too large for a search through all of it is given up without one."""
    row = whole(event(note="x" * 250_000))
    damaged = row._replace(event=turned(row.event, 1_000_000 & ~7 | 1))
    assert mend.mend(damaged, AROUND, work_bytes=1_000_000) is None


def test_a_byte_that_looks_wrong_is_tried_first() -> None:
    """A flipped highest bit makes no plain letter: found at once, however large the event."""
    row = whole(event(note="x" * 250_000))
    damaged = row._replace(event=turned(row.event, 8 * 150_000 + 7))
    found = mend.mend(damaged, AROUND)
    assert found is not None
    assert found.row == row
