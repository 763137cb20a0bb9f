"""`nightsafe status` as a person or a script calls it, against the real web edge over its Unix socket."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from agent.core.facts import Condition, UplinkFacts
from agent.core.status import SOCKET_NAME
from agent.web.server import Web
from tests.integration.box import Box, serving

PROGRAM = "import typer; from agent.cli.status import command; typer.run(command)"
OFFLINE = UplinkFacts(state="offline", cause="link", since="2026-11-22T10:10:00.000Z")


class Ended(NamedTuple):
    """How the command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def state() -> Iterator[Path]:
    """A short path: Unix sockets have no room for a long one."""
    with tempfile.TemporaryDirectory(prefix="ns-") as directory:
        yield Path(directory)


@pytest.fixture
def config(tmp_path: Path, state: Path) -> Path:
    file = tmp_path / "nightsafe.toml"
    file.write_text(
        '[venue]\nid = "demo"\nname = "Demo"\nlocation = "demo-1"\n'
        f'[state]\ndirectory = "{state}"\n'
        '[gate]\nlisten = ["127.0.0.1:1883"]\n[devices]\nopen = true\n[cloud]\nurl = "http://127.0.0.1:9800"\n'
    )
    return file


async def started(config: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "--config", str(config), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"COLUMNS": "120"},
    )


async def status(config: Path, *arguments: str) -> Ended:
    process = await started(config, *arguments)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
def box() -> Box:
    return Box()


async def test_A2_1_it_shows_the_sentence_the_progress_and_every_device(box: Box, state: Path, config: Path) -> None:
    async with serving(Web(box, (), state)):
        ended = await status(config)
    assert ended.code == 0, ended.err
    assert "Online. Sending 3 records to the cloud, less than a minute left." in ended.out
    assert "70%  3 records to go at 2/s, less than a minute left" in ended.out
    assert "3 records (1,500 bytes), the oldest from 10:14" in ended.out
    lines = {line.split()[0]: line.split() for line in ended.out.splitlines() if line.startswith("till-")}
    assert lines["till-1"] == ["till-1", "1", "50", "50", "-", "0", "0", "10:14"]
    assert lines["till-2"] == ["till-2", "2", "50", "50", "-", "0", "0", "10:14"]


async def test_A3_7_it_says_in_words_what_a_device_did_not_deliver_and_what_is_lost(
    box: Box, state: Path, config: Path
) -> None:
    lacking = msgspec.structs.replace(
        box.devices[0],
        stored=16,
        complete=3,
        gaps=((17, 19), (22, 22)),
        lost_count=4,
        lost=(("e0", 4, 6), ("e1", 9, 9)),
    )
    box.devices = (lacking,)
    async with serving(Web(box, (), state)):
        ended, as_json = await status(config), await status(config, "--json")
    assert "till-1 has not delivered its events 17 to 19, event 22: it is asked for them." in ended.out
    assert "till-1 has lost 4 events: events 4 to 6 of epoch e0, event 9 of epoch e1." in ended.out
    (line,) = (
        line.split() for line in ended.out.splitlines() if line.startswith("till-1 "[:7]) and " has " not in line
    )
    assert line[:4] == ["till-1", "1", "50", "3"]
    (told,) = json.loads(as_json.out)["devices"]
    assert (told["stored"], told["complete"], told["gaps"]) == ("16", "3", [["17", "19"], ["22", "22"]])
    assert (told["lost_events"], told["lost"]) == (4, [["e0", "4", "6"], ["e1", "9", "9"]])
    assert "Business date         2026-11-22" in ended.out


async def test_exit_is_1_when_something_needs_a_look(box: Box, state: Path, config: Path) -> None:
    box.uplink = OFFLINE
    async with serving(Web(box, (), state)):
        ended = await status(config)
        as_json = await status(config, "--json")
    assert ended.code == as_json.code == 1
    assert "Offline since 10:10: no connection to the cloud gets through." in ended.out
    assert json.loads(as_json.out)["cause"] == "link"


async def test_exit_is_3_and_the_words_say_what_to_do_when_no_agent_runs(state: Path, config: Path) -> None:
    ended = await status(config)
    assert (ended.code, ended.out) == (3, "")
    assert "The agent is not running" in ended.err
    assert "Start it with" in ended.err
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(state / SOCKET_NAME))
    ended = await status(config, "--json")
    assert ended.code == 3
    assert json.loads(ended.out)["error"] == "no_agent"


async def test_an_agent_that_hangs_is_said_to_hang(state: Path, config: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(state / SOCKET_NAME))
        silent.listen()
        ended = await status(config)
    assert ended.code == 3
    assert "does not answer" in ended.err


@pytest.mark.parametrize("answer", [b"HTTP/1.1 500 Oops\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n{}", b"nonsense\r\n\r\n"])
async def test_an_answer_that_is_none_is_said_to_be_none(answer: bytes, state: Path, config: Path) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(reply, str(state / SOCKET_NAME))
    try:
        ended = await status(config)
    finally:
        server.close()
    assert ended.code == 3
    assert "Traceback" not in ended.err
    assert len(ended.err.splitlines()) == 2


async def test_nothing_that_others_wrote_acts_on_the_terminal(box: Box, state: Path, config: Path) -> None:
    evil = "[bold]x[/bold]\x1b]0;owned\x07\x9b31m\u202egnp\x7f"
    box.conditions = (Condition("x", "critical", True, evil, evil, evil, "2026-11-22T10:00:00.000Z"),)
    async with serving(Web(box, (), state)):
        ended, as_json = await status(config), await status(config, "--json")
    for out in (ended.out, as_json.out):
        assert not set(out) & {"\x1b", "\x07", "\x9b", "\u202e", "\x7f"}
    assert "[bold]x[/bold]" in ended.out
    assert json.loads(as_json.out)["conditions"][0]["title"] == evil


async def test_watching_in_a_pipe_goes_on_while_the_agent_is_away_and_ends_with_ctrl_c(
    box: Box, state: Path, config: Path
) -> None:
    process = await started(config, "--watch")
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert b"not running" in await process.stdout.readline()
        async with serving(Web(box, (), state)):
            assert b"Online. Sending 3 records" in await process.stdout.readline()
            box.uplink = OFFLINE
            assert b"Offline since 10:10" in await process.stdout.readline()
        assert b"not running" in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
