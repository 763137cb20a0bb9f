"""[gate: sockets] What the gate asks of the kernel: to notice devices that are gone, and a way to the broker's socket.

Never reads or writes a byte.
"""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

QUEUE_FULL_S: Final = 0.005
"""Pause before the broker is asked again whose queue of new connections is full."""


def notice_silence(listener: socket.socket, idle_s: int, interval_s: int, probes_max: int) -> None:
    """Have the kernel end a connection whose device is gone without a word: every accepted socket inherits this.

    After `idle_s` of silence it probes; `probes_max` unanswered ones, `interval_s` apart, end the connection. What was
    written and is not acknowledged ends it as late. That bound must lie before the last probe's answer is due: the
    kernel would stop at the first probe behind it instead of counting.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes_max)
    unacknowledged_ms = 1000 * (idle_s + interval_s * probes_max) - 500 * interval_s
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unacknowledged_ms)


def acknowledge_at_once(transport: asyncio.BaseTransport) -> None:
    """Have the kernel acknowledge what has just come, now: it waits up to 40 ms otherwise where nothing is sent back.

    A client that does not switch off Nagle's algorithm keeps its next request to itself for as long.
    """
    device = transport.get_extra_info("socket")
    if device is not None and device.family != socket.AF_UNIX:
        with suppress(OSError):
            device.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def connected(path: Path) -> socket.socket:
    """A connection to a Unix socket. When many devices come at once, its queue of ten is full: then wait for room.

    asyncio's own connect takes the kernel's "try again" for "under way", which it never is on a Unix socket.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        while True:
            try:
                made.connect(str(path))
            except BlockingIOError:
                await asyncio.sleep(QUEUE_FULL_S)
            else:
                return made
    except BaseException:
        made.close()
        raise
