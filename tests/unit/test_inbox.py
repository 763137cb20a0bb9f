"""How often the stream of commands is opened, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from agent.core.commands import Command
from agent.orders.inbox import Inbox
from tests.unit.test_uplink_in_time import virtually


class Cut:
    """A cloud, or a proxy before it, that opens each stream and ends it after `lives_s`."""

    def __init__(self, lives_s: float) -> None:
        self.opened_s: list[float] = []
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


@pytest.mark.parametrize(("lives_s", "pause_s"), [(0.1, 60), (20, 1)])
def test_a_stream_that_is_cut_again_and_again_is_opened_less_and_less_often(lives_s: float, pause_s: float) -> None:
    async def hour() -> list[float]:
        cut, stop = Cut(lives_s), asyncio.Event()
        asyncio.get_running_loop().call_later(3600, stop.set)
        await Inbox(cut, cut, cut, lambda: 1.0).run(lambda: None, stop)
        return cut.opened_s

    opened_s = virtually(hour())
    assert opened_s[-1] - opened_s[-2] == pytest.approx(lives_s + pause_s)
