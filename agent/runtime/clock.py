"""[runtime] The one place that asks the machine what time it is.

Wall time is for people and records only; order is sequence, and every timer runs on boottime. Never corrects a clock.
"""

import ctypes
import time
from functools import cache
from pathlib import Path
from typing import Final

BOOT_ID_PATH: Final = Path("/proc/sys/kernel/random/boot_id")

TIME_ERROR: Final = 5
"""adjtimex(2)'s return value while the clock is not synchronised."""
STA_UNSYNC: Final = 0x0040
"""The status bit that the kernel keeps set while no time service disciplines the clock."""


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2): the fields up to `status` by name, the rest as reserved room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class Clock:
    """The machine's clocks. Stateless but for the boot id, which cannot change while the process lives."""

    def __init__(self, boot_id_path: Path = BOOT_ID_PATH) -> None:
        self._boot_id = boot_id_path.read_text(encoding="ascii").strip()

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC as this box believes them; may be wrong by years and may jump."""
        return time.time_ns() // 1_000_000

    def boottime_s(self) -> float:
        """Seconds since boot, suspended time included; never jumps, never runs backwards within one boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def uptime_ms(self) -> int:
        """`boottime_s` in whole milliseconds: with `boot_id` it places a record in true time later."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def boot_id(self) -> str:
        """The kernel's id of this boot, a lower-case UUID."""
        return self._boot_id

    def synced(self) -> bool:
        """True while the kernel says that a time service disciplines the wall clock; False when it cannot say.

        The evidence is adjtimex(2) read without changing anything: neither TIME_ERROR nor STA_UNSYNC. It is the
        kernel's word, not a comparison with the cloud.
        """
        timex = _Timex(modes=0)
        state = int(_libc().adjtimex(ctypes.byref(timex)))
        return state >= 0 and state != TIME_ERROR and not timex.status & STA_UNSYNC
