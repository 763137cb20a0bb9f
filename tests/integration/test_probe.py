"""The probe believes only the cloud's own answer, whatever else answers on the way."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trustme

from agent.cloud.lookup import Lookup
from agent.cloud.probe import ANSWER_BYTES_MAX, CloudProbe

HEALTH = b'{"status":"pass","cloud":"demo","time":"2026-11-22T10:15:00.131Z"}'
TIMEOUT_S = 5.0
SHORT_S = 0.3

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A real server on a free port that answers every connection with `answer`; gives the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(status: str, content_type: str, body: bytes, *headers: str, seen: list[bytes] | None = None) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        head = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return answer


async def outcome(answer: Answer, timeout_s: float = TIMEOUT_S) -> str:
    async with listening(answer) as port:
        return (await CloudProbe(f"http://127.0.0.1:{port}").ask(timeout_s)).outcome


async def test_the_clouds_own_answer_passes_and_the_probe_says_nothing_about_the_venue() -> None:
    seen: list[bytes] = []
    assert await outcome(answering("200 OK", "application/json; charset=utf-8", HEALTH, seen=seen)) == "passed"
    assert seen[0].startswith(b"GET /v1/health HTTP/1.1\r\n")
    assert b"authorization" not in seen[0].lower()


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        ("200 OK", "text/html", b"<html>Please log in</html>"),
        ("200 OK", "text/html", HEALTH),
        ("200 OK", "application/json", b"<html>Please log in</html>"),
        ("200 OK", "application/json", b'{"status":"ok"}'),
        ("200 OK", "application/json", b"[" * 3000),
        ("204 No Content", "application/json", b""),
        ("404 Not Found", "application/problem+json", b"{}"),
        ("511 Network Authentication Required", "text/html", b"<html>Please log in</html>"),
    ],
)
async def test_what_is_not_the_clouds_answer_never_counts(status: str, content_type: str, body: bytes) -> None:
    assert await outcome(answering(status, content_type, body)) == "not_health"


async def test_a_redirect_is_not_followed() -> None:
    followed: list[bytes] = []
    async with listening(answering("200 OK", "application/json", HEALTH, seen=followed)) as good:
        location = f"Location: http://127.0.0.1:{good}/v1/health"
        assert await outcome(answering("302 Found", "text/html", b"", location)) == "not_health"
    assert followed == []


@pytest.mark.parametrize("status", ["500 Oops", "503 Service Unavailable", "429 Too Many Requests"])
async def test_a_cloud_that_answers_with_an_error_is_told_from_a_way_that_fails(status: str) -> None:
    assert await outcome(answering(status, "application/problem+json", b"{}")) == "server_error"


async def test_a_cloud_that_says_it_fails_has_not_passed() -> None:
    body = HEALTH.replace(b"pass", b"fail")
    assert await outcome(answering("200 OK", "application/json", body)) == "server_error"


async def test_a_huge_body_is_not_read() -> None:
    written = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n")
        while written < 1_000_000_000:
            writer.write(b" " * 65_536)
            await writer.drain()
            written += 65_536

    assert await outcome(answer) == "not_health"
    assert ANSWER_BYTES_MAX < written < 100_000_000


async def test_a_huge_header_is_not_read() -> None:
    assert await outcome(answering("200 OK", "application/json", HEALTH, "X-Long: " + "x" * 100_000)) == "not_health"


async def test_silence_after_the_connection_stood_is_no_answer() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    assert await outcome(silent, SHORT_S) == "no_answer"


async def test_an_answer_that_trickles_in_has_an_end() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    assert await outcome(trickle, SHORT_S) == "no_answer"


async def test_a_cut_after_the_connection_stood_is_no_answer() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        await writer.drain()

    assert await outcome(cut) == "no_answer"


async def test_bytes_that_are_no_http_never_count() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0 hello\r\n\r\n")
        await writer.drain()
        await reader.read()

    assert await outcome(garbage) == "not_health"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection_is_told_from_a_way_that_fails(host: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        result = await CloudProbe(f"http://{host}:{port}").ask(TIMEOUT_S)
    assert (result.outcome, result.detail) == ("refused", "ECONNREFUSED")


async def test_a_connection_that_never_comes_about_is_unreachable() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        async with AsyncExitStack() as waiting:  # the queue of one is full: further SYNs are dropped
            for _ in range(2):
                knocker = waiting.enter_context(socket.socket())
                knocker.setblocking(False)
                knocker.connect_ex(("127.0.0.1", port))
            await asyncio.sleep(0.05)
            assert (await CloudProbe(f"http://127.0.0.1:{port}").ask(SHORT_S)).outcome == "unreachable"


async def test_a_name_that_does_not_exist_is_a_failed_lookup() -> None:
    assert (await CloudProbe("http://cloud.invalid").ask(TIMEOUT_S)).outcome == "lookup_failed"


async def test_a_resolver_that_hangs_is_a_failed_lookup_and_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    loop = asyncio.get_running_loop()
    free = asyncio.Event()

    def hang(*_: object, **__: object) -> list[object]:
        nonlocal asked
        asked += 1
        asyncio.run_coroutine_threadsafe(free.wait(), loop).result()
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", hang)
        probe = CloudProbe("http://cloud.example")
        for _ in range(3):
            assert (await probe.ask(0.1)).outcome == "lookup_failed"
        assert asked == 1
        free.set()
        with pytest.raises(socket.gaierror):
            await Lookup().resolve("cloud.example", 80)


async def test_a_certificate_that_nobody_trusts_is_a_tls_failure_and_a_trusted_one_passes() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with listening(answering("200 OK", "application/json", HEALTH), server) as port:
        assert (await CloudProbe(f"https://127.0.0.1:{port}").ask(TIMEOUT_S)).outcome == "tls_failed"
        assert (await CloudProbe(f"https://127.0.0.1:{port}", trusting).ask(TIMEOUT_S)).outcome == "passed"
        assert (await CloudProbe(f"https://localhost:{port}", trusting).ask(TIMEOUT_S)).outcome == "tls_failed"


async def test_a_cut_handshake_is_a_tls_failure() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)

    async with listening(cut) as port:
        assert (await CloudProbe(f"https://127.0.0.1:{port}").ask(TIMEOUT_S)).outcome == "tls_failed"
