"""What the cloud tells in quick succession is handed on together."""

import asyncio
from typing import Any

from aiohttp import web

from agent.cloud.downlink import GATHER_S, Downlink, Message

COUNT = 60
GAP_S = 0.01


async def _told(taken: list[list[Message]]) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(COUNT):
            await response.write(f"id: log-{number}\nevent: ping\ndata: {{}}\n\n".encode())
            await asyncio.sleep(GAP_S)
        return response

    async def take(messages: list[Any]) -> None:
        taken.append(messages)

    app = web.Application()
    app.router.add_get("/v1/venues/demo/commands", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        await Downlink(f"http://127.0.0.1:{port}", "demo", lambda: "").listen("", take)
    finally:
        await runner.cleanup()


def test_commands_in_quick_succession_are_handed_on_together_and_in_order() -> None:
    """Each handing on is a commit with its own sync: sixty of them would be sixty waits for a sale beside them."""
    taken: list[list[Message]] = []
    asyncio.run(_told(taken))
    assert [one.cursor for messages in taken for one in messages] == [f"log-{number}" for number in range(COUNT)]
    assert len(taken) <= COUNT / 4
    assert len(taken[0]) < COUNT / 4, "the first waits for no other"
    assert GATHER_S <= 0.5
