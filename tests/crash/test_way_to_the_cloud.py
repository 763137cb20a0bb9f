"""A way to the cloud that is wrong from the first byte: names that lead nowhere, certificates that prove nothing.

The box is stood in a mount namespace with a hosts file of its own, so that the cloud's name can come and go; a server
with a certificate of the test's stands before the reference cloud.
"""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.machine import NIGHTSAFE, Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

NAME = "cloud.venue.test"
NOW = datetime.now(UTC)
EVENTS = 30

pytestmark = [
    pytest.mark.needs("unshare", "mosquitto"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace"),
]


class Front:
    """Ends TLS with `context`, which may be changed, and hands the bytes on to the cloud. Counts who came."""

    def __init__(self, context: ssl.SSLContext, target: int) -> None:
        self.context = context
        self.came_count = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                self.came_count += 1
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with accepted, suppress(OSError):
            accepted.settimeout(10)
            line = self.context.wrap_socket(accepted, server_side=True)
            onward = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            back = threading.Thread(target=_copy, args=(onward, line), daemon=True)
            back.start()
            _copy(line, onward)
            back.join()

    def close(self) -> None:
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Files:
    """What the box's resolver reads, and the authority that it trusts."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.hosts, self.resolver, self.authority = folder / "hosts", folder / "resolv.conf", folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self.knows(True)
        self.resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")

    def knows(self, name: bool) -> None:
        """Whether the cloud's name leads anywhere; the file stays the same one."""
        with self.hosts.open("w") as stream:
            stream.write("127.0.0.1 localhost\n" + f"127.0.0.1 {NAME}\n" * name)


def trusted(authority: trustme.CA, *names: str, **dates: datetime) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or (NAME,)), **dates).configure_cert(context)
    return context


@contextmanager
def standing(files: Files, box: Box, front: Front) -> Iterator[Box]:
    """The box, started where the cloud has a name and only `files.authority` is trusted."""
    inner = f'mount --bind {files.hosts} /etc/hosts && mount --bind {files.resolver} /etc/resolv.conf && exec "$@"'
    box.command = ["unshare", "--mount", "sh", "-c", inner, "sh", *NIGHTSAFE]
    box.environment = {"SSL_CERT_FILE": str(files.authority)}
    token = box.directory / "token"
    token.write_text("any")
    token.chmod(0o600)
    box.settings["cloud"] |= {"url": f"https://{NAME}:{front.port}", "token_file": "token", "request_timeout_s": 3}
    box.settings["uplink"] |= {"probe_interval_s": 1, "probe_timeout_s": 2}
    yield box.start()
    assert box.stop() == 0


def sell(box: Box, first: int) -> None:
    with Device(box.port, "till-1") as device:
        for sequence in range(first, first + EVENTS):
            device.tell(counted("e1", sequence))


def nothing_moves(box: Box, front: Front, cause: str) -> dict[str, Any]:
    """The box has tried several times, and nothing has moved; people are told why."""
    came = front.came_count
    status = until(lambda: _offline(box), "the box says that the cloud is not reached", 30)
    if cause == "tls":
        until(lambda: front.came_count >= came + 3, "it has tried again", 30)
    causes = ("tls", "clock") if cause == "tls" else (cause,)  # of dates, where nobody vouches for this machine's clock
    assert status["cause"] in causes
    assert status["sync"]["pending"] >= EVENTS
    assert box.rows("select cursor from journal")[0][0] == 0
    return status


def _offline(box: Box) -> dict[str, Any] | None:
    status: dict[str, Any] = box.status()
    return status if status["state"] == "offline" else None


def all_arrives(box: Box, cloud: CloudServer, count: int) -> None:
    until(lambda: box.uploaded(), "everything is uploaded", 40)
    assert [int(one.event["sequence"]) for one in cloud.records("till-1")] == list(range(1, count + 1))


WRONG: dict[str, Callable[[trustme.CA], ssl.SSLContext]] = {
    "somebody else's authority": lambda _: trusted(trustme.CA()),
    "another name": lambda authority: trusted(authority, "other.venue.test"),
    "run out": lambda authority: trusted(authority, not_before=NOW - timedelta(90), not_after=NOW - timedelta(1)),
    "not valid yet": lambda authority: trusted(authority, not_before=NOW + timedelta(1), not_after=NOW + timedelta(9)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_no_record_goes_to_a_server_that_cannot_prove_who_it_is_and_all_of_them_once_it_can(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], tmp_path: Path, wrong: str
) -> None:
    cloud, authority = new_cloud().start(), trustme.CA()
    front = Front(WRONG[wrong](authority), cloud.port)
    with standing(Files(tmp_path, authority), new_box(), front) as box:
        sell(box, 1)
        nothing_moves(box, front, "tls")
        assert cloud.records() == []
        front.context = trusted(authority)
        all_arrives(box, cloud, EVENTS)
    front.close()


@pytest.mark.parametrize("resolver", ["nameserver 127.0.0.1", "nameserver 198.51.100.1"], ids=["refuses", "is silent"])
def test_a_name_that_leads_nowhere_moves_nothing_and_stops_no_sale(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], tmp_path: Path, resolver: str
) -> None:
    cloud, authority = new_cloud().start(), trustme.CA()
    front, files = Front(trusted(authority), cloud.port), Files(tmp_path, authority)
    files.resolver.write_text(f"{resolver}\noptions timeout:1 attempts:1\n")
    files.knows(False)
    with standing(files, new_box(), front) as box:
        sell(box, 1)
        nothing_moves(box, front, "dns")
        sell(box, EVENTS + 1)
        assert front.came_count == 0
        files.knows(True)
        all_arrives(box, cloud, 2 * EVENTS)
    front.close()
