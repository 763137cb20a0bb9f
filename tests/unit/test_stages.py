"""Stages start downstream first, stop in reverse within their budgets, and crash as their kind allows."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.runtime import stages
from agent.runtime.stages import Entry, Pulse, StageCrashed, run_stages

Body = Callable[[Callable[[], None], asyncio.Event], Awaitable[None]]


class Scripted:
    """A stage whose life is a test's function."""

    def __init__(self, name: str, body: Body) -> None:
        self.name = name
        self._body = body

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        await self._body(ready, stop)


class House:
    """A diary of what happened, and the stages that write into it."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.conditions: list[tuple[str, str | None]] = []
        self.stop = asyncio.Event()

    def entry(self, name: str, body: Body, *, vital: bool = True, stop_s: float = 5.0) -> Entry:
        return Entry(Scripted(name, body), vital, stop_s)

    def good(self, name: str, *, vital: bool = True) -> Entry:
        async def body(ready: Callable[[], None], stop: asyncio.Event) -> None:
            self.diary.append(f"{name} up")
            await asyncio.sleep(0)
            ready()
            await stop.wait()
            self.diary.append(f"{name} down")

        return self.entry(name, body, vital=vital)

    def all_ready(self) -> None:
        self.diary.append("ready")

    async def run(self, *entries: Entry, start_max_s: float = 5.0) -> tuple[str, ...]:
        return await run_stages(
            entries,
            self.stop,
            start_max_s=start_max_s,
            all_ready=self.all_ready,
            stopping=lambda: self.diary.append("stopping"),
            condition=lambda stage, text: self.conditions.append((stage, text)),
        )


class StopsWhenReady(House):
    """A house that is asked to stop as soon as it stands."""

    def all_ready(self) -> None:
        super().all_ready()
        self.stop.set()


async def test_stages_start_in_order_and_stop_in_reverse() -> None:
    house = StopsWhenReady()
    late = await house.run(house.good("journal"), house.good("drain"), house.good("gate"))
    assert late == ()
    assert house.diary == [
        "journal up",
        "drain up",
        "gate up",
        "ready",
        "stopping",
        "gate down",
        "drain down",
        "journal down",
    ]


async def test_the_next_stage_starts_only_when_the_one_before_is_ready() -> None:
    house = StopsWhenReady()

    async def slow(ready: Callable[[], None], stop: asyncio.Event) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        house.diary.append("journal ready")
        ready()
        await stop.wait()

    await house.run(house.entry("journal", slow), house.good("gate"))
    assert house.diary[:2] == ["journal ready", "gate up"]


async def test_a_vital_crash_ends_the_process_with_its_cause() -> None:
    house = House()

    async def crashing(ready: Callable[[], None], stop: asyncio.Event) -> None:
        ready()
        await asyncio.sleep(0)
        raise OSError("disk gone")

    with pytest.raises(StageCrashed, match="drain failed: OSError: disk gone") as raised:
        await house.run(house.good("journal"), house.entry("drain", crashing), house.good("gate"))
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.stage == "drain"


async def test_a_vital_crash_before_it_is_ready_starts_nothing_after_it() -> None:
    house = House()

    async def crashing(ready: Callable[[], None], stop: asyncio.Event) -> None:
        raise OSError("no such file")

    with pytest.raises(StageCrashed):
        await house.run(house.entry("journal", crashing), house.good("gate"))
    assert house.diary == []


async def test_a_vital_stage_that_ends_unasked_has_crashed() -> None:
    house = House()

    async def leaving(ready: Callable[[], None], stop: asyncio.Event) -> None:
        ready()

    with pytest.raises(StageCrashed, match="ended without being asked to"):
        await house.run(house.entry("gate", leaving))


async def test_a_vital_stage_that_never_becomes_ready_is_given_up() -> None:
    house = House()

    async def hanging(ready: Callable[[], None], stop: asyncio.Event) -> None:
        await asyncio.Event().wait()

    with pytest.raises(StageCrashed, match=r"was not ready within 0\.01 s"):
        await house.run(house.entry("journal", hanging), house.good("gate"), start_max_s=0.01)
    assert house.diary == []


async def test_an_ancillary_stage_that_never_becomes_ready_holds_nobody_up() -> None:
    house = StopsWhenReady()

    async def hanging(ready: Callable[[], None], stop: asyncio.Event) -> None:
        await stop.wait()

    await house.run(house.entry("web", hanging, vital=False), house.good("gate"), start_max_s=0.01)
    assert house.diary == ["gate up", "ready", "stopping", "gate down"]


async def test_an_ancillary_crash_is_told_and_the_stage_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "RESTART_FIRST_S", 0.0)
    house = House()
    runs = 0

    async def flapping(ready: Callable[[], None], stop: asyncio.Event) -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise OSError("port taken")
        ready()
        house.stop.set()
        await stop.wait()

    await house.run(house.entry("web", flapping, vital=False))
    text = "failed: OSError: port taken."
    assert [(stage, told and told.endswith(text)) for stage, told in house.conditions] == [
        ("web", True),
        ("web", True),
        ("web", None),
    ]


async def test_the_pause_of_a_crashing_ancillary_stage_doubles_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "RESTART_MAX_S", 5.0)
    house = House()
    pauses: list[float] = []

    async def no_wait(event: asyncio.Event, limit_s: float) -> None:
        pauses.append(limit_s)
        if len(pauses) == 5:
            house.stop.set()
            event.set()
        await asyncio.sleep(0)

    async def crashing(ready: Callable[[], None], stop: asyncio.Event) -> None:
        raise OSError("port taken")

    monkeypatch.setattr(stages, "_wait", no_wait)
    await house.run(house.entry("web", crashing, vital=False), start_max_s=99.0)
    assert [pause for pause in pauses if pause != 99.0] == [1.0, 2.0, 4.0, 5.0]


async def test_a_stop_during_the_start_unwinds_what_stands() -> None:
    house = House()

    async def hanging(ready: Callable[[], None], stop: asyncio.Event) -> None:
        house.stop.set()
        await stop.wait()
        house.diary.append("drain down")

    await house.run(house.good("journal"), house.entry("drain", hanging), house.good("gate"))
    assert house.diary == ["journal up", "stopping", "drain down", "journal down"]


async def test_a_stage_that_outstays_its_budget_is_cancelled_and_named() -> None:
    house = StopsWhenReady()

    async def deaf(ready: Callable[[], None], stop: asyncio.Event) -> None:
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            house.diary.append("drain cancelled")

    late = await house.run(house.good("journal"), house.entry("drain", deaf, stop_s=0.01), house.good("gate"))
    assert late == ("drain",)
    assert house.diary[-3:] == ["gate down", "drain cancelled", "journal down"]


async def test_failing_while_stopping_is_named_but_stops_nobody_else() -> None:
    house = StopsWhenReady()

    async def clumsy(ready: Callable[[], None], stop: asyncio.Event) -> None:
        ready()
        await stop.wait()
        raise OSError("already closed")

    late = await house.run(house.good("journal"), house.entry("gate", clumsy))
    assert late == ("gate",)
    assert house.diary[-1] == "journal down"


async def test_a_crash_while_another_stage_stops_still_ends_with_the_crash() -> None:
    house = StopsWhenReady()
    gate_stopping = asyncio.Event()

    async def crashing(ready: Callable[[], None], stop: asyncio.Event) -> None:
        ready()
        await gate_stopping.wait()
        raise OSError("disk gone")

    async def slow(ready: Callable[[], None], stop: asyncio.Event) -> None:
        ready()
        await stop.wait()
        gate_stopping.set()
        await asyncio.Event().wait()

    with pytest.raises(StageCrashed, match="journal failed"):
        await house.run(house.entry("journal", crashing), house.entry("gate", slow))


def test_a_pulse_names_the_stages_that_stopped_beating() -> None:
    now_s = 100.0
    pulse = Pulse(30.0, lambda: now_s)
    drain, gate = pulse.of("drain"), pulse.of("gate")
    assert pulse.stale() == ()
    now_s = 130.0
    gate()
    assert pulse.stale() == ()
    now_s = 130.1
    assert pulse.stale() == ("drain",)
    drain()
    assert pulse.stale() == ()
