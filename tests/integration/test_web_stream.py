"""The status as server-sent events, over real sockets."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.core.facts import UplinkFacts
from agent.web import server, stream
from agent.web.server import LIFE_S_MAX, Place, Web
from tests.integration.box import Box, serving

PATH = "/api/v1/events/stream"


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ns-") as directory:
        yield Path(directory)


@pytest.fixture
async def url(box: Box, state: Path) -> AsyncIterator[str]:
    async with serving(Web(box, (Place("127.0.0.1", 0),), state)) as address:
        yield address


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
        yield client


async def line(answer: aiohttp.ClientResponse, name: str) -> Any:
    """What the next line of this name says."""
    async with asyncio.timeout(10):
        async for raw in answer.content:
            found, _, value = raw.decode().rstrip("\n").partition(": ")
            if found == name:
                return json.loads(value) if name == "data" else value
    raise AssertionError(f"it ended without {name}")


async def test_A1_10_a_change_is_pushed_to_who_follows_within_two_seconds(
    url: str, box: Box, session: aiohttp.ClientSession
) -> None:
    async with session.get(url + PATH) as answer:
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert await line(answer, "event") == "status"
        first = await line(answer, "data")
        assert (first["venue"], first["state"]) == ("demo", "online")
        box.uplink = UplinkFacts("offline", "link", "2026-11-22T10:15:00.000Z", "no_carrier")
        began_s = asyncio.get_running_loop().time()
        assert (await line(answer, "data"))["cause"] == "link"
        assert asyncio.get_running_loop().time() - began_s < 2


async def test_nothing_changes_so_nothing_is_said_but_a_comment(
    url: str, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "COMMENT_INTERVAL_S", 0.6)
    monkeypatch.setattr(stream, "STREAM_S_MAX", 2.0)
    async with session.get(url + PATH) as answer:
        said = (await answer.read()).decode()
    assert said.count("event: status") == 1
    assert said.count("\n:\n") >= 1
    assert said.startswith("retry: ")


def test_a_stream_ends_by_itself_before_its_connection_is_ended() -> None:
    assert stream.STREAM_S_MAX + stream.COMMENT_INTERVAL_S < LIFE_S_MAX


async def test_followers_leave_room_for_others_and_give_their_place_back(
    url: str, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "COMMENT_INTERVAL_S", 0.1)
    async with AsyncExitStack() as stack:
        for _ in range(stream.STREAMS_MAX):
            answer = await stack.enter_async_context(session.get(url + PATH))
            await line(answer, "event")
        async with session.get(url + PATH) as one_more:
            assert one_more.status == 503
        async with session.get(url + "/livez") as others:
            assert others.status == 200
    async with asyncio.timeout(10):
        while True:
            async with session.get(url + PATH) as again:
                if again.status == 200:
                    return
            await asyncio.sleep(0.05)


async def test_a_stop_waits_for_no_follower(
    box: Box, state: Path, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLOSE_S_MAX", 15.0)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(Web(box, (Place("127.0.0.1", 0),), state)))
        answer = await stack.enter_async_context(session.get(url + PATH))
        await line(answer, "event")
        leave = stack.pop_all()
    began_s = asyncio.get_running_loop().time()
    await leave.aclose()
    assert asyncio.get_running_loop().time() - began_s < 10
