"""A name server and a TLS door on loopback for one box: what a name leads to, and who answers there, as the test says.

The box runs in a mount namespace of its own, with an /etc/resolv.conf and an /etc/hosts of its own, so that the
system's resolver asks the server here and nobody else, and no other program notices anything.
"""

import asyncio
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import trustme

from tests.crash.beside import Beside
from tests.tools import cannot_run, needs

NAME = "cloud.example"
SERVER_ADDRESS = "127.77.0.1"
RESOLVER_TIMEOUT_S = 2
"""The system's resolver waits so long for an answer, and asks twice."""

Lookup = Literal["answers", "unknown", "fails", "silent"]
"""The name's address; there is no such name; the server cannot say; nothing comes back."""
Certificate = Literal["good", "unknown authority", "other name", "expired", "not yet valid"]

_CODES = {"answers": 0, "fails": 2, "unknown": 3}
_A = 1


class NameServer:
    """Answers over UDP on port 53 of an address of loopback of its own. `does` may be changed at any time."""

    def __init__(self) -> None:
        self.does: Lookup = "answers"
        self.asked_count = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((SERVER_ADDRESS, 53))
        except OSError as error:
            self._socket.close()
            cannot_run(f"no name server can be started on {SERVER_ADDRESS}:53: {error.strerror}")
        self._thread = threading.Thread(target=self._serve, name="names", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                asked, whom = self._socket.recvfrom(4096)
            except OSError:
                return
            if not asked:
                return
            self.asked_count += 1
            if self.does != "silent":
                self._socket.sendto(self._answer(asked, _CODES[self.does]), whom)

    @staticmethod
    def _answer(asked: bytes, code: int) -> bytes:
        end = asked.index(b"\0", 12) + 5
        question = asked[12:end]
        wants_a = int.from_bytes(question[-4:-2], "big") == _A
        found = code == 0 and wants_a
        head = asked[:2] + (0x8180 | code).to_bytes(2, "big") + b"\0\1" + found.to_bytes(2, "big") + bytes(4)
        record = b"\xc0\x0c" + question[-4:] + bytes(4) + b"\0\4" + socket.inet_aton("127.0.0.1")
        return head + question + (record if found else b"")


def in_its_own_namespace(command: list[str], folder: Path) -> list[str]:
    """The command, started where the system's resolver asks the name server of this module."""
    needs("unshare")
    resolver, hosts = folder / "resolv.conf", folder / "hosts"
    resolver.write_text(f"nameserver {SERVER_ADDRESS}\noptions timeout:{RESOLVER_TIMEOUT_S} attempts:2\n")
    hosts.write_text("127.0.0.1 localhost\n")
    mounts = f"mount --bind {resolver} /etc/resolv.conf && mount --bind {hosts} /etc/hosts"
    wrapped = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    tried = subprocess.run([*wrapped, "true"], capture_output=True, text=True, check=False)
    if os.geteuid() or tried.returncode:
        cannot_run(f"no mount namespace can be made here: {tried.stderr.strip()}")
    return [*wrapped, *command]


class Door:
    """TLS before a plain server, with the certificate that the test says: `shows` may be changed at any time.

    `heard_bytes` counts, by certificate, what came through after a handshake.
    """

    def __init__(self, target: tuple[str, int], folder: Path) -> None:
        self._target = target
        self.shows: Certificate = "good"
        self.heard_bytes: dict[Certificate, int] = {}
        self.dialled: dict[Certificate, int] = {}
        authority = trustme.CA()
        self.authority_file = folder / "authority.pem"
        authority.cert_pem.write_to_path(self.authority_file)
        now, day = datetime.now(UTC), timedelta(days=1)
        certificates: dict[Certificate, trustme.LeafCert] = {
            "good": authority.issue_cert(NAME),
            "unknown authority": trustme.CA().issue_cert(NAME),
            "other name": authority.issue_cert("portal.example"),
            "expired": authority.issue_cert(NAME, not_before=now - 30 * day, not_after=now - day),
            "not yet valid": authority.issue_cert(NAME, not_before=now + day, not_after=now + 30 * day),
        }
        self._contexts = {kind: _context(certificate) for kind, certificate in certificates.items()}
        self._writers: set[asyncio.StreamWriter] = set()
        self._beside = Beside("door")
        first = _context(certificates["good"])
        first.sni_callback = self._choose
        self._server = self._beside.call(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=first))
        self.url = f"https://{NAME}:{self._server.sockets[0].getsockname()[1]}"

    def show(self, certificate: Certificate) -> None:
        """From now on, to whoever connects; whoever is connected is cut."""
        self.shows = certificate
        self._beside.call(self._cut())

    def cut(self) -> None:
        """End every connection."""
        self._beside.call(self._cut())

    def close(self) -> None:
        self._beside.loop.call_soon_threadsafe(self._server.close)
        self._beside.end()

    def _choose(self, line: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self.dialled[self.shows] = self.dialled.get(self.shows, 0) + 1
        line.context = self._contexts[self.shows]

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = self.shows
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}

        def hear(data: bytes) -> None:
            self.heard_bytes[shown] = self.heard_bytes.get(shown, 0) + len(data)

        ways = [
            asyncio.ensure_future(_pass(reader, far_writer, hear)),
            asyncio.ensure_future(_pass(far_reader, writer, lambda data: None)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            self._writers -= {writer, far_writer}
            writer.transport.abort()
            far_writer.transport.abort()


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hear: Callable[[bytes], None]) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            hear(data)
            writer.write(data)
            await writer.drain()
