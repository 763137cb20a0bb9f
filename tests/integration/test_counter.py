"""What the cloud's counter, its login and a plain host say, over real sockets: read whole, however it comes."""

import asyncio
import json
import subprocess
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from agent.cloud.layers import Layers
from agent.cloud.requests import ANSWER_BYTES_MAX, Counter
from agent.core.errors import Transient
from agent.core.uplink import ProbeResult
from agent.runtime.clock import Clock
from tests.integration.machine import NIGHTSAFE, Box
from tests.integration.sink import Answers
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


PROBLEM = b'{"type":"urn:nightsafe:unauthorized","title":"Unauthorized","status":401}'


@pytest.mark.parametrize(
    ("status", "kind", "body", "code"),
    [
        ("401 Unauthorized", "application/problem+json", PROBLEM, "unsent"),
        ("429 Slow", "application/problem+json", PROBLEM, "unsent"),
        ("401 Unauthorized", "text/html", b"<h1>log in</h1>", "not_an_answer"),
        ("503 Down", "application/problem+json", PROBLEM, "not_an_answer"),
    ],
)
async def test_only_a_cloud_that_says_so_itself_has_not_begun(status: str, kind: str, body: bytes, code: str) -> None:
    """A revoked token leaves no guest's card in doubt; whatever stands between box and cloud proves nothing."""
    async with listening(answering(status, kind, body)) as port:
        counter = Counter(f"http://127.0.0.1:{port}", "demo", lambda: "t")
        try:
            with pytest.raises(Transient) as failed:
                await counter.ask("card.authorize", "r1", "till-1", {}, 5)
        finally:
            await counter.close()
    assert failed.value.code == code


async def test_an_answer_that_is_nested_too_deep_is_no_answer_and_ends_no_desk() -> None:
    deep = b'{"status":"ok","result":' + b'{"a":' * 900 + b"1" + b"}" * 901
    async with listening(answering("200 OK", "application/json", deep)) as port:
        counter = Counter(f"http://127.0.0.1:{port}", "demo", lambda: "")
        try:
            with pytest.raises(Transient, match="nested too deeply"):
                await counter.ask("loyalty.redeem", "r1", "till-1", {"points": 2}, 5)
        finally:
            await counter.close()


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


@pytest.mark.parametrize(
    ("status", "token", "exit_code", "login"),
    [
        (404, "a token", 0, ("ok", "")),
        (401, "a token", 1, ("failed", "status 401")),
        (503, "a token", 0, ("unknown", "status 503: the cloud did not say")),
        (404, "", 1, ("failed", "no token can be read from ")),
    ],
)
def test_A1_7_netcheck_says_that_a_token_is_taken_only_when_the_cloud_has_said_so(
    new_box: Callable[..., Box], status: int, token: str, exit_code: int, login: tuple[str, str]
) -> None:
    health = b'{"status":"pass","cloud":"test","time":"2026-11-22T10:15:00.131Z"}'
    problem = b'{"type":"urn:nightsafe:no-stream","title":"none","status":%d}' % status

    def answer(method: str, path: str) -> tuple[int, str, bytes]:
        good = path == "/v1/health"
        return (200, "application/json", health) if good else (status, "application/problem+json", problem)

    cloud = Answers(answer)
    try:
        box = new_box(cloud.url, cloud={"token_file": "token"})
        box.write_config()
        if token:
            file = box.directory / "token"
            file.write_text(token)
            file.chmod(0o600)
        command = [*NIGHTSAFE, "netcheck", "--config", str(box.config), "--json"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        cloud.close()
    assert shown.returncode == exit_code, shown.stderr
    found = next(one for one in json.loads(shown.stdout)["layers"] if one["layer"] == "login")
    assert (found["verdict"], found["seen"][: len(login[1])]) == login
