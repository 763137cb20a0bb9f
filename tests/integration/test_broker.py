"""Mosquitto behind the gate: reachable by nobody else, restarted when it dies, and strict where devices are known."""

import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration import mqtt
from tests.integration.machine import Box, until
from tests.integration.mqtt import V4, V5, Device, Wire
from tests.sales import counted, event, new_name
from tests.tools import needs

both_levels = pytest.mark.parametrize("level", [V4, V5], ids=["v311", "v5"])


def listeners(box: Box, *kinds: str) -> set[str]:
    """Local addresses on which the agent or a child of it listens."""
    done = subprocess.run(["ss", "-Hnlp", *kinds], capture_output=True, text=True, check=True)
    pids = {str(pid) for pid in box.pids()}
    return {
        line.split()[3] if kinds == ("-t",) else line
        for line in done.stdout.splitlines()
        if pids & set(re.findall(r"pid=(\d+)", line))
    }


@pytest.mark.needs("ss")
def test_only_the_gate_and_the_page_listen_on_the_network(box: Box) -> None:
    assert listeners(box, "-t") == {f"127.0.0.1:{box.port}", f"127.0.0.1:{box.web_port}"}
    assert listeners(box, "-u") == set()
    assert box.mosquitto_pid() != 0


def test_options_of_the_listener_stand_behind_its_line(box: Box) -> None:
    """Before it they would open a second listener, on every address."""
    lines = (box.state / "mosquitto.conf").read_text().splitlines()
    listener = next(at for at, line in enumerate(lines) if line.startswith("listener "))
    assert lines[listener] == f"listener 0 {box.state}/mqtt.sock"
    for word in ("use_username_as_clientid true", "max_topic_alias 0"):
        assert lines.index(word) > listener
    assert not [line for line in lines if line.startswith(("port", "bind_address", "max_connections"))]
    assert "persistence false" in lines


def test_a_killed_mosquitto_comes_back_with_what_it_had_retained(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    with Device(box.port, "till-1") as device, Device(box.port, "till-2", level=V5) as other:
        for epoch, sequence in (("old", 1), ("old", 2), ("new", 1)):
            device.tell(counted(epoch, sequence))
        other.tell(event())
        pid = box.mosquitto_pid()
        os.kill(pid, signal.SIGKILL)
        assert device.rest() == []
        assert other.rest() == []
    until(lambda: box.mosquitto_pid() not in (0, pid), "mosquitto runs again")

    def back() -> Device | None:
        try:
            return Device(box.port, "till-1")
        except (AssertionError, mqtt.Gone):
            return None

    device = until(back, "devices are let in again")
    with device:
        assert len(device.tell(counted("new", 2)).body) == 2
        wanted = {"pos/v1/till-1/receipt", "pos/v1/till-1/receipt/old", "pos/v1/till-2/receipt", "pos/v1/venue/status"}
        device.subscribe("pos/v1/#")
        seen: dict[str, bytes] = {}
        for topic, payload in device.messages():
            seen[topic] = payload
            if wanted <= seen.keys() and json.loads(seen["pos/v1/till-1/receipt"])["stored"] == "2":
                break
    assert json.loads(seen["pos/v1/till-1/receipt"])["epoch"] == "new"
    assert json.loads(seen["pos/v1/till-1/receipt/old"])["stored"] == "2"
    assert json.loads(seen["pos/v1/till-2/receipt"])["epoch"] is None
    assert "Traceback" not in box.text
    assert box.stop() == 0


def test_the_receipt_of_an_older_epoch_moves_to_its_own_topic(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    with Device(box.port, "till-1") as device:
        device.subscribe("pos/v1/till-1/receipt/#")
        seen: dict[str, str] = {}
        for epochs in (["e1"], ["e1", "e2"], ["e1", "e2", "e3"]):
            device.send(device.frame(counted(epochs[-1], 1)))
            wanted = {f"pos/v1/till-1/receipt/{epoch}": epoch for epoch in epochs[:-1]}
            wanted["pos/v1/till-1/receipt"] = epochs[-1]
            for topic, payload in device.messages():
                seen[topic] = json.loads(payload)["epoch"]
                if seen == wanted:
                    break


# Where devices are known ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed() -> Iterator[Box]:
    """A box that knows two devices and lets nobody else in."""
    needs("mosquitto", "mosquitto_passwd")
    box = Box(settings={"devices": {"open": False}})
    try:
        box.start()
        for name in ("till-1", "till-2"):
            subprocess.run(
                ["mosquitto_passwd", "-b", box.state / "mosquitto.passwords", name, f"of {name}"], check=True
            )
        os.kill(box.mosquitto_pid(), signal.SIGHUP)

        def known() -> bool:
            with Wire(box.port) as wire:
                return wire.send(hello("till-2")).packet().body[1] == 0

        until(known, "mosquitto has read its passwords again")
        yield box
        assert box.stop() == 0
        assert "Traceback" not in box.text
    finally:
        box.close()


def hello(name: str, level: int = V4, password: str | None = None, **more: object) -> bytes:
    """The CONNECT of a known device."""
    secret = (password or f"of {name}").encode()
    return mqtt.connect(name, username=name, password=secret, level=level, **more)  # type: ignore[arg-type]


@both_levels
def test_who_is_not_known_is_refused_and_what_it_sent_is_discarded(closed: Box, level: int) -> None:
    name = new_name("stranger")
    payload = mqtt.publish(f"pos/v1/{name}/events", event(), level=level)
    mine = mqtt.publish("pos/v1/till-1/events", event(id="stolen"), level=level)
    for connect, frame in (
        (mqtt.connect(name, username=name, level=level), payload),
        (mqtt.connect(name, level=level), payload),
        (hello("till-1", level, "wrong"), mine),
        (mqtt.connect("till-1", username="till-1", level=level), mine),
    ):
        with Wire(closed.port) as wire:
            (got,) = wire.send(connect, frame, b"\x00\x00 no packet").rest()
            assert got.body[1] == (0x87 if level == V5 else 5)
    assert closed.rows("select 1 from devices where device = ?", name) == []
    assert not [one for one in closed.stored("till-1") if b"stolen" in one]


@pytest.mark.parametrize("name", ["agent", "venue", "nightsafe"])
def test_no_device_comes_in_as_the_box_itself(closed: Box, name: str) -> None:
    with Wire(closed.port) as wire:
        (got,) = wire.send(hello(name, V5)).rest()
        assert (got.reason, "the box's own" in (got.reason_string or "")) == (0x87, True)


@both_levels
def test_a_known_device_sends_events_whatever_its_client_id(closed: Box, level: int) -> None:
    payload = event()
    with Wire(closed.port) as wire:
        connect = mqtt.connect("till-2", username="till-1", password=b"of till-1", level=level)
        wire.send(connect, mqtt.publish("pos/v1/till-1/events", payload, level=level))
        assert [one.kind for one in wire.packets(2)] == [mqtt.CONNACK, mqtt.PUBACK]
    assert payload in closed.stored("till-1")


def test_a_device_writes_and_reads_its_own_topics_only(closed: Box) -> None:
    ours = ["pos/v1/till-1/state", "pos/v1/till-1/requests/loyalty.balance"]
    others = [
        "pos/v1/till-1/receipt", "pos/v1/till-1/commands", "pos/v1/till-1/replies", "pos/v1/till-1/orders",
        "pos/v1/till-2/state", "pos/v1/venue/status", "pos/v1/agent/state", "$SYS/x", "x",
    ]  # fmt: skip
    with Wire(closed.port) as till, Wire(closed.port) as other:
        assert till.send(hello("till-1", V5)).packet().body[1] == 0
        assert other.send(hello("till-2", V5)).packet().body[1] == 0
        for at, topic in enumerate(["#", "pos/v1/till-1/#", "pos/v1/+/state"], 1):
            assert other.send(mqtt.subscribe(topic, packet_id=at, level=V5)).packet().kind in (
                mqtt.SUBACK,
                mqtt.PUBLISH,
            )
        for at, topic in enumerate(ours + others, 1):
            till.send(mqtt.publish(topic, b"{}", packet_id=at, level=V5))
            got = till.packet()
            assert (got.kind, got.packet_id, got.reason < 0x80) == (mqtt.PUBACK, at, topic in ours)
        other.send(mqtt.publish("pos/v1/till-2/state", b'{"state":"ready"}', packet_id=9, level=V5))
        heard = []
        while "pos/v1/till-2/state" not in heard:
            got = other.packet()
            heard += [got.topic] if got.kind == mqtt.PUBLISH else []
        venue = {f"pos/v1/venue/{name}" for name in ("status", "notices", "capabilities")}
    assert set(heard) <= {"pos/v1/till-2/state", "pos/v1/till-2/receipt"} | venue


def test_a_will_for_another_device_is_dropped(closed: Box) -> None:
    foul, good = event(), event()
    for topic, payload in (("pos/v1/till-2/events", foul), ("pos/v1/till-1/events", good)):
        with Wire(closed.port) as wire:
            assert wire.send(hello("till-1", will=(topic, payload))).packet().body[1] == 0
    until(lambda: good in closed.stored("till-1"), "the device's own will is stored")
    assert foul not in closed.stored("till-2")


def test_A1_3_secrets_and_broker_files_are_the_boxs_own(closed: Box) -> None:
    for path in (closed.state, *closed.state.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            assert oct(stat.S_IMODE(mode)) == oct(0o700 if stat.S_ISDIR(mode) else 0o600), path
    assert {"mosquitto.passwords", "mosquitto.acl"} <= {path.name for path in Path(closed.state).iterdir()}
