"""`nightsafe attention` beside a running agent: what has happened is told until somebody has ended it."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.machine import Box, until
from tests.integration.mqtt import V5, Device
from tests.integration.test_queue_cli import event, nightsafe

SPOOFED = "spoofed:till-1"
RAISED, CLEARED = "nightsafe.condition.raised", "nightsafe.condition.cleared"


@pytest.fixture
def spoofed(new_box: Callable[..., Box]) -> Box:
    """A running box on which one device has published as another, and an event was refused."""
    box = new_box().start()
    with Device(box.port, "till-1", level=V5) as till:
        till.send(till.frame(event("a1"), topic="pos/v1/till-9/events"))
        assert till.packet().reason == 0x87
        assert till.tell(event("a2", "pos.check.opened")).reason == 0x99
    until(lambda: raised(box), "it is recorded")
    return box


def raised(box: Box) -> list[dict[str, Any]]:
    return [one["data"] for one in box.own_records(RAISED)]


def listed(box: Box) -> dict[str, Any]:
    done = nightsafe(box, "attention", "list", "--json")
    assert done.returncode == 0, done.stderr
    return {one["id"]: one for one in json.loads(done.stdout)}


def ack(box: Box, *arguments: str) -> str:
    done = nightsafe(box, "attention", "ack", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_says_since_when_what_to_do_and_how_each_ends(spoofed: Box) -> None:
    shown = listed(spoofed)
    assert (shown[SPOOFED]["ends"], shown["quarantine"]["ends"]) == ("ack", "itself")
    assert shown[SPOOFED]["severity"] == "warning"
    text = nightsafe(spoofed, "attention", "list").stdout
    assert re.search(rf"^{SPOOFED}  warning  since \S+", text, re.MULTILINE)
    for words in ("published as another device", "Check the device's settings", "It ends by itself."):
        assert words in text
    command = f"nightsafe attention ack {SPOOFED} --reason"
    assert command in text
    assert command in " ".join(nightsafe(spoofed, "status").stdout.split())
    with urllib.request.urlopen(f"http://127.0.0.1:{spoofed.web_port}/", timeout=5) as page:
        assert command in page.read().decode()


def test_what_has_happened_is_told_over_kill_and_restart_until_somebody_ends_it(spoofed: Box) -> None:
    before = listed(spoofed)[SPOOFED]
    spoofed.kill()
    spoofed.start()
    assert listed(spoofed)[SPOOFED] == before
    assert "is ended" in ack(spoofed, SPOOFED, "--reason", "name put right", "--actor", "Ann")
    spoofed.kill()
    spoofed.start()
    assert SPOOFED not in listed(spoofed)
    (ended,) = [one["data"] for one in spoofed.own_records(CLEARED)]
    assert ended == {"condition": SPOOFED, "actor": "Ann", "reason": "name put right"}
    assert [(one["condition"], one["actor"]) for one in raised(spoofed)] == [(SPOOFED, "agent")]
    with Device(spoofed.port, "till-1", level=V5) as till:
        till.send(till.frame(event("a3"), topic="pos/v1/till-8/events"))
        till.packet()
    assert "till-8" in listed(spoofed)[SPOOFED]["text"]
    until(lambda: len(raised(spoofed)) == 2, "it is recorded anew")
    assert nightsafe(spoofed, "verify").returncode == 0


@pytest.mark.parametrize(
    ("id", "words"),
    [("forked", ("no attention forked", "nightsafe attention list")), ("quarantine", ("ends by itself", "resubmit"))],
)
def test_what_cannot_be_ended_is_refused_with_words_and_the_next_step(
    spoofed: Box, id: str, words: tuple[str, ...]
) -> None:
    done = nightsafe(spoofed, "attention", "ack", id, "--reason", "x")
    assert done.returncode == 1
    for word in words:
        assert word in done.stderr
    assert spoofed.own_records(CLEARED) == []


def test_ending_is_no_act_of_the_network(spoofed: Box) -> None:
    body = json.dumps({"id": SPOOFED, "actor": "Eve", "reason": "x"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{spoofed.web_port}/api/v1/attention/ack", body)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)
    assert refused.value.code == 404
    refused.value.close()
    assert SPOOFED in listed(spoofed)


def test_without_an_agent_the_words_say_what_to_do(spoofed: Box) -> None:
    spoofed.stop()
    for arguments in (("list",), ("ack", SPOOFED, "--reason", "x")):
        done = nightsafe(spoofed, "attention", *arguments)
        assert done.returncode == 1
        assert "systemctl start nightsafe" in done.stderr
