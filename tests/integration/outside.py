"""What stands outside a venue, as a program: a name server, a check page, and the way into the reference cloud by TLS.

Runs in a network namespace of the test's: `python -m tests.integration.outside FOLDER LISTEN…`, and obeys lines on
standard input: `dns answers|fails|silent|portal`, `cloud answers|500|401|html|silent|slow|gone|stranger|future`.
It says `done` to each.
"""

import asyncio
import socket
import ssl
import struct
import sys
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from time import time

CHECK_BODY = b"this is the internet\n"
NAMES = {b"cloud": 1, b"check": 2}
HEALTH_HTML = b"<html>Welcome</html>"
PASS = b'{"status":"pass","cloud":"test","time":"2026-11-22T10:15:00.131Z"}'
HEALTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
    len(PASS),
    PASS,
)
REFUSED = b"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
FUTURE_S = 400 * 86_400


class Outside:
    """The servers, and how they behave now."""

    def __init__(self, folder: Path, router: str, cloud: str, other: str, target: int) -> None:
        self.folder, self.router, self.cloud, self.other, self.target = folder, router, cloud, other, target
        self.dns = "answers"
        self.way = "answers"
        self.server: asyncio.Server | None = None
        self.clients: set[asyncio.StreamWriter] = set()

    def context(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem")
        return context

    async def answer_names(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.setblocking(False)
            server.bind((address, 53))
            while True:
                question, who = await loop.sock_recvfrom(server, 512)
                answer = self.name(question)
                if answer:
                    await loop.sock_sendto(server, answer, who)

    def name(self, question: bytes) -> bytes:
        if self.dns == "silent":
            return b""
        end = question.index(b"\0", 12) + 5
        kind = struct.unpack("!H", question[end - 4 : end - 2])[0]
        host = question[13 : 13 + question[12]]
        if self.dns == "fails":
            return question[:2] + b"\x81\x82" + question[4:6] + b"\0" * 6 + question[12:end]
        address = self.router if self.dns == "portal" else {1: self.cloud, 2: self.other}.get(NAMES.get(host, 0), "")
        found = b""
        if kind == 1 and address:
            found = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
        flags = b"\x81\x80" if address else b"\x81\x83"
        return question[:2] + flags + question[4:6] + struct.pack("!HHH", bool(found), 0, 0) + question[12:end] + found

    async def check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The page whose answer is known; where the cloud's certificate is of the future, so is its clock."""
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        date = formatdate(time() + (FUTURE_S if self.way == "future" else 0), usegmt=True)
        writer.write(
            f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {len(CHECK_BODY)}\r\n\r\n".encode() + CHECK_BODY
        )
        writer.close()

    async def portal(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://login.portal.test/\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to the cloud: handed on, or answered as it is wanted now."""
        self.clients.add(writer)
        if self.way in ("answers", "slow", "stranger", "future"):
            if self.way == "slow":
                await asyncio.sleep(2.3)
            inward, onward = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(copy(reader, onward), copy(inward, writer))
            return
        request = await reader.readuntil(b"\r\n\r\n")
        if self.way == "silent":
            await asyncio.sleep(60)
        if self.way == "401":
            writer.write(HEALTH if b" /v1/health " in request else REFUSED)
            writer.close()
            return
        status, kind = ("500 Oops", "text/plain") if self.way == "500" else ("200 OK", "text/html")
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(HEALTH_HTML)}\r\n\r\n"
        writer.write(head.encode() + HEALTH_HTML)
        writer.close()

    async def open_cloud(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
        for writer in self.clients:
            writer.transport.abort()
        self.clients.clear()
        if self.way == "gone":
            return
        certificate = self.way if self.way in ("stranger", "future") else "cloud"
        self.server = await asyncio.start_server(self.serve, self.cloud, 9443, ssl=self.context(certificate))

    async def obey(self, line: str) -> None:
        what, _, how = line.partition(" ")
        if what == "dns":
            self.dns = how
        else:
            self.way = how
            await self.open_cloud()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()


async def main(folder: str, role: str, router: str, cloud: str, other: str, target: str) -> None:
    outside = Outside(Path(folder), router, cloud, other, int(target))
    tasks = []
    if role == "router":
        tasks.append(asyncio.create_task(outside.answer_names(router)))
        await asyncio.start_server(outside.portal, router, 80)
        await asyncio.start_server(outside.portal, router, 9443, ssl=outside.context("stranger"))
    else:
        await asyncio.start_server(outside.check, other, 80)
        await outside.open_cloud()
    print("done", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await outside.obey(line.strip())
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
