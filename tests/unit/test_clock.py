"""The clock says what the kernel says."""

import ctypes
import time
import uuid
from pathlib import Path

import pytest

from agent.runtime import clock
from agent.runtime.clock import STA_UNSYNC, TIME_ERROR, Clock


def test_the_boot_id_is_the_kernels() -> None:
    boot = Clock().boot_id()
    assert str(uuid.UUID(boot)) == boot
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_wall_time_is_unix_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    assert before <= Clock().wall_ms() <= time.time_ns() // 1_000_000


def test_boottime_and_uptime_are_one_clock_that_only_runs_on() -> None:
    box = Clock()
    first_s, uptime_ms, second_s = box.boottime_s(), box.uptime_ms(), box.boottime_s()
    assert int(first_s * 1000) <= uptime_ms <= int(second_s * 1000) + 1


@pytest.mark.parametrize(
    ("state", "status", "synced"),
    [(0, 0, True), (1, 0x2001, True), (TIME_ERROR, 0, False), (0, STA_UNSYNC, False), (-1, 0, False)],
)
def test_synced_is_the_kernels_word(monkeypatch: pytest.MonkeyPatch, state: int, status: int, synced: bool) -> None:
    class Kernel:
        @staticmethod
        def adjtimex(timex: object) -> int:
            inner = ctypes.cast(timex, ctypes.POINTER(clock._Timex)).contents  # type: ignore[arg-type]
            assert inner.modes == 0
            inner.status = status
            return state

    monkeypatch.setattr(clock, "_libc", Kernel)
    assert Clock().synced() is synced


def test_asking_this_kernel_reads_the_status_where_adjtimex_writes_it() -> None:
    timex = clock._Timex(modes=0)
    state = clock._libc().adjtimex(ctypes.byref(timex))
    assert state in range(6)
    assert (state == TIME_ERROR) >= bool(timex.status & STA_UNSYNC)
