"""The hash chain, against figures worked out here with hashlib and nothing of ours."""

from hashlib import sha256

from agent.core.chain import ORIGIN, rechash

EVENT = '{"specversion":"1.0","id":"a","type":"t","data":{"name":"Crème brûlée"}}'.encode()


def test_a_worked_vector() -> None:
    first = sha256(b"\x00" * 32 + b"00000000000000000001\n2026-11-22T10:15:00.131Z\ntill-1\n" + EVENT)
    assert first.hexdigest() == "a3b07f5befc287fa9bd5a7777fa5605a36dd12a01c876eb658529fb46efed404"
    assert rechash(ORIGIN, 1, "2026-11-22T10:15:00.131Z", "till-1", EVENT) == first.digest()


def test_each_seal_covers_the_one_before_it() -> None:
    one = rechash(ORIGIN, 1, "2026-11-22T10:15:00.131Z", "till-1", EVENT)
    two = rechash(one, 2, "2026-11-22T10:15:00.140Z", "agent", b"{}")
    assert two == sha256(one + b"00000000000000000002\n2026-11-22T10:15:00.140Z\nagent\n{}").digest()


def test_every_part_changes_the_seal() -> None:
    seals = {
        rechash(ORIGIN, 1, "2026-11-22T10:15:00.131Z", "till-1", b"{}"),
        rechash(b"\x01" * 32, 1, "2026-11-22T10:15:00.131Z", "till-1", b"{}"),
        rechash(ORIGIN, 2, "2026-11-22T10:15:00.131Z", "till-1", b"{}"),
        rechash(ORIGIN, 1, "2026-11-22T10:15:00.132Z", "till-1", b"{}"),
        rechash(ORIGIN, 1, "2026-11-22T10:15:00.131Z", "till-2", b"{}"),
        rechash(ORIGIN, 1, "2026-11-22T10:15:00.131Z", "till-1", b"{ }"),
    }
    assert len(seals) == 6
    assert all(len(seal) == 32 for seal in seals)


def test_a_sequence_is_written_with_twenty_digits() -> None:
    high = 10**12 - 1
    assert rechash(ORIGIN, high, "t", "d", b"e") == sha256(ORIGIN + b"00000000999999999999\nt\nd\ne").digest()
