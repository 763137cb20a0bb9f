"""journal, cloud → [the hash chain]. Each record's rechash seals it and all before it, at both ends.

Pure arithmetic: nothing here reads or stores.
"""

from hashlib import sha256
from struct import Struct
from zlib import crc32

ORIGIN = bytes(32)
"""prevhash of the first record of a stream without a parent."""


def rechash(prevhash: bytes, sequence: int, recordedtime: str, device: str, event: bytes) -> bytes:
    """The 32-byte seal of one record: `event` is the device's bytes as received, `recordedtime` as on the wire."""
    return sha256(b"%b%020d\n%b\n%b\n%b" % (prevhash, sequence, recordedtime.encode(), device.encode(), event)).digest()


_BESIDE = Struct("<qqqqB").pack


def beside(device_epoch: int, device_sequence: int | None, boot: int, uptime_ms: int, synced: int) -> int:
    """CRC-32 of what stands in a record's row beside what `rechash` seals; rows are numbers of this one journal."""
    return crc32(_BESIDE(device_epoch, -1 if device_sequence is None else device_sequence, boot, uptime_ms, synced))
