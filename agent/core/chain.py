"""The hash chain of a stream: each record's rechash seals it and everything before it. Used by the box and by the cloud.

Pure arithmetic: nothing here reads or stores.
"""

from hashlib import sha256

ORIGIN = bytes(32)
"""prevhash of the first record of a stream without a parent."""


def rechash(prevhash: bytes, sequence: int, recordedtime: str, device: str, event: bytes) -> bytes:
    """The 32-byte seal of one record; `event` is the device's bytes as received, `recordedtime` as it goes on the wire."""
    return sha256(b"%b%020d\n%b\n%b\n%b" % (prevhash, sequence, recordedtime.encode(), device.encode(), event)).digest()
