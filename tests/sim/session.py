"""[sim: aiomqtt] The MQTT client library's face over the simulated network, as far as the agent's session uses it.

Manual acknowledgement, publish that waits for its PUBACK, messages in order. What it raises is aiomqtt's own.
"""

import asyncio
from contextlib import suppress
from itertools import count
from types import SimpleNamespace
from typing import Any, Final

import aiomqtt

from tests.integration.mqtt import CONNACK, PING, PINGRESP, PUBACK, PUBLISH, SUBACK, V5, connect, frame, publish, text
from tests.sim.wire import Gone, Message, Wire

TURN_S: Final = 5.0
"""How often the connection is looked after."""


class SimClient:
    """In the place of aiomqtt.Client."""

    def __init__(self, hostname: str, **given: Any) -> None:
        self._path = hostname
        self._given = given
        self._mids = count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._wire: Wire | None = None
        self._reading: asyncio.Task[None] | None = None
        self._client = SimpleNamespace(manual_ack_set=lambda on: None, ack=self._ack)
        self.pending_calls_threshold = 0

    async def __aenter__(self) -> "SimClient":
        loop, given = asyncio.get_running_loop(), self._given
        try:
            _, wire = await loop.create_unix_connection(lambda: Wire(V5), self._path)
            expiry_s = getattr(given.get("properties"), "SessionExpiryInterval", 0)
            block = b"\x05\x11" + expiry_s.to_bytes(4, "big") if expiry_s else b"\0"
            name, secret = given["username"], given["password"].encode()
            clean = bool(given.get("clean_start"))
            keep_alive_s = given.get("keepalive", 60)
            wire.send(
                connect(
                    name, username=name, password=secret, level=V5, keep_alive_s=keep_alive_s, clean=clean, props=block
                )
            )
            answer = await wire.packet(given.get("timeout", 10))
        except (OSError, Gone) as error:
            raise aiomqtt.MqttError(str(error)) from error
        if answer is None or answer.kind != CONNACK or answer.reason:
            wire.abort()
            raise aiomqtt.MqttError(f"not let in: {answer}")
        self._wire = wire
        self._reading = asyncio.get_running_loop().create_task(self._read(keep_alive_s), name="sim-session-read")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._wire is not None
        assert self._reading is not None
        with suppress(Gone):
            self._wire.send(frame(14, b"\0"))
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading
        self._wire.close()

    async def subscribe(self, topic: str | list[tuple[str, int]], *, options: Any = None) -> None:
        """Subscribe, one topic with `options` or each with its QoS; returns after the SUBACK."""
        mid = self._mid()
        if isinstance(topic, str):
            filters = text(topic) + options.pack()
        else:
            filters = b"".join(text(one) + bytes((qos,)) for one, qos in topic)
        body = mid.to_bytes(2, "big") + b"\0" + filters
        await self._sent(frame(8, body, 2), mid)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        properties: Any = None,
        timeout: float = 10,  # noqa: ASYNC109  # the library's own face
    ) -> None:
        """Publish; with QoS 1 it returns after the PUBACK."""
        correlation = getattr(properties, "CorrelationData", None)
        expiry_s = getattr(properties, "MessageExpiryInterval", None)
        given = b"" if correlation is None else b"\x09" + text(correlation)
        given += b"" if expiry_s is None else b"\x02" + expiry_s.to_bytes(4, "big")
        block = bytes((len(given),)) + given
        mid = self._mid() if qos else 0
        packet = publish(topic, payload, qos=qos, packet_id=mid, level=V5, retain=retain, props=block)
        await self._sent(packet, mid, timeout)

    @property
    def messages(self) -> "SimClient":
        """What was subscribed to, as it comes."""
        return self

    def __aiter__(self) -> "SimClient":
        return self

    async def __anext__(self) -> Any:
        found = await self._queue.get()
        if found is None:
            raise aiomqtt.MqttError("Disconnected during message iteration")
        return found

    async def _sent(self, packet: bytes, mid: int, within_s: float = 10) -> None:
        assert self._wire is not None
        try:
            self._wire.send(packet)
        except Gone as error:
            raise aiomqtt.MqttError("Disconnected") from error
        if not mid:
            return
        done = self._waiting[mid] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within_s):
                await done
        except TimeoutError as error:
            raise aiomqtt.MqttError("Operation timed out") from error
        finally:
            del self._waiting[mid]

    async def _read(self, keep_alive_s: float) -> None:
        assert self._wire is not None
        heard_s = asked_s = asyncio.get_running_loop().time()
        try:
            while True:
                packet = await self._wire.packet(TURN_S)
                now_s = asyncio.get_running_loop().time()
                if packet is not None:
                    heard_s = now_s
                    self._take(packet)
                elif now_s - heard_s > 1.5 * keep_alive_s:
                    raise Gone
                if now_s - asked_s >= keep_alive_s / 2:
                    asked_s = now_s
                    self._wire.send(PING)
        except Gone:
            for done in self._waiting.values():
                if not done.done():
                    done.set_exception(aiomqtt.MqttError("Disconnected"))
            self._queue.put_nowait(None)

    def _take(self, packet: Any) -> None:
        if packet.kind in (PUBACK, SUBACK):
            done = self._waiting.get(packet.packet_id)
            if done is not None and not done.done():
                done.set_result(None)
        elif packet.kind == PUBLISH:
            self._queue.put_nowait(Message(packet, V5))
        elif packet.kind != PINGRESP:
            raise Gone

    def _ack(self, mid: int, qos: int) -> None:
        if self._wire is not None and qos:
            with suppress(Gone):
                self._wire.send(frame(PUBACK, mid.to_bytes(2, "big")))

    def _mid(self) -> int:
        while (mid := next(self._mids) % 65_535 + 1) in self._waiting:
            pass
        return mid
