"""Open checks on the LAN: any device can pick up any of them, also after the agent was started again."""

import json
import os
import signal
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

import pytest

from tests.integration.machine import Box, until
from tests.integration.mqtt import Device
from tests.integration.test_stock_clients import Client
from tests.sales import event

pytestmark = pytest.mark.needs("mosquitto")

TOPIC = "pos/v1/venue/checks/"


def check(name: str, what: str = "updated", **changes: Any) -> bytes:
    data = {"check_id": name, "table": "12", "covers": 2, "total": {"amount": 1250, "currency": "GBP"}} | changes
    return event(type=f"pos.check.{what}", data=data)


def told(box: Box, until_there: Callable[[dict[str, Any]], bool], name: str = "handheld-9") -> dict[str, Any]:
    """What a device that has just come is told of the venue's checks, by check id, once it is as awaited."""
    client = Client(box, name, "v5").open()
    found: dict[str, Any] = {}
    try:
        client.paho.subscribe(f"{TOPIC}+", 1)

        def look() -> bool:
            while True:
                try:
                    topic, payload, _ = client.messages.get(timeout=0.05)
                except Empty:
                    return until_there(found)
                found.pop(topic.removeprefix(TOPIC), None)
                if payload:
                    found[topic.removeprefix(TOPIC)] = json.loads(payload)

        until(look, f"the checks as awaited; told: {found}")
    finally:
        client.close()
    return found


def test_A1_4_any_device_picks_up_any_open_check_after_an_agent_restart_too(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    with Device(box.port, "till-1") as till, Device(box.port, "till-2") as other:
        till.tell(check("1009", "opened"))
        till.tell(check("1010", "opened"))
        till.tell(check("a/b #1", "opened"))
        other.tell(check("1009", covers=4))
        till.tell(check("1010", "closed"))
    wanted = {"1009", "a%2Fb%20%231"}
    found = told(box, lambda found: set(found) == wanted)
    assert (found["1009"]["device"], found["1009"]["data"]["covers"]) == ("till-2", 4)
    assert found["a%2Fb%20%231"]["check_id"] == "a/b #1"
    for end in (box.stop, box.kill):
        end()
        box.start()
        again = told(box, lambda found: set(found) == wanted)
        assert again == found
    (box.state / "checks.json").unlink()
    box.restart()
    assert told(box, lambda found: set(found) == wanted) == found, "without its file more of the log is read"


def test_A1_4_a_check_that_closes_is_cleared_for_all_and_a_late_event_brings_it_not_back(
    new_box: Callable[..., Box],
) -> None:
    box = new_box().start()

    def counted(sequence: int, what: str) -> bytes:
        return event(type=f"pos.check.{what}", data={"check_id": "7"}, epoch="e1", sequence=str(sequence))

    with Device(box.port, "till-1") as till:
        till.tell(counted(1, "opened"))
        told(box, lambda found: set(found) == {"7"})
        till.tell(counted(3, "closed"))
        told(box, lambda found: not found)
        till.tell(counted(2, "updated"))
        time.sleep(0.6)
        told(box, lambda found: not found)


def test_A1_4_a_gap_that_is_filled_after_restarts_opens_no_check_again(new_box: Callable[..., Box]) -> None:
    box = new_box().start()

    def counted(sequence: int, check: str, what: str) -> bytes:
        return event(type=f"pos.check.{what}", data={"check_id": check}, epoch="e1", sequence=str(sequence))

    with Device(box.port, "till-1") as till:
        till.tell(counted(1, "7", "opened"))
        till.tell(counted(3, "7", "closed"))
        till.tell(counted(4, "8", "opened"))
    for _ in range(3):  # by then the log is read from behind the end of the check
        box.restart()
        told(box, lambda found: set(found) == {"8"})
    assert json.loads((box.state / "checks.json").read_bytes())["after"] >= 3
    with Device(box.port, "till-1") as till:
        till.tell(counted(2, "7", "updated"))
    time.sleep(0.6)
    assert set(told(box, lambda found: "8" in found)) == {"8"}


def test_A1_4_a_broker_that_comes_back_is_told_the_open_checks_again(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    with Device(box.port, "till-1") as till:
        till.tell(check("1009", "opened"))
    told(box, lambda found: set(found) == {"1009"})

    before = box.mosquitto_pid()
    os.kill(before, signal.SIGKILL)
    until(lambda: box.mosquitto_pid() not in (0, before), "the broker is back")
    time.sleep(0.5)
    assert set(told(box, lambda found: set(found) == {"1009"})) == {"1009"}


def test_checks_are_bounded_and_the_latest_are_told(new_box: Callable[..., Box]) -> None:
    box = new_box(intake={"checks_max": 3}).start()
    with Device(box.port, "till-1") as till:
        for number in range(6):
            till.tell(check(str(number), "opened"))
    told(box, lambda found: set(found) == {"3", "4", "5"})
