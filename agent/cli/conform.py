"""[cli] → conform → a vendor's device. `nightsafe conform --device till-1`: the hard cases, played at a desk.

Starts a box of its own; needs no other. The device connects to the address that is printed, as to any box.
"""

import asyncio
import shlex
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated, Final, NamedTuple

import msgspec
import typer

from agent import __version__
from agent.cli.options import JsonOption
from agent.conform.box import Box
from agent.conform.cases import CASES, Case, Scene, play
from agent.conform.relay import Relay
from agent.conform.report import MARKS, Played, junit, page, summary
from agent.core.errors import Rejected
from agent.core.events import device_allowed
from agent.core.printable import printable
from agent.lan.identity import AUTHORITY, DIRECTORY, Identity, names_here
from agent.runtime.clock import Clock
from agent.runtime.files import write_whole
from agent.settings.section import is_loopback
from agent.tills.children import Child

EXIT_FAILED: Final = 1
EXIT_NOT_JUDGED: Final = 2
LIFE_DAYS: Final = 90
"""Days that the certificate of a run over the network is valid; a later run renews it."""


class Plan(msgspec.Struct, frozen=True):
    """What is to be done: which device, where it connects, which cases, how long a case waits for it."""

    device: str
    host: str
    port: int
    cases: tuple[Case, ...]
    wait_s: float
    start: str
    report: Path
    identity: Path


class Way(NamedTuple):
    """How the device gets in: on loopback plain, else by TLS and with a password, as at a venue's box."""

    words: str
    context: ssl.SSLContext | None = None
    password: str = ""
    authority: str = ""


def command(
    device: Annotated[str, typer.Option("--device", help="The device's id, which is its MQTT user name.")] = "till-1",
    listen: Annotated[
        str, typer.Option(help="Where the device connects; port 0: a free one. Plain on loopback, else TLS.")
    ] = "127.0.0.1:1883",
    only: Annotated[list[str] | None, typer.Option("--only", help="One case by its name; may be given again.")] = None,
    wait: Annotated[float, typer.Option(min=1, max=3600, help="Seconds a case waits for the device.")] = 30.0,
    start: Annotated[
        str,
        typer.Option(
            "--start",
            help="Command that starts the device; {host}, {port}, {device} are filled in, and {password} and {ca}.",
        ),
    ] = "",
    identity: Annotated[
        Path, typer.Option(help="Folder with authority and password for TLS, kept from run to run.")
    ] = Path("conform-identity"),
    report: Annotated[Path, typer.Option(help="Folder for conform.html and conform.xml.")] = Path("conform-report"),
    show: Annotated[bool, typer.Option("--list", help="List the cases and leave.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Play the hard cases of the device contract against one device, and judge it.

    Exit: 0 every case passed or does not apply; 1 one failed; 2 none failed, but one could not be judged.
    """
    if show:
        for case in CASES:
            print(f"{case.name:<14} {case.title}")
        return
    plan = Plan(device, *_address(listen), _chosen(only or []), wait, start, report, identity)
    if not device_allowed(device):
        raise Rejected("device_id", f'"{device}" is no device id.', "Use lower-case letters, digits and dashes.")

    def say(text: str) -> None:
        print(printable(text), file=sys.stderr if as_json else sys.stdout, flush=True)

    report.mkdir(parents=True, exist_ok=True)
    played = asyncio.run(_run(plan, say))
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    (report / "conform.html").write_text(page(device, __version__, at, played), encoding="utf-8")
    (report / "conform.xml").write_bytes(junit(device, played))
    say(f"{device}: {summary(played)}. The report: {report / 'conform.html'}, {report / 'conform.xml'}")
    results = {one.verdict.result for one in played}
    if as_json:
        print(msgspec.json.encode([_fact(one) for one in played]).decode())
    raise typer.Exit(EXIT_FAILED if "failed" in results else EXIT_NOT_JUDGED if "not judged" in results else 0)


async def _run(plan: Plan, say: Callable[[str], None]) -> list[Played]:
    """Box, relay, device; then case by case."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ns-conform-")))
        box = Box(directory)
        await box.start()
        stack.push_async_callback(box.stop)
        way = _way(plan)
        relay = Relay(plan.device, time.monotonic, way.password)
        relay.box_port = box.port
        try:
            server = await relay.serve(plan.host, plan.port, way.context)
        except OSError as error:
            text = f"Nothing can listen on {plan.host}:{plan.port}: {error.strerror or error}."
            raise Rejected("address_taken", text, "End what listens there, or choose another with --listen.") from error
        stack.callback(server.close)
        host, port = server.sockets[0].getsockname()[:2]
        say(f"Let {plan.device} connect to {host}:{port}, user name {plan.device}, {way.words}.")
        if plan.start:
            near = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
            words = shlex.split(plan.start)
            for name, value in (
                ("host", near),
                ("port", str(port)),
                ("device", plan.device),
                ("password", way.password),
                ("ca", way.authority),
            ):
                words = [one.replace(f"{{{name}}}", value) for one in words]
            child = Child(plan.device, words, plan.report / "device.log", restarts=False)
            await asyncio.to_thread(child.start)
            stack.push_async_callback(asyncio.to_thread, child.stop)
        return await _play_all(plan.cases, Scene(relay, box, plan.wait_s, time.monotonic, say), say)


def _way(plan: Plan) -> Way:
    """Raises Held where the folder of the identity cannot be used."""
    if is_loopback(plan.host):
        return Way("plain MQTT, no password needed")
    venue = Identity(plan.identity, "conform", LIFE_DAYS, Clock(), partial(names_here, (plan.host,)))
    secret = plan.identity / "password"
    if not secret.exists():
        write_whole(secret, token_urlsafe(16).encode())
    password, authority = secret.read_text(encoding="ascii").strip(), plan.identity / DIRECTORY / AUTHORITY
    return Way(f"password {password}, TLS by the authority {authority}", venue.context, password, str(authority))


async def _play_all(cases: Sequence[Case], scene: Scene, say: Callable[[str], None]) -> list[Played]:
    played = []
    for case in cases:
        say(f"{case.name}: {case.title}")
        began_s = time.monotonic()
        verdict = await play(case, scene)
        played.append(Played(case, verdict, time.monotonic() - began_s))
        say(f"  {MARKS[verdict.result]} {verdict.result}")
        for words in verdict.words:
            say(f"    {words}")
    return played


def _chosen(names: Sequence[str]) -> tuple[Case, ...]:
    unknown = [name for name in names if name not in {case.name for case in CASES}]
    if unknown:
        raise typer.BadParameter(f"there is no case {unknown[0]}: see --list", param_hint="--only")
    return tuple(case for case in CASES if not names or case.name in names)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise typer.BadParameter("give it as 127.0.0.1:1883", param_hint="--listen")
    return host, int(port)


def _fact(one: Played) -> dict[str, object]:
    return {
        "case": one.case.name,
        "result": one.verdict.result,
        "words": one.verdict.words,
        "seconds": round(one.seconds, 3),
    }
