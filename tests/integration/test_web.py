"""The local HTTP face over real sockets: what it says, what it refuses, and that nobody can take it down from there."""

import asyncio
import json
import os
import re
import socket
import stat
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.core import status
from agent.core.errors import Held
from agent.core.facts import Condition, UplinkFacts
from agent.web import server
from agent.web.guard import host_allowed
from agent.web.server import Place, Web
from tests.integration.box import Box, serving, until

PATHS = ("/", "/uplink", "/livez", "/readyz", "/readyz?verbose", "/health", "/metrics", "/api/v1/status")


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def state() -> Iterator[Path]:
    """A short path: Unix sockets have no room for a long one."""
    with tempfile.TemporaryDirectory(prefix="ns-") as directory:
        yield Path(directory)


@pytest.fixture
async def url(box: Box, state: Path) -> AsyncIterator[str]:
    async with serving(Web(box, (Place("127.0.0.1", 0),), state, lambda: frozenset({"bar.local"}))) as address:
        yield address


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as client:
        yield client


async def get(session: aiohttp.ClientSession, url: str, **more: Any) -> tuple[int, str]:
    async with session.get(url, **more) as answer:
        return answer.status, await answer.text()


async def raw(url: str, request: bytes) -> bytes:
    """The answer to exact bytes, until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


async def test_the_status_is_the_contracts_json_with_the_details_beside_it(
    url: str, session: aiohttp.ClientSession
) -> None:
    async with session.get(f"{url}/api/v1/status") as answer:
        assert answer.content_type == "application/json"
        body = await answer.json()
    assert body["venue"] == "demo"
    assert body["sync"]["pending"] == 3
    assert body["sync"]["eta_s"] == 2
    assert {"devices", "conditions", "disk", "versions"} <= set(body)
    assert [(one["device"], one["pending"]) for one in body["devices"]] == [("till-1", 1), ("till-2", 2)]


async def test_A1_5_a_change_of_the_uplink_is_in_the_next_answer_with_its_since(
    url: str, box: Box, session: aiohttp.ClientSession
) -> None:
    box.uplink = UplinkFacts(state="offline", cause="link", since="2026-11-22T10:10:00.000Z")
    body = json.loads((await get(session, f"{url}/api/v1/status"))[1])
    assert (body["state"], body["cause"], body["since"]) == ("offline", "link", "2026-11-22T10:10:00.000Z")
    assert "Offline since 10:10" in (await get(session, url))[1]


async def test_the_uplink_is_part_of_neither_liveness_nor_readiness_and_a_warning_in_health(
    url: str, box: Box, session: aiohttp.ClientSession
) -> None:
    assert json.loads((await get(session, f"{url}/health"))[1])["status"] == "pass"
    box.uplink = UplinkFacts(state="offline", cause="link", since="2026-11-22T10:10:00.000Z")
    assert await get(session, f"{url}/livez") == (200, "ok\n")
    assert await get(session, f"{url}/readyz") == (200, "ok\n")
    async with session.get(f"{url}/health") as answer:
        assert (answer.status, answer.content_type) == (200, "application/health+json")
        body = json.loads(await answer.text())
    assert body["status"] == "warn"
    assert body["checks"]["uplink:state"][0] == {
        "status": "warn",
        "observedValue": "offline",
        "time": box.snapshot().status.time,
    }


async def test_a_journal_that_cannot_store_is_not_ready_but_alive(
    url: str, box: Box, session: aiohttp.ClientSession
) -> None:
    box.writable = False
    assert await get(session, f"{url}/livez") == (200, "ok\n")
    assert await get(session, f"{url}/readyz") == (503, "failed\n")
    assert (await get(session, f"{url}/readyz?verbose"))[1] == (
        "[-]journal failed: the disk is full\n[+]loop ok\n[+]writer ok\nfailed\n"
    )
    status_code, body = await get(session, f"{url}/health")
    assert (status_code, json.loads(body)["status"]) == (503, "fail")


async def test_a_writer_that_hangs_is_neither_alive_nor_ready(
    url: str, box: Box, session: aiohttp.ClientSession
) -> None:
    box.turning = False
    assert (await get(session, f"{url}/livez?verbose"))[0] == 503
    assert (await get(session, f"{url}/readyz"))[0] == 503


async def test_A2_1_the_page_shows_the_sentence_the_progress_and_every_device(
    url: str, session: aiohttp.ClientSession
) -> None:
    page = (await get(session, url))[1]
    assert "Online. Sending 3 records to the cloud, less than a minute left." in page
    assert 'value="0.7"' in page
    assert "till-1" in page
    assert "till-2" in page


async def test_A3_7_the_page_says_in_words_what_a_device_did_not_deliver_and_what_is_lost(
    url: str, box: Box, session: aiohttp.ClientSession
) -> None:
    lost = (("<b>", 4, 6),)
    box.devices = (msgspec.structs.replace(box.devices[0], complete=3, gaps=((17, 19),), lost_count=3, lost=lost),)
    async with session.get(url) as answer:
        page = await answer.text()
    assert "till-1 has not delivered its events 17 to 19: it is asked for them." in page
    assert "till-1 has lost 3 events: events 4 to 6 of epoch &lt;b&gt;." in page
    assert "business date 2026-11-22" in page


async def test_what_others_wrote_is_shown_as_text(url: str, box: Box, session: aiohttp.ClientSession) -> None:
    evil = "<script>alert(1)</script>"
    box.conditions = (Condition("x", "critical", True, evil, evil, evil, "2026-11-22T10:00:00.000Z"),)
    page = (await get(session, url))[1]
    assert "Demo &lt;Bar&gt;" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page


async def test_the_page_loads_nothing_and_its_policy_names_its_only_style(
    url: str, session: aiohttp.ClientSession
) -> None:
    async with session.get(url) as answer:
        page, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    linked = re.sub(r'<a href="/[a-z-]*">', "", page)  # a link of this box loads nothing by itself
    assert not re.search(r"<(?:script|link|img|iframe)|\s(?:src|href|action|style|on\w+)\s*=|url\(", linked)
    assert "form-action 'none'" in policy
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert f"'sha256-{b64encode(sha256(style[1].encode()).digest()).decode()}'" in policy


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/api/v1/nothing"])
async def test_every_answer_carries_the_headers_that_keep_other_pages_out(
    url: str, session: aiohttp.ClientSession, path: str
) -> None:
    async with session.get(url + path, headers={"Origin": "https://evil.example"}) as answer:
        headers = answer.headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "nightsafe"
    assert not any(name.lower().startswith("access-control") for name in headers)


@pytest.mark.parametrize("path", PATHS)
async def test_head_answers_as_get_does_without_the_body(url: str, session: aiohttp.ClientSession, path: str) -> None:
    async with session.get(url + path) as answer:
        expected = (answer.status, answer.headers["Content-Type"], answer.headers["Content-Length"])
        assert await answer.read()
    async with session.head(url + path) as answer:
        assert (answer.status, answer.headers["Content-Type"], answer.headers["Content-Length"]) == expected
        assert await answer.read() == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_only_reading_is_allowed(url: str, session: aiohttp.ClientSession, method: str) -> None:
    override = {"X-HTTP-Method-Override": "GET"}
    async with session.request(method, f"{url}/api/v1/status", data=b"{}", headers=override) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
        assert answer.content_type == "application/problem+json"


async def test_errors_below_api_are_problems_and_elsewhere_one_line(url: str, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{url}/api/v1/nothing") as answer:
        assert answer.content_type == "application/problem+json"
        assert json.loads(await answer.text()) == {"type": "about:blank", "title": "Not Found", "status": 404}
    assert await get(session, f"{url}/nothing") == (404, "Not Found\n")


async def test_a_failing_source_is_an_error_without_its_inside(
    url: str, box: Box, session: aiohttp.ClientSession
) -> None:
    box.devices = None  # type: ignore[assignment]
    status_code, body = await get(session, f"{url}/api/v1/status")
    assert status_code == 500
    assert json.loads(body)["title"] == "Internal Server Error"
    assert "Traceback" not in body


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8080", True),
        ("192.168.1.20:8080", True),
        ("[::1]:8080", True),
        ("[fe80::1]", True),
        ("localhost:8080", True),
        ("LOCALHOST", True),
        ("bar.local", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("localhost:evil", False),
        ("localhost:", False),
        ("[::1", False),
        ("[evil.example]", False),
        ("user@127.0.0.1", False),
        ("127.0.0.1, evil.example", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_host_is_an_address_or_one_of_our_names(host: str, allowed: bool) -> None:
    assert host_allowed([host], frozenset({"localhost", "bar.local"})) is allowed


async def test_a_foreign_name_for_this_box_is_refused(url: str, session: aiohttp.ClientSession) -> None:
    for path in PATHS:
        assert (await get(session, url + path, headers={"Host": "evil.example"}))[0] == 421
    assert (await get(session, url, headers={"Host": "bar.local"}))[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000 + b"\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000 + b"Connection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_requests_that_are_not_quite_requests_are_refused(url: str, request_bytes: bytes) -> None:
    answer = await raw(url, request_bytes)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:100]


async def test_a_body_is_never_waited_for(url: str) -> None:
    head = b"POST /api/v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
    assert (await raw(url, head)).startswith(b"HTTP/1.1 405")


async def test_a_connection_that_never_asks_is_closed(box: Box, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S_MAX", 0.2)
    async with serving(Web(box, (Place("127.0.0.1", 0),), state)) as url:
        assert await raw(url, b"") == b""
        assert await raw(url, b"GET / HTTP/1.1\r\nHost: loc") == b""


async def test_a_connection_that_lasts_too_long_is_ended(
    box: Box, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LIFE_S_MAX", 0.2)
    monkeypatch.setattr(server, "TEND_INTERVAL_S", 0.05)
    async with serving(Web(box, (Place("127.0.0.1", 0),), state)) as url:
        assert (await raw(url, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_crowd_on_the_address_does_not_shut_out_the_command_line(box: Box, state: Path) -> None:
    async with serving(Web(box, (Place("127.0.0.1", 0),), state)) as url:
        host, port = url.removeprefix("http://").split(":")
        crowd = [await asyncio.open_connection(host, int(port)) for _ in range(server.CONNECTIONS_MAX)]
        await asyncio.sleep(0.05)
        try:
            with pytest.raises(aiohttp.ClientError):
                async with aiohttp.ClientSession() as session:
                    await get(session, url)
            assert json.loads((await over_socket(state, "/api/v1/status"))[1])["venue"] == "demo"
        finally:
            for _, writer in crowd:
                writer.close()


async def over_socket(state: Path, path: str, **more: Any) -> tuple[int, str]:
    connector = aiohttp.UnixConnector(str(state / status.SOCKET_NAME))
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session:
        return await get(session, f"http://localhost{path}", **more)


async def test_the_socket_for_the_command_line_is_private_and_serves_the_same(box: Box, state: Path) -> None:
    async with serving(Web(box, (), state)):
        assert stat.S_IMODE((state / status.SOCKET_NAME).stat().st_mode) == 0o600
        for path in PATHS:
            assert (await over_socket(state, path))[0] == 200
    assert not (state / status.SOCKET_NAME).exists()


async def test_a_socket_that_a_killed_process_left_behind_is_replaced(box: Box, state: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(state / status.SOCKET_NAME))
    async with serving(Web(box, (), state)):
        assert (await over_socket(state, "/livez"))[0] == 200


async def test_an_occupied_port_is_named_with_its_remedy_and_nothing_stays_open() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(Held, match=rf"127\.0\.0\.1:{port} is in use.*free port") as failed:
            await server.bind_address("127.0.0.1", port)
        assert failed.value.code == "web_port_occupied"
        assert len(os.listdir("/proc/self/fd")) == before


async def test_while_the_port_is_occupied_the_command_line_is_served_and_it_is_tried_again(
    box: Box, state: Path, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TEND_INTERVAL_S", 0.05)
    told: list[tuple[str, str | None]] = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        web = Web(box, (Place("127.0.0.1", port),), state, condition=lambda name, words: told.append((name, words)))
        async with serving(web):
            assert (await over_socket(state, "/livez"))[0] == 200
            assert told[0][0] == "web"
            assert f"127.0.0.1:{port} is in use" in (told[0][1] or "")
            other.close()
            await until(lambda: bool(web.addresses))
            assert (await get(session, f"http://127.0.0.1:{port}/livez"))[0] == 200
    assert told[-1] == ("web", None)


async def test_a_state_directory_with_too_long_a_path_is_named(box: Box, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(Held, match="shorter path"):
        await Web(box, None, deep).run(lambda: None, asyncio.Event())


def own_address() -> str | None:
    """An address of this machine that is not loopback, if it has one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(way.getsockname()[0])


async def test_other_machines_get_the_page_and_health_without_tls_but_no_api(
    box: Box, state: Path, session: aiohttp.ClientSession
) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    async with serving(Web(box, (Place("0.0.0.0", 0),), state)) as url:
        outside = f"http://{address}:{url.rpartition(':')[2]}"
        for path in PATHS:
            refused = path.startswith("/api/") or path == "/metrics"
            status_code, body = await get(session, outside + path)
            assert status_code == (403 if refused else 200)
            assert not path.startswith("/api/") or json.loads(body)["type"] == "urn:nightsafe:tls-required"
        assert (await get(session, f"http://127.0.0.1:{url.rpartition(':')[2]}/api/v1/status"))[0] == 200


async def test_metrics_are_one_scrape_of_the_same_snapshot(url: str, box: Box, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{url}/metrics") as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await answer.text()
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            found[sample.name, tuple(sample.labels.values())] = sample.value
    assert {family.name for family in families if family.name.startswith("nightsafe_gate_")} == {
        "nightsafe_gate_events",
        "nightsafe_gate_connections",
        "nightsafe_gate_open_connections",
        "nightsafe_gate_odd_name",
    }
    assert all(name.startswith("nightsafe_") for name, _ in found)
    assert found["nightsafe_pending_records", ()] == 3
    assert found["nightsafe_device_pending_records", ("till-2",)] == 2
    assert found["nightsafe_uplink_state", ("online",)] == 1
    assert found["nightsafe_uplink_state", ("offline",)] == 0
    assert found["nightsafe_gate_events_total", ()] == 100
    assert found["nightsafe_gate_connections_total", ()] == 7
    assert found["nightsafe_gate_open_connections", ()] == 2
    assert found["nightsafe_gate_odd_name_total", ()] == 1
    assert found["nightsafe_info", ("demo", "0.1.0")] == 1
    assert found["nightsafe_device_events_total", ("till-1",)] == 50


async def test_the_status_over_http_is_the_whole_snapshot(url: str, box: Box, session: aiohttp.ClientSession) -> None:
    body = (await get(session, f"{url}/api/v1/status"))[1].encode()
    assert status.from_json(body) == box.snapshot()
