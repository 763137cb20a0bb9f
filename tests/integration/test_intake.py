"""From a device's event to the cloud's export: what is kept, what is counted, what is missing, and who is told.

Runs against one agent and one reference cloud that are up, but where a test takes the cloud away.
"""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration import mqtt
from tests.integration.machine import Box, CloudServer, Record, until
from tests.integration.mqtt import V5, Device
from tests.sales import counted, event, fields, new_name, payment


def receipt(box: Box, device: str, older: str = "", **wanted: Any) -> dict[str, Any]:
    """The device's retained receipt, or that of an older epoch, once it holds what is wanted of it."""
    topic = f"pos/v1/{device}/receipt" + (f"/{older}" if older else "")
    with Device(box.port, new_name("reader")) as reader:
        reader.subscribe(topic)
        for _, payload in reader.messages():
            found: dict[str, Any] = json.loads(payload)
            if wanted.items() <= found.items():
                return found
    raise AssertionError


def about(records: list[Record], device: str, kind: str) -> list[dict[str, Any]]:
    """Data of the box's own records of a kind that speak of a device, in the cloud's order."""
    return [
        one.event["data"]
        for one in records
        if one.device == "agent" and one.event["type"] == kind and one.event["data"].get("device") == device
    ]


# Bytes ---------------------------------------------------------------------------------------------------------------

ODD_BYTES = {
    "white space inside": b'{ "specversion" : "1.0",\t"id":"%s" ,"source":"s","type":"x", "data" : [ 1 , 2 ] }',
    "key order": b'{"type":"x","data":{"b":1,"a":2},"source":"s","id":"%s","specversion":"1.0"}',
    "escapes": b'{"specversion":"1.0","id":"%s","source":"s","type":"x","data":"\\u00e9\\/ \\ud83c\\udf7a \\" \\\\"}',
    "beyond ASCII": '{"specversion":"1.0","id":"%s","source":"s","type":"x","data":"Müller 🍺 \u2028 \x7f"}'.encode(),
    "numbers": b'{"specversion":"1.0","id":"%s","source":"s","type":"x","data":[1.10,-0,1E2,0.1e-7,9007199254740993]}',
    "unknown attributes": b'{"specversion":"1.0","id":"%s","source":"s","type":"x","zz":1,"time":null,"data":null}',
    "data_base64": b'{"specversion":"1.0","id":"%s","source":"s","type":"x","data_base64":"3q2+7w=="}',
    "no data": b'{"specversion":"1.0","id":"%s","source":"s","type":"x"}',
    "line breaks": b'{\n  "specversion": "1.0",\r\n  "id": "%s",\n  "source": "s",\n  "type": "x"\n}',
}


def test_an_event_reaches_the_export_byte_for_byte(box: Box, cloud: CloudServer, name: str) -> None:
    payloads = [payload.replace(b"%s", name.encode() + b"-%d" % at) for at, payload in enumerate(ODD_BYTES.values())]
    with Device(box.port, name) as device:
        for payload in payloads:
            device.tell(b"\n\t " + payload + b" \r\n")
    assert box.stored(name) == payloads
    until(box.uploaded, "the cloud has it")
    lines = [line for line in cloud.export() if b'"device":"%b"' % name.encode() in line]
    assert len(lines) == len(payloads)
    for line, payload in zip(lines, payloads, strict=True):
        if b"\n" in payload:
            assert base64.b64decode(json.loads(line)["data_base64"]) == payload
        else:
            assert b'"data":' + payload in line


# Conflicts and refusals ----------------------------------------------------------------------------------------------


def test_a_conflict_is_told_to_the_device_and_to_the_cloud(box: Box, cloud: CloudServer, name: str) -> None:
    with Device(box.port, name, level=V5) as device:
        device.tell(counted("e1", 1, id="a"))
        other = counted("e1", 2, id="a", type="pos.payment.voided")
        assert device.tell(other).reason == 0x99
        device.tell(counted("e1", 3))
    told = receipt(box, name, stored="3", uploaded="3")
    assert [(one["id"], one["sequence"], one["reason"]) for one in told["refused"]] == [("a", "2", "conflict")]
    assert told["gaps"] == []
    (said,) = about(cloud.records("agent"), name, "nightsafe.event.refused")
    assert (said["id"], said["sequence"], said["reason"], said["excerpt"]) == ("a", "2", "conflict", other.decode())
    assert said["size"] == len(other)
    mine = [one.event["id"] for one in cloud.records(name)]
    assert (mine[0], len(mine)) == ("a", 2)
    assert box.device(name)["refused"] == 1


def test_a_refused_event_uses_up_its_sequence_and_is_told_once(box: Box, cloud: CloudServer, name: str) -> None:
    bad = counted("e1", 2, id="b", data=payment(tender="barter"))
    with Device(box.port, name) as device:
        for payload in (counted("e1", 1), bad, bad, counted("e1", 3)):
            device.tell(payload)
    told = receipt(box, name, stored="3", uploaded="3")
    assert [(one["id"], one["sequence"], one["reason"]) for one in told["refused"]] == [("b", "2", "schema")]
    assert len(about(cloud.records("agent"), name, "nightsafe.event.refused")) == 1


def test_an_unreadable_event_is_told_without_a_place(box: Box, name: str) -> None:
    with Device(box.port, name) as device:
        device.tell(b"\xff\xfe")
    told = receipt(box, name)
    assert told["refused"] == [
        {"id": None, "sequence": None, "reason": "malformed", "detail": told["refused"][0]["detail"]}
    ]
    assert (told["epoch"], told["stored"], told["uploaded"]) == (None, None, None)


# Counting ------------------------------------------------------------------------------------------------------------


def test_A3_7_a_gap_is_named_asked_for_and_closed_by_the_late_events(box: Box, cloud: CloudServer, name: str) -> None:
    with Device(box.port, name) as device:
        device.subscribe(f"pos/v1/{name}/commands")
        for sequence in (1, 2, 5):
            device.tell(counted("e1", sequence))
        opened_s = time.monotonic()
        told = receipt(box, name, stored="2", gaps=[["3", "4"]])
        assert told["uploaded"] in ("0", "1", "2")
        command = json.loads(next(device.messages())[1])
        assert 1.5 < time.monotonic() - opened_s < 5
        assert command.keys() == {"id", "command", "args"}
        assert (command["command"], command["args"]) == ("resend", {"epoch": "e1", "from": "3", "to": "4"})
        device.send(device.frame(b'{"state":"ready"}', topic=f"pos/v1/{name}/state"))
        again = json.loads(next(device.messages())[1])
        assert again == command
        for sequence in (4, 3):
            device.send(device.frame(counted("e1", sequence)))
    receipt(box, name, stored="5", uploaded="5", gaps=[])
    own = cloud.records("agent")
    place = {"device": name, "epoch": "e1", "from": "3", "to": "4"}
    assert about(own, name, "nightsafe.gap.opened") == [place]
    assert about(own, name, "nightsafe.gap.closed") == [place]
    assert about(own, name, "nightsafe.gap.lost") == []
    assert [int(one.event["sequence"]) for one in cloud.records(name)] == [1, 2, 5, 4, 3]


def test_a_resend_that_was_applied_is_not_repeated_by_ready(new_box: Callable[..., Box]) -> None:
    box = new_box(intake={"gap_resend_s": 0.2, "resend_backoff_max_s": 600.0}).start()
    state = "pos/v1/till-1/state"
    with Device(box.port, "till-1") as device:
        device.subscribe("pos/v1/till-1/commands")
        device.tell(counted("e1", 2))
        command = json.loads(next(device.messages())[1])
        applied = json.dumps({"state": "ready", "applied": [command["id"]]}).encode()
        device.send(device.frame(applied, topic=state))
        later = json.loads(next(device.messages())[1])
        assert later["id"] != command["id"]
        assert later["args"] == command["args"]
        assert len(box.own_records("nightsafe.gap.opened")) == 1


def test_a_gap_of_an_older_epoch_is_declared_lost(box: Box, cloud: CloudServer, name: str) -> None:
    with Device(box.port, name) as device:
        for epoch, sequence in (("e1", 1), ("e1", 4), ("e2", 1)):
            device.tell(counted(epoch, sequence))
    newest = receipt(box, name, epoch="e2", stored="1", uploaded="1")
    assert newest["gaps"] == []
    older = receipt(box, name, "e1", stored="4", uploaded="4")
    assert older["gaps"] == []
    assert about(cloud.records("agent"), name, "nightsafe.gap.lost") == [
        {"device": name, "epoch": "e1", "from": "2", "to": "3"}
    ]


def test_a_used_sequence_is_stored_again_and_raised(box: Box, cloud: CloudServer, name: str) -> None:
    first, second = counted("e1", 1), counted("e1", 1)
    with Device(box.port, name, level=V5) as device:
        assert device.tell(first).reason == device.tell(second).reason == 0
    assert box.stored(name) == [first, second]
    until(box.uploaded, "the cloud has it")
    (raised,) = about(cloud.records("agent"), name, "nightsafe.condition.raised")
    assert (raised["condition"], raised["sequence"]) == ("sequence_reused", "1")
    attention = next(one for one in box.status()["conditions"] if one["id"] == f"sequence_reused:{name}")
    assert attention["attention"]
    assert receipt(box, name)["stored"] == "1"


def test_without_an_epoch_nothing_is_counted_and_the_receipt_says_so(box: Box, name: str) -> None:
    with Device(box.port, name) as device:
        device.tell(event())
    told = receipt(box, name)
    assert [told[key] for key in ("epoch", "stored", "uploaded", "gaps", "refused")] == [None, None, None, [], []]


def test_unpadded_sequences_count_as_padded_ones(box: Box, name: str) -> None:
    with Device(box.port, name) as device:
        for at, text in enumerate(("1", "02", "00000000000000000003"), 1):
            device.tell(json.dumps(fields(epoch="e1", sequence=text, id=f"{name}-{at}")).encode())
    assert receipt(box, name, stored="3")["gaps"] == []


def test_receipts_come_together_and_never_for_each_event(box: Box, name: str) -> None:
    with Device(box.port, name) as device:
        device.subscribe(f"pos/v1/{name}/receipt")
        device.send(*(device.frame(counted("e1", at)) for at in range(1, 1001)))
        count = 0
        for _, payload in device.messages():
            count += 1
            if json.loads(payload)["stored"] == "1000":
                break
    assert count < 60


ODD_EPOCHS = ["a/b", "#", "+", "a/+/#", "\x1b[2J", "line\nbreak", "\uffff", "é", "$x", " "]


def test_an_epoch_that_no_topic_can_hold_is_refused_and_stops_no_receipts(box: Box, name: str) -> None:
    with Device(box.port, name, level=V5) as device:
        for epoch in ("first", "A.b_c:d-9", *ODD_EPOCHS, "last"):
            assert device.tell(counted(epoch, 1)).reason == (0x99 if epoch in ODD_EPOCHS else 0)
    assert receipt(box, name, epoch="last")["stored"] == "1"
    for older in ("first", "A.b_c:d-9"):
        assert receipt(box, name, older)["epoch"] == older
    assert stored_of_another(box) == "1"


def stored_of_another(box: Box) -> str:
    """What the receipt of a device says that comes now: `stored`."""
    other = new_name("other")
    with Device(box.port, other) as device:
        device.tell(counted("e1", 1))
    return str(receipt(box, other, epoch="e1")["stored"])


def test_no_refusal_makes_a_receipt_too_large_for_the_broker(box: Box, name: str) -> None:
    with Device(box.port, name) as device:
        for at in range(1, 111):
            device.send(device.frame(counted("e1", at, id="\x01" * 256, specversion="x" * 100_000)))
        device.packets(110)
    told = receipt(box, name, stored="110")
    assert [one["sequence"] for one in told["refused"]] == [str(at) for at in range(111 - len(told["refused"]), 111)]
    assert len(json.dumps(told)) < 70_000
    assert stored_of_another(box) == "1"


@pytest.mark.parametrize("end", ["/\x01", "/" * 300, "/\uffff", "/" + "x" * 60_000, "/#"])
def test_no_response_topic_cuts_the_boxs_own_session(box: Box, name: str, end: str) -> None:
    asked = mqtt.properties(b"\x08" + mqtt.text(f"pos/v1/{name}/replies{end}"))
    with Device(box.port, name, level=V5) as device:
        assert device.tell(event(), props=asked).reason == 0
    assert stored_of_another(box) == "1"
    assert "stage_crashed" not in box.text


# Away from the cloud -------------------------------------------------------------------------------------------------


def test_A1_2_A2_1_A2_3_A2_5_what_was_sold_without_the_cloud_goes_up_by_itself(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, uplink={"probe_interval_s": 1.0}).start()
    sales = {"till-1": 3, "till-2": 5}
    with Device(box.port, "till-1") as device:
        device.tell(event())
    until(box.uploaded, "the first sale is up")
    cloud.kill()
    for name, count in sales.items():
        with Device(box.port, name) as device:
            for at in range(1, count + 1):
                assert len(device.tell(counted("e1", at)).body) == 2
        # The device is switched off here: it was told that its sales are safe.
    status = box.status()
    assert {one["device"]: one["pending"] for one in status["devices"]} == sales
    assert status["sync"]["pending"] == sum(sales.values())
    assert status["safe_to_power_off"] is True
    with Device(box.port, "page") as page:
        page.subscribe("pos/v1/venue/status")
        for _, payload in page.messages():
            shown = json.loads(payload)
            if shown["sync"]["pending"] == sum(sales.values()):
                break
        assert shown["safe_to_power_off"] is True
        cloud.start()
        for _, payload in page.messages(30):
            shown = json.loads(payload)
            if (shown["sync"]["pending"], shown["state"]) == (0, "online"):
                break
        assert shown["sync"]["state"] == "idle"
    stored = {name: box.stored(name) for name in sales}
    assert {one["device"]: one["pending"] for one in box.status()["devices"]} == dict.fromkeys(sales, 0)
    assert box.stop() == 0
    lines = cloud.export()
    for name, payloads in stored.items():
        mine = [line for line in lines if b'"device":"%b"' % name.encode() in line]
        assert len(mine) == len(payloads)
        assert all(b'"data":' + payload in line for line, payload in zip(mine, payloads, strict=True))
    assert [int(json.loads(line)["sequence"]) for line in lines] == list(range(1, len(lines) + 1))


def test_A3_1_a_device_that_never_hears_its_pubacks_is_stored_once(box: Box, cloud: CloudServer, name: str) -> None:
    payloads = [counted("e1", at) for at in range(1, 51)]
    for _ in range(4):
        with Device(box.port, name) as device:
            device.send(*(device.frame(payload, dup=True) for payload in payloads), b"\xe0\x00")
    receipt(box, name, stored="50", uploaded="50")
    assert [one.event["id"] for one in cloud.records(name)] == [json.loads(one)["id"] for one in payloads]
