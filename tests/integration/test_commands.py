"""What people have a device do: it is told, and told again, until it says that it has done so."""

import json
import queue
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
import pytest

from tests.integration.machine import WAIT_MAX_S, Box, until
from tests.integration.test_pairing import Till, begin, nightsafe, pair, paired, token_of

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def box(new_box: Callable[..., Box]) -> Box:
    return new_box(devices={"open": False}, web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": {}}).start()


class Obedient(Till):
    """A paired till that hears commands and tells its state when asked to."""

    def __init__(self, box: Box, told: dict[str, Any]) -> None:
        self.heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        super().__init__(box, told)
        subscribed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.client.on_message = self._take
        self.client.on_subscribe = lambda *_: subscribed.put(None)
        self.client.subscribe(f"{told['prefix']}commands", 1)
        subscribed.get(timeout=WAIT_MAX_S)

    def _take(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        self.heard.put(json.loads(message.payload))

    def say(self, state: str, applied: list[str] | None = None) -> None:
        body = json.dumps({"state": state, "applied": applied or []})
        self.client.publish(f"{self.told['prefix']}state", body, qos=1, retain=True).wait_for_publish(WAIT_MAX_S)


def listed(box: Box) -> Any:
    (one,) = json.loads(nightsafe(box, "devices", "list", "--json").stdout)
    return one


def test_payments_are_held_told_again_with_the_same_id_and_confirmed_also_over_a_kill(box: Box) -> None:
    told = paired(box, "till-1")
    till = Obedient(box, told)
    till.say("ready")
    assert nightsafe(box, "devices", "hold", "till-1").returncode == 0
    first = till.heard.get(timeout=WAIT_MAX_S)
    assert (first["command"], first["args"]) == ("hold_payments", {})
    assert listed(box)["commands"] == ["hold_payments"]
    assert "not confirmed by it yet" in nightsafe(box, "devices", "list").stdout
    till.close()

    box.kill()
    box.start()
    till = Obedient(box, told)
    till.say("ready")
    assert till.heard.get(timeout=WAIT_MAX_S) == first
    till.say("ready", [first["id"]])
    until(lambda: listed(box)["commands"] == [], "the command is done")
    assert listed(box)["payments_held"] is True
    till.say("asleep")
    till.say("ready", [first["id"]])

    nightsafe(box, "devices", "release", "till-1")
    second = till.heard.get(timeout=WAIT_MAX_S)
    assert (second["command"], second["id"] != first["id"]) == ("release_payments", True), "nothing came in between"
    till.close()


def test_a_hold_that_was_taken_back_before_it_was_done_is_sent_no_more(box: Box) -> None:
    told = paired(box, "till-1")
    nightsafe(box, "devices", "hold", "till-1")
    nightsafe(box, "devices", "release", "till-1")
    till = Obedient(box, told)
    till.say("ready")
    assert till.heard.get(timeout=WAIT_MAX_S)["command"] == "release_payments"
    with pytest.raises(queue.Empty):
        till.heard.get(timeout=1.0)
    till.close()


def test_a_device_is_asked_to_show_itself(box: Box) -> None:
    till = Obedient(box, paired(box, "till-1"))
    assert nightsafe(box, "devices", "identify", "till-1").returncode == 0
    assert till.heard.get(timeout=WAIT_MAX_S)["command"] == "identify"
    till.close()


def test_A2_6_who_takes_over_a_device_whose_payments_are_held_is_told_so(box: Box) -> None:
    till = Obedient(box, paired(box, "till-1"))
    nightsafe(box, "devices", "hold", "till-1")
    till.say("ready", [till.heard.get(timeout=WAIT_MAX_S)["id"]])
    until(lambda: listed(box)["commands"] == [], "the first one has done it")
    status, told = pair(box, token_of(begin(box, "till-1", "--replace")), "till-1")
    assert status == 201
    successor = Obedient(box, told)
    successor.say("ready")
    assert successor.heard.get(timeout=WAIT_MAX_S)["command"] == "hold_payments"
    successor.close()


def test_the_list_tells_how_each_device_is(box: Box) -> None:
    till = Obedient(box, paired(box, "till-1"))
    state = {"state": "ready", "app": "pos", "version": "4.2"}
    till.client.publish(f"{till.told['prefix']}state", json.dumps(state), qos=1).wait_for_publish(WAIT_MAX_S)
    until(lambda: listed(box)["version"] == "4.2", "its version is known")
    found = listed(box)
    assert (found["app"], found["state"], found["connected"]) == ("pos", "ready", True)
    assert found["last_seen_at"]
    assert "pos 4.2" in nightsafe(box, "devices", "list").stdout
    till.close()
