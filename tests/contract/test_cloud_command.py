"""`nightsafe cloud` as a process: what it prints, how it ends, what it refuses."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from agent.cloud import wire
from agent.core.chain import ORIGIN, rechash

EPOCH = "0199c0de-0000-7000-8000-000000000001"
COMMAND = (sys.executable, "-c", "from agent.cli import main; main()", "cloud")


async def nightsafe(*arguments: str) -> tuple[int, bytes, str]:
    """Exit code, standard output and standard error of `nightsafe cloud …`."""
    child = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode is not None
    return child.returncode, out, errors.decode()


@asynccontextmanager
async def serving(ledger: str, *more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running `cloud serve` and its URL; killed at the end if it still runs."""
    arguments = ("serve", "--listen", "127.0.0.1:0", "--ledger", ledger, *more)
    child = await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    try:
        line = (await asyncio.wait_for(child.stdout.readline(), 30)).decode()
        assert line.startswith("nightsafe cloud listens on http://127.0.0.1:"), line
        yield child, line.split()[4].rstrip(",")
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def send(url: str, first: int, last: int, prevhash: bytes) -> bytes:
    """PUT records first..last as a box does; returns the new head."""
    stream = f"{url}/v1/venues/demo/streams"
    made = []
    head = prevhash
    for sequence in range(first, last + 1):
        event = b'{"specversion":"1.0","id":"%d","type":"t"}' % sequence
        head = rechash(head, sequence, "2026-11-22T10:15:00Z", "till-1", event)
        made.append(
            wire.Record(sequence, "2026-11-22T10:15:00Z", "synced", "b", 1, "till-1", str(sequence), event, head)
        )
    body = wire.encode_batch("demo", EPOCH, made)
    headers = {
        "Content-Type": wire.BATCH_TYPE,
        "Content-Digest": wire.content_digest(body),
        "Nightsafe-Instance": "i1",
        "Nightsafe-Prevhash": prevhash.hex(),
    }
    async with aiohttp.ClientSession() as session:
        opening = {"epoch": EPOCH, "parent": None, "instance": "i1", "reason": "created"}
        async with session.post(stream, json=opening) as answer:
            assert answer.status in (200, 201)
        async with session.put(f"{stream}/{EPOCH}/records/{first}-{last}", data=body, headers=headers) as answer:
            assert answer.status == 200
    return head


async def test_it_serves_exports_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    ledger = f"sqlite:{tmp_path}/ledger.db"
    async with serving(ledger) as (child, url):
        head = await send(url, 1, 3, ORIGIN)
        code, out, _ = await nightsafe("export", "--ledger", ledger, "--venue", "demo")
        assert code == 0
        assert [json.loads(line)["data"]["id"] for line in out.splitlines()] == ["1", "2", "3"]
        await send(url, 4, 4, head)
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 10) == 0
    code, out, _ = await nightsafe("export", "--ledger", ledger, "--venue", "demo")
    assert (code, out.count(b"\n")) == (0, 4)


async def test_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    ledger = f"sqlite:{tmp_path}/ledger.db"
    async with serving(ledger) as (child, url):
        head = await send(url, 1, 50, ORIGIN)
        child.kill()
        await child.wait()
    _, out, _ = await nightsafe("export", "--ledger", ledger, "--venue", "demo")
    assert out.count(b"\n") == 50
    async with serving(ledger) as (_, url):
        await send(url, 51, 60, head)
    _, out, _ = await nightsafe("export", "--ledger", ledger, "--venue", "demo")
    assert out.count(b"\n") == 60


async def test_with_a_tokens_file_a_token_is_demanded(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    async with (
        serving(f"sqlite:{tmp_path}/ledger.db", "--tokens", str(tokens)) as (_, url),
        aiohttp.ClientSession() as session,
    ):
        for token, status in (("wrong", 401), ("secret", 404)):
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(f"{url}/v1/venues/demo/streams/{EPOCH}", headers=headers) as answer:
                assert answer.status == status


async def test_a_venue_without_records_exports_nothing_and_says_so(tmp_path: Path) -> None:
    ledger = f"sqlite:{tmp_path}/ledger.db"
    async with serving(ledger):
        code, out, errors = await nightsafe("export", "--ledger", ledger, "--venue", "demo")
    assert (code, out) == (0, b"")
    assert "no records of venue demo" in errors


@pytest.mark.parametrize("show", ["records", "rejected", "holes"])
async def test_an_export_without_a_ledger_says_what_is_missing(tmp_path: Path, show: str) -> None:
    path = tmp_path / "none.db"
    code, out, errors = await nightsafe("export", "--ledger", f"sqlite:{path}", "--venue", "demo", "--show", show)
    assert (code, out) == (78, b"")
    assert f"There is no ledger {path}" in errors


@pytest.mark.parametrize("ledger", ["postgres://db/x", "nats://127.0.0.1:4222", "ledger.db"])
async def test_a_ledger_that_this_build_lacks_is_named(ledger: str) -> None:
    for arguments in (("serve", "--listen", "127.0.0.1:0"), ("export", "--venue", "demo")):
        code, out, errors = await nightsafe(*arguments, "--ledger", ledger)
        assert (code, out) == (78, b"")
        assert "sqlite:PATH" in errors


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "localhost.example:0"])
async def test_off_loopback_it_does_not_start_without_tokens(tmp_path: Path, listen: str) -> None:
    code, _, errors = await nightsafe("serve", "--listen", listen, "--ledger", f"sqlite:{tmp_path}/ledger.db")
    assert code == 78
    assert "--tokens" in errors


@pytest.mark.parametrize("listen", ["9800", ":9800", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:x"])
async def test_an_address_that_is_none_is_refused(tmp_path: Path, listen: str) -> None:
    code, _, errors = await nightsafe("serve", "--listen", listen, "--ledger", f"sqlite:{tmp_path}/ledger.db")
    assert code == 78
    assert "HOST:PORT" in errors


async def test_a_taken_port_and_a_taken_ledger_are_named(tmp_path: Path) -> None:
    ledger = f"sqlite:{tmp_path}/ledger.db"
    async with serving(ledger):
        code, _, errors = await nightsafe("serve", "--listen", "127.0.0.1:0", "--ledger", ledger)
        assert code == 78
        assert "Another server writes" in errors
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, errors = await nightsafe("serve", "--listen", f"127.0.0.1:{port}", "--ledger", ledger)
    assert code == 1
    assert f"port {port}" in errors


async def test_a_reader_that_has_enough_ends_the_export(tmp_path: Path) -> None:
    ledger = f"sqlite:{tmp_path}/ledger.db"
    async with serving(ledger) as (_, url):
        head = ORIGIN
        for first in range(1, 6001, 2000):
            head = await send(url, first, first + 1999, head)
        child = await asyncio.create_subprocess_exec(
            *COMMAND,
            "export",
            "--ledger",
            ledger,
            "--venue",
            "demo",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stderr is not None
        await child.stdout.readline()
        child.stdout._transport.close()  # type: ignore[attr-defined]
        errors = await asyncio.wait_for(child.stderr.read(), 30)
        await child.wait()
    assert errors == b""
