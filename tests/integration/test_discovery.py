"""The box announces itself on a venue's network; at the till's end and beside the box stand real avahi daemons."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.machine import Box, until
from tests.integration.test_lan import BOX_ADDRESS, Lan, ip, lan, serving

__all__ = ["lan"]

pytestmark = [
    pytest.mark.needs("ip", "mosquitto", "avahi-daemon", "avahi-browse", "dbus-daemon"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]

MQTT, PAGE = "_secure-mqtt._tcp", "_nightsafe._tcp"
OTHER_ADDRESS = "10.203.7.9"
SEEN_MAX_S = 25.0

BUS = """<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>"""
AVAHI = """[server]
host-name={host}
use-ipv6=no
allow-interfaces=lan0
[wide-area]
enable-wide-area=no
[publish]
publish-workstation=no
"""


class Avahi:
    """avahi-daemon in one namespace, with a bus of its own; what it says is in `log`."""

    def __init__(self, namespace: str, host: str, directory: Path) -> None:
        directory.mkdir()
        bus, self.log = directory / "bus", directory / "avahi.log"
        (directory / "bus.conf").write_text(BUS.format(path=bus))
        (directory / "avahi.conf").write_text(AVAHI.format(host=host))
        self._in = ["ip", "netns", "exec", namespace]
        self._environment = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"}
        self._running = [self._start(["dbus-daemon", "--nofork", "--nopidfile", f"--config-file={directory}/bus.conf"])]
        until(bus.exists, "the bus listens")
        daemon = f"avahi-daemon -f {directory}/avahi.conf --no-drop-root --no-chroot --no-rlimits --debug"
        run = "mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && exec "
        self._running.append(self._start(["sh", "-c", run + daemon]))
        until(lambda: "Server startup complete" in self.text, "avahi is up")

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as out:
            return subprocess.Popen([*self._in, *command], env=self._environment, stdout=out, stderr=out)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def browse(self, kind: str) -> list[list[str]]:
        """What it knows of a type and can resolve: name, host, address, port, TXT."""
        command = [*self._in, "avahi-browse", "--parsable", "--resolve", "--terminate", kind]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=30, check=True)
        found = [line.split(";", 9) for line in done.stdout.splitlines() if line.startswith("=")]
        return sorted(
            [one[3].replace("\\032", " ").replace("\\040", "(").replace("\\041", ")"), *one[6:]] for one in found
        )

    def knows(self, kind: str, *names: str) -> Callable[[], bool]:
        return lambda: [one[0] for one in self.browse(kind)] == list(names)

    def publish(self, name: str, kind: str, port: int) -> subprocess.Popen[bytes]:
        made = self._start(["avahi-publish", "-s", name, kind, str(port)])
        self._running.append(made)
        until(lambda: "Established" in self.text, "avahi announces it")
        return made

    def close(self) -> None:
        for one in reversed(self._running):
            one.send_signal(signal.SIGTERM)
            one.wait(10)


@pytest.fixture
def avahi(lan: Lan, tmp_path: Path) -> Iterator[Callable[[str], Avahi]]:
    made: list[Avahi] = []

    def start(namespace: str) -> Avahi:
        made.append(Avahi(namespace, "box" if namespace == lan.box else "till", tmp_path / namespace))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_a_till_finds_the_box_beside_avahi_follows_its_address_and_hears_its_goodbye(
    new_box: Callable[..., Box], lan: Lan, avahi: Callable[[str], Avahi]
) -> None:
    beside, till = avahi(lan.box), avahi(lan.till)
    box = serving(new_box, lan)
    fingerprint = box_fingerprint(box)
    until(till.knows(PAGE, "Demo Bar"), "the page is found", SEEN_MAX_S)
    (page,), (mqtt,) = till.browse(PAGE), till.browse(MQTT)
    assert page[:4] == ["Demo Bar", "nightsafe-demo.local", BOX_ADDRESS, "8443"]
    assert mqtt[:4] == ["Demo Bar", "nightsafe-demo.local", BOX_ADDRESS, "8883"]
    facts = dict(one.strip('"').split("=", 1) for one in page[4].split('" "'))
    assert facts == {
        "venue": "demo", "ca": fingerprint[:20], "mqtt": "8883", "path": "/", "version": facts["version"],
    }  # fmt: skip
    assert until(beside.knows(MQTT, "Demo Bar"), "the daemon beside it finds it too", SEEN_MAX_S)

    ip("-n", lan.box, "addr", "del", f"{BOX_ADDRESS}/24", "dev", "lan0")
    ip("-n", lan.box, "addr", "add", f"{OTHER_ADDRESS}/24", "dev", "lan0")
    until(lambda: [one[2] for one in till.browse(PAGE)] == [OTHER_ADDRESS], "the new address", SEEN_MAX_S)

    assert box.stop() == 0
    until(till.knows(PAGE), "the goodbye", 5)
    until(till.knows(MQTT), "the goodbye", 5)
    assert "conflict" not in (beside.text + till.text).lower()
    assert "Traceback" not in box.text


def test_a_name_that_another_announces_gets_a_number(
    new_box: Callable[..., Box], lan: Lan, avahi: Callable[[str], Avahi]
) -> None:
    till = avahi(lan.till)
    till.publish("Demo Bar", MQTT, 1)
    serving(new_box, lan)
    until(till.knows(PAGE, "Demo Bar (2)"), "the second name", SEEN_MAX_S)
    assert [(one[0], one[3]) for one in till.browse(MQTT)] == [("Demo Bar", "1"), ("Demo Bar (2)", "8883")]


def test_a_box_without_tls_announces_nothing(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    assert "event=announced" not in box.text


def box_fingerprint(box: Box) -> str:
    done = subprocess.run(
        ["openssl", "x509", "-in", str(box.state / "identity" / "ca.pem"), "-noout", "-fingerprint", "-sha256"],
        capture_output=True, text=True, check=True, timeout=10,
    )  # fmt: skip
    return done.stdout.split("=")[1].strip().replace(":", "").lower()
