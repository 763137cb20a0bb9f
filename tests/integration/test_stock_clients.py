"""Stock clients through the gate: mosquitto_pub, mosquitto_sub and paho, in MQTT 3.1.1 and 5.0.

They publish events and hear what became of them; and everything else they do is as with Mosquitto itself.
"""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.integration.machine import WAIT_MAX_S, Box, until
from tests.sales import counted, event, new_name

VERSIONS = {"v311": MQTTProtocolVersion.MQTTv311, "v5": MQTTProtocolVersion.MQTTv5}
V5 = MQTTProtocolVersion.MQTTv5

needs_tools = pytest.mark.needs("mosquitto_pub", "mosquitto_sub")
both_versions = pytest.mark.parametrize("version", VERSIONS)


def pub(box: Box, name: str, version: str, *arguments: str, said: bytes | None = None) -> None:
    """mosquitto_pub as the device; fails as it fails."""
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(box.port), "-V", f"mqtt{version}", "-u", name, "-i", name]
    subprocess.run([*command, *arguments], input=said, timeout=20, check=True, capture_output=True)


def sub(box: Box, name: str, version: str, topic: str, *options: str) -> list[bytes]:
    """Lines of mosquitto_sub as the device, `topic payload`, until it has its `-C` messages."""
    command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(box.port), "-V", f"mqtt{version}", "-u", name, "-i", name]
    done = subprocess.run([*command, "-t", topic, "-v", *options], timeout=20, check=True, capture_output=True)
    return done.stdout.splitlines()


class Client:
    """A paho client with its facts in queues. Connects in the constructor."""

    def __init__(self, box: Box, name: str, version: str, **options: Any) -> None:
        self.messages: SimpleQueue[tuple[str, bytes, bool]] = SimpleQueue()
        self.told: SimpleQueue[tuple[int, str | None]] = SimpleQueue()
        self.connected = threading.Event()
        self.gone = threading.Event()
        self.session_present = False
        self.paho = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=VERSIONS[version],
            reconnect_on_failure=False,
            **options,
        )
        self.v5 = version == "v5"
        client.username_pw_set(name)
        client.max_inflight_messages_set(64)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda *_: self.gone.set()
        client.on_publish = self._on_publish
        client.on_message = lambda _c, _d, one: self.messages.put((one.topic, bytes(one.payload), one.retain))
        self.port = box.port

    def open(self, **options: Any) -> "Client":
        self.paho.connect("127.0.0.1", self.port, keepalive=30, **options)
        self.paho.loop_start()
        assert self.connected.wait(WAIT_MAX_S)
        return self

    def close(self, politely: bool = True) -> None:
        if politely:
            self.paho.disconnect()
            assert self.gone.wait(WAIT_MAX_S)
        elif (connection := self.paho.socket()) is not None:
            connection.close()
        self.paho.loop_stop()

    def tell(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> str | None:
        """Publish, and return the reason string of the acknowledgement (None without one)."""
        mid = self.paho.publish(topic, payload, qos, retain).mid
        got, reason = self.told.get(timeout=WAIT_MAX_S)
        assert got == mid
        return reason

    def hear(self) -> tuple[str, bytes, bool]:
        """The next message: topic, payload, retained."""
        return self.messages.get(timeout=WAIT_MAX_S)

    def subscribe(self, topic: str) -> None:
        done = threading.Event()
        self.paho.on_subscribe = lambda *_: done.set()
        self.paho.subscribe(topic, 1)
        assert done.wait(WAIT_MAX_S)

    def _on_connect(self, _client: Any, _data: Any, flags: paho.ConnectFlags, reason: ReasonCode, _more: Any) -> None:
        assert not reason.is_failure, reason
        self.session_present = flags.session_present
        self.connected.set()

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        words = getattr(properties, "ReasonString", None)
        self.told.put((mid, f"{reason.value:#04x} {words}" if reason.is_failure else None))


@contextmanager
def client(box: Box, name: str, version: str, **options: Any) -> Iterator[Client]:
    """A connected client, disconnected at the end."""
    made = Client(box, name, version, **options).open()
    try:
        yield made
    finally:
        made.close()


# Events --------------------------------------------------------------------------------------------------------------


@needs_tools
@both_versions
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_mosquitto_pub_stores_an_event(box: Box, name: str, version: str, qos: str) -> None:
    payload = event()
    pub(box, name, version, "-t", f"pos/v1/{name}/events", "-q", qos, "-s", said=payload)
    until(lambda: box.stored(name), "the event is stored")
    assert box.stored(name) == [payload]


@needs_tools
@both_versions
def test_mosquitto_sub_sees_receipt_and_status(box: Box, name: str, version: str) -> None:
    topic = f"pos/v1/{name}"
    for at in (1, 2):
        pub(box, name, version, "-t", f"{topic}/events", "-q", "1", "-s", said=counted("e1", at))
    query = ("-q", "1", "-C", "1", "-W", "10")

    def receipt() -> Any:
        (line,) = sub(box, name, version, f"{topic}/receipt", *query)
        at, _, payload = line.partition(b" ")
        assert at.decode() == f"{topic}/receipt"
        found = json.loads(payload)
        return found if found["uploaded"] == "2" else None

    assert until(receipt, "the receipt tells of both") == {
        "epoch": "e1",
        "stored": "2",
        "uploaded": "2",
        "gaps": [],
        "refused": [],
    }
    (line,) = sub(box, name, version, "pos/v1/venue/status", *query)
    status = json.loads(line.partition(b" ")[2])
    assert (status["venue"], status["state"], status["cause"]) == ("demo", "online", "none")


@both_versions
@pytest.mark.parametrize("qos", [1, 2])
def test_paho_hears_what_became_of_its_events(box: Box, name: str, version: str, qos: int) -> None:
    payloads = [event() for _ in range(3)]
    topic = f"pos/v1/{name}/events"
    with client(box, name, version) as till:
        assert [till.tell(topic, payload, qos) for payload in payloads] == [None] * 3
        refused = till.tell(topic, b"{}", qos)
        assert box.stored(name) == payloads
    if version == "v5" and qos == 1:  # paho does not look at a PUBREC's reason
        assert (refused or "").startswith("0x99 schema: ")
    else:
        assert refused is None


@both_versions
def test_paho_with_many_in_flight_gets_each_acknowledged(box: Box, name: str, version: str) -> None:
    payloads = [event() for _ in range(500)]
    with client(box, name, version) as till:
        mids = [till.paho.publish(f"pos/v1/{name}/events", payload, 1).mid for payload in payloads]
        assert sorted(till.told.get(timeout=WAIT_MAX_S) for _ in mids) == [(mid, None) for mid in sorted(mids)]
    assert box.stored(name) == payloads


# Everything else is Mosquitto's ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), [("v311", "v5"), ("v5", "v311"), ("v5", "v5")])
def test_two_clients_exchange_other_topics(box: Box, one: str, two: str) -> None:
    with client(box, new_name(), one) as left, client(box, new_name(), two) as right:
        right.subscribe("splice/+/x")
        for qos in (0, 1, 2):
            assert left.tell("splice/a/x", bytes(range(256)) * 50, qos) is None
            assert right.hear() == ("splice/a/x", bytes(range(256)) * 50, False)
        right.paho.unsubscribe("splice/+/x")
        right.subscribe("splice/b")
        left.tell("splice/a/x", b"not heard")
        left.tell("splice/b", b"heard")
        assert right.hear() == ("splice/b", b"heard", False)


@both_versions
def test_a_retained_message_is_kept_for_later_subscribers(box: Box, name: str, version: str) -> None:
    topic = f"pos/v1/{name}/state"
    with client(box, name, version) as till:
        till.tell(topic, b'{"state":"ready"}', retain=True)
    with client(box, new_name(), version) as later:
        later.subscribe(topic)
        assert later.hear() == (topic, b'{"state":"ready"}', True)


@both_versions
def test_a_will_is_published_when_a_device_vanishes_and_not_when_it_says_goodbye(
    box: Box, name: str, version: str
) -> None:
    topic = f"pos/v1/{name}/state"
    with client(box, new_name(), version) as watcher:
        watcher.subscribe(topic)
        for politely, says in ((True, b"goodbye"), (False, b"vanished")):
            till = Client(box, name, version)
            till.paho.will_set(topic, says, qos=1)
            till.open().close(politely)
        assert watcher.hear() == (topic, b"vanished", False)


@both_versions
def test_a_session_keeps_its_messages_while_the_device_is_away(box: Box, name: str, version: str) -> None:
    topic = f"pos/v1/{name}/commands"
    options: dict[str, Any] = {} if version == "v5" else {"clean_session": False}

    def come(fresh: bool) -> Client:
        made = Client(box, name, version, **options)
        if version != "v5":
            return made.open()
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 300
        return made.open(clean_start=fresh, properties=properties)

    first = come(True)
    assert not first.session_present
    first.subscribe(topic)
    first.tell(f"pos/v1/{name}/events", event())
    first.close()
    with client(box, new_name(), version) as sender:
        sender.tell(topic, b"while you were away")
    second = come(False)
    assert second.session_present
    assert second.hear() == (topic, b"while you were away", False)
    second.close()


@both_versions
def test_a_device_that_comes_twice_takes_over_its_own_session(box: Box, name: str, version: str) -> None:
    first = Client(box, name, version).open()
    with client(box, name, version) as second:
        assert first.gone.wait(WAIT_MAX_S)
        assert second.tell(f"pos/v1/{name}/events", event()) is None
    first.paho.loop_stop()
    assert len(box.stored(name)) == 1


@pytest.mark.parametrize(
    "state",
    [b"", b"\xff", b'{"state":"\xff"}', b"[" * 100_000, b'{"x":' + b"[" * 100_000, b'{"state":7}', b"\0"],
    ids=["empty", "no text", "no UTF-8", "deep", "deep inside", "wrong type", "NUL"],
)
def test_a_state_that_makes_no_sense_harms_nobody(box: Box, name: str, state: bytes) -> None:
    with client(box, name, "v5") as till:
        till.subscribe(f"pos/v1/{name}/receipt")
        till.tell(f"pos/v1/{name}/state", state, retain=True)
        till.tell(f"pos/v1/{name}/events", counted("e1", 1))
        while b'"stored":"1"' not in till.hear()[1]:
            pass
        till.tell(f"pos/v1/{name}/state", b"", retain=True)
    assert "Traceback" not in box.text
    assert "stage_crashed" not in box.text
