"""TLS by the venue's authority: sales, the page, and what somebody can do to the door."""

import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.integration import mqtt
from tests.integration.machine import NIGHTSAFE, Box, until
from tests.sales import counted

pytestmark = pytest.mark.needs("mosquitto")


def tls_box(new_box: Callable[..., Box], **gate: Any) -> Box:
    """A box whose only gate address speaks TLS, and a page with TLS beside the plain one."""
    tls = {
        key: gate.pop(key)
        for key in ("also_plain", "names", "handshakes_max", "handshakes_per_address_max")
        if key in gate
    }
    return new_box(gate=gate, web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": tls})


def trusting(box: Box) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(box.state / "identity" / "ca.pem"))


def sell(box: Box, device: str, sequence: int) -> float:
    """One sale over TLS, acknowledged; returns the seconds from dialling to the acknowledgement."""
    began_s = time.monotonic()
    plain = socket.create_connection(("127.0.0.1", box.port), timeout=10)
    with plain, trusting(box).wrap_socket(plain, server_hostname="127.0.0.1") as line:
        line.sendall(mqtt.connect(device, username=device))
        assert line.recv(4) == b"\x20\x02\0\0"
        line.sendall(mqtt.publish(f"pos/v1/{device}/events", counted("e1", sequence), packet_id=7))
        assert line.recv(4) == b"\x40\x02\0\x07"
    return time.monotonic() - began_s


@pytest.mark.needs("mosquitto_pub")
@pytest.mark.parametrize("version", ["311", "5"])
def test_a_stock_client_sells_over_tls_and_a_client_that_trusts_somebody_else_says_nothing(
    new_box: Callable[..., Box], version: str
) -> None:
    box = tls_box(new_box).start()
    payload = counted("e1", 1)
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(box.port), "-V", f"mqttv{version}", "-u", "till-1"]
    command += ["-q", "1", "-t", "pos/v1/till-1/events", "-m", payload.decode()]
    subprocess.run([*command, "--cafile", str(box.state / "identity" / "ca.pem")], timeout=20, check=True)
    assert box.stored("till-1") == [payload]
    foreign = subprocess.run([*command, "--cafile", "/etc/ssl/certs/ca-certificates.crt"], timeout=20, check=False)
    assert foreign.returncode != 0
    until(lambda: box.counts()["handshakes_failed"] >= 1, "the failed handshake is counted")
    assert len(box.stored("till-1")) == 1


def test_a_client_that_speaks_no_tls_is_closed_and_counted(new_box: Callable[..., Box]) -> None:
    box = tls_box(new_box).start()
    with socket.create_connection(("127.0.0.1", box.port), timeout=10) as plain:
        plain.sendall(mqtt.connect("till-1", username="till-1"))
        with suppress(ConnectionResetError):
            assert plain.recv(1) in (b"", b"\x15"), "nothing, or an alert of TLS"
    until(lambda: box.counts()["handshakes_failed"] == 1, "it is counted")
    sell(box, "till-1", 1)


def test_a_plain_address_of_loopback_may_stand_beside_and_no_other(new_box: Callable[..., Box]) -> None:
    box = tls_box(new_box, also_plain=["127.0.0.1:0"])
    box.start()  # its port is the last address that the box names: the plain one
    with mqtt.Wire(box.port) as device:
        device.send(mqtt.connect("till-1", username="till-1"))
        assert device.packet().kind == mqtt.CONNACK
    assert box.stop() == 0
    box.settings["gate.tls"]["also_plain"] = ["0.0.0.0:1883"]
    box.write_config()
    check = subprocess.run(
        [*NIGHTSAFE, "config", "check", "--config", str(box.config)], capture_output=True, text=True, check=False
    )
    assert check.returncode == 78
    assert "gate.tls.also_plain: 0.0.0.0:1883 is not loopback" in check.stdout + check.stderr


def test_the_page_is_served_with_tls_by_the_same_authority(new_box: Callable[..., Box]) -> None:
    box = tls_box(new_box).start()
    url = f"https://localhost:{box.pages['https']}"
    with urllib.request.urlopen(f"{url}/api/v1/status", context=trusting(box), timeout=10) as answer:
        assert json.load(answer)["venue"] == "demo"
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"{url}/", timeout=10)
    with urllib.request.urlopen(f"http://127.0.0.1:{box.web_port}/livez", timeout=10) as answer:
        assert answer.status == 200


def test_the_page_answers_to_every_name_that_its_certificate_has_and_to_no_other(new_box: Callable[..., Box]) -> None:
    """A till that was given a name by the QR code asks by that name."""
    box = tls_box(new_box, names=["Box.venue.test"]).start()

    def asked_as(host: str) -> int:
        request = urllib.request.Request(f"https://localhost:{box.pages['https']}/livez", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, context=trusting(box), timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert [asked_as(name) for name in ("box.venue.test", "nightsafe.local:8443", "evil.test")] == [200, 200, 421]


def test_the_authority_is_the_same_after_a_restart_and_devices_go_on(new_box: Callable[..., Box]) -> None:
    box = tls_box(new_box).start()
    sell(box, "till-1", 1)
    authority = (box.state / "identity" / "ca.pem").read_bytes()
    box.restart()
    assert (box.state / "identity" / "ca.pem").read_bytes() == authority
    sell(box, "till-1", 2)


def test_handshakes_that_nobody_finishes_are_bounded_and_keep_no_till_from_selling(new_box: Callable[..., Box]) -> None:
    box = tls_box(new_box, handshakes_per_address_max=20, handshakes_max=40, connect_timeout_s=20).start()
    sell(box, "till-1", 1)
    with ExitStack() as stack:
        for _ in range(300):
            silent = socket.create_connection(("127.0.0.1", box.port), timeout=10, source_address=("127.0.0.2", 0))
            stack.enter_context(silent)
        until(lambda: box.counts()["handshakes_over_limit"] == 280, "all but twenty are closed")
        took_s = [sell(box, "till-1", sequence) for sequence in range(2, 12)]
    assert len(box.stored("till-1")) == 11
    assert max(took_s) < 5, "no till has waited for the silent ones, which may take 20 s"


def test_logins_that_are_refused_again_and_again_are_locked_out_and_told(new_box: Callable[..., Box]) -> None:
    box = new_box(gate={"login_tries_max": 3, "lockout_s": 1.0}, devices={"open": False}).start()

    def log_in(name: str, level: int = mqtt.V5) -> int:
        with mqtt.Wire(box.port) as device:
            device.send(mqtt.connect(name, username=name, password=b"guess", level=level))
            return device.packet().body[1]

    assert [log_in("till-1") for _ in range(4)] == [0x87, 0x87, 0x87, 0x9F]
    assert log_in("till-1", mqtt.V4) == 3
    assert log_in("till-2") == 0x87, "another name is asked about"
    counts = box.counts()
    assert (counts["logins_refused"], counts["logins_locked_out"]) == (4, 2)

    def told() -> list[str]:
        return [one["text"] for one in box.status()["conditions"] if one["id"] == "login_locked_out"]

    assert "till-1 from 127.0.0.1" in until(told, "people are told")[0]
    time.sleep(1.1)
    assert log_in("till-1") == 0x87, "it may try again"
    assert "guess" not in box.text
