"""A tablet that takes orders, on a stock paho client: says how it is, keeps what it was offered, answers by events."""

import json
import threading
from typing import Any

import paho.mqtt.client as paho

from tests.integration.machine import Box, until
from tests.sales import event


class Tablet:
    """Connected as `device` with a session that outlives its connection, as apps have it."""

    def __init__(self, box: Box, device: str = "tablet-1", state: str | None = "ready") -> None:
        self.box = box
        self.device = device
        self.offers: list[dict[str, Any]] = []
        """All that came, the oldest first."""
        self._subscribed = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, device, clean_session=False)
        self._client.username_pw_set(device)
        self._client.will_set(f"pos/v1/{device}/state", b'{"state":"offline"}', qos=1, retain=True)
        self._state: str | None = None
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda client, data, message: self.offers.append(json.loads(message.payload))
        self._client.connect("127.0.0.1", box.port, keepalive=20)
        self._client.loop_start()
        assert self._subscribed.wait(10)
        if state is not None:
            self.is_now(state)

    def _connected(self, client: paho.Client, *_: Any) -> None:
        """Also after the box was away: the broker has forgotten what was retained."""
        client.subscribe(f"pos/v1/{self.device}/orders", 1)
        if self._state is not None:
            self._tell(self._state)

    def _tell(self, state: str) -> paho.MQTTMessageInfo:
        told = json.dumps({"state": state}).encode()
        return self._client.publish(f"pos/v1/{self.device}/state", told, qos=1, retain=True)

    def is_now(self, state: str) -> "Tablet":
        """Say how it is."""
        self._state = state
        self._tell(state).wait_for_publish(10)
        return self

    def says(self, said: str, order_id: str, id: str | None = None) -> "Tablet":
        """Tell `pos.order.<said>`, and wait until it is stored."""
        named = {"id": id} if id is not None else {}
        until(self._client.is_connected, f"{self.device} is connected", 20)
        payload = event(type=f"pos.order.{said}", data={"order_id": order_id}, **named)
        info = self._client.publish(f"pos/v1/{self.device}/events", payload, qos=1)
        info.wait_for_publish(10)
        assert info.is_published()
        return self

    def of(self, order_id: str) -> list[dict[str, Any]]:
        """What was offered of one order."""
        return [offer for offer in tuple(self.offers) if offer["order_id"] == order_id]

    def shown(self, order_id: str, within_s: float = 10.0, **wanted: Any) -> dict[str, Any]:
        """The latest offer of an order, as soon as it is as wanted."""

        def look() -> dict[str, Any] | None:
            found = self.of(order_id)
            same = found and all(found[-1][name] == value for name, value in wanted.items())
            return found[-1] if same else None

        return until(look, f"{self.device} shows {order_id} with {wanted}; it has {self.of(order_id)[-3:]}", within_s)

    def sleeps(self) -> None:
        """Its screen goes dark: it says so, and its connection ends."""
        self.is_now("asleep")
        self.close()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> "Tablet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
