"""A body that is sent bit by bit: it may pause, and it may not go on for ever."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agent.web import body


class Dripping:
    """One byte at a time, `count` of them, with a pause before each."""

    def __init__(self, count: int, pause_s: float) -> None:
        self.left_count = count
        self.pause_s = pause_s

    async def readany(self) -> bytes:
        await asyncio.sleep(self.pause_s)
        self.left_count -= 1
        return b"x" if self.left_count >= 0 else b""


def request(content: Dripping) -> Any:
    return SimpleNamespace(content_length=None, content=content)


async def test_pauses_are_borne_and_the_whole_has_its_own_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await body.read(request(Dripping(3, 0.01)), 100, 5.0) == b"xxx"
    monkeypatch.setattr(body, "BODY_S_MAX", 0.2)
    with pytest.raises(body.Unreadable) as late:
        await body.read(request(Dripping(1_000_000, 0.01)), 2_000_000, 5.0)
    assert late.value.status == 400
