"""[runtime] Lifetime of the stages: started downstream first, stopped in reverse, each within its budget.

A vital stage that crashes ends the process, and whoever supervises it starts it again; an ancillary one is started
again here. Start-up after a clean stop and after a crash is the same code. Never knows what a stage does.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import msgspec
import structlog

from agent.core.errors import NightsafeError

log = structlog.get_logger()

RESTART_FIRST_S: Final = 1.0
"""Pause before an ancillary stage is started again, in seconds; doubles with each crash."""
RESTART_MAX_S: Final = 60.0
"""The longest such pause, in seconds; a run longer than this counts as recovered and resets it."""
CANCEL_MAX_S: Final = 1.0
"""How long a cancelled stage may take to unwind before the log names it, in seconds."""


class Stage(Protocol):
    """A loop with a name. `run` calls `ready()` once it does its work, and returns soon after `stop` is set.

    It may be cancelled when it does not return within its budget, and must leave nothing half done then.
    """

    @property
    def name(self) -> str: ...

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None: ...


class Entry(msgspec.Struct, frozen=True):
    """A stage and its terms: a `vital` one takes the process with it; `stop_s` bounds its stopping, in seconds."""

    stage: Stage
    vital: bool
    stop_s: float


class StageCrashed(NightsafeError):
    """A vital stage failed, ended unasked, or did not become ready in time. The cause is chained."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__("stage_crashed", f"The stage {stage} {text}.", "The process ends, to be started afresh.")
        self.stage = stage


class Pulse:
    """Heartbeats of the vital stages: who took a beat by `of(name)` calls it at least every `beat_max_s` seconds."""

    def __init__(self, beat_max_s: float, now_s: Callable[[], float]) -> None:
        self._beat_max_s = beat_max_s
        self._now_s = now_s
        self._beat_at_s: dict[str, float] = {}

    def of(self, name: str) -> Callable[[], None]:
        """The beat of one stage; from now on it counts."""
        self._beat(name)
        return partial(self._beat, name)

    def stale(self) -> tuple[str, ...]:
        """Names of the stages whose last beat is too old; empty while all is well."""
        oldest_s = self._now_s() - self._beat_max_s
        return tuple(name for name, at_s in self._beat_at_s.items() if at_s < oldest_s)

    def _beat(self, name: str) -> None:
        self._beat_at_s[name] = self._now_s()


ConditionChanged = Callable[[str, str | None], None]
"""Told `(stage, text)` when an ancillary stage is down, `(stage, None)` when it works again."""


async def run_stages(
    entries: Sequence[Entry],
    stop: asyncio.Event,
    *,
    start_max_s: float,
    all_ready: Callable[[], None],
    stopping: Callable[[], None],
    condition: ConditionChanged,
) -> tuple[str, ...]:
    """Run `entries` (downstream first) until `stop` is set, then stop them in reverse; returns when all have ended.

    `all_ready` is called once every stage is up, `stopping` when the stop begins. Returns the names of stages that had
    to be cancelled or failed while stopping. Raises StageCrashed for a vital stage; the others are cancelled then.
    """
    running: list[_Running] = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_settle_on(stop, running), name="stop-watch")
            for entry in entries:
                if stop.is_set():
                    break
                one = _Running(entry, condition)
                running.append(one)
                one.task = group.create_task(one.live(), name=entry.stage.name)
                await _until_up(one, stop, start_max_s)
            if not stop.is_set():
                all_ready()
            await stop.wait()
            stopping()
            for one in reversed(running):
                await _end(one)
    except ExceptionGroup as group_of_errors:
        crash = _first_crash(group_of_errors)
        if crash is None:
            raise
        raise crash from crash.__cause__
    return tuple(one.name for one in reversed(running) if not one.orderly)


async def _settle_on(stop: asyncio.Event, running: list["_Running"]) -> None:
    """Whoever waits for a stage to come up stops waiting when the stop begins."""
    await stop.wait()
    for one in running:
        one.settled.set()


async def _until_up(one: "_Running", stop: asyncio.Event, start_max_s: float) -> None:
    """Wait until the stage is up or the stop begins. Too late: a crash for a vital stage, a warning for another."""
    await _wait(one.settled, start_max_s)
    if one.up:
        log.debug("stage_started", stage=one.name)
    elif stop.is_set():
        log.info("stage_start_abandoned", stage=one.name)
    elif one.entry.vital:
        raise StageCrashed(one.name, f"was not ready within {start_max_s:g} s")
    else:
        log.warning("stage_slow", stage=one.name, start_max_s=start_max_s)


async def _end(one: "_Running") -> None:
    """Stop one stage: by event within its budget, by cancellation after it."""
    one.stop.set()
    _, late = await asyncio.wait({one.task}, timeout=one.entry.stop_s)
    if not late:
        log.debug("stage_stopped", stage=one.name)
        return
    one.orderly = False
    log.warning("stage_cancelled", stage=one.name, stop_s=one.entry.stop_s)
    one.task.cancel()
    _, stuck = await asyncio.wait({one.task}, timeout=CANCEL_MAX_S)
    if stuck:
        log.error("stage_stuck", stage=one.name, cancel_max_s=CANCEL_MAX_S)


def _first_crash(group: BaseExceptionGroup[BaseException]) -> StageCrashed | None:
    crashes = group.subgroup(StageCrashed)
    while crashes is not None:
        inner = crashes.exceptions[0]
        if isinstance(inner, StageCrashed):
            return inner
        crashes = inner if isinstance(inner, BaseExceptionGroup) else None
    return None


def _innermost(error: BaseException) -> BaseException:
    """The one error that a task group wraps, or the group itself when there are several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, NightsafeError) else f"{type(error).__name__}: {error}"


async def _wait(event: asyncio.Event, limit_s: float) -> None:
    """Until the event is set, at most `limit_s` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()


class _Running:
    """One entry's task, whether it is up, and its own stop event."""

    task: asyncio.Task[None]

    def __init__(self, entry: Entry, condition: ConditionChanged) -> None:
        self.entry = entry
        self.name = entry.stage.name
        self.up = False
        self.orderly = True
        self.settled = asyncio.Event()
        self.stop = asyncio.Event()
        self._condition = condition
        self._down = False

    async def live(self) -> None:
        """The stage's whole life: once when vital, again and again when ancillary."""
        if self.entry.vital:
            await self._once()
            return
        pause_s = RESTART_FIRST_S
        now_s = asyncio.get_running_loop().time
        while not self.stop.is_set():
            started_s = now_s()
            try:
                await self._once()
            except StageCrashed as crash:
                if now_s() - started_s > RESTART_MAX_S:
                    pause_s = RESTART_FIRST_S
                self._tell_down(crash, pause_s)
                await _wait(self.stop, pause_s)
                pause_s = min(pause_s * 2, RESTART_MAX_S)

    async def _once(self) -> None:
        try:
            await self.entry.stage.run(self._ready, self.stop)
        except Exception as error:
            if self.stop.is_set():
                self.orderly = False
                log.warning("stage_failed_stopping", stage=self.name, exc_info=error)
                return
            cause = _innermost(error)
            if self.entry.vital:
                foreseen = isinstance(cause, NightsafeError)  # its words say what to do; a traceback would bury them
                log.error("stage_crashed", stage=self.name, error=str(cause), exc_info=None if foreseen else cause)
            raise StageCrashed(self.name, f"failed: {_words(cause)}") from cause
        if not self.stop.is_set():
            raise StageCrashed(self.name, "ended without being asked to")

    def _ready(self) -> None:
        self.up = True
        self.settled.set()
        if self._down:
            self._down = False
            log.info("stage_recovered", stage=self.name)
            self._condition(self.name, None)

    def _tell_down(self, crash: StageCrashed, pause_s: float) -> None:
        tell = log.debug if self._down else log.warning
        tell("stage_crashed", stage=self.name, error=crash.text, again_in_s=pause_s, exc_info=crash.__cause__)
        self._down = True
        self.settled.set()  # those behind it in the order do not wait for it
        self._condition(self.name, crash.text)
