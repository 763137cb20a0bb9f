"""disk → [disk watch] → journal, gate, page. Looks at the room there is, and says what may be taken.

Keeps the reserve, tells people what to do before the disk is full, and how long it will last. It never stores or
deletes a record: a level is all that it hands on.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Protocol

import structlog

from agent.core import pressure
from agent.core.facts import DiskFacts, DiskLevel
from agent.core.pressure import FORECAST_ATTENTION_H, RELIEF, WORN_PERCENT, Bounds, Growth, Level, Room
from agent.upkeep.wear import Wear, Worn

log = structlog.get_logger()

LOOK_S: Final = 2.0
"""How often the disk is looked at."""
PRESSED_LOOK_S: Final = 0.5
"""The same while room is short."""
WEAR_INTERVAL_S: Final = 3_600.0
"""How often the device is asked how worn it is."""
INODES_MIN: Final = 32
"""Fewer files than this that may still be made need a person; a running journal needs none."""
MIB: Final = 1_048_576
LEVELS: Final[dict[Level, DiskLevel]] = {Level.NORMAL: "normal", Level.SHED: "shed", Level.REFUSE: "refuse"}


class Pages(Protocol):
    """The database's pages, in bytes."""

    @property
    def used_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def left_bytes(self) -> int: ...


class Journal(Protocol):
    """How full the journal is, and how long the box has run since it was made."""

    async def pages(self) -> Pages | None: ...
    def lived_s(self) -> float: ...
    @property
    def shed_count(self) -> int: ...


class Reserve(Protocol):
    """The ballast."""

    size: int
    kept: bool

    def make(self) -> bool: ...
    def give(self) -> bool: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def shed_free_bytes(self) -> int: ...
    @property
    def refuse_free_bytes(self) -> int: ...
    @property
    def bytes_max(self) -> int: ...
    @property
    def checkpoint_bytes(self) -> int: ...


class Telling(Protocol):
    """Where people are told."""

    def hold(
        self, id: str, severity: Literal["info", "warning", "critical"], title: str, text: str, hint: str
    ) -> None: ...
    def lift(self, id: str) -> None: ...


class Disk:
    """The stage that watches the disk of `directory`. `press` hears each new level."""

    name = "disk"

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        reserve: Reserve,
        wear: Wear,
        press: Callable[[Level], None],
        telling: Telling,
        now_s: Callable[[], float],
        limits: Callable[[], Limits],
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._reserve = reserve
        self._wear = wear
        self._press = press
        self._telling = telling
        self._now_s = now_s
        self._limits = limits
        self._level = Level.NORMAL
        self._growth = Growth()
        self._used_bytes = self._freed_bytes = 0
        self._left_bytes = limits().bytes_max
        self._hours: float | None = None
        self._worn: Worn | None = None
        self._days_left: int | None = None
        self._wear_at_s = float("-inf")

    def facts(self) -> DiskFacts:
        """The disk as of the last look."""
        return DiskFacts(
            level=LEVELS[self._level],
            journal_bytes=self._used_bytes,
            journal_bytes_max=self._limits().bytes_max,
            reserve_kept=self._reserve.kept,
            hours_until_full=self._hours,
            wear_used_percent=self._worn.used_percent if self._worn is not None else None,
            wear_days_left=self._days_left,
            shed_count=self._journal.shed_count,
        )

    def give(self, sure: bool) -> bool:
        """A write that must go through found the disk full: give the reserve. Nothing else is taken from now on, so
        that devices do not use it up. Where it is not `sure` that this was why, only if the disk says so. True when
        there was something to give."""
        if not sure and not self._is_full():
            return False
        given = self._reserve.give()
        if given:
            self._set(Level.REFUSE, Room(0, self._left_bytes))
        return given

    def _is_full(self) -> bool:
        try:
            disk = os.statvfs(self._directory)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < self._limits().checkpoint_bytes

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Look every few seconds until `stop`."""
        await self._look()
        ready()
        while not stop.is_set():
            await self._look_at_wear()
            with suppress(TimeoutError):
                async with asyncio.timeout(PRESSED_LOOK_S if self._level is not Level.NORMAL else LOOK_S):
                    await stop.wait()
            await self._look()

    async def _look(self) -> None:
        pages = await self._journal.pages()
        if pages is not None:
            self._used_bytes, self._freed_bytes = pages.used_bytes, pages.free_bytes
            self._left_bytes = pages.left_bytes
        try:
            disk = os.statvfs(self._directory)
        except OSError as error:
            log.debug("disk_not_seen", reason=error.strerror or str(error))
            return
        bounds, free_bytes = self._bounds(), disk.f_bavail * disk.f_frsize
        if not self._reserve.kept and free_bytes - self._reserve.size >= bounds.refuse_free_bytes * RELIEF:
            await asyncio.to_thread(self._reserve.make)
            disk = os.statvfs(self._directory)
            free_bytes = disk.f_bavail * disk.f_frsize
        room = pressure.room(self._level, free_bytes, self._freed_bytes, self._left_bytes, bounds)
        self._set(pressure.level(self._level, room, bounds), room)
        self._forecast(room, bounds)
        self._tell_inodes(disk)

    def _bounds(self) -> Bounds:
        limits = self._limits()
        return Bounds(limits.shed_free_bytes, limits.refuse_free_bytes, limits.bytes_max, limits.checkpoint_bytes)

    def _set(self, level: Level, room: Room) -> None:
        if level is not self._level:
            tell = log.warning if level > self._level else log.info
            tell("disk_level", level=LEVELS[level], disk_bytes=room.disk_bytes, journal_bytes=room.journal_bytes)
            self._level = level
            self._press(level)
        self._tell_level(room)

    def _tell_level(self, room: Room) -> None:
        for level, name in ((Level.SHED, "disk_shed"), (Level.REFUSE, "disk_full")):
            if self._level is not level:
                self._telling.lift(name)
        if self._level is Level.NORMAL:
            return
        own = room.journal_bytes < room.disk_bytes
        where = "The journal has nearly reached its own bound" if own else "The box's disk is nearly full"
        left = f"{where}: {min(room) // MIB} MiB are left."
        hint = (
            "Raise [journal] bytes_max if the disk is larger, and see to it that the cloud takes the records."
            if own
            else f"Free space on the disk of {self._directory}: delete what is not Nightsafe's, for example old logs."
        )
        if self._level is Level.REFUSE:
            text = f"{left} Nothing more is taken; the tills keep their sales. Uploading goes on."
            self._telling.hold("disk_full", "critical", "The disk is full", text, hint)
        else:
            text = f"{left} Sales are stored as long as there is room; what has no promise is not."
            self._telling.hold("disk_shed", "warning", "The disk is nearly full", text, hint)

    def _forecast(self, room: Room, bounds: Bounds) -> None:
        now_s = self._now_s()
        self._growth.note(now_s, self._used_bytes)
        self._hours = self._growth.hours_until(now_s, self._used_bytes, pressure.usable_bytes(room, bounds))
        if self._level is Level.NORMAL and self._hours is not None and self._hours < FORECAST_ATTENTION_H:
            text = f"At the rate of the last hour the box's disk is full in about {self._hours:.0f} hours."
            hint = "See why the cloud does not take the records, or give the box more room."
            self._telling.hold("disk_filling", "warning", "The disk fills up", text, hint)
        else:
            self._telling.lift("disk_filling")

    def _tell_inodes(self, disk: os.statvfs_result) -> None:
        if disk.f_files and disk.f_favail < INODES_MIN:
            text = f"Only {disk.f_favail} more files can be made on the box's disk. Recording goes on."
            hint = f"Delete files that are not Nightsafe's from the disk of {self._directory}."
            self._telling.hold("disk_files", "warning", "The disk holds too many files", text, hint)
        else:
            self._telling.lift("disk_files")

    async def _look_at_wear(self) -> None:
        now_s = self._now_s()
        if now_s - self._wear_at_s < WEAR_INTERVAL_S or not self._used_bytes:
            return
        self._wear_at_s = now_s
        self._worn = worn = self._wear.look()
        if worn is None:
            return
        self._days_left = await asyncio.to_thread(self._wear.days_left, worn, self._journal.lived_s())
        if worn.failing or worn.used_percent >= WORN_PERCENT:
            left = "" if self._days_left is None else f" At this rate it lasts about {self._days_left} days more."
            text = f"The box's flash memory says that up to {worn.used_percent} % of its life is used.{left}"
            hint = "Call support and have the box or its card replaced; what is uploaded is not lost."
            self._telling.hold("disk_worn", "warning", "The flash memory is worn", text, hint)
        else:
            self._telling.lift("disk_worn")
