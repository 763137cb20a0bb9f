"""A till that asks in real time, on a stock paho client."""

import json
import ssl
import threading
import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.integration.machine import Box


class Asker:
    """Connected as `device`, by TLS with what it was `told` at pairing; hears its replies and the venue's topics."""

    def __init__(self, box: Box, device: str = "till-1", told: Mapping[str, Any] | None = None) -> None:
        self.device = device
        self.replies: SimpleQueue[tuple[str, dict[str, Any], bytes | None, float]] = SimpleQueue()
        self.retained: dict[str, Any] = {}
        self._subscribed = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, device, protocol=paho.MQTTv5)
        self._client.username_pw_set(device, told["password"] if told else None)
        if told:
            self._client.tls_set_context(ssl.create_default_context(cadata=told["ca_pem"]))
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._heard
        self._client.connect("127.0.0.1", told["port"] if told else box.port)
        self._client.loop_start()
        assert self._subscribed.wait(10)

    def _connected(self, client: paho.Client, *_: Any) -> None:
        client.subscribe([(f"pos/v1/{self.device}/replies/#", 1), ("pos/v1/venue/#", 1)])

    def _heard(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        if "/replies" in message.topic:
            correlation = getattr(message.properties, "CorrelationData", None)
            self.replies.put((message.topic, json.loads(message.payload), correlation, time.monotonic()))
        elif message.payload:
            self.retained[message.topic] = json.loads(message.payload)

    def send(self, service: str, id: str, way: str = "", correlation: bytes | None = None, **args: Any) -> float:
        """Ask; returns when."""
        self.raw(service, json.dumps({"id": id, "args": args}).encode(), way, correlation)
        return time.monotonic()

    def raw(self, service: str, payload: bytes, way: str = "", correlation: bytes | None = None) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if way:
            properties.ResponseTopic = way
        if correlation is not None:
            properties.CorrelationData = correlation
        self._client.publish(f"pos/v1/{self.device}/requests/{service}", payload, qos=1, properties=properties)

    def reply(self, within_s: float = 15.0) -> dict[str, Any]:
        """The next reply."""
        return self.replies.get(timeout=within_s)[1]

    def ask(self, service: str, id: str, **args: Any) -> dict[str, Any]:
        """Ask and hear the reply to it."""
        self.send(service, id, **args)
        found = self.reply()
        assert found["id"] == id, found
        return found

    def silent(self, for_s: float = 0.5) -> bool:
        try:
            self.replies.get(timeout=for_s)
        except Empty:
            return True
        return False

    def tell(self, payload: bytes) -> None:
        """Publish an event, and wait until it is told as stored."""
        self._client.publish(f"pos/v1/{self.device}/events", payload, qos=1).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
