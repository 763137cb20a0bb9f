"""The way to the cloud breaks in every way there is, over the running agent: it names each cause, and nothing else.

Three network namespaces: the venue with the box, its router with the name server, and the world with the cloud.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from agent.cli.status import fetch
from tests.integration.machine import NIGHTSAFE, START_MAX_S, Box, CloudServer, until
from tests.sales import counted
from tests.tools import cannot_run

pytestmark = [
    pytest.mark.needs("ip", "mosquitto", "mosquitto_pub"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]

BOX, ROUTER = "10.204.7.2", "10.204.7.1"
WORLD_ROUTER, CLOUD, OTHER = "10.205.7.1", "10.205.7.2", "10.205.7.3"
FOUND_WITHIN_S = 40.0
QUICK = {
    "probe_interval_s": 1,
    "probe_timeout_s": 4,
    "offline_debounce_s": 1,
    "layer_timeout_s": 1.5,
    "examine_interval_s": 3,
    "portal_url": "http://check.test/",
    "portal_answer": "this is the internet",
    "other_hosts": [f"{OTHER}:80"],
}


class Venue:
    """The namespaces, and what runs in them."""

    def __init__(self, folder: Path) -> None:
        mark = secrets.token_hex(3)
        self.box_space, self.router_space, self.world_space = (f"ns-{name}-{mark}" for name in ("b", "r", "w"))
        self.spaces = (self.box_space, self.router_space, self.world_space)
        self.folder = folder
        self.resolver = Path("/etc/netns") / self.box_space
        self.outside: dict[str, subprocess.Popen[str]] = {}
        self.cloud = CloudServer()
        self.box: Box

    def ip(self, space: str, *arguments: str) -> None:
        subprocess.run(["ip", "-n", space, *arguments], check=True, timeout=10, capture_output=True)

    def within(self, space: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program there."""
        whole = ["ip", "netns", "exec", space, *command]
        return subprocess.run(whole, capture_output=True, text=True, timeout=30, check=True)

    def open(self) -> None:
        for space in self.spaces:
            subprocess.run(["ip", "netns", "add", space], check=True, timeout=10, capture_output=True)
            self.ip(space, "link", "set", "lo", "up")
        for near, far, name in (
            (self.box_space, self.router_space, "lan0"),
            (self.router_space, self.world_space, "wan0"),
        ):
            self.ip(near, "link", "add", name, "type", "veth", "peer", "name", name, "netns", far)
        for space, name, address in (
            (self.box_space, "lan0", BOX),
            (self.router_space, "lan0", ROUTER),
            (self.router_space, "wan0", WORLD_ROUTER),
            (self.world_space, "wan0", CLOUD),
            (self.world_space, "wan0", OTHER),
        ):
            self.ip(space, "addr", "add", f"{address}/24", "dev", name)
            self.ip(space, "link", "set", name, "up")
        self.within(self.router_space, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.within(self.box_space, "sysctl", "-qw", "net.ipv4.neigh.lan0.delay_first_probe_time=1")
        self.ip(self.box_space, "route", "add", "default", "via", ROUTER)
        self.ip(self.world_space, "route", "add", "default", "via", WORLD_ROUTER)
        self.resolver.mkdir(parents=True)
        (self.resolver / "resolv.conf").write_text(f"nameserver {ROUTER}\noptions timeout:1 attempts:1\n")

    def certificates(self) -> None:
        ours, strange = trustme.CA(), trustme.CA()
        later = datetime.now(UTC) + timedelta(days=300)
        made = {
            "cloud": ours.issue_cert("cloud.test"),
            "stranger": strange.issue_cert("cloud.test"),
            "future": ours.issue_cert("cloud.test", not_before=later, not_after=later + timedelta(days=300)),
        }
        ours.cert_pem.write_to_path(str(self.folder / "ca.pem"))
        for name, certificate in made.items():
            certificate.private_key_and_cert_chain_pem.write_to_path(str(self.folder / f"{name}.pem"))

    def serve(self) -> None:
        """The reference cloud, with tokens, and what stands before it."""
        tokens = self.cloud.directory / "tokens"
        tokens.write_text("demo good-token\n")
        tokens.chmod(0o600)
        self.cloud.command = ["ip", "netns", "exec", self.world_space, *NIGHTSAFE]
        listen = ["--listen", "127.0.0.1:9800", "--ledger", self.cloud.ledger, "--tokens", str(tokens)]
        since = self.cloud.launch("cloud", "serve", *listen)
        self.cloud.said("nightsafe cloud listens on ", since, START_MAX_S)
        for role, space in (("router", self.router_space), ("world", self.world_space)):
            program = [sys.executable, "-m", "tests.integration.outside", str(self.folder), role]
            self.outside[role] = subprocess.Popen(
                ["ip", "netns", "exec", space, *program, ROUTER, CLOUD, OTHER, "9800"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.heard(role)

    def heard(self, role: str) -> None:
        stream = self.outside[role].stdout
        assert stream is not None
        assert stream.readline() == "done\n"

    def tell(self, role: str, words: str) -> None:
        stream = self.outside[role].stdin
        assert stream is not None
        stream.write(f"{words}\n")
        stream.flush()
        self.heard(role)

    def token(self, text: str) -> None:
        path = self.box.directory / "token"
        path.write_text(text)
        path.chmod(0o600)

    def status(self) -> dict[str, Any]:
        """What the agent says on its Unix socket."""
        found: dict[str, Any] = msgspec.json.decode(fetch(self.box.state / "nightsafe.sock"))
        return found

    def sell(self, sequence: int) -> None:
        """A till beside the box sells: it is told within a second that this is stored."""
        topic = ["-t", "pos/v1/till-1/events", "-i", "till-1", "-u", "till-1", "-q", "1"]
        port = str(self.box.settings["gate"]["listen"][0].rpartition(":")[2])
        payload = counted("e1", sequence).decode()
        self.within(
            self.box_space, "timeout", "5", "mosquitto_pub", "-h", "127.0.0.1", "-p", port, *topic, "-m", payload
        )

    def found(self) -> tuple[str, str, str]:
        status = self.status()
        return status["state"], status["cause"], status["uplink"]["finding"]

    def told(self, cause: str, finding: str) -> tuple[str, str, str]:
        """What people are told once they are told this, or else when the time for it is over."""
        with suppress(AssertionError):
            until(lambda: self.found()[1:] == (cause, finding), cause, FOUND_WITHIN_S)
        return self.found()

    def close(self) -> None:
        if hasattr(self, "box"):
            self.box.close()
        self.cloud.close()
        for process in self.outside.values():
            process.kill()
            process.communicate()
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, timeout=10, capture_output=True)
        for path in (self.resolver / "resolv.conf", self.resolver):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    made = Venue(tmp_path)
    try:
        made.open()
        made.certificates()
        made.serve()
        made.box = Box("https://cloud.test:9443", {"uplink": QUICK})
        made.box.settings["cloud"] |= {"token_file": "token", "request_timeout_s": 4, "connect_timeout_s": 2}
        made.box.settings["drain"] = {"backoff_max_s": 1, "check_interval_s": 1}
        made.box.environment = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        made.box.command = ["ip", "netns", "exec", made.box_space, *NIGHTSAFE]
        made.token("good-token")
        yield made
    except subprocess.CalledProcessError as error:
        cannot_run(f"no network namespaces here: {error.stderr!r}")
    finally:
        made.close()


Fault = tuple[str, str, Callable[[Venue], None], Callable[[Venue], None]]


def _ip(space: str, *arguments: str) -> Callable[[Venue], None]:
    return lambda venue: venue.ip(getattr(venue, f"{space}_space"), *arguments)


def _tell(role: str, words: str) -> Callable[[Venue], None]:
    return lambda venue: venue.tell(role, words)


def _readdress(venue: Venue) -> None:
    venue.ip(venue.box_space, "addr", "add", f"{BOX}/24", "dev", "lan0")
    venue.ip(venue.box_space, "route", "add", "default", "via", ROUTER)


def _silence_router(venue: Venue) -> None:
    """Gone, and the kernel has not noticed: it names the router's hardware address as before."""
    venue.ip(venue.box_space, "neigh", "change", ROUTER, "dev", "lan0", "nud", "permanent")
    venue.ip(venue.router_space, "addr", "del", f"{ROUTER}/24", "dev", "lan0")


def _wake_router(venue: Venue) -> None:
    venue.ip(venue.router_space, "addr", "add", f"{ROUTER}/24", "dev", "lan0")
    venue.ip(venue.box_space, "neigh", "change", ROUTER, "dev", "lan0", "nud", "stale")


def _forward(venue: Venue, on: bool) -> None:
    venue.within(venue.router_space, "sysctl", "-qw", f"net.ipv4.ip_forward={int(on)}")


DEFAULT = ("route", "add", "default", "via", ROUTER)
FAULTS: dict[str, Fault] = {
    "link down": (
        "link",
        "no_carrier",
        _ip("router", "link", "set", "lan0", "down"),
        _ip("router", "link", "set", "lan0", "up"),
    ),
    "router without answer": (
        "gateway",
        "gateway_silent",
        _silence_router,
        _wake_router,
    ),
    "names fail": ("dns", "lookup_failed", _tell("router", "dns fails"), _tell("router", "dns answers")),
    "a login is wanted": (
        "captive_portal",
        "captive_portal",
        _tell("router", "dns portal"),
        _tell("router", "dns answers"),
    ),
    "another authority's certificate": (
        "tls",
        "tls_failed",
        _tell("world", "cloud stranger"),
        _tell("world", "cloud answers"),
    ),
    "a certificate not valid yet": (
        "clock",
        "clock_wrong",
        _tell("world", "cloud future"),
        _tell("world", "cloud answers"),
    ),
    "only the cloud is dropped": (
        "firewall",
        "blocked",
        _ip("router", "route", "add", "blackhole", f"{CLOUD}/32"),
        _ip("router", "route", "del", "blackhole", f"{CLOUD}/32"),
    ),
    "the cloud fails": ("cloud", "server_error", _tell("world", "cloud 500"), _tell("world", "cloud answers")),
    "the cloud is slow": ("cloud_slow", "", _tell("world", "cloud slow"), _tell("world", "cloud answers")),
    "the token is refused": ("auth", "", _tell("world", "cloud 401"), _tell("world", "cloud answers")),
}
"""By name: cause, finding, how it is made, how it is mended."""

MORE: dict[str, Fault] = {
    "no address": ("link", "no_address", _ip("box", "addr", "flush", "dev", "lan0"), _readdress),
    "no route": ("gateway", "no_route", _ip("box", "route", "del", "default"), _ip("box", *DEFAULT)),
    "the provider is down": (
        "link",
        "provider",
        lambda venue: _forward(venue, False),
        lambda venue: _forward(venue, True),
    ),
    "names get no answer": ("dns", "lookup_failed", _tell("router", "dns silent"), _tell("router", "dns answers")),
    "only the cloud is rejected": (
        "firewall",
        "blocked",
        _ip("router", "route", "add", "prohibit", f"{CLOUD}/32"),
        _ip("router", "route", "del", "prohibit", f"{CLOUD}/32"),
    ),
    "the cloud refuses connections": (
        "cloud",
        "refused",
        _tell("world", "cloud gone"),
        _tell("world", "cloud answers"),
    ),
    "the cloud is silent": ("cloud", "no_answer", _tell("world", "cloud silent"), _tell("world", "cloud answers")),
    "something else answers": ("cloud", "not_health", _tell("world", "cloud html"), _tell("world", "cloud answers")),
}
"""Further faults of the same causes; with --long."""


def test_A1_1_A1_7_A1_9_each_fault_is_named_as_what_it_is_and_sales_go_on_through_all_of_them(
    venue: Venue, long_form: bool
) -> None:
    """From a start without any network: the confusion matrix is the diagonal (A1.7, A1.8, A1.10), every sale is told as
    stored (A1.1, A1.9), and all of them reach the cloud by themselves (A1.2)."""
    faults = FAULTS | (MORE if long_form else {})
    venue.ip(venue.router_space, "link", "set", "lan0", "down")
    since = venue.box.begin()
    line = venue.box.said("event=ready", since, START_MAX_S)
    address = next(word for word in line.split() if word.startswith("gate="))
    venue.box.settings["gate"]["listen"] = [address.removeprefix("gate=")]
    venue.sell(1)
    until(lambda: venue.found() == ("offline", "link", "no_carrier"), "a start without a network", FOUND_WITHIN_S)
    venue.ip(venue.router_space, "link", "set", "lan0", "up")
    online(venue)
    seen: dict[str, tuple[str, str, str]] = {}
    for sequence, (name, (cause, finding, make, mend)) in enumerate(faults.items(), 2):
        make(venue)
        venue.sell(sequence)
        seen[name] = venue.told(cause, finding)
        if seen[name][1] == cause:
            assert venue.status()["cloud"]["state"] == {
                "cloud": "failing", "cloud_slow": "slow", "auth": "refusing",
            }.get(cause, "unknown")  # fmt: skip
        mend(venue)
        online(venue)
    for name, (state, cause, finding) in seen.items():
        print(f"{name:35} {faults[name][0]:15} told as {cause:15} {finding:15} {state}")
    assert {name: one[1:] for name, one in seen.items()} == {name: fault[:2] for name, fault in faults.items()}
    until(lambda: venue.status()["sync"]["pending"] == 0, "everything is in the cloud", 30)
    sold = [record.event["sequence"].lstrip("0") for record in venue.cloud.records("till-1")]
    assert sold == [str(number) for number in range(1, len(faults) + 2)]
    assert "Traceback" not in venue.box.text


def online(venue: Venue) -> None:
    until(lambda: venue.found() == ("online", "none", ""), "online again", FOUND_WITHIN_S)


def netcheck(venue: Venue, *options: str) -> subprocess.CompletedProcess[str]:
    """The command, in the box's namespace and with its environment."""
    whole = [
        "ip",
        "netns",
        "exec",
        venue.box_space,
        *NIGHTSAFE,
        "netcheck",
        "--config",
        str(venue.box.config),
        *options,
    ]
    environment = os.environ | venue.box.environment
    return subprocess.run(whole, capture_output=True, text=True, timeout=40, check=False, env=environment)


def test_A1_7_netcheck_names_the_layer_and_what_to_do_without_an_agent_and_never_shows_the_token(venue: Venue) -> None:
    venue.box.write_config()
    well = netcheck(venue)
    assert (well.returncode, "The cloud can be reached." in well.stdout) == (0, True), well.stdout + well.stderr
    venue.token("bad-token")
    refused = netcheck(venue)
    assert (refused.returncode, "needs a new token" in refused.stdout) == (1, True), refused.stdout
    venue.ip(venue.router_space, "route", "add", "blackhole", f"{CLOUD}/32")
    facts = netcheck(venue, "--json")
    found = msgspec.json.decode(facts.stdout)
    assert (facts.returncode, found["cause"], found["finding"]) == (1, "firewall", "blocked")
    layers = {one["layer"]: one["verdict"] for one in found["layers"]}
    assert layers == {
        "link": "ok", "address": "ok", "gateway": "ok", "dns": "ok", "portal": "ok", "others": "ok",
        "clock": layers["clock"], "cloud": "failed", "login": "unknown",
    }  # fmt: skip
    assert "-token" not in well.stdout + refused.stdout + facts.stdout + facts.stderr
