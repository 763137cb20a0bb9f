"""desk → [commands] → broker → devices. Brings people's commands to a device until it says that it has done them.

A command goes out at once, and again with the same id after each `ready` of the device, until its state names it as
applied. The desk keeps it meanwhile; nothing here must survive. Never decides what a device may do.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec
import structlog

from agent.core.errors import NightsafeError, Transient

log = structlog.get_logger()

RETRY_S: Final = 5.0
"""Until what could not be sent or written down is tried again."""
HEARD_MAX: Final = 1_000
"""Devices whose latest word waits to be looked at."""


class Command(Protocol):
    """What a device is to do."""

    @property
    def id(self) -> str: ...
    @property
    def command(self) -> str: ...


class Desk(Protocol):
    """Who keeps what devices are to do."""

    def commands(self, device: str) -> Sequence[Command]: ...
    async def applied(self, device: str, ids: frozenset[str]) -> None: ...


class Publisher(Protocol):
    """The agent's own session. Raises Transient while the broker is away."""

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None: ...


class _State(msgspec.Struct):
    """What of a device's state topic matters here."""

    state: str
    applied: list[Any] = []


class Commands:
    """The stage that sends them."""

    name = "commands"

    def __init__(self, desk: Desk, publisher: Publisher) -> None:
        self._desk = desk
        self._publisher = publisher
        self._due: dict[str, None] = {}
        self._applied: dict[str, frozenset[str]] = {}
        self._look = asyncio.Event()

    def given(self, device: str) -> None:
        """A person has given this device something to do."""
        self._due[device] = None
        self._look.set()

    def heard(self, device: str, payload: bytes) -> None:
        """A device's state."""
        waiting = self._desk.commands(device)
        if not waiting:
            return
        try:
            state = msgspec.json.decode(payload, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        done = frozenset(one.id for one in waiting if one.id in state.applied)
        if done and len(self._applied) < HEARD_MAX:
            self._applied[device] = done
        if state.state == "ready":
            self._due[device] = None
        self._look.set()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Send what is due until `stop`."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._serve(), name="commands-serve")
            ready()
            await stop.wait()
            serving.cancel()

    async def _serve(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._look.wait()
            self._look.clear()
            await self._note_applied()
            await self._send_due()

    async def _note_applied(self) -> None:
        for device, ids in tuple(self._applied.items()):
            try:
                await self._desk.applied(device, ids)
            except NightsafeError as error:
                log.debug("command_not_noted", device=device, code=error.code)
                continue
            if self._applied.get(device) is ids:
                del self._applied[device]

    async def _send_due(self) -> None:
        for device in tuple(self._due):
            del self._due[device]
            for one in self._desk.commands(device):
                if one.id in self._applied.get(device, ()):
                    continue
                body = {"id": one.id, "command": one.command, "args": {}}
                try:
                    await self._publisher.publish(f"pos/v1/{device}/commands", msgspec.json.encode(body))
                except Transient:
                    self._due[device] = None
                    return
                log.info("command_sent", device=device, command=one.command, id=one.id)
