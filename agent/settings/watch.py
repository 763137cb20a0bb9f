"""[settings] Notices an edit of the settings file and says what it changes: at once, at the next start, or never.

A file that cannot be used changes nothing and is told. Never applies a change itself.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
from watchfiles import awatch

from agent.core.errors import SettingsInvalid
from agent.settings.lines import KeyPath
from agent.settings.load import load
from agent.settings.schema import Settings
from agent.settings.section import Reload, Section, reload_of

log = structlog.get_logger()


class Change(msgspec.Struct, frozen=True):
    """What the file says otherwise than the running settings, as dotted keys; `live` ones take effect now."""

    live: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


def compare(running: Settings, wanted: Settings) -> Change:
    """Each key whose values differ, by when the wanted one may take effect."""
    keys: dict[Reload, list[str]] = {"live": [], "restart": [], "never": []}
    for path, reload in _differing(running, wanted, ()):
        keys[reload].append(".".join(path))
    return Change(tuple(keys["live"]), tuple(keys["restart"]), tuple(keys["never"]))


def with_live(running: Settings, wanted: Settings) -> Settings:
    """The running settings with the live values of the wanted ones."""
    merged: Settings = _merged(running, wanted)
    return merged


class Watch:
    """An ancillary stage: tells `changed(settings, change)`, with the settings that hold now, or `refused(error)`.

    After a refused edit, `changed` follows as soon as the file can be used again, with an empty change if need be.
    """

    name = "settings"

    def __init__(
        self,
        file: Path,
        running: Settings,
        changed: Callable[[Settings, Change], None],
        refused: Callable[[SettingsInvalid], None],
    ) -> None:
        self._file = file.absolute()
        self._running = running
        self._changed = changed
        self._refused = refused
        self._told: Change | tuple[str, ...] = Change()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Watch the file's folder, because editors replace files, and packages replace links."""
        ready()
        self.look()
        async for _ in awatch(self._file.parent, stop_event=stop, recursive=False):
            self.look()

    def look(self) -> None:
        """Read the file once and tell what is new in it; the same news is told once."""
        try:
            wanted = load(self._file)
        except SettingsInvalid as error:
            if self._told != error.problems:
                self._told = error.problems
                log.warning("settings_refused", file=str(self._file), problems=" | ".join(error.problems))
                self._refused(error)
            return
        change = compare(self._running, wanted)
        if change == self._told:
            return
        self._running = with_live(self._running, wanted)
        # What took effect is no difference any more; what waits for a start still is.
        self._told = compare(self._running, wanted)
        log.info(
            "settings_changed",
            live=",".join(change.live),
            restart_needed=",".join(change.restart),
            never=",".join(change.never),
        )
        self._changed(self._running, change)


def _differing(running: Section, wanted: Section, path: KeyPath) -> Iterator[tuple[KeyPath, Reload]]:
    for name in running.__struct_fields__:
        old, new, here = getattr(running, name), getattr(wanted, name), (*path, name)
        if old == new:
            continue
        if isinstance(old, Section) and isinstance(new, Section):
            yield from _differing(old, new, here)
        elif _is_device_table(old, new):
            yield from (
                ((*path, device), "live") for device in sorted({*old, *new}) if old.get(device) != new.get(device)
            )
        else:
            yield here, reload_of(type(running), name)


def _merged(running: Any, wanted: Any) -> Any:
    values = {}
    for name in running.__struct_fields__:
        old, new = getattr(running, name), getattr(wanted, name)
        if isinstance(old, Section) and isinstance(new, Section):
            values[name] = _merged(old, new)
        else:
            values[name] = new if reload_of(type(running), name) == "live" else old
    return type(running)(**values)


def _is_device_table(old: Any, new: Any) -> bool:
    return isinstance(old, Mapping) and any(isinstance(value, Section) for value in (*old.values(), *new.values()))
