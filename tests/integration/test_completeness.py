"""What of a device is on the box, what is missing, what is lost: with a real agent, a real broker and raw devices."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device, Gone
from tests.sales import counted

QUICK = {"gap_resend_s": 0.2, "resend_backoff_max_s": 0.5, "receipt_interval_s": 0.05}


def receipt(box: Box, name: str, epoch: str | None = None, **wanted: Any) -> dict[str, Any]:
    """The device's retained receipt, or an older epoch's, as soon as it says `wanted`."""
    topic = f"pos/v1/{name}/receipt" + (f"/{epoch}" if epoch else "")
    with Device(box.port, name) as device:
        device.subscribe(topic)
        for _, payload in device.messages():
            told: dict[str, Any] = json.loads(payload)
            if all(told[key] == value for key, value in wanted.items()):
                return told
    raise AssertionError


def command(device: Device) -> dict[str, Any]:
    """The next resend that the device hears."""
    told: dict[str, Any] = json.loads(next(device.messages())[1])
    assert told["command"] == "resend"
    return told


def say(device: Device, **state: Any) -> None:
    """Publish the device's state; `ready` unless told otherwise."""
    payload = json.dumps({"state": "ready"} | state).encode()
    device.send(device.frame(payload, topic=f"pos/v1/{device.name}/state", qos=0))


def word_of(box: Box, kind: str) -> list[dict[str, Any]]:
    return [event["data"] for event in box.own_records(f"nightsafe.gap.{kind}")]


def place(first: int, last: int, epoch: str = "e1", name: str = "till-1") -> dict[str, str]:
    return {"device": name, "epoch": epoch, "from": str(first), "to": str(last)}


def test_A3_7_a_hole_keeps_its_request_and_its_age_over_a_restart(new_box: Callable[..., Box]) -> None:
    box = new_box(intake=QUICK | {"gap_attention_s": 3.0}).start()
    with Device(box.port, "till-1") as device:
        device.subscribe("pos/v1/till-1/commands")
        for sequence in (1, 9):
            device.tell(counted("e1", sequence))
        before = command(device)
    opened = box.rows("select opened_boottime_s from gaps")
    box.restart()
    with Device(box.port, "till-1") as device:
        device.subscribe("pos/v1/till-1/commands")
        assert command(device) == before
        device.tell(counted("e1", 4))
        assert command(device)["id"] == before["id"]
        found = until(lambda: conditions(box, "gap:"), "people are told", 15)
        assert [one["id"] for one in found] == ["gap:till-1:e1:2"]
        box.kill()
        box.start()
        (found,) = until(lambda: conditions(box, "gap:"), "they are told again at once", 2.5)
        assert "2 to 8" in found["text"]
    assert box.rows("select opened_boottime_s from gaps") == opened
    with Device(box.port, "till-1") as device:
        for sequence in (2, 3, 5, 6, 7, 8):
            device.tell(counted("e1", sequence))
    until(lambda: not conditions(box, "gap:"), "it is over")
    assert word_of(box, "opened") == word_of(box, "closed") == [place(2, 8)]
    assert word_of(box, "lost") == []


def conditions(box: Box, prefix: str) -> list[Any]:
    return [one for one in box.status()["conditions"] if one["id"].startswith(prefix)]


def test_A3_7_what_a_device_has_counted_and_never_came_is_asked_for_without_waiting_for_more(
    new_box: Callable[..., Box],
) -> None:
    box = new_box(intake=QUICK).start()
    with Device(box.port, "till-1") as device:
        device.subscribe("pos/v1/till-1/commands")
        for sequence in (1, 2):
            device.tell(counted("e1", sequence))
        say(device, epoch="e1", last="5", pending=3)
        say(device, epoch="e1", last="5", pending=0)
        asked = command(device)
        assert asked["args"] == {"epoch": "e1", "from": "3", "to": "5"}
        receipt(box, "till-1", stored="2", gaps=[["3", "5"]])
    box.restart()
    assert receipt(box, "till-1", stored="2", gaps=[["3", "5"]])
    with Device(box.port, "till-1") as device:
        for sequence in (7, 4, 3, 5):
            device.send(device.frame(counted("e1", sequence)))
        device.packets(4)
    receipt(box, "till-1", stored="5", gaps=[["6", "6"]])
    assert word_of(box, "opened") == [place(3, 5), place(6, 6)]
    assert word_of(box, "closed") == [place(3, 5)]


def test_A3_7_an_epoch_that_this_box_never_saw_is_missing_from_its_beginning(new_box: Callable[..., Box]) -> None:
    """So it is after the box was exchanged, or its disk: what the till was told is asked for again."""
    box = new_box(intake=QUICK).start()
    with Device(box.port, "till-1") as device:
        device.subscribe("pos/v1/till-1/commands")
        say(device, epoch="e7", last="3", pending=0)
        assert command(device)["args"] == {"epoch": "e7", "from": "1", "to": "3"}
        for sequence in (1, 2, 3):
            device.send(device.frame(counted("e7", sequence)))
    receipt(box, "till-1", epoch=None, stored="3", gaps=[])
    assert word_of(box, "closed") == [place(1, 3, "e7")]


def test_A3_7_what_a_device_cannot_bring_again_is_named_as_lost_and_stored_if_it_comes_after_all(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, intake=QUICK).start()
    late = counted("e1", 5)
    with Device(box.port, "till-1") as device:
        device.subscribe("pos/v1/till-1/commands")
        for sequence in (1, 2, 7):
            device.tell(counted("e1", sequence))
        applied: list[str] = []
        while len(applied) < 2:
            id = command(device)["id"]
            if id not in applied:
                applied.append(id)
            say(device, applied=applied)
    told = receipt(box, "till-1", stored="7", uploaded="7", gaps=[])
    assert told["epoch"] == "e1"
    assert word_of(box, "lost") == [place(3, 6)]
    assert "4 events" in until(lambda: conditions(box, "gap_lost:till-1"), "people are told")[0]["text"]
    shown = box.device("till-1")
    assert (shown["stored"], shown["complete"], shown["lost_events"]) == ("7", "2", 4)
    assert shown["lost"] == [["e1", "3", "6"]]
    with Device(box.port, "till-1") as device:
        device.tell(late)
    until(lambda: box.device("till-1")["lost_events"] == 3, "what came is lost no more")
    box.restart()
    assert box.device("till-1")["lost"] == [["e1", "3", "4"], ["e1", "6", "6"]]
    assert conditions(box, "gap_lost:till-1") or until(
        lambda: conditions(box, "gap_lost:till-1"), "told after a restart"
    )
    assert receipt(box, "till-1", stored="7")["gaps"] == []
    until(box.uploaded, "the cloud has it")
    assert [int(one.event["sequence"]) for one in cloud.records("till-1")] == [1, 2, 7, 5]
    assert [one.event["data"] for one in cloud.records("agent") if one.event["type"] == "nightsafe.gap.lost"] == [
        place(3, 6)
    ]


def test_A3_7_a_resend_that_is_refused_again_uses_up_its_sequence_and_its_loss_is_named(
    new_box: Callable[..., Box],
) -> None:
    box = new_box(intake=QUICK).start()
    with Device(box.port, "till-1") as device:
        device.subscribe("pos/v1/till-1/commands")
        for sequence in (1, 3):
            device.tell(counted("e1", sequence))
        command(device)
        device.send(device.frame(counted("e1", 2, type="nightsafe.forged")))
    told = receipt(box, "till-1", stored="3", gaps=[])
    assert [one["sequence"] for one in told["refused"]] == ["2"]
    assert (word_of(box, "closed"), word_of(box, "lost")) == ([], [place(2, 2) | {"reason": "refused"}])
    assert box.device("till-1")["lost_events"] == 0, "it is in quarantine, where people look after it"


def test_a_device_that_begins_too_many_epochs_is_stored_uncounted_and_people_are_told(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, intake=QUICK | {"epochs_max": 2}).start()
    events = [counted(epoch, sequence) for epoch, sequence in (("e1", 1), ("e2", 1), ("e3", 1), ("e4", 5), ("e2", 2))]
    with Device(box.port, "till-1") as device:
        for event in events:
            device.tell(event)
        device.tell(events[2])
        say(device, epoch="e5", last="9", pending=0)
        device.send(device.frame(counted("e6", 7, type="nightsafe.forged")))
        told = receipt(box, "till-1", epoch=None, stored="2", uploaded="2")
    assert (told["epoch"], told["gaps"], len(told["refused"])) == ("e2", [], 0)
    until(lambda: conditions(box, "epochs_exceeded:till-1"), "people are told")
    box.restart()
    with Device(box.port, "till-1") as device:
        device.tell(counted("e7", 1))
    until(box.uploaded, "the cloud has it")
    assert [one.event["epoch"] for one in cloud.records("till-1")] == ["e1", "e2", "e3", "e4", "e2", "e7"]
    assert word_of(box, "opened") == []


def test_A2_6_a_replacement_takes_over_a_tills_name_under_a_new_epoch(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, intake=QUICK).start()
    with Device(box.port, "till-1") as broken:
        for sequence in (1, 2, 5):
            broken.tell(counted("old", sequence))
        say(broken, epoch="old", last="8", pending=0)
        until(lambda: word_of(box, "opened") == [place(3, 4, "old"), place(6, 8, "old")], "both holes are known")
        before = box.stored("till-1")
    with Device(box.port, "till-1") as replacement:
        for sequence in (1, 2, 3):
            replacement.tell(counted("new", sequence))
    newest = receipt(box, "till-1", epoch=None, stored="3", uploaded="3")
    assert (newest["epoch"], newest["gaps"]) == ("new", [])
    older = receipt(box, "till-1", "old", stored="8", uploaded="8")
    assert (older["epoch"], older["gaps"], older["refused"]) == ("old", [], [])
    assert word_of(box, "lost") == [place(3, 8, "old") | {"ranges": [["3", "4"], ["6", "8"]]}]
    assert box.stored("till-1")[: len(before)] == before
    shown = box.device("till-1")
    assert (shown["epoch"], shown["stored"], shown["complete"], shown["events"]) == ("new", "3", "3", 6)
    assert (shown["lost_events"], shown["lost"]) == (5, [["old", "3", "4"], ["old", "6", "8"]])
    with Device(box.port, "till-1") as repaired:
        repaired.tell(counted("old", 9))
        repaired.tell(counted("old", 3))
    assert receipt(box, "till-1", epoch=None, stored="3")["epoch"] == "new"
    receipt(box, "till-1", "old", stored="9")
    until(lambda: box.device("till-1")["lost_events"] == 4, "what came is lost no more")
    until(box.uploaded, "the cloud has it")
    assert [(one.event["epoch"], int(one.event["sequence"])) for one in cloud.records("till-1")] == [
        ("old", 1), ("old", 2), ("old", 5), ("new", 1), ("new", 2), ("new", 3), ("old", 9), ("old", 3)
    ]  # fmt: skip


def test_A2_6_how_far_a_device_is_durable_is_told_while_it_is_switched_off(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    with Device(box.port, "till-1") as device:
        for sequence in range(1, 8):
            device.tell(counted("e1", sequence))
    shown = box.device("till-1")
    assert (shown["stored"], shown["complete"], shown["gaps"], shown["pending"]) == ("7", "7", [], 7)
    box.restart()
    assert box.device("till-1") == shown


def test_A3_7_two_devices_with_one_name_are_noticed_and_lose_nothing(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    stop, acknowledged, lock = threading.Event(), [], threading.Lock()

    def sell(epoch: str) -> None:
        sequence, waiting = 1, b""
        while not stop.is_set():
            try:
                with Device(box.port, "till-1") as device:
                    while not stop.is_set():
                        waiting = waiting or counted(epoch, sequence)
                        device.tell(waiting)
                        with lock:
                            acknowledged.append(waiting)
                        sequence, waiting = sequence + 1, b""
                        stop.wait(0.02)
            except (Gone, OSError, AssertionError):
                stop.wait(0.05)

    twins = [threading.Thread(target=sell, args=(epoch,)) for epoch in ("a", "b")]
    for twin in twins:
        twin.start()
    try:
        (told,) = until(lambda: conditions(box, "device_twice:till-1"), "the war is noticed", 20)
    finally:
        stop.set()
        for twin in twins:
            twin.join()
    assert told["attention"]
    assert box.counts()["takeovers"] >= 5
    stored = box.stored("till-1")
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)


def test_one_device_that_comes_back_is_one_device(new_box: Callable[..., Box]) -> None:
    box = new_box().start()
    for _ in range(20):
        with Device(box.port, "till-1") as device:
            device.ping()
        until(lambda: box.counts()["connections"] == 0, "it is gone")
    forgotten = [Device(box.port, "till-2") for _ in range(4)]
    assert box.counts()["takeovers"] == 3
    assert conditions(box, "device_twice:") == []
    for device in forgotten:
        device.socket.close()


@pytest.mark.parametrize(
    ("text", "fate"),
    [
        ("1" + "0" * 11, "ahead"),
        ("0" * 8 + "9" * 12, "ahead"),
        ("0" * 20, "refused"),
        ("0", "refused"),
        ("-1", "refused"),
        ("+1", "refused"),
        ("1e3", "refused"),
        ("\uff11", "refused"),
        ("", "refused"),
        ("1" + "0" * 12, "refused"),
        ("9" * 20, "refused"),
        (str(2**63), "refused"),
        ("0" * 20 + "2", "refused"),
    ],
)
def test_a_sequence_out_of_bounds_is_refused_and_one_far_ahead_is_stored(
    box: Box, name: str, text: str, fate: str
) -> None:
    with Device(box.port, name, level=5) as device:
        device.tell(counted("e1", 1))
        payload = counted("e1", 1).replace(b'"sequence":"00000000000000000001"', f'"sequence":"{text}"'.encode())
        assert device.tell(payload).reason == (0x99 if fate == "refused" else 0)
        assert device.tell(counted("e1", 2)).reason == 0
    told = receipt(box, name, epoch=None, stored="2")
    assert told["gaps"] == ([["3", str(int(text) - 1)]] if fate == "ahead" else [])
    assert len(told["refused"]) == (fate == "refused")


def test_a_sequence_that_goes_back_is_stored_and_raised_until_a_new_epoch_begins(box: Box, name: str) -> None:
    with Device(box.port, name, level=5) as device:
        for sequence in (1, 2, 3, 1, 2):
            assert device.tell(counted("e1", sequence)).reason == 0
        receipt(box, name, epoch=None, stored="3", gaps=[])
        assert conditions(box, f"sequence_reused:{name}")
        assert len(box.stored(name)) == 5
    with Device(box.port, name, level=5) as device:
        assert device.tell(counted("e2", 1)).reason == 0
    assert receipt(box, name, epoch=None, stored="1")["epoch"] == "e2"
    shown = box.device(name)
    assert (shown["epoch"], shown["complete"], shown["lost_events"]) == ("e2", "1", 0)
