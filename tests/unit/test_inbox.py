"""How often the stream of commands is opened, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from agent.core.commands import Command
from agent.orders.inbox import Inbox
from tests.unit.test_uplink_in_time import virtually


class Cut:
    """A cloud, or a proxy before it, that opens each stream and ends it after `lives_s`."""

    def __init__(self, lives_s: float) -> None:
        self.opened_s: list[float] = []
        self.held: dict[str, tuple[str, ...]] = {}
        self._lives_s = lives_s

    async def listen(self, cursor: str, take: Callable[[list[Any]], Awaitable[None]]) -> None:
        self.opened_s.append(asyncio.get_running_loop().time())
        await take([])
        await asyncio.sleep(self._lives_s)

    async def cursor(self) -> str:
        return ""

    async def keep(self, commands: Sequence[Command], cursor: str) -> Sequence[Command]:
        return commands

    def happened(self, *words: str) -> None:
        raise AssertionError(words)

    def hold(self, *words: str) -> None:
        self.held[words[0]] = words

    def lift(self, id: str) -> None:
        self.held.pop(id, None)


class Refusing(Cut):
    """A cloud that answers with a status until `until_s`, and then opens the stream."""

    def __init__(self, status: int, until_s: float) -> None:
        super().__init__(600)
        self._status = status
        self._until_s = until_s

    async def listen(self, cursor: str, take: Callable[[list[Any]], Awaitable[None]]) -> Any:
        if asyncio.get_running_loop().time() < self._until_s:
            return SimpleNamespace(status=self._status, wait_s=None)
        await super().listen(cursor, take)
        return None


@pytest.mark.parametrize(("lives_s", "pause_s"), [(0.1, 60), (20, 1)])
def test_a_stream_that_is_cut_again_and_again_is_opened_less_and_less_often(lives_s: float, pause_s: float) -> None:
    async def hour() -> list[float]:
        cut, stop = Cut(lives_s), asyncio.Event()
        asyncio.get_running_loop().call_later(3600, stop.set)
        await Inbox(cut, cut, cut, lambda: 1.0).run(lambda: None, stop)
        return cut.opened_s

    opened_s = virtually(hour())
    assert opened_s[-1] - opened_s[-2] == pytest.approx(lives_s + pause_s)


@pytest.mark.parametrize(("status", "told"), [(401, True), (403, True), (404, False), (429, False), (503, False)])
def test_a_cloud_that_refuses_the_stream_for_long_is_told_until_it_opens_it(status: int, told: bool) -> None:
    async def run() -> list[bool]:
        cloud, stop, seen = Refusing(status, 2_000), asyncio.Event(), []
        loop = asyncio.get_running_loop()
        for at_s in (800, 1_800, 2_800):
            loop.call_later(at_s, lambda: seen.append("commands_refused" in cloud.held))
        loop.call_later(3_000, stop.set)
        await Inbox(cloud, cloud, cloud, lambda: 1.0).run(lambda: None, stop)
        return seen

    assert virtually(run()) == [False, told, False]
