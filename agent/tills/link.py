"""till → [link] → gate. One till's connection: paho-mqtt as any vendor uses it, its callbacks turned into facts.

Reconnects by itself with back-off, and sends what was not acknowledged again, same bytes, as paho does. It decides
nothing: who owns the link reads the facts in its own thread.
"""

import socket
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, Literal, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

Protocol = Literal["3.1.1", "5"]

KEEPALIVE_S: Final = 20
"""The box is thought gone when it says nothing for one and a half of these."""
RECONNECT_FIRST_S: Final = 0.6
RECONNECT_MAX_S: Final = 4.0
"""Pause before the first and the longest pause between later attempts to connect, in seconds."""
SESSION_EXPIRY_S: Final = 86_400
"""How long the broker keeps an MQTT 5 till's subscriptions while it is away."""
BESIDES_EVENTS_MAX: Final = 8
"""Messages in flight beside events: states and subscriptions."""


class Connected(NamedTuple):
    """The box accepted the connection; subscriptions are on their way."""


class Disconnected(NamedTuple):
    """The connection ended or was refused; the link tries again by itself."""

    reason: str


class Acknowledged(NamedTuple):
    """PUBACK for a message id. `refusal` is None for success, else the reason code's name; `detail` says why."""

    mid: int
    refusal: str | None
    detail: str


class Received(NamedTuple):
    """A message on a topic of ours."""

    topic: str
    payload: bytes


Fact = Connected | Disconnected | Acknowledged | Received


class Link:
    """A stock client for one device; `facts` receives everything that happens to it."""

    def __init__(
        self,
        *,
        device: str,
        host: str,
        port: int,
        protocol: Protocol,
        window: int,
        topics: tuple[str, ...],
        will: tuple[str, bytes],
        facts: "SimpleQueue[Fact]",
    ) -> None:
        """`window` events in flight at most; `will` is (topic, payload), retained. Connects on `open`."""
        self._address = (host, port)
        self._topics = topics
        self._facts = facts
        self._client = client = _client(device, protocol)
        self._v5 = protocol == "5"
        client.username_pw_set(device)
        client.max_inflight_messages_set(window + BESIDES_EVENTS_MAX)
        client.reconnect_delay_set(RECONNECT_FIRST_S, RECONNECT_MAX_S)  # type: ignore[arg-type]
        client.will_set(will[0], will[1], qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.on_publish = self._on_publish
        client.on_message = self._on_message

    def open(self) -> None:
        """Start connecting, and go on for ever."""
        host, port = self._address
        if self._v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            self._client.connect_async(host, port, KEEPALIVE_S, clean_start=False, properties=properties)
        else:
            self._client.connect_async(host, port, KEEPALIVE_S)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Hand a QoS 1 message over; returns its id. It is sent again after each reconnect until it is acknowledged."""
        return self._client.publish(topic, payload, qos=1, retain=retain).mid

    def cut(self) -> None:
        """Break the connection without a word, as a cable does. The link connects again by itself."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Say DISCONNECT and end the network thread. Nothing is waited for."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        if reason.is_failure:
            self._facts.put(Disconnected(f"refused: {reason}"))
            return
        client.subscribe([(topic, 1) for topic in self._topics])
        self._facts.put(Connected())

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self._facts.put(Disconnected(str(reason)))

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        host, port = self._address
        self._facts.put(Disconnected(f"nobody answers on {host}:{port}"))

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        detail = getattr(properties, "ReasonString", "") if properties is not None else ""
        self._facts.put(Acknowledged(mid, str(reason) if reason.is_failure else None, detail))

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._facts.put(Received(message.topic, bytes(message.payload)))


def _client(device: str, protocol: Protocol) -> paho.Client:
    if protocol == "5":
        return paho.Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=paho.MQTTv5)
    return paho.Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=paho.MQTTv311, clean_session=False)
