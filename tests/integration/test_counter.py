"""What the cloud's counter and a plain host on the internet say, over real sockets: read whole, however it comes."""

import asyncio
from types import SimpleNamespace

import pytest

from agent.cloud.layers import Layers
from agent.cloud.requests import ANSWER_BYTES_MAX, Counter
from agent.core.errors import Transient
from agent.core.uplink import ProbeResult
from agent.runtime.clock import Clock
from tests.integration.test_probe import Answer, answering, listening

DONE = b'{"status":"ok","result":{"points":3},"reason":null}'


def in_pieces(body: bytes, content_type: str) -> Answer:
    """The answer in two pieces, as a network may cut it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:9])
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.write(body[9:])
        await writer.drain()

    return answer


async def test_a_redemption_whose_answer_comes_in_pieces_is_heard_as_done() -> None:
    async with listening(in_pieces(DONE, "application/json")) as port:
        counter = Counter(f"http://127.0.0.1:{port}", "demo", lambda: "")
        try:
            found = await counter.ask("loyalty.redeem", "r1", "till-1", {"points": 2}, 5)
        finally:
            await counter.close()
    assert (found.status, found.result) == ("ok", {"points": 3})


async def test_an_answer_without_end_is_no_answer_and_nobody_knows_what_was_done() -> None:
    async with listening(answering("200 OK", "application/json", b" " * (ANSWER_BYTES_MAX + 1))) as port:
        counter = Counter(f"http://127.0.0.1:{port}", "demo", lambda: "")
        try:
            with pytest.raises(Transient, match="longer than"):
                await counter.ask("loyalty.redeem", "r1", "till-1", {"points": 2}, 5)
        finally:
            await counter.close()


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (in_pieces(b"this is the internet\n", "text/plain"), "ok"),
        (in_pieces(b"this is the internet, after you log in", "text/plain"), "failed"),
        (answering("302 Found", "text/plain", b"", "Location: http://login.test/"), "failed"),
        (answering("511 Login", "text/plain", b""), "failed"),
        (answering("503 Down", "text/html", b"<h1>down</h1>"), "unknown"),
        (answering("429 Slow", "text/plain", b""), "unknown"),
    ],
)
async def test_A1_7_a_login_page_is_told_by_its_body_and_never_by_a_plain_host_that_fails_itself(
    answer: Answer, verdict: str
) -> None:
    async with listening(answer) as port:
        limits = SimpleNamespace(
            layer_timeout_s=2.0,
            portal_url=f"http://127.0.0.1:{port}/",
            portal_answer="this is the internet",
            other_hosts=(),
        )
        layers = Layers("https://192.0.2.1", Clock(), lambda: limits, lambda: ("192.0.2.2",))
        seen = await layers.examine(ProbeResult("no_answer"))
    assert {one.name: one.verdict for one in seen}["portal"] == verdict
