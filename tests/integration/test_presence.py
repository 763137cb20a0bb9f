"""Whether devices are here, how they are and what they run: stock clients, a real broker, a running agent."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.integration.machine import Box, until
from tests.integration.mqtt import Device
from tests.integration.test_stock_clients import Client, client
from tests.sales import counted, event

APP = {"app": "Sarda POS", "version": "1.14.10", "menu_version": "m-7"}
QUICK = {"unresponsive_s": 5}

HOLDER = """
import sys, time
import paho.mqtt.client as paho
name, port, state = sys.argv[1:]
client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name)
client.username_pw_set(name)
client.will_set(f"pos/v1/{name}/state", '{"state":"offline"}', qos=1, retain=True)
client.connect("127.0.0.1", int(port), keepalive=20)
client.loop_start()
client.publish(f"pos/v1/{name}/state", state, qos=1, retain=True).wait_for_publish(10)
print("here", flush=True)
time.sleep(60)
"""
"""A till of its own process: a stock client with a will, which says how it is and stays."""


@contextmanager
def till(box: Box, name: str, **state: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A stock client in a process of its own, once its state is acknowledged."""
    said = json.dumps({"state": "ready"} | state)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, name, str(box.port), said], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def say(device: Client | Device, name: str, **state: Any) -> None:
    payload = json.dumps({"state": "ready"} | state).encode()
    if isinstance(device, Client):
        device.tell(f"pos/v1/{name}/state", payload, retain=True)
    else:
        device.send(device.frame(payload, topic=f"pos/v1/{name}/state", qos=0))


def told(box: Box, name: str, **wanted: Any) -> Any:
    """The device in the status, as soon as it is as wanted."""

    def look() -> Any:
        found = box.device(name)
        return found if found and all(found[key] == value for key, value in wanted.items()) else None

    return until(look, f"{name} is {wanted}, not {box.device(name)}")


def page(box: Box) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{box.web_port}/", timeout=5) as answer:
        return str(answer.read(), "utf-8")


def conditions(box: Box) -> list[Any]:
    return [one for one in box.status()["conditions"] if one["id"] == "device_versions"]


def test_A2_7_a_device_tells_its_state_its_app_and_what_it_holds_back(box: Box, name: str) -> None:
    with client(box, name, "v5") as device:
        say(device, name, **APP, epoch="e1", last="42", pending=3)
        found = told(box, name, state="ready", connected=True)
        assert {key: found[key] for key in APP} == APP
        assert (found["unsent"], found["said_last"], found["version_state"]) == (3, "42", None)
        assert found["last_seen_at"] is not None
        shown = page(box)
        assert "Ready · seen just now · Sarda POS 1.14.10 · 3 not yet sent by the till" in shown
        say(device, name, state="background")
        told(box, name, state="background", **APP)
        say(device, name, state="asleep")
        told(box, name, state="asleep")
        assert 'nightsafe_devices{state="asleep"} ' in box.metrics()
    told(box, name, state="asleep", connected=False)


def test_A6_2_a_device_that_is_killed_is_offline_and_its_app_is_still_known(box: Box, name: str) -> None:
    with till(box, name, **APP, pending=2) as process:
        told(box, name, state="ready", connected=True, version="1.14.10")
        os.kill(process.pid, signal.SIGKILL)
        told(box, name, state="offline", said="offline", connected=False, version="1.14.10", unsent=2)


def test_A6_2_a_device_without_a_will_is_offline_as_soon_as_it_is_gone(box: Box, name: str) -> None:
    with client(box, name, "v311") as device:
        say(device, name)
        told(box, name, state="ready")
    told(box, name, state="offline", said="ready", connected=False)


def test_who_only_listens_is_no_device_and_who_sells_without_a_word_of_its_state_is_one(box: Box, name: str) -> None:
    with client(box, name, "v5") as device:
        device.subscribe("pos/v1/venue/status")
        device.hear()
        assert box.device(name) is None
        device.tell(f"pos/v1/{name}/events", event())
        told(box, name, state="unknown", connected=True, said=None)
        assert "Connected · seen just now" in page(box)
    found = told(box, name, state="offline", connected=False)
    assert found["last_seen_at"] >= found["last_event_at"]


def test_A6_2_ready_and_not_a_word_more_is_unresponsive_until_it_speaks(new_box: Callable[..., Box]) -> None:
    box = new_box(devices=QUICK).start()
    with Device(box.port, "till-2", keep_alive_s=0) as device:
        say(device, "till-2")
        told(box, "till-2", state="ready")
        found = told(box, "till-2", state="unresponsive", connected=True)
        assert found["silent_s"] >= 5
        assert "till-2 is connected but has said nothing for " in page(box)
        assert "seconds: open its app" in page(box)
        assert 'nightsafe_devices{state="unresponsive"} 1.0' in box.metrics()
        device.ping()
        told(box, "till-2", state="ready")


def test_A6_2_an_app_that_hangs_behind_a_client_that_pings_is_unresponsive(new_box: Callable[..., Box]) -> None:
    """The library of a stock client answers pings and takes commands in its own thread, whatever the app does."""
    box = new_box(devices=QUICK, intake={"gap_resend_s": 0.2, "resend_backoff_max_s": 1.0}).start()
    with client(box, "till-1", "v311") as hung:
        hung.subscribe("pos/v1/till-1/commands")
        say(hung, "till-1", **APP)
        for sequence in (1, 3):
            hung.tell("pos/v1/till-1/events", counted("e1", sequence))
        assert json.loads(hung.hear()[1])["command"] == "resend"
        found = told(box, "till-1", state="unresponsive", connected=True)
        assert found["unanswered_s"] >= 5
        assert "till-1 is connected but has not answered for " in page(box)
        hung.tell("pos/v1/till-1/events", counted("e1", 4))
        told(box, "till-1", state="ready")


def test_A2_7_what_was_known_stands_after_a_restart_and_after_a_kill(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    with till(box, "till-1", **APP, pending=1):
        before = told(box, "till-1", state="ready", connected=True)
    told(box, "till-1", state="offline")
    box.restart()
    after = box.device("till-1")
    assert {key: after[key] for key in APP} == APP
    assert (after["state"], after["connected"], after["unsent"]) == ("offline", False, 1)
    assert after["last_seen_at"] >= before["last_seen_at"]
    with till(box, "till-1", **APP | {"version": "1.15"}):
        told(box, "till-1", state="ready", version="1.15")
        until(lambda: b'"1.15"' in (box.state / "presence.json").read_bytes(), "it is written down", 15)
        box.kill()
        box.start()
        assert box.device("till-1")["version"] == "1.15"
    assert (box.state / "presence.json").stat().st_mode & 0o777 == 0o600
    box.stop()
    (box.state / "presence.json").write_bytes(b"[{")
    box.start()
    assert "presence_not_read" in box.text


def test_a_broker_that_starts_anew_forgets_and_the_box_does_not(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    with client(box, "till-1", "v5") as device:
        say(device, "till-1", **APP)
        told(box, "till-1", state="ready")
        psutil.Process(box.mosquitto_pid()).kill()
        assert device.gone.wait(10)
        told(box, "till-1", state="offline", version="1.14.10")
        device.paho.loop_stop()
        again = Client(box, "till-1", "v5")
        until(lambda: box.mosquitto_pid(), "it is back")
        until(lambda: _opened(again), "the till is back")
        told(box, "till-1", connected=True, state="ready", version="1.14.10")
        again.close()
        device.gone.set()


def _opened(device: Client) -> bool:
    try:
        device.open()
    except (OSError, AssertionError):
        device.paho.loop_stop()
        return False
    return True


def test_A2_7_an_old_app_is_named_and_goes_on_selling_until_the_warning_ends(
    new_box: Callable[..., Box],
) -> None:
    box = new_box(devices={"version_min": "1.14.10"}).start()
    with client(box, "till-1", "v5") as old, client(box, "till-2", "v311") as new, client(box, "till-3", "v5") as odd:
        say(old, "till-1", app="Sarda POS", version="1.14.9")
        say(new, "till-2", app="Sarda POS", version="1.14.10")
        say(odd, "till-3", app="Kiosk", version="blue")
        assert told(box, "till-1", version_state="old")["state"] == "ready"
        told(box, "till-2", version_state="ok")
        told(box, "till-3", version_state="unknown")
        (raised,) = until(lambda: conditions(box), "people are told")
        assert (raised["severity"], raised["lasting"]) == ("warning", False)
        assert raised["text"] == "till-1 (1.14.9) runs an app older than 1.14.10. It goes on selling."
        assert "Sarda POS 1.14.9 (too old for this venue)" in page(box)
        assert "nightsafe_devices_version_old 1.0" in box.metrics()
        for device, name in ((old, "till-1"), (new, "till-2"), (odd, "till-3")):
            sale = event()
            assert device.tell(f"pos/v1/{name}/events", sale) is None
            assert box.stored(name) == [sale]
        box.restart()
        (raised,) = until(lambda: conditions(box), "people are told after a restart")
        assert "till-1 (1.14.9)" in raised["text"]
    with client(box, "till-1", "v5") as updated:
        say(updated, "till-1", app="Sarda POS", version="1.15.0-rc.1")
        told(box, "till-1", version_state="ok")
        until(lambda: not conditions(box), "it has ended")


def test_A2_7_the_minimum_can_be_changed_while_the_box_runs(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    with client(box, "till-1", "v5") as device:
        say(device, "till-1", **APP)
        told(box, "till-1", version_state=None)
        box.settings["devices"]["version_min"] = "2"
        box.write_config()
        told(box, "till-1", version_state="old")
        until(lambda: conditions(box), "people are told")
        box.settings["devices"]["version_min"] = ""
        box.write_config()
        until(lambda: not conditions(box), "it has ended")


def test_A5_5_the_version_of_each_device_is_known_and_ordered_by_its_numbers(new_box: Callable[..., Box]) -> None:
    """What older apps are not to be shown can be decided by this; 1.14.10 is newer than 1.14.9."""
    box = new_box(devices={"version_min": "1.14.10"}).start()
    versions = {"till-1": ("1.14.9", "old"), "till-2": ("1.14.10", "ok"), "till-3": ("1.15", "ok")}
    for name, (version, _) in versions.items():
        with client(box, name, "v5") as device:
            say(device, name, version=version)
            told(box, name, version=version)
    assert {one["device"]: (one["version"], one["version_state"]) for one in box.status()["devices"]} == versions


def test_hostile_words_are_never_shown_or_written(box: Box, name: str) -> None:
    card = "4111 1111 1111 1111"
    before = box.counts()["states_refused"]
    with client(box, name, "v5") as device:
        say(device, name, app=f"Pay {card}", version="\x1b[31m1.2", menu_version="m\u202e1", pending=10**30, last=card)
        found = told(box, name, state="ready")
        assert [found[key] for key in ("app", "version", "menu_version", "unsent", "said_last")] == [None] * 5
        device.tell(f"pos/v1/{name}/state", b'{"state":"' + card.encode() + b'"}')
        device.tell(f"pos/v1/{name}/state", b'{"state":"ready","app":"' + b"x" * 100_000 + b'"}')
        device.tell(f"pos/v1/{name}/state", b"[" * 50_000)
        until(lambda: box.counts()["states_refused"] == before + 3, "they are counted")
        assert told(box, name, state="ready")["app"] is None
        say(device, name, app="<b>Sarda</b>", version="1.0")
        told(box, name, version="1.0")
        assert "&lt;b&gt;Sarda&lt;/b&gt; 1.0" in page(box)
    assert card not in box.text + json.dumps(box.status()) + _written(box.state)


def _written(directory: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in directory.rglob("*.json") if path.is_file())


def test_the_venues_status_names_no_device(box: Box, name: str) -> None:
    with client(box, name, "v5") as device:
        say(device, name, **APP)
        told(box, name, state="ready")
        device.subscribe("pos/v1/venue/status")
        topic, payload, _ = device.hear()
        assert topic == "pos/v1/venue/status"
        assert set(json.loads(payload)) == {
            "venue",
            "state",
            "cause",
            "since",
            "sentence",
            "sync",
            "last_sync_at",
            "safe_to_power_off",
            "time",
        }
