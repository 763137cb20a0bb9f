"""probes, drain → [uplink monitor] → status. Gathers the evidence and hands it to the machine in core.

Probes only while uploads bring no news of their own, and has all layers looked at while nothing gets through. Never
decides what evidence means, and nobody waits for it: a probe in flight delays neither recording nor uploading.

From a dead link to an "offline" that people read it takes at most `offline_within_s`: the pause since the last news,
and the debounce, which runs from the failed probe's beginning; news, due probe and debounce are each seen a look later.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from agent.core import uplink as machine
from agent.core.diagnosis import Layer, judge
from agent.core.facts import DrainFacts, UplinkFacts
from agent.core.instants import to_text
from agent.core.uplink import ProbeResult, Reading, Uplink

log = structlog.get_logger()

LOOK_INTERVAL_S: Final = 0.5
"""How often the drain's results and the debounce are looked at, in seconds."""
PROBE_JITTER: Final = 0.2
"""Each pause between two probes is up to this share shorter, never longer, so that venues do not probe in step."""
CONFIRM_INTERVAL_S: Final = 3.0
"""Longest pause between probes while an offline is fresh and people do not read it yet, in seconds."""
EXAMINE_FIRST_S: Final = 5.0
"""Pause before all layers are looked at again while offline lasts; doubles up to the setting, in seconds."""
CHANGES_MAX: Final = 1_000
"""So many raw changes are kept in order."""


Failure = tuple[str, int] | None
"""A failed upload that stands: its code, and its number."""


class Probe(Protocol):
    """Asks the cloud whether it is there; over within `timeout_s`, and every failure is a value."""

    async def ask(self, timeout_s: float) -> ProbeResult: ...


class Layers(Protocol):
    """Looks at every layer of the way to the cloud; bounded in time, raises nothing."""

    async def meet_router(self) -> None: ...
    async def examine(self, probed: ProbeResult) -> tuple[Layer, ...]: ...


class Drain(Protocol):
    """Who uploads: its results are the best evidence."""

    def facts(self) -> DrainFacts: ...


class Clock(Protocol):
    """Boottime for order and pauses, and what it is in wall time for people."""

    def boottime_s(self) -> float: ...
    def wall_ms_at(self, boottime_s: float) -> int: ...


class Limits(Protocol):
    """The settings that are looked at afresh each time, in seconds."""

    @property
    def probe_interval_s(self) -> float: ...
    @property
    def probe_timeout_s(self) -> float: ...
    @property
    def offline_debounce_s(self) -> float: ...
    @property
    def examine_interval_s(self) -> float: ...


def offline_within_s(limits: Limits) -> float:
    """Longest time from a dead link until people read "offline", in seconds, while nothing is uploaded."""
    return limits.probe_interval_s + max(limits.probe_timeout_s, limits.offline_debounce_s) + 3 * LOOK_INTERVAL_S


class Monitor:
    """The uplink's stage. `reached` is called when the cloud answers while the drain sits out a pause for no answer."""

    def __init__(
        self,
        probe: Probe,
        drain: Drain,
        clock: Clock,
        limits: Callable[[], Limits],
        chance: Callable[[], float],
        reached: Callable[[], None] = lambda: None,
        layers: Layers | None = None,
    ) -> None:
        self.name = "uplink"
        self._layers = layers
        self._failed: ProbeResult | None = None
        """How the last probe ended, while nothing gets through."""
        self._examine_now = asyncio.Event()
        self._examine_now.set()
        self._on_probe: list[Callable[[bool, float], None]] = []
        self._on_raw: list[Callable[[Reading], None]] = []
        self._probe = probe
        self._drain = drain
        self._clock = clock
        self._limits = limits
        self._chance = chance
        self._reached = reached
        self._uplink = machine.start(clock.boottime_s())
        self._facts = self._told(self._uplink.shown)
        self._exchanges_count = 0
        self._failure: Failure = None
        self._news_s = 0.0
        self._jitter = 0.0
        self._probe_now = asyncio.Event()
        self._probe_now.set()
        self._asking: asyncio.Timeout | None = None
        self._listeners: list[Callable[[], None]] = []
        self._changes: deque[Reading] = deque([self._uplink.raw], maxlen=CHANGES_MAX)

    def facts(self) -> UplinkFacts:
        """What people are shown: "offline" only once it has lasted."""
        return self._facts

    def raw(self) -> Reading:
        """What the evidence says this moment, not debounced."""
        return self._uplink.raw

    def changes(self) -> tuple[Reading, ...]:
        """The latest raw changes, oldest first, none of them debounced."""
        return tuple(self._changes)

    def on_change(self, listener: Callable[[], None]) -> None:
        """`listener` is called after every change of `facts()`; it must not block."""
        self._listeners.append(listener)

    def on_probe(self, listener: Callable[[bool, float], None]) -> None:
        """`listener` is called after every probe: whether the cloud's health answered, and when."""
        self._on_probe.append(listener)

    def on_raw(self, listener: Callable[[Reading], None]) -> None:
        """`listener` is called with every change of the raw state, none of them debounced."""
        self._on_raw.append(listener)

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Watch until `stop`; a probe in flight is abandoned then."""
        # What the drain reached before says nothing about now.
        self._exchanges_count = self._drain.facts().exchanges_count
        async with asyncio.TaskGroup() as group:
            watchers = (
                group.create_task(self._keep_looking(), name="uplink-look"),
                group.create_task(self._keep_probing(), name="uplink-probe"),
                group.create_task(self._keep_examining(), name="uplink-examine"),
            )
            ready()
            await stop.wait()
            for watcher in watchers:
                watcher.cancel()

    async def _keep_looking(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _look(self) -> None:
        """Take in what the drain did since the last look, let time pass, and see whether a probe is due."""
        facts, at_s, limits = self._drain.facts(), self._clock.boottime_s(), self._limits()
        debounce_s = limits.offline_debounce_s
        failure = _standing_failure(facts)
        if facts.exchanges_count != self._exchanges_count:
            self._exchanges_count = facts.exchanges_count
            self._news_s = at_s
            heard = machine.upload_succeeded if failure is None else machine.upload_answered
            self._adopt(heard(self._uplink, at_s, debounce_s))
            self._abandon_probe()
        if failure != self._failure:
            self._failure = failure
            self._adopt(_with_failure(self._uplink, failure, at_s, debounce_s))
            if failure is not None:
                self._probe_now.set()
        self._adopt(machine.passed_time(self._uplink, at_s, debounce_s))
        if at_s - self._news_s >= self._pause_s(limits.probe_interval_s):
            self._probe_now.set()

    def _pause_s(self, interval_s: float) -> float:
        """How long no news is good enough: shorter while an offline is fresh and people do not read it yet."""
        shown_late = self._uplink.raw.state != self._uplink.shown.state
        wanted_s = min(interval_s, CONFIRM_INTERVAL_S) if shown_late else interval_s
        return wanted_s * (1 - self._jitter)

    async def _keep_probing(self) -> None:
        while True:
            await self._probe_now.wait()
            began_s = self._clock.boottime_s()
            try:
                async with asyncio.timeout(None) as self._asking:
                    result = await self._probe.ask(self._limits().probe_timeout_s)
            except TimeoutError:
                continue
            finally:
                self._asking = None
            self._take_probe(result, began_s)
            self._jitter = PROBE_JITTER * self._chance()
            self._probe_now.clear()

    def _abandon_probe(self) -> None:
        """The cloud has just answered an upload, which outweighs a probe that began before: the pause begins anew.

        Waiting for it would put off the next one, whose failure will count.
        """
        self._probe_now.clear()
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.reschedule(asyncio.get_running_loop().time())

    def _take_probe(self, result: ProbeResult, began_s: float) -> None:
        at_s = self._news_s = self._clock.boottime_s()
        log.debug("uplink_probed", outcome=result.outcome, detail=result.detail, took_s=round(at_s - began_s, 3))
        self._adopt(machine.probed(self._uplink, result, began_s, at_s, self._limits().offline_debounce_s))
        self._note_failed(None if result.outcome == "passed" else result)
        for listener in self._on_probe:
            listener(result.outcome == "passed", at_s)
        if result.outcome == "passed" and self._failure is not None and machine.worth_retrying(self._failure[0]):
            self._reached()

    # What exactly is wrong --------------------------------------------------------------------------------------------

    def _note_failed(self, result: ProbeResult | None) -> None:
        before, self._failed = self._failed, result
        if (before and before.outcome) != (result and result.outcome):
            self._examine_now.set()

    async def _keep_examining(self) -> None:
        """Look at all layers whenever a probe fails in another way than before, and again while that lasts; at the
        router alone at the start and once all is well again."""
        pause_s = EXAMINE_FIRST_S
        while True:
            due = self._examine_now.is_set() or self._failed is not None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s if due else None):
                    await self._examine_now.wait()
                    pause_s = EXAMINE_FIRST_S
            self._examine_now.clear()
            failed = self._failed
            if self._layers is None:
                continue
            if failed is None:
                pause_s = EXAMINE_FIRST_S
                await self._layers.meet_router()
                continue
            found = judge(await self._layers.examine(failed))
            at_s, limits = self._clock.boottime_s(), self._limits()
            log.debug("uplink_examined", outcome=failed.outcome, finding=found.finding)
            self._adopt(machine.diagnosed(self._uplink, failed.outcome, found, at_s, limits.offline_debounce_s))
            pause_s = min(2 * pause_s, limits.examine_interval_s)

    def _adopt(self, uplink: Uplink) -> None:
        before, self._uplink = self._uplink, uplink
        if uplink.raw != before.raw:
            self._changes.append(uplink.raw)
            log.debug("uplink_evidence_changed", state=uplink.raw.state, cause=uplink.raw.cause)
            for heard in self._on_raw:
                heard(uplink.raw)
        if uplink.blocked is None and self._failed is not None:
            self._failed = None
            self._examine_now.set()
        facts = self._told(uplink.shown)
        if facts == self._facts:
            return
        self._facts = facts
        if uplink.shown != before.shown:
            self._log_change(before.shown, uplink.shown)
        for listener in self._listeners:
            listener()

    def _told(self, shown: Reading) -> UplinkFacts:
        """`shown` with its beginning in wall time, as the wall clock is known now."""
        since = to_text(self._clock.wall_ms_at(shown.since_s))
        return UplinkFacts(state=shown.state, cause=shown.cause, since=since, finding=shown.finding)

    def _log_change(self, before: Reading, now: Reading) -> None:
        if now.state == "online":
            log.info("uplink_online", was=before.state, was_cause=before.cause, lasted_s=_lasted_s(before, now))
        elif (before.state, before.cause) == ("offline", "none") or before.state != now.state:
            log.warning(
                "uplink_lost" if now.state == "offline" else "uplink_degraded", cause=now.cause, finding=now.finding
            )
        else:
            log.info(
                "uplink_cause_changed",
                state=now.state,
                cause=now.cause,
                finding=now.finding,
                was_cause=before.cause,
            )


def _standing_failure(facts: DrainFacts) -> Failure:
    """The failed attempt that stands, told from the next one by its number; None when nothing is left to send."""
    if facts.state == "idle" or facts.error_code is None:
        return None
    return facts.error_code, facts.failures_count


def _with_failure(uplink: Uplink, failure: Failure, at_s: float, debounce_s: float) -> Uplink:
    cause = None if failure is None else machine.upload_cause(failure[0])
    if cause is None:
        return machine.upload_failure_lifted(uplink, at_s, debounce_s)
    assert failure is not None
    answered = not machine.worth_retrying(failure[0])
    return machine.upload_failed(uplink, cause, at_s, debounce_s, answered=answered)


def _lasted_s(before: Reading, now: Reading) -> int:
    return round(now.since_s - before.since_s)
