"""What the gate answers: every row of the contract's table, in MQTT 3.1.1 and 5.0, from a running agent.

Devices here are raw sockets, so that they may say what no stock client would.
"""

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.integration import mqtt
from tests.integration.machine import Box, until
from tests.integration.mqtt import V4, V5, Device, Packet, Wire
from tests.sales import counted, event, fields, new_name, payment

EVENT_BYTES_MAX = 262_144

both_levels = pytest.mark.parametrize("level", [V4, V5], ids=["v311", "v5"])


def quarantined(box: Box, device: str) -> list[tuple[str, str | None, bytes | None]]:
    """What is set aside of a device: reason, id and payload."""
    query = (
        "select q.reason, q.event_id, q.payload from quarantine q join device_epochs e on e.id = q.device_epoch "
        "join devices d on d.id = e.device where d.device = ? order by q.id"
    )
    return [(reason, name, payload) for reason, name, payload in box.rows(query, device)]


def refused_as(got: Packet, level: int, reason: str) -> None:
    """A refusal as the contract's table has it: 3.1.1 has no words for it."""
    if level == V4:
        assert len(got.body) == 2
        return
    assert got.reason == 0x99
    assert (got.reason_string or "").startswith(f"{reason}: ")


# Events that are stored ----------------------------------------------------------------------------------------------


@both_levels
def test_a_puback_means_that_the_event_is_in_the_journal(box: Box, name: str, level: int) -> None:
    payload = event()
    with Device(box.port, name, level=level) as device:
        assert len(device.tell(payload).body) == 2
        assert box.stored(name) == [payload]


@both_levels
def test_the_same_event_again_is_acknowledged_and_stored_once(box: Box, name: str, level: int) -> None:
    said = fields()
    first = json.dumps(said).encode()
    other_order = json.dumps(dict(reversed(said.items()))).encode()
    with Device(box.port, name, level=level) as device:
        for payload in (first, first, b" \r\n\t" + first + b"\n", other_order):
            assert len(device.tell(payload).body) == 2
        device.send(device.frame(first, dup=True), mqtt.PING)
        assert {device.packet().kind for _ in range(2)} == {mqtt.PUBACK, mqtt.PINGRESP}
    assert box.stored(name) == [first]


@both_levels
def test_the_same_id_with_other_content_is_a_conflict_and_the_first_one_wins(box: Box, name: str, level: int) -> None:
    first = counted("e1", 1, id="a")
    second = counted("e1", 2, id="a")
    with Device(box.port, name, level=level) as device:
        device.tell(first)
        refused_as(device.tell(second), level, "conflict")
        refused_as(device.tell(second), level, "conflict")
        device.tell(first)
    assert box.stored(name) == [first]
    assert quarantined(box, name) == [("conflict", "a", second)]
    told = [one["data"] for one in box.own_records("nightsafe.event.refused") if one["data"]["device"] == name]
    assert [(one["id"], one["sequence"], one["reason"], one["size"]) for one in told] == [
        ("a", "2", "conflict", len(second))
    ]


REFUSED = {
    "malformed": b'{"specversion":"1.0",',
    "schema": event(type="pos.payment.captured", data={"payment_id": "p"}),
    "card_number": event(data=payment(card={"token": "4111 1111 1111 1111"})),
    "too_large": event(data=payment(note="x" * EVENT_BYTES_MAX)),
}


@both_levels
@pytest.mark.parametrize("reason", REFUSED)
def test_a_refused_event_is_set_aside_before_it_is_acknowledged(box: Box, name: str, reason: str, level: int) -> None:
    with Device(box.port, name, level=level) as device:
        refused_as(device.tell(REFUSED[reason]), level, reason)
        assert [one[0] for one in quarantined(box, name)] == [reason]
        good = event()
        assert len(device.tell(good).body) == 2
    assert box.stored(name) == [good]


def test_reasons_are_left_out_when_the_device_wants_no_problem_information(box: Box, name: str) -> None:
    with Device(box.port, name, level=V5, props=mqtt.properties(b"\x17\x00")) as device:
        got = device.tell(REFUSED["malformed"])
        assert (got.reason, got.reason_string) == (0x99, None)
        other = device.tell(event(), topic="pos/v1/somebody-else/events")
        assert (other.reason, other.reason_string) == (0x87, None)


def test_reasons_are_left_out_when_they_would_exceed_the_devices_maximum_packet_size(box: Box, name: str) -> None:
    with Device(box.port, name, level=V5, props=mqtt.properties(b"\x27\x00\x00\x00\x40")) as device:
        got = device.tell(REFUSED["malformed"])
        assert (got.reason, got.reason_string) == (0x99, None)


def test_an_event_of_the_largest_size_is_stored_and_one_byte_more_is_refused(box: Box, name: str) -> None:
    empty = len(event(id="x", data=payment(payment_id="p", note="")))
    fitting = event(id="x", data=payment(payment_id="p", note="x" * (EVENT_BYTES_MAX - empty)))
    over = event(id="y", data=payment(payment_id="p", note="x" * (EVENT_BYTES_MAX - empty + 1)))
    assert (len(fitting), len(over)) == (EVENT_BYTES_MAX, EVENT_BYTES_MAX + 1)
    with Device(box.port, name, level=V5) as device:
        assert device.tell(b" " * 100 + fitting).reason == 0
        refused_as(device.tell(over), V5, "too_large")
    assert box.stored(name) == [fitting]
    assert [reason for reason, _, _ in quarantined(box, name)] == ["too_large"]


@both_levels
@pytest.mark.parametrize(
    ("size", "sent"),
    [(4 * EVENT_BYTES_MAX + 1, 4 * EVENT_BYTES_MAX + 200), (8 * EVENT_BYTES_MAX, 100_000), (200_000_000, 3_000_000)],
    ids=["by a byte", "its beginning", "all the time"],
)
def test_an_event_above_four_times_the_largest_is_not_read(
    box: Box, name: str, size: int, sent: int, level: int
) -> None:
    before = box.counts().get("too_large", 0)
    with Device(box.port, name, level=level) as device:
        head = mqtt.text(device.events) + b"\0\1" + (b"\0" if level == V5 else b"")
        with suppress(ConnectionError):  # the gate may have hung up before all was sent
            device.send((b"\x32" + mqtt.varint(len(head) + size) + head + b"x" * size)[:sent])
        rest = device.rest()
    assert [(one.kind, one.reason) for one in rest] == ([(mqtt.DISCONNECT, 0x95)] if level == V5 else [])
    assert box.counts()["too_large"] == before + 1
    assert quarantined(box, name) == []


@both_levels
def test_an_event_of_four_times_the_largest_size_is_still_refused_by_name(box: Box, name: str, level: int) -> None:
    with Device(box.port, name, level=level) as device:
        refused_as(device.tell(b"x" * (4 * EVENT_BYTES_MAX)), level, "too_large")
    assert [reason for reason, _, _ in quarantined(box, name)] == ["too_large"]


# Whose topic ---------------------------------------------------------------------------------------------------------


@both_levels
def test_an_event_under_another_name_is_refused_and_raises_an_attention(box: Box, name: str, level: int) -> None:
    other = new_name("other")
    before = box.counts().get("spoofed", 0)
    with Device(box.port, name, level=level) as device:
        device.send(device.frame(event(), topic=f"pos/v1/{other}/events"))
        if level == V5:
            got = device.packet()
            assert (got.kind, got.reason) == (mqtt.PUBACK, 0x87)
            assert f"pos/v1/{name}/events" in (got.reason_string or "")
            assert len(device.tell(event()).body) == 2
        else:
            assert device.rest() == []
    assert box.counts()["spoofed"] == before + 1
    status = box.status()
    attention = next(one for one in status["conditions"] if one["id"] == f"spoofed:{name}")
    assert attention["attention"]
    assert other in attention["text"]
    assert other not in [one["device"] for one in status["devices"]]


def test_qos_2_under_another_name_ends_with_the_pubrec(box: Box, name: str) -> None:
    with Device(box.port, name, level=V5) as device:
        device.send(device.frame(event(), topic="pos/v1/somebody-else/events", qos=2, packet_id=7))
        got = device.packet()
        assert (got.kind, got.packet_id, got.reason) == (mqtt.PUBREC, 7, 0x87)


@pytest.mark.parametrize("topic", ["pos/v1/{}/events/x", "pos/v1/events", "x/pos/v1/{}/events", "pos/v2/{}/events"])
def test_only_the_events_topic_is_taken(box: Box, name: str, topic: str) -> None:
    with Device(box.port, name) as device:
        device.tell(event(), topic=topic.format(name))
    assert box.device(name) is None


@pytest.mark.parametrize("odd", ["Till_1", "tille\u0301", "a" * 64, "-a", "mqttjs 0815"])
def test_a_name_that_no_device_may_bear_cannot_send_events(box: Box, odd: str) -> None:
    with Device(box.port, odd, level=V5) as device:
        assert device.tell(event()).reason == 0x87
        assert device.tell(b"{}", topic="conform/x").reason in (0x00, 0x10)
    for topic in (b"\xff" * 65_535, b"", b"\xff"):
        with Device(box.port, odd) as device:
            device.send(mqtt.publish(topic, event(), packet_id=0x0101))
            assert device.rest() == []
    assert box.rows("select 1 from devices where device = ?", odd) == []


@both_levels
@pytest.mark.parametrize("reserved", ["agent", "venue", "nightsafe", "Agent"])
def test_reserved_names_are_refused_as_user_name_and_as_client_id(box: Box, reserved: str, level: int) -> None:
    for hello in (
        mqtt.connect("some-till", username=reserved, level=level),
        mqtt.connect(reserved, level=level),
    ):
        with Wire(box.port) as wire:
            (got,) = wire.send(hello).rest()
            assert (got.kind, got.body[1]) == (mqtt.CONNACK, 0x87 if level == V5 else 5)


@both_levels
@pytest.mark.parametrize("name", ["4111111111111111", "till-4111-1111-1111-1111", "5500 0000 0000 0004"])
def test_A1_3_a_name_that_is_a_card_number_is_refused_and_stands_nowhere(box: Box, name: str, level: int) -> None:
    before = box.counts()["card_number_names"]
    for hello in (mqtt.connect("some-till", username=name, level=level), mqtt.connect(name, level=level)):
        with Wire(box.port) as wire:
            (got,) = wire.send(hello).rest()
            assert (got.kind, got.body[1]) == (mqtt.CONNACK, 0x87 if level == V5 else 5)
            assert level == V4 or "looks like a card number" in (got.reason_string or "")
            assert level == V4 or name not in (got.reason_string or "")
    assert box.counts()["card_number_names"] == before + 2
    assert "reason=card_number" in next(line for line in box.text.splitlines() if "event=connect_refused" in line)
    for path in [box.log, *box.state.rglob("*")]:
        assert not path.is_file() or name.encode() not in path.read_bytes(), path


@both_levels
@pytest.mark.parametrize("name", ["till-20261122103000", "5000159461122", "0199c0de-0000-7000-8000-000000000000"])
def test_a_name_with_many_digits_that_is_no_card_number_comes_in(box: Box, name: str, level: int) -> None:
    with Device(box.port, name, level=level) as device:
        assert len(device.tell(event()).body) == 2


@both_levels
def test_without_a_user_name_the_client_id_is_the_device_where_any_may_connect(box: Box, name: str, level: int) -> None:
    payload = event()
    with Wire(box.port) as wire:
        wire.send(mqtt.connect(name, level=level), mqtt.publish(f"pos/v1/{name}/events", payload, level=level))
        assert [one.kind for one in wire.packets(2)] == [mqtt.CONNACK, mqtt.PUBACK]
    assert box.stored(name) == [payload]


@both_levels
def test_an_empty_client_id_is_answered_as_the_standard_says(box: Box, level: int) -> None:
    with Wire(box.port) as wire:
        assert wire.send(mqtt.connect("", level=level)).packet().body[1] == 0
        wire.send(mqtt.PING)
        assert wire.packet().kind == mqtt.PINGRESP
    with Wire(box.port) as wire:
        got = wire.send(mqtt.connect("", level=level, clean=False)).packet()
        assert got.body[1] == (2 if level == V4 else 0)


# QoS 0 and QoS 2 -----------------------------------------------------------------------------------------------------


@both_levels
def test_qos_0_is_taken_without_an_answer(box: Box, name: str, level: int) -> None:
    payload = event()
    before = box.counts().get("events_total", 0)
    with Device(box.port, name, level=level) as device:
        device.send(device.frame(payload, qos=0))
        until(lambda: box.stored(name), "the event is stored")
        device.ping()
    assert box.stored(name) == [payload]
    assert box.counts()["events_total"] == before + 1


@both_levels
def test_qos_2_runs_whole_and_a_repeated_publish_is_stored_once(box: Box, name: str, level: int) -> None:
    payload = event()
    with Device(box.port, name, level=level) as device:
        for dup in (False, True):
            device.send(device.frame(payload, qos=2, packet_id=9, dup=dup))
            got = device.packet()
            assert (got.kind, got.packet_id, got.reason) == (mqtt.PUBREC, 9, 0)
        device.send(mqtt.pubrel(9))
        got = device.packet()
        assert (got.kind, got.packet_id, got.reason) == (mqtt.PUBCOMP, 9, 0)
        assert box.stored(name) == [payload]
        again = event()
        device.send(device.frame(again, qos=2, packet_id=9))
        assert device.packet().kind == mqtt.PUBREC
        device.send(mqtt.pubrel(9))
        assert device.packet().kind == mqtt.PUBCOMP
    assert box.stored(name) == [payload, again]


def test_a_refused_qos_2_event_ends_with_its_pubrec_in_5_0(box: Box, name: str) -> None:
    with Device(box.port, name, level=V5) as device:
        device.send(device.frame(REFUSED["malformed"], qos=2, packet_id=5))
        refused = device.packet()
        assert (refused.kind, refused.packet_id, refused.reason) == (mqtt.PUBREC, 5, 0x99)
        device.send(mqtt.pubrel(5))
        got = device.packet()
        assert (got.kind, got.packet_id) == (mqtt.PUBCOMP, 5)


def test_a_refused_qos_2_event_runs_to_its_end_in_3_1_1(box: Box, name: str) -> None:
    with Device(box.port, name) as device:
        device.send(device.frame(REFUSED["malformed"], qos=2, packet_id=5))
        assert device.packet() == Packet(mqtt.PUBREC, 0, b"\0\5")
        device.send(mqtt.pubrel(5))
        assert device.packet() == Packet(mqtt.PUBCOMP, 0, b"\0\5")


@both_levels
def test_a_pubrel_for_an_id_that_is_not_the_gates_goes_to_mosquitto(box: Box, name: str, level: int) -> None:
    topic = f"pos/v1/{name}/state"
    with Device(box.port, name, level=level) as device:
        device.send(device.frame(b'{"state":"ready"}', topic=topic, qos=2, packet_id=3))
        device.send(device.frame(event(), qos=2, packet_id=4))
        assert {(one.kind, one.packet_id) for one in device.packets(2)} == {(mqtt.PUBREC, 3), (mqtt.PUBREC, 4)}
        device.send(mqtt.pubrel(3), mqtt.pubrel(4))
        assert {(one.kind, one.packet_id) for one in device.packets(2)} == {(mqtt.PUBCOMP, 3), (mqtt.PUBCOMP, 4)}
        device.send(mqtt.pubrel(77))
        got = device.packet()
        assert (got.kind, got.packet_id) == (mqtt.PUBCOMP, 77)


# Around the gate -----------------------------------------------------------------------------------------------------


@both_levels
def test_a_will_on_the_own_events_topic_is_stored_and_counted(box: Box, name: str, level: int) -> None:
    payload = event()
    topic = f"pos/v1/{name}/events"
    before = box.counts()["will_events"]
    with Wire(box.port) as wire:
        wire.send(mqtt.connect(name, username=name, level=level, will=(topic, payload)))
        assert wire.packet().kind == mqtt.CONNACK
    until(lambda: box.stored(name), "the will is stored")
    assert box.stored(name) == [payload]
    assert box.counts()["will_events"] == before + 1
    assert f"\nnightsafe_gate_will_events_total {before + 1}.0\n" in box.metrics()


@both_levels
@pytest.mark.parametrize("whose", ["till-another", "agent", "venue", "nightsafe", "Till_1"])
def test_a_will_on_anothers_events_topic_ends_the_connect_where_any_may_connect(
    box: Box, name: str, whose: str, level: int
) -> None:
    """There is no access list then: the broker would publish it, and it would come as the other's event."""
    before = box.counts()
    foul, good = event(), event()
    for username in (name, None):
        with Wire(box.port) as wire:
            wire.send(mqtt.connect(name, username=username, level=level, will=(f"pos/v1/{whose}/events", foul)))
            (got,) = wire.rest()
            assert (got.kind, got.body[1]) == (mqtt.CONNACK, 0x87 if level == V5 else 5)
            assert level == V4 or f"pos/v1/{name}/events" in (got.reason_string or "")
    with Wire(box.port) as wire:
        wire.send(mqtt.connect(name, username=name, level=level, will=(f"pos/v1/{name}/events", good)))
        assert wire.packet().body[1] == 0
    until(lambda: box.stored(name), "the own will is stored, which came behind the others")
    assert foul not in box.stored(whose)
    assert box.device(whose) is None or whose == "agent"
    after = box.counts()
    assert after["spoofed"] == before["spoofed"] + 2
    assert after["connects_refused"] == before["connects_refused"] + 2
    attention = next(one for one in box.status()["conditions"] if one["id"] == f"spoofed:{name}")
    assert attention["attention"]
    assert f"pos/v1/{whose}/events" in attention["text"]


def test_a_name_that_no_device_may_bear_leaves_no_will_with_events_either(box: Box) -> None:
    with Wire(box.port) as wire:
        (got,) = wire.send(mqtt.connect("x", username="Till_9", will=("pos/v1/Till_9/events", event()))).rest()
        assert (got.kind, got.body[1]) == (mqtt.CONNACK, 5)


@pytest.mark.parametrize("topic", ["pos/v1/till-another/state", "pos/v1/till-another/events/x", "a/b"])
def test_a_will_on_any_other_topic_is_the_brokers_business(box: Box, name: str, topic: str) -> None:
    with Wire(box.port) as wire:
        assert wire.send(mqtt.connect(name, username=name, will=(topic, b"{}"))).packet().body[1] == 0


def test_A1_3_a_card_number_in_anothers_topic_is_told_to_nobody(box: Box, name: str) -> None:
    with Device(box.port, name, level=V5) as device:
        assert device.tell(event(), topic="pos/v1/4111111111111111/events").reason == 0x87
    text = next(one["text"] for one in box.status()["conditions"] if one["id"] == f"spoofed:{name}")
    assert "4111" not in text
    assert "****" in text


@both_levels
def test_events_are_never_forwarded_and_retain_on_them_is_ignored(box: Box, name: str, level: int) -> None:
    payload = event()
    state = f"pos/v1/{name}/state"
    with Device(box.port, new_name("watcher")) as watcher, Device(box.port, name, level=level) as device:
        watcher.subscribe(f"pos/v1/{name}/+")
        device.send(device.frame(payload, retain=True), device.frame(event(), qos=2), device.frame(event(), qos=0))
        assert {one.kind for one in device.packets(2)} == {mqtt.PUBACK, mqtt.PUBREC}
        device.send(device.frame(b'{"state":"ready"}', topic=state))
        seen = []
        for topic, _ in watcher.messages():
            seen.append(topic)
            if topic == state:
                break
        assert f"pos/v1/{name}/events" not in seen
        later = Device(box.port, new_name("later"))
        with later:
            later.subscribe(f"pos/v1/{name}/events").subscribe("x").ping()
    assert payload in box.stored(name)


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (counted("e1", 7, id="a"), {"id": "a", "epoch": "e1", "sequence": "7", "status": "stored"}),
        (
            counted("e1", 7, id="a", type="nightsafe.x"),
            {"id": "a", "epoch": "e1", "sequence": "7", "status": "refused", "reason": "schema"},
        ),
        (b"?", {"id": None, "epoch": None, "sequence": None, "status": "refused", "reason": "malformed"}),
    ],
    ids=["stored", "refused", "malformed"],
)
def test_an_event_with_a_response_topic_gets_its_own_receipt(
    box: Box, name: str, payload: bytes, answer: dict[str, object]
) -> None:
    topic = f"pos/v1/{name}/replies/own"
    asked = mqtt.properties(b"\x08" + mqtt.text(topic), b"\x09" + mqtt.text(b"\x00\xff42"))
    with Device(box.port, name, level=V5) as device:
        device.subscribe(f"pos/v1/{name}/replies/#")
        device.send(mqtt.publish(device.events, payload, packet_id=900, level=V5, props=asked))
        got = {one.kind: one for one in device.packets(2)}
        assert got[mqtt.PUBACK].packet_id == 900
        reply = got[mqtt.PUBLISH]
        assert reply.topic == topic
        assert reply.properties[0x09] == b"\x00\xff42"
        assert json.loads(reply.body[reply.body.index(b"{") :]) == answer


@pytest.mark.parametrize(
    "topic", ["pos/v1/{}/state", "pos/v1/other/replies", "pos/v1/{}/replies/#", "pos/v1/{}/repliesx"]
)
def test_a_response_topic_elsewhere_is_not_heeded(box: Box, name: str, topic: str) -> None:
    asked = mqtt.properties(b"\x08" + mqtt.text(topic.format(name)))
    mine = mqtt.properties(b"\x08" + mqtt.text(f"pos/v1/{name}/replies"))
    with Device(box.port, name, level=V5) as device, Device(box.port, new_name("watcher")) as watcher:
        watcher.subscribe("pos/v1/#")
        device.tell(event(), props=asked)
        device.tell(event(), props=mine)
        for at, _ in watcher.messages():
            assert at != topic.format(name)
            if at == f"pos/v1/{name}/replies":
                break


# When nothing can be stored ------------------------------------------------------------------------------------------


def test_what_cannot_be_stored_is_not_acknowledged_and_the_device_is_sent_away(new_box: Callable[..., Box]) -> None:
    box = new_box(journal={"bytes_max": 16_777_216}, gate={"refuse_delay_s": 0.5}).start()
    told: list[bytes] = []
    with Device(box.port, "till-1", level=V5) as device:
        while True:
            payload = event(data=payment(note="x" * 250_000))
            device.send(device.frame(payload, packet_id=len(told) + 1))
            got = device.packet()
            if got.kind != mqtt.PUBACK:
                break
            assert (got.packet_id, got.reason) == (len(told) + 1, 0)
            told.append(payload)
            assert len(told) < 100
        assert (got.kind, got.reason) == (mqtt.DISCONNECT, 0x97)
        assert "keep your events" in (got.reason_string or "")
        assert device.rest() == []
    with Device(box.port, "till-2") as plain:
        plain.send(plain.frame(event(data=payment(note="x" * 250_000))))
        assert plain.rest() == []
    assert len(told) > 40
    assert box.stored("till-1") == told
    assert box.stored("till-2") == []
    assert box.status()["journal"]["writable"] is False
    assert box.stop() == 0
    assert "Traceback" not in box.text


# Limits --------------------------------------------------------------------------------------------------------------


def test_connections_above_the_limit_and_connections_that_never_say_connect_are_closed(
    new_box: Callable[..., Box],
) -> None:
    small = new_box(gate={"connections_max": 3, "connect_timeout_s": 1.0}).start()
    with Device(small.port, "till-1") as first, Device(small.port, "till-2") as second:
        with Wire(small.port) as silent:
            assert silent.send(b"\x10").rest() == []
        until(lambda: small.counts()["connections"] == 2, "the silent one is gone")
        assert small.counts()["connect_timeouts"] == 1
        with Device(small.port, "till-3") as third:
            with Wire(small.port) as over:
                assert over.rest() == []
            assert small.counts()["connections_over_limit"] == 1
            assert small.counts()["connections_crowded_out"] == 0
            for device in (first, second, third):
                device.tell(event())


@contextmanager
def crowding(port: int, says: bytes, places: int) -> Iterator[None]:
    """From another address: always `places` connections that say this and no more, each new as soon as it is ended."""
    going_on = True

    def crowd() -> None:
        mine = deque[socket.socket]()
        while going_on:
            one = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=("127.0.0.9", 0))
            with suppress(ConnectionError):
                one.sendall(says)
            mine.append(one)
            if len(mine) > places:
                mine.popleft().close()
            if len(mine) >= places:
                time.sleep(0.002)
        for one in mine:
            one.close()

    thread = threading.Thread(target=crowd, name="crowd")
    thread.start()
    try:
        yield
    finally:
        going_on = False
        thread.join(20)


@pytest.mark.parametrize(
    "says",
    [
        pytest.param(b"", id="silent"),
        pytest.param(mqtt.frame(mqtt.CONNECT, bytes(60_000))[:50_000], id="with half a CONNECT each"),
    ],
)
def test_who_never_logs_in_keeps_no_till_out_and_is_named(new_box: Callable[..., Box], says: bytes) -> None:
    box = new_box(gate={"connections_max": 12, "stranger_bytes_max": 262_144}).start()
    with Device(box.port, "till-1") as first, crowding(box.port, says, 12):
        reason = "partial_dropped" if says else "connections_over_limit"
        until(lambda: box.counts()[reason] > 20, "the crowd takes all there is")
        for number in range(10):
            with Wire(box.port) as slow:
                whole = mqtt.connect(f"late-{number}")
                slow.send(whole[:9])
                first.tell(event())
                slow.send(whole[9:])
                assert slow.packet().kind == mqtt.CONNACK
        (told,) = [one for one in box.status()["conditions"] if one["id"] == "gate_crowded"]
        assert "127.0.0.9" in told["text"]
    assert box.counts()["connections_crowded_out"] > 20
