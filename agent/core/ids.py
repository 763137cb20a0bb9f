"""[core] Ids that sort by the time they were made: UUIDv7 (RFC 9562), from a time and chance that are handed in."""

from typing import Final
from uuid import UUID

CHANCE_BYTES: Final = 10
"""Random bytes that one id takes."""

_MS_MAX: Final = (1 << 48) - 1


def uuid7(unix_ms: int, chance: bytes) -> str:
    """The id as lower-case text; `unix_ms` is Unix time in milliseconds, `chance` 10 random bytes."""
    assert 0 <= unix_ms <= _MS_MAX, unix_ms
    assert len(chance) == CHANCE_BYTES, len(chance)
    bits = bytearray(unix_ms.to_bytes(6) + chance)
    bits[6] = 0x70 | bits[6] & 0x0F
    bits[8] = 0x80 | bits[8] & 0x3F
    return str(UUID(bytes=bytes(bits)))
