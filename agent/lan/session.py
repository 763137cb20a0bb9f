"""devices ↔ gate ↔ Mosquitto ↔ [our session] → ingest, status. The agent's own MQTT 5 session behind the gate.

The only module that knows aiomqtt. A message is acknowledged when its outcome is known, never when it is merely read
(manual acknowledgement; aiomqtt would acknowledge before its caller has seen it). Never holds what must survive.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import aiomqtt
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.core.arrivals import Item, Outcome
from agent.core.errors import Rejected, Transient
from agent.core.events import device_allowed

log = structlog.get_logger()

RECONNECT_S: Final = 0.5
"""Pause before the session is opened again."""
PUBLISH_S: Final = 5.0
"""Time for the broker to acknowledge what we publish."""
SESSION_EXPIRY_S: Final = 3600
"""How long the broker keeps our session while we are away."""
KEEP_ALIVE_S: Final = 30
AS_PUBLISHED: Final = SubscribeOptions(qos=0, retainAsPublished=True)
"""Tells us which messages a device wanted retained."""


class Messages(Protocol):
    """Who takes what devices say outside the gate's own topic."""

    def will_event(self, device: str, payload: bytes, settle: Callable[[Item, Outcome], None]) -> None:
        """An event that came as a device's will."""
        ...

    def request(self, device: str, service: str, payload: bytes, topic: str | None, correlation: bytes | None) -> None:
        """A request in real time; `topic` and `correlation` are where else its reply is to go."""
        ...

    def state(self, device: str, payload: bytes, retained: bool) -> None:
        """A device's state topic; an empty payload has cleared it. `retained` was said some time before."""
        ...


class Session:
    """The stage that keeps the session open. `publish` works while it is; `on_connect` is called each time it opens."""

    name = "session"

    def __init__(self, socket: Path, password: str, messages: Messages) -> None:
        self._socket = socket
        self._password = password
        self._messages = messages
        self._client: aiomqtt.Client | None = None
        self._on_connect: list[Callable[[], None]] = []
        self.connects_count = 0
        self._will_events_count = 0
        self._retained_cleared_count = 0

    def counts(self) -> Mapping[str, int]:
        """Counters by name, which only grow: `will_events` came as a device's will and were handed to ingest,
        `retained_cleared` are requests that a device had the broker retain."""
        return {"will_events": self._will_events_count, "retained_cleared": self._retained_cleared_count}

    def on_connect(self, call: Callable[[], None]) -> None:
        """Call `call` whenever the broker is new to us: it may have forgotten what it retained."""
        self._on_connect.append(call)

    @property
    def connected(self) -> bool:
        """Whether something can be published right now."""
        return self._client is not None

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: int = 1,
        correlation: bytes | None = None,
        expiry_s: int | None = None,
    ) -> None:
        """Publish, and return when the broker has taken it. What a device has not fetched within `expiry_s` is dropped.
        Raises Transient while it is away."""
        client = self._client
        if client is None:
            raise Transient("broker_away", "The broker is not connected.", "It is started again by itself.")
        properties = _told_with(correlation, expiry_s) if correlation is not None or expiry_s is not None else None
        try:
            await client.publish(topic, payload, qos=qos, retain=retain, properties=properties, timeout=PUBLISH_S)
        except aiomqtt.MqttError as error:
            raise Transient("broker_away", f"The broker did not take a message: {error}.") from error
        except ValueError as error:
            raise Rejected("topic_invalid", f"Nothing can be published at {topic!r}: {error}.") from error

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Keep the session until `stop`."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._serve(ready), name="session-serve")
            await stop.wait()
            serving.cancel()

    async def _serve(self, ready: Callable[[], None]) -> None:
        while True:
            try:
                await self._once(ready)
            except aiomqtt.MqttError as error:
                log.debug("session_lost", reason=str(error))
            finally:
                self._client = None
            await asyncio.sleep(RECONNECT_S)

    async def _once(self, ready: Callable[[], None]) -> None:
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        client = aiomqtt.Client(
            str(self._socket),
            transport="unix",
            username="agent",
            password=self._password,
            identifier="agent",
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=properties,
            keepalive=KEEP_ALIVE_S,
            timeout=PUBLISH_S,
        )
        client._client.manual_ack_set(True)
        client.pending_calls_threshold = 1000
        async with client:
            await client.subscribe([("pos/v1/+/events", 1), ("pos/v1/+/state", 1)])
            await client.subscribe("pos/v1/+/requests/+", options=AS_PUBLISHED)
            self._client = client
            self.connects_count += 1
            for call in self._on_connect:
                call()
            ready()
            async for message in client.messages:
                self._take(client, message)

    def _take(self, client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        acknowledge = partial(self._acknowledge, client, message.mid, message.qos)
        payload = message.payload if isinstance(message.payload, bytes) else b""
        topic = str(message.topic)
        _, _, device, kind = topic.split("/", 3)
        if not device_allowed(device):
            acknowledge()  # without an access list anybody may write there: it is nobody's word
        elif kind == "state":
            self._messages.state(device, payload, bool(message.retain))
            acknowledge()
        elif kind.startswith("requests/"):
            acknowledge()
            if message.retain and payload:
                self._forget(client, topic)
            elif payload:
                where = message.properties
                self._messages.request(
                    device,
                    kind.removeprefix("requests/"),
                    payload,
                    getattr(where, "ResponseTopic", None),
                    getattr(where, "CorrelationData", None),
                )
        elif message.retain:
            acknowledge()  # `retain` on an event is ignored
        else:
            self._will_events_count += 1
            self._messages.will_event(device, payload, lambda item, outcome: _told(acknowledge, outcome))

    def _forget(self, client: aiomqtt.Client, topic: str) -> None:
        """Nothing is retained there: a device that has the broker keep its requests would fill its memory."""
        self._retained_cleared_count += 1
        client._client.publish(topic, b"", qos=0, retain=True)

    def _acknowledge(self, client: aiomqtt.Client, mid: int, qos: int) -> None:
        if qos and client is self._client:
            client._client.ack(mid, qos)


def _told(acknowledge: Callable[[], None], outcome: Outcome) -> None:
    """Acknowledge what is on disk; what is not stays with the broker until the session opens again."""
    if outcome is not Outcome.UNSTORED:
        acknowledge()


def _told_with(correlation: bytes | None, expiry_s: int | None) -> Properties:
    properties = _properties(PacketTypes.PUBLISH)
    if correlation is not None:
        properties.CorrelationData = correlation
    if expiry_s is not None:
        properties.MessageExpiryInterval = expiry_s
    return properties


def _properties(kind: int) -> Properties:
    made: Properties = Properties(kind)  # type: ignore[no-untyped-call]  # paho types only a part of itself
    return made
