"""The uplink's stage over a real probe and a cloud that comes and goes."""

import asyncio

import msgspec
import pytest

from agent.cloud.probe import CloudProbe
from agent.core.facts import DrainFacts
from agent.core.instants import to_ms
from agent.core.uplink import ProbeResult
from agent.runtime.clock import Clock
from agent.uplink import monitor as stage
from agent.uplink.monitor import Monitor
from tests.integration.box import running, until

IDLE = DrainFacts("idle", 0.0, 50, 0, 0, None, None, None, None)
WAITING = msgspec.structs.replace(IDLE, state="waiting", error_code="unreachable", failures_count=1)


class Limits(msgspec.Struct):
    """Everything happens fast here."""

    probe_interval_s: float = 0.05
    probe_timeout_s: float = 5.0
    offline_debounce_s: float = 0.2


class Drain:
    """A drain that has just these facts."""

    def __init__(self) -> None:
        self.now = IDLE

    def facts(self) -> DrainFacts:
        return self.now


class Steady:
    """A probe that always finds the same, and counts."""

    def __init__(self, outcome: str) -> None:
        self.result = ProbeResult(outcome)  # type: ignore[arg-type]
        self.count = 0

    async def ask(self, timeout_s: float) -> ProbeResult:
        self.count += 1
        return self.result


class ShiftedClock(Clock):
    """The machine's clock, its wall time set by somebody."""

    shift_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.shift_ms


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "LOOK_INTERVAL_S", 0.01)


async def cloud(port: int = 0) -> asyncio.Server:
    """A cloud that passes every probe."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"status":"pass","cloud":"demo","time":"2026-11-22T10:15:00.131Z"}'
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", port)


def state(monitor: Monitor) -> tuple[str, str]:
    return monitor.facts().state, monitor.facts().cause


async def test_A1_5_the_state_follows_a_cloud_that_goes_and_comes_back_and_listeners_hear_of_it() -> None:
    server = await cloud()
    port = server.sockets[0].getsockname()[1]
    monitor = Monitor(CloudProbe(f"http://127.0.0.1:{port}"), Drain(), Clock(), Limits, lambda: 0.5)
    heard: list[tuple[str, str]] = []
    monitor.on_change(lambda: heard.append(state(monitor)))
    assert state(monitor) == ("offline", "none")
    async with running(monitor):
        await until(lambda: state(monitor) == ("online", "none"))
        server.close()
        await until(lambda: state(monitor) == ("offline", "cloud"))
        server = await cloud(port)
        await until(lambda: state(monitor) == ("online", "none"))
        server.close()
    assert heard == [("online", "none"), ("offline", "cloud"), ("online", "none")]
    raw = [(one.state, one.cause) for one in monitor.changes()]
    assert raw[:4] == [("offline", "none"), ("online", "none"), ("offline", "cloud"), ("online", "none")]


async def test_A1_6_an_upload_that_succeeds_ends_offline_even_if_every_probe_fails() -> None:
    drain, limits = Drain(), Limits(probe_interval_s=3600.0)
    monitor = Monitor(Steady("unreachable"), drain, Clock(), lambda: limits, lambda: 0.5)
    async with running(monitor):
        await until(lambda: state(monitor) == ("offline", "link"))
        drain.now = msgspec.structs.replace(IDLE, exchanges_count=1)
        await until(lambda: state(monitor) == ("online", "none"))


async def test_a_success_from_before_the_start_says_nothing_about_now() -> None:
    drain, probe = Drain(), Steady("unreachable")
    drain.now = msgspec.structs.replace(IDLE, exchanges_count=1)
    monitor = Monitor(probe, drain, Clock(), Limits, lambda: 0.5)
    async with running(monitor):
        await until(lambda: probe.count > 2)
    assert all(one.state == "offline" for one in monitor.changes())


async def test_no_probe_is_sent_while_uploads_bring_news() -> None:
    drain, probe, limits = Drain(), Steady("passed"), Limits(probe_interval_s=0.5)
    monitor = Monitor(probe, drain, Clock(), lambda: limits, lambda: 0.5)
    async with running(monitor):
        await until(lambda: probe.count == 1)
        for number in range(100):
            drain.now = msgspec.structs.replace(IDLE, state="syncing", exchanges_count=number)
            await asyncio.sleep(0.01)
        assert probe.count == 1
        await until(lambda: probe.count == 2)


@pytest.mark.parametrize(("code", "woken"), [("unreachable", True), ("cloud_503", False)])
async def test_A1_2_a_drain_that_got_no_answer_is_woken_when_the_cloud_answers(code: str, woken: bool) -> None:
    drain, probe, calls = Drain(), Steady("passed"), []
    drain.now = msgspec.structs.replace(WAITING, error_code=code)
    monitor = Monitor(probe, drain, Clock(), Limits, lambda: 0.5, lambda: calls.append(1))
    async with running(monitor):
        await until(lambda: probe.count > 3)
    assert bool(calls) is woken
    assert monitor.facts().state == "degraded"


async def test_a_drain_with_nothing_left_to_send_has_no_failure_that_stands() -> None:
    drain = Drain()
    drain.now = WAITING
    monitor = Monitor(Steady("passed"), drain, Clock(), Limits, lambda: 0.5)
    async with running(monitor):
        await until(lambda: state(monitor) == ("degraded", "link"))
        drain.now = IDLE
        await until(lambda: state(monitor) == ("online", "none"))


async def test_a_stop_does_not_wait_for_a_probe_in_flight() -> None:
    class Endless:
        async def ask(self, timeout_s: float) -> ProbeResult:
            await asyncio.Event().wait()
            raise AssertionError

    async with running(Monitor(Endless(), Drain(), Clock(), Limits, lambda: 0.5)):
        await asyncio.sleep(0.05)


async def test_since_is_told_anew_when_somebody_sets_the_wall_clock() -> None:
    clock = ShiftedClock()
    monitor = Monitor(Steady("passed"), Drain(), clock, Limits, lambda: 0.5)
    async with running(monitor):
        await until(lambda: state(monitor) == ("online", "none"))
        since_ms = to_ms(monitor.facts().since)
        await asyncio.sleep(0.05)
        assert to_ms(monitor.facts().since) == since_ms
        clock.shift_ms = 3_600_000
        await until(lambda: to_ms(monitor.facts().since) != since_ms)
    assert abs(to_ms(monitor.facts().since) - since_ms - 3_600_000) < 100
