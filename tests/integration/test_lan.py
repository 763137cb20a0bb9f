"""The box on a venue's network: two network namespaces with a cable between them, nothing on loopback."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.integration.machine import NIGHTSAFE, START_MAX_S, Box, until
from tests.sales import counted
from tests.tools import cannot_run

pytestmark = [
    pytest.mark.needs("ip", "mosquitto", "mosquitto_pub"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]

BOX_ADDRESS, TILL_ADDRESS = "10.203.7.1", "10.203.7.2"

PAIR = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
body = json.dumps({"code": sys.argv[2], "name": "till-1"}).encode()
with urllib.request.urlopen(sys.argv[1] + "/api/v1/pair", data=body, context=context, timeout=20) as answer:
    sys.stdout.write(answer.read().decode())
"""
GET = """
import sys, urllib.error, urllib.request
try:
    sys.stdout.write(str(urllib.request.urlopen(sys.argv[1], timeout=10).status))
except urllib.error.HTTPError as error:
    sys.stdout.write(str(error.code))
"""


class Lan(NamedTuple):
    """Names of the two namespaces."""

    box: str
    till: str

    def at_till(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program where the till is."""
        whole = ["ip", "netns", "exec", self.till, *command]
        return subprocess.run(whole, capture_output=True, text=True, timeout=30, check=False)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10, capture_output=True)


@pytest.fixture
def lan() -> Iterator[Lan]:
    mark = secrets.token_hex(3)
    made = Lan(f"ns-box-{mark}", f"ns-till-{mark}")
    try:
        for name in made:
            ip("netns", "add", name)
        ip("-n", made.box, "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", made.till)
        for name, address in zip(made, (BOX_ADDRESS, TILL_ADDRESS), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "lan0")
            for link in ("lo", "lan0"):
                ip("-n", name, "link", "set", link, "up")
        yield made
    except subprocess.CalledProcessError as error:
        cannot_run(f"no network namespaces here: {error.stderr!r}")
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=10, capture_output=True)


@pytest.fixture
def box(new_box: Callable[..., Box], lan: Lan) -> Box:
    return serving(new_box, lan)


def serving(new_box: Callable[..., Box], lan: Lan) -> Box:
    """A box as scripts/install sets it up: TLS on every address, the page plain and with TLS."""
    made = new_box(
        gate={"listen": ["0.0.0.0:8883"]},
        devices={"open": False},
        web={"listen": "0.0.0.0:8080", "listen_tls": "0.0.0.0:8443"},
        **{"gate.tls": {"also_plain": ["127.0.0.1:1883"]}},
    )
    made.command = ["ip", "netns", "exec", lan.box, *NIGHTSAFE]
    made.said("event=ready", made.begin(), START_MAX_S)
    return made


def token(box: Box) -> str:
    command = [*NIGHTSAFE, "devices", "add", "till-1", "--json", "--config", str(box.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    facts: dict[str, Any] = json.loads(done.stdout)
    assert (facts["host"], facts["port"], facts["pairing_port"]) == (BOX_ADDRESS, 8883, 8443)
    return str(facts["uri"].split("code=")[1].split("&")[0])


def test_a_till_pairs_and_sells_with_tls_over_the_venues_network(box: Box, lan: Lan) -> None:
    paired = lan.at_till(sys.executable, "-c", PAIR, f"https://{BOX_ADDRESS}:8443", token(box))
    assert paired.returncode == 0, paired.stderr
    told = json.loads(paired.stdout)
    authority = box.directory / "till-ca.pem"
    authority.write_text(told["ca_pem"])
    payload = counted("e1", 1).decode()
    command = ["mosquitto_pub", "-h", told["host"], "-p", str(told["port"]), "--cafile", str(authority)]
    command += [
        "-u",
        told["username"],
        "-P",
        told["password"],
        "-q",
        "1",
        "-t",
        f"{told['prefix']}events",
        "-m",
        payload,
    ]
    done = lan.at_till(*command)
    assert done.returncode == 0, done.stderr
    assert box.stored("till-1") == [payload.encode()]
    other = lan.at_till(*command, "-t", "pos/v1/till-2/events")
    assert other.returncode != 0, "it may not speak for another till"
    assert box.stored("till-2") == []


def test_a_till_is_told_the_address_that_leads_out_and_not_just_the_lowest(box: Box, lan: Lan) -> None:
    """Beside the venue's network stands one of the box's own, as containers make them."""
    ip("-n", lan.box, "addr", "add", "10.1.0.1/16", "dev", "lo")
    ip("-n", lan.box, "route", "add", "default", "via", TILL_ADDRESS, "dev", "lan0")
    assert token(box)


HOLD = """
import socket, sys, time
taken = [socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) for _ in range(100)]
print("here", flush=True)
time.sleep(60)
"""


def test_one_host_that_takes_every_connection_keeps_no_other_from_the_page(box: Box, lan: Lan) -> None:
    other = "10.203.7.3"
    ip("-n", lan.till, "addr", "add", f"{other}/24", "dev", "lan0")
    whole = ["ip", "netns", "exec", lan.till, sys.executable, "-c", HOLD, BOX_ADDRESS, "8080"]
    greedy = subprocess.Popen(whole, stdout=subprocess.PIPE, text=True)
    try:
        assert greedy.stdout is not None
        assert greedy.stdout.readline() == "here\n"
        page = f"http://{BOX_ADDRESS}:8080/livez"
        got = lan.at_till("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--interface", other, page)
        assert got.stdout == "200", got
    finally:
        greedy.kill()
        greedy.communicate()


def test_nothing_but_tls_health_and_the_page_is_offered_to_the_network(box: Box, lan: Lan) -> None:
    seen = subprocess.run(["ip", "netns", "exec", lan.box, "ss", "-Hltn"], capture_output=True, text=True, check=True)
    assert {line.split()[3] for line in seen.stdout.splitlines()} == {
        "0.0.0.0:8883", "0.0.0.0:8080", "0.0.0.0:8443", "127.0.0.1:1883",
    }  # fmt: skip

    def get(path: str) -> str:
        return lan.at_till(sys.executable, "-c", GET, f"http://{BOX_ADDRESS}:8080{path}").stdout

    assert [get(path) for path in ("/livez", "/health", "/", "/metrics", "/api/v1/status", "/api/v1/pair")] == [
        "200", "200", "200", "403", "403", "403",
    ]  # fmt: skip


def test_the_certificate_follows_when_the_box_gets_another_address(box: Box, lan: Lan) -> None:
    """The box looks every ten seconds; its own address of before is gone."""
    before = (box.state / "identity" / "server.pem").read_bytes()
    ip("-n", lan.box, "addr", "del", f"{BOX_ADDRESS}/24", "dev", "lan0")
    ip("-n", lan.box, "addr", "add", "10.203.7.9/24", "dev", "lan0")
    until(lambda: (box.state / "identity" / "server.pem").read_bytes() != before, "a new certificate", 30)
    authority = str(box.state / "identity" / "ca.pem")
    command = ["mosquitto_pub", "-p", "8883", "--cafile", authority, "-u", "till-1", "-P", "x", "-t", "a", "-m", "b"]
    assert "not authorised" in lan.at_till(*command, "-h", "10.203.7.9").stderr, "TLS is fine, the login is not"
