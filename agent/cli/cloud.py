"""person → [nightsafe cloud] → receiver. Runs the reference cloud and prints what it has.

Opens the ledger that a URL names, joins it to the server, and ends cleanly on SIGTERM. Never speaks of a box.
"""

import asyncio
import ipaddress
import signal
import sys
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.core.errors import SettingsInvalid

if TYPE_CHECKING:
    from agent.cloud.wire import Limits
    from agent.receiver.ledger import LedgerReader
    from agent.receiver.tokens import Tokens

app = typer.Typer(name="cloud", help="The reference cloud: receive venues' records, print them.", no_args_is_help=True)


class Show(StrEnum):
    """What `export` prints."""

    RECORDS = "records"
    REJECTED = "rejected"
    HOLES = "holes"


Ledger = Annotated[str, typer.Option(help="Where the records are: sqlite:PATH.", metavar="URL")]


@app.command()
def serve(
    ledger: Ledger,
    listen: Annotated[str, typer.Option(help="Address and port; port 0 takes a free one.")] = "127.0.0.1:9800",
    tokens: Annotated[
        Path | None, typer.Option(help="File of tokens, one a line: TOKEN, or VENUE TOKEN. Demanded off loopback.")
    ] = None,
    records_max: Annotated[int, typer.Option(min=1, help="Records in one batch.")] = 5000,
    bytes_max: Annotated[int, typer.Option(min=1024, help="Decoded bytes in one batch.")] = 8 * 1024 * 1024,
    min_interval_s: Annotated[float, typer.Option(min=0, help="Wished seconds between batches.")] = 0,
) -> None:
    """Receive records and keep them in the ledger until stopped (SIGTERM, Ctrl-C)."""
    from agent.cloud.wire import Limits
    from agent.receiver.tokens import Tokens
    from agent.runtime.logs import configure

    host, port = _address(listen)
    known = None if tokens is None else Tokens(tokens)
    if known is None and not _loopback(host):
        text = f"{host} is not loopback, and there would be no tokens."
        raise SettingsInvalid("tokens_missing", text, "Name a file with --tokens, or listen on 127.0.0.1.")
    configure("info")
    limits = Limits(records_max, bytes_max, min_interval_s)
    asyncio.run(_serve(host, port, ledger, known, limits))


@app.command()
def export(
    ledger: Ledger,
    venue: Annotated[str, typer.Option(help="The venue's id.")],
    show: Annotated[Show, typer.Option(help="Records, what is in quarantine, or holes.")] = Show.RECORDS,
) -> None:
    """Print a venue's records in order, one JSON object a line, as they were received. A server may run meanwhile."""
    asyncio.run(_export(ledger, venue, show))


async def _serve(host: str, port: int, ledger: str, tokens: "Tokens | None", limits: "Limits") -> None:
    from agent.receiver.desk.calls import Desk
    from agent.receiver.desk.store import open_store
    from agent.receiver.ledger.urls import desk_path, open_ledger, open_reader
    from agent.receiver.server import Receiver, serving

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        store = await open_ledger(ledger)
        stack.push_async_callback(store.close)
        reader = await open_reader(ledger)
        stack.push_async_callback(reader.close)
        accounts = await open_store(desk_path(ledger))
        stack.push_async_callback(accounts.close)
        desk = Desk(accounts, reader)
        await stack.enter_async_context(desk.following())
        url = await stack.enter_async_context(serving(Receiver(store, tokens, limits, desk), host, port))
        print(f"nightsafe cloud listens on {url}, ledger {ledger}", flush=True)
        await stop.wait()


async def _export(ledger: str, venue: str, show: Show) -> None:
    from agent.receiver.export import lines
    from agent.receiver.ledger.urls import open_reader

    reader = await open_reader(ledger)
    try:
        out = sys.stdout.buffer
        empty = True
        async for chunk in lines(reader, venue, show.value):
            out.write(chunk)
            empty = False
        out.flush()
        if empty:
            print(f"no {show.value} of venue {venue}", file=sys.stderr)
        if show is Show.RECORDS:
            await _tell_the_rest(reader, venue)
    finally:
        await reader.close()


async def _tell_the_rest(reader: "LedgerReader", venue: str) -> None:
    """On stderr: what is not among the lines."""
    rejected = sum([len(page) async for page in reader.rejected(venue)])
    missing = [one.hole.last - one.hole.first + 1 async for page in reader.holes(venue) for one in page]
    if rejected:
        print(f"{rejected} records are in quarantine: --show rejected", file=sys.stderr)
    if missing:
        print(f"{sum(missing)} records are missing in {len(missing)} declared holes: --show holes", file=sys.stderr)


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise SettingsInvalid("listen", f"{listen!r} is no address.", "Write HOST:PORT, as 127.0.0.1:9800.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
