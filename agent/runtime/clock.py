"""[runtime] The one place that asks the machine what time it is.

Wall time is for people and records only; order is sequence, and every timer runs on boottime. Never sets a clock.
"""

import ctypes
import time
from functools import cache
from pathlib import Path
from typing import Final

from agent.core.clock import Reading, steady_ms

BOOT_ID_PATH: Final = Path("/proc/sys/kernel/random/boot_id")

TIME_ERROR: Final = 5
"""adjtimex(2)'s return value while the clock is not synchronised."""
STA_UNSYNC: Final = 0x0040
"""The status bit that the kernel keeps set while no time service disciplines the clock."""
READS_MAX: Final = 5
"""Wall time and uptime are read again, at most so often, until no more than a millisecond lies between them."""


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
    """The machine's clocks, and what is known of wall time in this boot."""

    def __init__(self, boot_id_path: Path = BOOT_ID_PATH) -> None:
        self._boot_id = boot_id_path.read_text(encoding="ascii").strip()
        self._known_ms: int | None = None
        self._held_ms: int | None = None

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

    def error_ms(self) -> int:
        """How far off the wall clock is at most, in the kernel's estimate (adjtimex(2), maxerror)."""
        timex = _Timex(modes=0)
        _libc().adjtimex(ctypes.byref(timex))
        return int(-(-timex.maxerror // 1000))

    def reading(self) -> Reading:
        """All clocks at one instant. What lies between reading the one and the other is added to the error."""
        for _ in range(READS_MAX):
            before_ms = self.uptime_ms()
            wall_ms = self.wall_ms()
            between_ms = self.uptime_ms() - before_ms
            if between_ms <= 1:
                break
        return Reading(self._boot_id, before_ms, wall_ms, self.synced(), self.error_ms() + between_ms)

    def corrected(self, offset_ms: int) -> None:
        """Wall time minus uptime is truly this in the present boot, whatever the wall clock says from now on."""
        self._known_ms = offset_ms

    def offset_known(self) -> bool:
        """Whether the clock of this boot was ever synchronised, so that its instants are true."""
        return self._known_ms is not None

    def wall_ms_at(self, boottime_s: float) -> int:
        """The wall time of an instant of this boot, past or to come, as well as it is known now; for people.

        The same instant gives the same answer until the clock is set or more is known of it.
        """
        if self._known_ms is not None:
            return self._known_ms + int(boottime_s * 1000)
        self._held_ms = steady_ms(self._held_ms, self.wall_ms() - self.uptime_ms())
        return self._held_ms + int(boottime_s * 1000)
