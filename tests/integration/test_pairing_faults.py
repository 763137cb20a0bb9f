"""Pairing when something goes wrong: calls that break off, a killed box, a full disk, guessing, a damaged list."""

import http.client
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from agent.core.status import SOCKET_NAME
from tests.integration import mqtt
from tests.integration.machine import Box, until
from tests.integration.test_pairing import Till, begin, nightsafe, pair, paired, token_of

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def box(new_box: Callable[..., Box]) -> Box:
    return new_box(devices={"open": False}, web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": {}}).start()


def blind() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def call(box: Box, *parts: bytes) -> ssl.SSLSocket:
    """A TLS connection on which the parts were sent, each by itself."""
    plain = socket.create_connection(("127.0.0.1", box.pages["https"]), timeout=20)
    wire = blind().wrap_socket(plain)
    for at, part in enumerate(parts):
        time.sleep(0.2 if at else 0)
        wire.sendall(part)
    return wire


def head(length: int) -> bytes:
    return f"POST /api/v1/pair HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode()


def state(box: Box, device: str) -> dict[str, Any]:
    """How far its pairing is, asked as the command line does."""
    way = http.client.HTTPConnection("localhost")
    way.sock = socket.socket(socket.AF_UNIX)
    way.sock.connect(str(box.state / SOCKET_NAME))
    way.request("GET", f"/api/v1/devices/{device}/pairing")
    facts: dict[str, Any] = json.loads(way.getresponse().read())
    way.close()
    return facts


def offer_from(box: Box, address: str, code: str) -> tuple[int, Any]:
    """A code from another address of loopback."""
    way = http.client.HTTPSConnection(
        "127.0.0.1", box.pages["https"], timeout=40, source_address=(address, 0), context=blind()
    )
    way.request("POST", "/api/v1/pair", json.dumps({"code": code, "name": ""}))
    answer = way.getresponse()
    told = answer.status, json.loads(answer.read())
    way.close()
    return told


def test_a_device_that_hangs_up_while_a_person_compares_asks_again_and_gets_its_secret(box: Box) -> None:
    facts = begin(box, "till-1")
    body = json.dumps({"code": facts["code"], "name": "till-1"}).encode()
    wire = call(box, head(len(body)) + body)
    until(lambda: state(box, "till-1")["state"] == "asked", "it has come")
    wire.close()
    time.sleep(0.3)
    assert nightsafe(box, "devices", "confirm", "till-1").returncode == 0
    time.sleep(0.3)
    assert not (box.state / "devices.json").exists(), "nobody is there to be told a secret"
    status, told = pair(box, facts["code"], "till-1")
    assert status == 201, told
    till = Till(box, told)
    assert till.answer == 0
    till.close()


def test_a_body_that_comes_in_pieces_is_read_whole_and_a_long_one_is_refused(box: Box) -> None:
    facts = begin(box, "till-1")
    long = b'{"code":"' + b"1" * 9_000 + b'"}'
    chunked = b"POST /api/v1/pair HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = call(box, chunked, f"{len(long):x}\r\n".encode() + long + b"\r\n0\r\n\r\n")
    assert b" 413 " in wire.recv(200)
    wire.close()
    body = json.dumps({"code": token_of(facts), "name": "till-1"}).encode()
    wire = call(box, head(len(body)), body[:10], body[10:])
    assert b" 201 " in wire.recv(200)
    wire.close()


@pytest.mark.parametrize(
    "body", [b'{"code":"x","code":"y"}', b'{"code":"x"} {}', b"[]", b"\xff", b'{"code":NaN}', b"[" * 4_000]
)
def test_what_is_no_strict_json_is_no_try(box: Box, body: bytes) -> None:
    begin(box, "till-1")
    wire = call(box, head(len(body)) + body)
    assert b" 400 " in wire.recv(200)
    wire.close()
    assert state(box, "till-1")["tries_left"] == 5


def test_removing_a_device_ends_the_pairing_that_was_open_for_it(box: Box) -> None:
    paired(box, "till-1")
    facts = begin(box, "till-1", "--replace")
    assert nightsafe(box, "devices", "remove", "till-1", "--yes").returncode == 0
    assert pair(box, token_of(facts), "till-1")[0] == 403
    assert json.loads(nightsafe(box, "devices", "list", "--json").stdout) == []


def test_A2_6_a_replacement_keeps_what_people_call_the_device(box: Box) -> None:
    paired(box, "till-1", "--label", "Bar left")
    paired(box, "till-1", "--replace")
    (one,) = json.loads(nightsafe(box, "devices", "list", "--json").stdout)
    assert one["label"] == "Bar left"


def test_a_pairing_that_cannot_be_written_down_is_not_spent(box: Box) -> None:
    facts = begin(box, "till-1")
    blocked = box.state / f".devices.json.{box.pid}.new"
    blocked.mkdir()
    status, answer = pair(box, token_of(facts), "till-1")
    assert status != 201, answer
    assert "secret" not in json.dumps(answer)
    blocked.rmdir()
    assert pair(box, token_of(facts), "till-1")[0] == 201


def test_killed_between_storing_and_answering_the_device_is_paired_anew(box: Box) -> None:
    path = box.state / "devices.json"
    facts = begin(box, "till-1")
    answers: SimpleQueue[Any] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(pair(box, token_of(facts), "till-1"))
        except (OSError, http.client.HTTPException) as error:
            answers.put(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not path.exists():
        pass
    box.kill()
    thread.join()
    assert not isinstance(answers.get(), tuple), "it was killed before the answer"
    box.start()
    assert pair(box, token_of(facts), "till-1")[0] == 403, "a code does not outlive the box's process"
    assert nightsafe(box, "devices", "add", "till-1", "--json").returncode == 1, "it stands in the list already"
    till = Till(box, paired(box, "till-1", "--replace"))
    assert till.answer == 0
    till.close()


def test_an_address_that_goes_on_guessing_is_not_heard_and_ends_no_further_pairing(box: Box) -> None:
    for _ in range(2):
        facts = begin(box, "till-1")
        wrong = "00000000" if facts["code"] != "00000000" else "11111111"
        assert [offer_from(box, "127.0.0.66", wrong)[0] for _ in range(5)] == [403] * 5
    facts = begin(box, "till-1")
    wrong = "00000000" if facts["code"] != "00000000" else "11111111"
    for _ in range(6):
        status, answer = offer_from(box, "127.0.0.66", wrong)
        assert (status, answer["type"]) == (429, "urn:nightsafe:slow-down")
    assert offer_from(box, "127.0.0.66", token_of(facts))[0] == 429, "whatever it says"
    assert state(box, "till-1")["tries_left"] == 5
    assert pair(box, token_of(facts), "till-1")[0] == 201


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_a_removal_that_the_broker_does_not_hear_of_is_no_success_and_holds_once_it_does(
    new_box: Callable[..., Box],
) -> None:
    """Until then a device that knows its secret could come back."""
    tls = {"also_plain": ["127.0.0.1:0"]}
    box = new_box(devices={"open": False}, web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": tls}).start()
    told = paired(box, "till-1")
    os.kill(box.mosquitto_pid(), signal.SIGSTOP)
    done = nightsafe(box, "devices", "remove", "till-1", "--yes")
    assert done.returncode == 1
    assert "goes by its old list" in done.stderr
    assert nightsafe(box, "devices", "list").stdout.startswith("No device is paired")
    os.kill(box.mosquitto_pid(), signal.SIGCONT)

    def let_in() -> bool:
        with mqtt.Wire(box.port) as wire:
            wire.send(mqtt.connect("till-1", username="till-1", password=told["password"].encode()))
            return wire.packet().body[1] == 0

    until(lambda: not let_in(), "the removed device is not let in any more")


def test_a_removed_device_stays_out_when_the_list_is_damaged_right_after(box: Box) -> None:
    told = [paired(box, name) for name in ("till-1", "till-2")]
    assert nightsafe(box, "devices", "remove", "till-1", "--yes").returncode == 0
    box.kill()
    damage(box.state / "devices.json")
    bad = (box.state / "devices.json").read_bytes()
    box.start()
    answers = [Till(box, one | {"port": box.port}).answer for one in told]
    assert (answers[0] != 0, answers[1]) == (True, 0)
    assert (box.state / "devices.json.damaged").read_bytes() == bad, "what was damaged is kept"
    assert any(one["id"] == "register_damaged" for one in box.status()["conditions"])
    assert nightsafe(box, "attention", "ack", "register_damaged", "--reason", "compared").returncode == 0
    box.restart()
    assert not any(one["id"] == "register_damaged" for one in box.status()["conditions"])


def test_with_every_copy_damaged_the_box_runs_says_so_and_overwrites_nothing(box: Box) -> None:
    told = paired(box, "till-1")
    box.kill()
    files = [path for path in box.state.glob("devices.json*") if path.is_file()]
    assert len(files) == 2
    kept = {path: path.read_bytes() for path in files}
    for path in files:
        damage(path)
    bad = {path: path.read_bytes() for path in files}
    box.start()
    (found,) = [one for one in box.status()["conditions"] if one["id"] == "register_lost"]
    assert found["severity"] == "critical"
    assert Till(box, told | {"port": box.port}).answer != 0
    done = nightsafe(box, "devices", "add", "till-2", "--json")
    assert (done.returncode, "backup" in done.stderr) == (1, True)
    assert {path: path.read_bytes() for path in files} == bad
    assert box.stop() == 0
    for path, content in kept.items():
        path.write_bytes(content)
    box.start()
    assert Till(box, told | {"port": box.port}).answer == 0


def test_no_card_number_becomes_a_label_or_an_id(box: Box) -> None:
    card = "4111111111111111"
    assert nightsafe(box, "devices", "add", "till-1", "--label", f"spare {card}", "--json").returncode == 1
    assert nightsafe(box, "devices", "add", card, "--json").returncode == 1
    paired(box, "till-1")
    assert nightsafe(box, "devices", "rename", "till-1", card).returncode == 1
    for path in (*box.state.rglob("*"), box.log):
        if path.is_file():
            with suppress(FileNotFoundError):
                assert card.encode() not in path.read_bytes(), path


def test_where_any_device_may_connect_every_command_says_that_nothing_is_checked(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    for arguments in (("list",), ("remove", "till-1", "--yes"), ("hold", "till-1"), ("add", "till-1", "--json")):
        done = nightsafe(box, "devices", *arguments)
        assert "lets any device in" in done.stderr, arguments
