"""flash card → [wear] → disk stage. How much of its life the device of the state directory says it has used.

eMMC tells it under /sys in tenths; what tells nothing is None. Reads only, but for one small file that remembers what
was seen first, so that days can be estimated over restarts.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from agent.core.pressure import wear_days_left
from agent.runtime.files import write_whole

log = structlog.get_logger()

SYS: Final = Path("/sys")
WEAR_NAME: Final = "wear.json"
STEP_PERCENT: Final = 10
"""The device tells tenths of its life: 0x01 is up to this much, 0x0B is beyond all of it."""
STEPS_MAX: Final = 11
PRE_EOL_WARNING: Final = 2
"""From this `pre_eol_info` on the device's spare blocks are running out."""


class Worn(NamedTuple):
    """What the device says: the percent that is used at most, and whether its spare blocks run out."""

    used_percent: int
    failing: bool


class Seen(msgspec.Struct, frozen=True):
    """What was seen first of one device, and how long the box had run then, in seconds."""

    device: str
    used_percent: int
    lived_s: float


class Wear:
    """The device below `directory`. `sys_root` is where the kernel's device tree is mounted."""

    def __init__(self, directory: Path, sys_root: Path = SYS) -> None:
        self._directory = directory
        self._sys = sys_root

    def look(self) -> Worn | None:
        """What the device says now, None where it says nothing."""
        device = self._device()
        if device is None:
            return None
        try:
            steps = [int(word, 16) for word in (device / "life_time").read_text("ascii").split()]
        except (OSError, ValueError):
            return None
        known = [step for step in steps if 0 < step <= STEPS_MAX]
        if not known:
            return None
        return Worn(min(100, max(known) * STEP_PERCENT), max(known) == STEPS_MAX or self._runs_out(device))

    def days_left(self, worn: Worn, lived_s: float) -> int | None:
        """Days until it is worn out, None until it has moved since it was first seen. Remembers the first sight."""
        device = self._device()
        if device is None:
            return None
        path = self._directory / WEAR_NAME
        try:
            seen = msgspec.json.decode(path.read_bytes(), type=Seen)
        except (OSError, msgspec.DecodeError):
            seen = None
        if seen is None or seen.device != self._name(device) or seen.used_percent > worn.used_percent:
            try:
                write_whole(path, msgspec.json.encode(Seen(self._name(device), worn.used_percent, lived_s)))
            except OSError as error:
                log.debug("wear_not_noted", reason=error.strerror or str(error))
            return None
        return wear_days_left(seen.used_percent, seen.lived_s, worn.used_percent, lived_s)

    def _device(self) -> Path | None:
        """The folder that tells of the disk below the directory's file system: its own, or that of its whole disk."""
        try:
            number = os.stat(self._directory).st_dev
            block = (self._sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}").resolve(strict=True)
        except OSError:
            return None
        for place in (block, block.parent):
            if (place / "device" / "life_time").is_file():
                return place / "device"
        return None

    @staticmethod
    def _runs_out(device: Path) -> bool:
        try:
            return int((device / "pre_eol_info").read_text("ascii"), 16) >= PRE_EOL_WARNING
        except (OSError, ValueError):
            return False

    @staticmethod
    def _name(device: Path) -> str:
        """The card's own serial number, where it tells one, so that another card begins anew."""
        try:
            return (device / "cid").read_text("ascii").strip()
        except OSError:
            return device.parent.name
