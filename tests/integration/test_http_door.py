"""The HTTP door: devices without MQTT store events on the same path, with the same answers."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from agent.lan.register import Device as Paired
from agent.lan.register import Register, hashed
from agent.runtime.files import private_directory
from tests.integration import mqtt
from tests.integration.machine import NIGHTSAFE, Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted, event

pytestmark = pytest.mark.needs("mosquitto")


def post(
    box: Box, device: str, body: bytes, name: str | None = None, password: str = "any", **headers: str
) -> tuple[int, Any]:
    """Status and JSON of the answer."""
    login = b64encode(f"{name if name is not None else device}:{password}".encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{box.web_port}/api/v1/devices/{device}/events",
        data=body,
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/cloudevents+json"} | headers,
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def ids(*bodies: bytes) -> list[str]:
    return [json.loads(body)["id"] for body in bodies]


def test_one_event_and_a_batch_are_stored_byte_for_byte_in_their_order_and_uploaded(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url).start()
    events = [counted("e1", sequence) for sequence in range(1, 6)]
    assert post(box, "till-1", events[0]) == (200, {"stored": ids(events[0]), "refused": []})
    batch = b" [ " + b" ,\n".join(events[1:]) + b"]"
    assert post(box, "till-1", batch) == (200, {"stored": ids(*events[1:]), "refused": []})
    assert box.stored("till-1") == events
    until(box.uploaded, "the cloud has it")
    assert [int(one.event["sequence"]) for one in cloud.records("till-1")] == [1, 2, 3, 4, 5]


def test_a_repeated_batch_gets_the_same_answer_and_stores_nothing_twice_also_over_kill_and_gate(
    new_box: Callable[..., Box],
) -> None:
    box = new_box().start()
    events = [counted("e1", sequence) for sequence in (1, 2)]
    batch = b"[" + b",".join(events) + b"]"
    first = post(box, "till-1", batch)
    box.kill()
    box.start()
    assert post(box, "till-1", batch) == first
    with Device(box.port, "till-1") as device:
        device.tell(events[1])
    assert box.stored("till-1") == events


def test_refused_events_are_named_and_the_others_of_the_batch_are_stored(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    good, forged = counted("e1", 1), counted("e1", 2, type="nightsafe.forged")
    other = event(id=json.loads(good)["id"], type="pos.shift.opened", data={"x": 1})
    status, answer = post(box, "till-1", b"[" + b",".join((good, forged, other, b"7")) + b"]")
    assert (status, answer["stored"]) == (200, ids(good))
    assert [one["reason"] for one in answer["refused"]] == ["schema", "conflict", "malformed"]
    assert [one["sequence"] for one in answer["refused"]] == ["2", None, None]
    assert len(box.stored("till-1")) == 1
    assert len(box.own_records("nightsafe.event.refused")) == 3


@pytest.mark.parametrize(
    "poison",
    [b'{"id":"x","data":NaN}', b'{"id":"x" "y":1}', b'{"id":"\xff"}', b"[1,2]"],
    ids=["no number", "no comma", "no text", "a list"],
)
def test_a_broken_event_of_a_batch_keeps_none_of_the_others_out_and_is_kept(
    new_box: Callable[..., Box], poison: bytes
) -> None:
    """Poison neither blocks nor vanishes: the same as through the gate."""
    box = new_box().start()
    good = [counted("e1", sequence) for sequence in (1, 2)]
    status, answer = post(box, "till-1", b"[ " + good[0] + b" , " + poison + b"," + good[1] + b"]")
    assert (status, answer["stored"]) == (200, ids(*good)), answer
    assert [one["reason"] for one in answer["refused"]] == ["malformed"]
    assert box.stored("till-1") == good
    assert len(box.own_records("nightsafe.event.refused")) == 1


def test_a_device_that_comes_by_http_alone_is_listed_as_seen_when_it_stored_last(new_box: Callable[..., Box]) -> None:
    box = new_box(devices={"open": False})
    private_directory(box.state)
    secret = "a secret of the device's own"
    Register(box.state).put(Paired("kiosk-1", hashed(secret), "2026-11-22T10:00:00.000Z"))
    box.start()
    listing = [*NIGHTSAFE, "devices", "list", "--config", str(box.config)]

    def listed(*options: str) -> str:
        return subprocess.run([*listing, *options], capture_output=True, text=True, timeout=30, check=True).stdout

    assert "never seen" in listed()
    assert post(box, "kiosk-1", event(), password=secret)[0] == 200
    (one,) = json.loads(listed("--json"))
    (known,) = (one for one in box.status()["devices"] if one["device"] == "kiosk-1")
    assert one["last_seen_at"] == known["last_event_at"]
    assert "never seen" not in listed()


def test_a_device_that_is_removed_while_it_speaks_stores_nothing_more(new_box: Callable[..., Box]) -> None:
    box = new_box(devices={"open": False})
    private_directory(box.state)
    secret = "a secret of the device's own"
    Register(box.state).put(Paired("till-1", hashed(secret), "2026-11-22T10:00:00.000Z"))
    box.start()
    body = counted("e1", 1)
    with socket.create_connection(("127.0.0.1", box.web_port), timeout=10) as raw:
        login = b64encode(f"till-1:{secret}".encode()).decode()
        head = f"POST /api/v1/devices/till-1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {login}\r\n"
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
        time.sleep(0.5)
        removed = [*NIGHTSAFE, "devices", "remove", "till-1", "--config", str(box.config), "--yes"]
        done = subprocess.run(removed, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        raw.sendall(body[10:])
        assert b" 401 " in raw.recv(4096).split(b"\r\n")[0]
    assert box.stored("till-1") == []


def test_who_does_not_say_who_he_is_or_speaks_for_another_is_not_heard(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    body = counted("e1", 1)
    assert post(box, "till-1", body, Authorization="")[0] == 401
    assert post(box, "till-1", body, Authorization="Basic !!!")[0] == 401
    assert post(box, "till-1", body, Authorization="Bearer x")[0] == 401
    assert post(box, "till-1", body, name="agent")[0] == 401
    status, answer = post(box, "till-1", body, name="till-2")
    assert (status, answer["type"]) == (403, "urn:nightsafe:spoofed")
    assert box.stored("till-1") == []
    assert box.counts()["spoofed"] == 1
    until(lambda: any(one["id"] == "spoofed:till-2" for one in box.status()["conditions"]), "people are told")


def test_a_closed_box_knows_nobody_and_locks_out_who_keeps_trying(new_box: Callable[..., Box]) -> None:
    box = new_box(devices={"open": False}, gate={"login_tries_max": 3}).start()
    found = [post(box, "till-1", b"{}", password="guess")[0] for _ in range(5)]
    assert found == [401, 401, 401, 429, 429]
    with mqtt.Wire(box.port) as device:
        device.send(mqtt.connect("till-1", username="till-1", password=b"guess", level=mqtt.V5))
        assert device.packet().reason == 0x9F, "the gate does not ask about it either"
    counts = box.counts()
    assert (counts["logins_refused"], counts["logins_locked_out"]) == (3, 3)
    until(lambda: any(one["id"].startswith("login_locked_out") for one in box.status()["conditions"]), "it is told")
    assert "guess" not in box.text


def test_one_device_that_drips_its_bodies_keeps_no_other_waiting(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    login = b64encode(b"slow:any").decode()
    head = f"POST /api/v1/devices/slow/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {login}\r\n"
    slow = [socket.create_connection(("127.0.0.1", box.web_port)) for _ in range(12)]
    try:
        for one in slow:
            one.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + b"{")
        time.sleep(0.5)
        assert post(box, "till-1", body := event())[0] == 200
        assert box.stored("till-1") == [body]
        for one in slow:
            one.settimeout(0.1)
            with pytest.raises(TimeoutError):  # it is waited for still
                one.recv(1)
    finally:
        for one in slow:
            one.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"[", 200), (b"[1,]", 200), (b"[" * 100_000, 200), (b"\xff", 200), (b"", 200), (b"[" + b"1," * 20 + b"1]", 413)],
    ids=["cut", "comma", "deep", "no text", "empty", "too many"],
)
def test_what_is_no_batch_is_refused_with_words_and_what_is_no_event_like_any(
    new_box: Callable[..., Box], body: bytes, status: int
) -> None:
    box = new_box(web={"door_events_max": 10}).start()
    found, answer = post(box, "till-1", body)
    assert found == status
    if status == 200:
        assert [one["reason"] for one in answer["refused"]] == ["malformed"]
    else:
        assert answer["detail"]
    assert box.stored("till-1") == []


def test_a_body_above_the_bound_is_not_read(new_box: Callable[..., Box]) -> None:
    box = new_box(web={"door_bytes_max": 65_536}).start()
    assert post(box, "till-1", b"[" + b" " * 70_000 + b"]")[0] == 413
    assert post(box, "till-1", counted("e1", 1), **{"Content-Encoding": "gzip"})[0] == 415


def test_A2_4_when_nothing_can_be_stored_nothing_is_said_to_be(new_box: Callable[..., Box]) -> None:
    """A threshold above the size of any disk means that nothing more is taken."""
    huge = 900_000_000_000
    journal = {"refuse_free_bytes": huge, "shed_free_bytes": huge, "bytes_max": 1_000_000_000_000}
    box = new_box(journal=journal).start()
    until(lambda: box.status()["disk"]["level"] == "refuse", "room is short")
    status, answer = post(box, "till-1", counted("e1", 1))
    assert (status, answer["type"]) == (503, "urn:nightsafe:unavailable")
    assert box.stored("till-1") == []
