"""Pairing over the running agent: codes, fingerprints, secrets; and sending devices away again."""

import json
import os
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from queue import SimpleQueue
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.integration.machine import NIGHTSAFE, START_MAX_S, WAIT_MAX_S, Box, until
from tests.sales import counted

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def box(new_box: Callable[..., Box]) -> Box:
    return new_box(devices={"open": False}, web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": {}}).start()


def nightsafe(box: Box, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [*NIGHTSAFE, *arguments, "--config", str(box.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, input=said, check=False)


def begin(box: Box, device: str, *options: str) -> dict[str, Any]:
    done = nightsafe(box, "devices", "add", device, "--json", *options)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def pair(box: Box, code: str, name: str = "", **more: Any) -> tuple[int, Any]:
    """What a device that trusts nobody yet does; status and body."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    body = json.dumps({"code": code, "name": name} | more).encode()
    request = urllib.request.Request(f"https://127.0.0.1:{box.pages['https']}/api/v1/pair", data=body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=40, context=blind) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def token_of(facts: dict[str, Any]) -> str:
    return str(facts["uri"].split("code=")[1].split("&")[0])


def paired(box: Box, device: str, *options: str) -> dict[str, Any]:
    status, told = pair(box, token_of(begin(box, device, *options)), device)
    assert status == 201, told
    return dict(told)


class Till:
    """A stock client with what it was told at pairing."""

    def __init__(self, box: Box, told: dict[str, Any]) -> None:
        self.answers: SimpleQueue[int] = SimpleQueue()
        self.gone = threading.Event()
        self.told = told
        self.client = client = paho.Client(CallbackAPIVersion.VERSION2, client_id="x", reconnect_on_failure=False)
        client.username_pw_set(told["username"], told["password"])
        context = ssl.create_default_context(cadata=told["ca_pem"])
        client.tls_set_context(context)
        client.on_connect = lambda _c, _d, _f, reason, _p: self.answers.put(reason.value)
        client.on_disconnect = lambda *_: self.gone.set()
        client.connect("127.0.0.1", told["port"], keepalive=30)
        client.loop_start()
        self.answer = self.answers.get(timeout=WAIT_MAX_S)

    def sell(self, sequence: int) -> None:
        sent = self.client.publish(f"{self.told['prefix']}events", counted("e1", sequence), qos=1)
        sent.wait_for_publish(WAIT_MAX_S)
        assert sent.is_published()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_a_device_that_read_the_qr_code_is_let_in_at_once_and_sells(box: Box) -> None:
    facts = begin(box, "till-1", "--label", "Bar left")
    assert len(facts["code"]) == 8
    assert facts["code"].isdigit()
    assert facts["left_s"] > 500
    status, told = pair(box, token_of(facts), "till-1")
    assert status == 201
    assert set(told) == {"device", "username", "password", "host", "port", "ca_pem", "prefix"}
    assert (told["device"], told["username"], told["prefix"]) == ("till-1", "till-1", "pos/v1/till-1/")
    assert sha256(ssl.PEM_cert_to_DER_cert(told["ca_pem"])).hexdigest() == facts["fingerprint"]
    till = Till(box, told)
    assert till.answer == 0
    till.sell(1)
    assert len(box.stored("till-1")) == 1
    (listed,) = json.loads(nightsafe(box, "devices", "list", "--json").stdout)
    assert (listed["device"], listed["label"], listed["connected"]) == ("till-1", "Bar left", True)
    till.close()
    assert pair(box, token_of(facts), "till-1")[0] == 403, "the token is spent"
    assert pair(box, facts["code"], "till-1")[0] == 403, "and so are the digits"


def test_a_device_with_the_digits_gets_its_secret_only_after_a_person_has_compared(box: Box) -> None:
    facts = begin(box, "till-1")
    answers: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    threading.Thread(target=lambda: answers.put(pair(box, facts["code"], "till-1"))).start()
    time.sleep(1)
    assert answers.empty(), "nothing is told before"
    assert not (box.state / "devices.json").exists()
    done = nightsafe(box, "devices", "confirm", "till-1")
    assert done.returncode == 0, done.stderr
    status, told = answers.get(timeout=WAIT_MAX_S)
    assert status == 201
    till = Till(box, told)
    assert till.answer == 0
    till.close()


def test_a_device_whose_fingerprint_differs_is_declined_and_gets_nothing(box: Box) -> None:
    facts = begin(box, "till-1")
    answers: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    threading.Thread(target=lambda: answers.put(pair(box, facts["code"]))).start()
    until(lambda: nightsafe(box, "devices", "decline", "till-1").returncode == 0, "it is declined")
    assert answers.get(timeout=WAIT_MAX_S)[0] == 403
    assert pair(box, facts["code"])[0] == 403
    assert json.loads(nightsafe(box, "devices", "list", "--json").stdout) == []


def test_the_terminal_shows_code_and_fingerprint_and_asks_the_person(box: Box) -> None:
    command = [*NIGHTSAFE, "devices", "add", "till-1", "--config", str(box.config)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as person:
        assert person.stdout is not None
        assert person.stdin is not None
        shown = ""
        while "compare" not in shown:
            shown += person.stdout.readline()
        code = "".join(shown.split("code")[1].split()[:2])
        compare = shown.split("compare")[1].strip()
        answers: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        threading.Thread(target=lambda: answers.put(pair(box, code))).start()
        person.stdin.write("y\n")
        person.stdin.flush()
        status, told = answers.get(timeout=30)
        rest = person.stdout.read()
    assert status == 201
    der = ssl.PEM_cert_to_DER_cert(told["ca_pem"])
    assert compare.replace(" ", "") == sha256(der).hexdigest()[:20].upper()
    assert f"show {compare}?" in rest
    assert "till-1 is paired." in rest
    assert "▀" in shown or "█" in shown or "▄" in shown, "the QR code"


def test_five_wrong_codes_end_every_pairing(box: Box) -> None:
    facts = begin(box, "till-1")
    wrong = "00000000" if facts["code"] != "00000000" else "11111111"
    assert [pair(box, wrong)[0] for _ in range(5)] == [403] * 5
    assert pair(box, facts["code"])[0] == 403
    assert pair(box, token_of(facts))[0] == 403
    fresh = begin(box, "till-1")
    assert pair(box, token_of(fresh))[0] == 201


def test_a_code_is_for_its_own_device_and_bad_requests_get_words(box: Box) -> None:
    facts = begin(box, "till-1")
    status, answer = pair(box, token_of(facts), "till-2")
    assert (status, answer["type"]) == (409, "urn:nightsafe:name-differs")
    assert pair(box, "", "till-1")[0] == 400
    assert pair(box, token_of(facts), "x" * 5_000)[0] == 413
    assert pair(box, token_of(facts), "till-1")[0] == 201, "nothing of that has spent it"
    for name in ("agent", "Till_1", "a/b"):
        assert nightsafe(box, "devices", "add", name, "--json").returncode == 1
    there = nightsafe(box, "devices", "add", "till-1", "--json")
    assert (there.returncode, "--replace" in there.stderr) == (1, True)


def test_removing_a_device_cuts_it_at_once_and_drops_nobody_else(box: Box) -> None:
    tills = [Till(box, paired(box, f"till-{number}")) for number in range(1, 4)]
    assert [till.answer for till in tills] == [0, 0, 0]
    late = Till(box, paired(box, "till-4"))
    assert late.answer == 0
    assert nightsafe(box, "devices", "remove", "till-2", "--yes").returncode == 0
    assert tills[1].gone.wait(5)
    again = Till(box, tills[1].told)
    assert again.answer != 0, "its secret is worth nothing"
    for till in (tills[0], tills[2], late):
        till.sell(1)
        assert not till.gone.is_set()
        till.close()
    assert box.counts()["connections_cut"] == 1
    assert nightsafe(box, "devices", "remove", "till-2", "--yes").returncode == 1


def test_A2_7_nobody_is_warned_of_the_old_app_of_a_device_that_was_sent_away(box: Box) -> None:
    assert box.stop() == 0
    box.settings["devices"]["version_min"] = "2.0"
    box.start()
    till = Till(box, paired(box, "till-1"))
    till.client.publish("pos/v1/till-1/state", b'{"state":"ready","version":"1.9"}', qos=1).wait_for_publish(WAIT_MAX_S)

    def warned() -> bool:
        return any(one["id"] == "device_versions" for one in box.status()["conditions"])

    until(warned, "people are warned of its app")
    assert nightsafe(box, "devices", "remove", "till-1", "--yes").returncode == 0
    until(lambda: not warned(), "nobody is warned any more")


def test_A2_6_a_replacement_is_paired_under_the_same_name_and_the_old_device_is_out(box: Box) -> None:
    old = Till(box, paired(box, "till-1"))
    old.sell(1)
    facts = begin(box, "till-1", "--replace")
    old.sell(2)
    status, told = pair(box, token_of(facts), "till-1")
    assert status == 201
    assert old.gone.wait(5)
    assert Till(box, old.told).answer != 0
    new = Till(box, told)
    assert new.answer == 0
    new.client.publish("pos/v1/till-1/events", counted("e2", 1), qos=1).wait_for_publish(WAIT_MAX_S)
    new.close()
    assert [json.loads(one)["epoch"] for one in box.stored("till-1")] == ["e1", "e1", "e2"]


def test_paired_devices_outlive_kill_restart_and_a_damaged_list(box: Box) -> None:
    told = [paired(box, name) for name in ("till-1", "till-2")]
    box.kill()
    box.start()
    for one in told:
        till = Till(box, one | {"port": box.port})
        assert till.answer == 0
        till.close()
    nightsafe(box, "devices", "rename", "till-2", "Bar")
    assert box.stop() == 0
    path = box.state / "devices.json"
    path.write_bytes(path.read_bytes()[:-20])
    box.start()
    till = Till(box, told[0] | {"port": box.port})
    assert till.answer == 0
    till.close()
    assert any(one["id"] == "register_damaged" for one in box.status()["conditions"])


def test_payments_are_held_and_released_and_a_label_changes(box: Box) -> None:
    paired(box, "till-1")

    def listed() -> tuple[Any, Any]:
        (one,) = json.loads(nightsafe(box, "devices", "list", "--json").stdout)
        return one["label"], one["payments_held"]

    nightsafe(box, "devices", "hold", "till-1")
    nightsafe(box, "devices", "rename", "till-1", "Bar right")
    assert listed() == ("Bar right", True)
    nightsafe(box, "devices", "release", "till-1")
    assert listed() == ("Bar right", False)
    assert nightsafe(box, "devices", "hold", "till-9").returncode == 1


def test_no_secret_is_on_the_disk_or_in_a_log(box: Box) -> None:
    facts = begin(box, "till-1")
    status, told = pair(box, token_of(facts))
    assert status == 201
    secrets = [told["password"], facts["code"], token_of(facts)]
    for path in (*box.state.rglob("*"), box.log):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path
    mode = (box.state / "devices.json").stat().st_mode
    assert mode & 0o077 == 0


def test_the_http_door_asks_for_the_same_secret(box: Box) -> None:
    told = paired(box, "till-1")

    def post(password: str) -> int:
        login = b64encode(f"till-1:{password}".encode()).decode()
        request = urllib.request.Request(
            f"https://localhost:{box.pages['https']}/api/v1/devices/till-1/events",
            data=counted("e1", 1),
            headers={"Authorization": f"Basic {login}"},
            method="POST",
        )
        context = ssl.create_default_context(cadata=told["ca_pem"])
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert post("wrong") == 401
    assert post(told["password"]) == 200
    assert len(box.stored("till-1")) == 1


def test_without_tls_nothing_can_be_paired_and_the_words_say_how(new_box: Callable[..., Box]) -> None:
    plain = new_box(devices={"open": False}).start()
    done = nightsafe(plain, "devices", "add", "till-1", "--json")
    assert done.returncode == 1
    assert "[gate.tls]" in done.stderr


@pytest.mark.needs("unshare")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")
def test_with_the_pairing_page_on_loopback_no_till_is_sent_there_and_the_words_say_how(
    new_box: Callable[..., Box],
) -> None:
    box = new_box(
        gate={"listen": ["0.0.0.0:0"]}, devices={"open": False}, web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": {}}
    )
    box.command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', *NIGHTSAFE]
    box.said("event=ready", box.begin(), START_MAX_S)
    done = nightsafe(box, "devices", "add", "till-1", "--json")
    assert done.returncode == 1
    assert 'listen_tls = "0.0.0.0:8443"' in done.stderr
