"""Starting and stopping: what a box refuses to start with, and what it has kept when it is told to stop."""

import socket
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.integration import mqtt
from tests.integration.machine import NIGHTSAFE, START_MAX_S, Box, until
from tests.integration.mqtt import V4, V5, Device, Gone
from tests.sales import counted, event
from tests.tools import needs


def refused(box: Box) -> tuple[int, str]:
    """Exit status and words of an agent that does not start."""
    since = box.begin()
    status = box.wait(START_MAX_S)
    words = box.text[since:]
    assert "event=ready" not in words
    assert "Traceback" not in words
    return status, words


def test_plain_mqtt_off_loopback_is_refused_with_words(new_box: Callable[..., Box]) -> None:
    addresses = ["0.0.0.0:0", "[::]:0", "192.0.2.1:1883", "till.example:1883"]
    box = new_box(gate={"listen": addresses}, devices={"open": False})
    status, words = refused(box)
    assert status == 78
    for address in addresses:
        assert f"{address} is not loopback, and plain MQTT is served on loopback only" in words
    assert "nightsafe.toml:" in words
    assert not box.state.exists()


def test_an_occupied_port_is_named_with_its_remedy(new_box: Callable[..., Box]) -> None:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        port = occupant.getsockname()[1]
        status, words = refused(new_box(gate={"listen": [f"127.0.0.1:{port}"]}))
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}" in words
    assert f"ss -ltnp 'sport = :{port}'" in words
    assert "systemctl disable --now mosquitto" in words


def test_a_missing_mosquitto_is_named_with_its_remedy(new_box: Callable[..., Box]) -> None:
    status, words = refused(new_box(broker={"command": "no-such-broker"}))
    assert status == 1
    assert "no-such-broker was not found" in words
    assert "apt-get install mosquitto" in words


def test_a_state_directory_too_deep_for_a_unix_socket_is_named(new_box: Callable[..., Box]) -> None:
    box = new_box()
    box.settings["state"]["directory"] = str(box.directory / ("d" * 100) / "state")
    status, words = refused(box)
    assert status == 1
    assert "too long for a Unix socket" in words
    assert "[state] directory" in words


def test_one_journal_serves_one_agent_one_venue_and_no_older_program(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    second = subprocess.run(
        [*NIGHTSAFE, "run", "--config", str(box.config)],
        capture_output=True,
        text=True,
        timeout=START_MAX_S,
        check=False,
    )
    assert second.returncode == 1
    assert f"Another Nightsafe (process {box.pid}) already uses {box.state}" in second.stderr
    with Device(box.port, "till-1") as device:
        device.tell(event())
    assert box.stop() == 0

    box.settings["venue"]["id"] = "other"
    status, words = refused(box)
    assert status == 1
    assert 'belongs to the venue "demo", the settings say "other"' in words
    box.settings["venue"]["id"] = "demo"

    connection = sqlite3.connect(box.journal)
    (version,) = connection.execute("pragma user_version").fetchone()
    connection.execute("pragma user_version = 999")
    connection.close()
    status, words = refused(box)
    assert status == 1
    assert "schema 999" in words
    connection = sqlite3.connect(box.journal)
    connection.execute(f"pragma user_version = {version}")
    connection.close()
    box.start()
    assert len(box.stored("till-1")) == 1


def test_A1_3_the_state_directory_is_the_boxs_own(new_box: Callable[..., Box]) -> None:
    box = new_box()
    box.state.mkdir(0o755)
    box.start()
    with Device(box.port, "till-1") as device:
        device.tell(event())
        device.tell(b"{}")
    modes = {path: path.lstat().st_mode for path in (box.state, *box.state.rglob("*"))}
    assert {path.name for path in modes} >= {"journal.sqlite", "journal.sqlite-wal", "mosquitto.conf"}
    for path, mode in modes.items():
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            assert oct(stat.S_IMODE(mode)) == oct(0o700 if stat.S_ISDIR(mode) else 0o600), path


class Pusher(threading.Thread):
    """A device that sends as fast as it is acknowledged, until the box closes the connection."""

    def __init__(self, port: int, name: str, level: int) -> None:
        super().__init__(name=name, daemon=True)
        self.device = Device(port, name, level=level)
        self.sent: list[bytes] = []
        self.told = 0
        self.last: list[mqtt.Packet] = []

    def run(self) -> None:
        with self.device, suppress(Gone):
            while True:
                with suppress(OSError):  # the other side may close while we send; what it has said is still read
                    self._send()
                got = self.device.packet()
                if got.kind == mqtt.PUBACK:
                    self.told += 1
                else:
                    self.last.append(got)

    def _send(self) -> None:
        while len(self.sent) - self.told < 32:
            self.sent.append(counted("e", len(self.sent) + 1))
            self.device.send(self.device.frame(self.sent[-1], packet_id=len(self.sent)))


def test_sigterm_under_load_ends_with_0_and_with_all_that_was_acknowledged(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    pushers = [Pusher(box.port, f"till-{at}", V5 if at % 2 else V4) for at in range(4)]
    for pusher in pushers:
        pusher.start()
    until(lambda: all(pusher.told > 300 for pusher in pushers), "the load runs")
    assert box.stop() == 0
    for pusher in pushers:
        pusher.join(10)
        assert not pusher.is_alive()
        stored = box.stored(pusher.name)
        assert stored == pusher.sent[: len(stored)]
        assert len(stored) == pusher.told  # and what was taken is acknowledged
        assert [one.reason for one in pusher.last if one.kind == mqtt.DISCONNECT] in ([], [0x8B])
    assert any(pusher.last for pusher in pushers if pusher.device.level == V5)
    assert "event=stopped" in box.text
    assert "stage_cancelled" not in box.text
    assert "Traceback" not in box.text
    assert box.rows("pragma integrity_check") == [("ok",)]


def test_what_was_stored_is_known_after_a_restart_and_after_a_kill(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    payload = counted("e1", 1, id="a")
    other = counted("e1", 1, id="a", type="pos.payment.voided")
    with Device(box.port, "till-1", level=V5) as device:
        device.tell(payload)
    box.restart()
    with Device(box.port, "till-1", level=V5) as device:
        assert len(device.tell(payload).body) == 2
        assert device.tell(other).reason == 0x99
        device.tell(counted("e1", 2))
        box.kill()
    box.start()
    with Device(box.port, "till-1", level=V5) as device:
        assert len(device.tell(payload).body) == 2
        assert device.tell(other).reason == 0x99
        device.tell(counted("e1", 3))
    assert [b'"id":"a"' in one for one in box.stored("till-1")] == [True, False, False]
    assert box.device("till-1")["stored"] == "3"
    assert len(box.own_records("nightsafe.event.refused")) == 1
    assert box.stop() == 0


def test_a_killed_agent_leaves_no_mosquitto_behind(new_box: Callable[..., Box]) -> None:
    needs("setpriv")
    box = new_box().start()
    broker = box.mosquitto_pid()
    box.kill()
    until(lambda: not Path(f"/proc/{broker}").exists(), "its mosquitto has ended")
