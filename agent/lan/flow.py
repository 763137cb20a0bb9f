"""device → [gate: events under way] → ingest. Takes a device's events, and acknowledges each when its outcome arrives.

The outcome comes after the commit, never before; what was not stored is not acknowledged. Never writes a byte that is
no acknowledgement: reading, holding and closing are the connection's.
"""

import asyncio
from functools import partial
from time import thread_time
from typing import TYPE_CHECKING, Final

from agent.core.arrivals import Item, Outcome
from agent.core.events import DEVICE_PATTERN, Refusal
from agent.lan import packets
from agent.lan.packets import Malformed
from agent.lan.phases import Hold, Phase

if TYPE_CHECKING:
    from agent.lan.connection import DeviceConnection
    from agent.lan.gate import Gate

LARGE_BYTES: Final = 16_384
"""An event above this is looked at for how long its judging takes."""
JUDGED_MAX_S: Final = 0.02
"""Above this its device is read from later, so that it takes no more of the box than any other."""
PAUSE_TIMES: Final = 9
"""It waits for so many times what the judging took: a tenth of the box's time is the most that one device gets."""
PAUSE_S_MAX: Final = 3.0
"""And no longer than this, so that nobody takes it for gone."""


class EventFlow:
    """One device's events between being read and being acknowledged."""

    def __init__(self, gate: "Gate", connection: "DeviceConnection") -> None:
        self._gate = gate
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._inflight_max = gate.limits.inflight_max
        self._event_drop_bytes = gate.limits.event_drop_bytes
        self._device = ""
        self._level = packets.V4
        self._acks: list[bytes] = []
        self._owned_qos2: set[bytes] = set()
        self.inflight = 0
        """Events whose outcome is not known yet."""

    def open(self, device: str, level: int) -> None:
        """The device has been let in."""
        self._device = device
        self._level = level

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be stored or acknowledged."""
        return self.inflight == 0 and not self._acks

    # Taking -----------------------------------------------------------------------------------------------------------

    def take(self, first: int, buffer: bytes, at: int, stop: int) -> bool:
        """Hand one event to ingest: `buffer` from behind its topic to its end. False: read no further now."""
        qos = first >> 1 & 3
        packet_id = b""
        if qos:
            packet_id = buffer[at : at + 2]
            at += 2
            if at > stop or packet_id == b"\0\0" or qos == 3:
                raise Malformed("a PUBLISH without a packet id, or with QoS 3")
        elif first & 8:
            raise Malformed("a PUBLISH with QoS 0 is marked as a repetition")
        else:
            self._gate.count("events_qos0")
            if self._gate.shedding:
                self._gate.count("events_shed")
                return True
        connection, response = self._connection, None
        if self._level == packets.V5:
            if at < stop and buffer[at] == 0:
                at += 1
            else:
                properties, at = packets.parse_publish_properties(buffer, at, stop)
                if properties.alias:
                    connection.close_saying(packets.TOPIC_ALIAS_INVALID, "topic aliases are not taken (maximum 0)")
                    return False
                response = properties if properties.response_topic else None
        if stop - at > self._event_drop_bytes:
            connection.too_large()
            return False
        self.inflight += 1
        if self.inflight >= self._inflight_max:
            connection.hold(Hold.INFLIGHT)
        settle = partial(self._settled, qos, packet_id, response)
        began_s = thread_time() if stop - at > LARGE_BYTES else None
        if not self._gate.offer(self._device, buffer[at:stop], settle):
            connection.hold(Hold.ROOM)
            self._gate.starve(connection)
        if began_s is not None and (took_s := thread_time() - began_s) > JUDGED_MAX_S:
            connection.slow_down(min(took_s * PAUSE_TIMES, PAUSE_S_MAX))
        connection.keep_upstream_alive()
        return not connection.holds and connection.phase is Phase.OPEN

    def refuse_topic(self, first: int, buffer: bytes, body: int, stop: int) -> bool:
        """An events topic of somebody else: named, never stored. False when that ends the connection."""
        length = buffer[body] << 8 | buffer[body + 1]
        topic = buffer[body + 2 : body + 2 + length].decode("utf-8", "replace")
        at = body + 2 + length
        qos = first >> 1 & 3
        self._gate.spoofed(self._device, topic)
        if self._level == packets.V4 or qos == 3:
            self._connection.close()
            return False
        if qos:
            packet_id = buffer[at : at + 2]
            if at + 2 > stop or packet_id == b"\0\0":
                raise Malformed("a PUBLISH without a packet id")
            kind = packets.PUBACK if qos == 1 else packets.PUBREC
            own = f"pos/v1/{self._device}/events"
            text = f"{self._device} may publish events at {own} only; names match {DEVICE_PATTERN}"
            told = self._connection.told(text)
            self._acknowledge(packets.acknowledge(kind, packet_id, self._level, packets.NOT_AUTHORIZED, told))
        return True

    def released(self, packet_id: bytes) -> bool:
        """A PUBREL came: whether it ends a QoS 2 flow of the gate's; then it is answered."""
        if packet_id not in self._owned_qos2:
            return False
        self._owned_qos2.discard(packet_id)
        self._acknowledge(packets.acknowledge(packets.PUBCOMP, packet_id, self._level, packets.SUCCESS, ""))
        return True

    # Acknowledging ----------------------------------------------------------------------------------------------------

    def _settled(
        self,
        qos: int,
        packet_id: bytes,
        response: packets.PublishProperties | None,
        item: Item,
        outcome: Outcome,
    ) -> None:
        """An event's outcome, after its commit."""
        self.inflight -= 1
        connection = self._connection
        if outcome is Outcome.UNSTORED:
            connection.not_stored()
        elif connection.phase is Phase.OPEN or connection.ended:
            if qos:
                good = outcome is Outcome.STORED or outcome is Outcome.DUPLICATE
                if good and qos == 1:
                    self._acknowledge(b"\x40\x02" + packet_id)
                else:
                    self._answer(qos, packet_id, item, outcome, good)
            if response is not None:
                self._gate.answer(self._device, response, item, outcome)
        if connection.holds & Hold.INFLIGHT and self.inflight <= self._inflight_max // 2:
            connection.release(Hold.INFLIGHT)
        if connection.ended and self.inflight == 0:
            connection.finish_soon()

    def _answer(self, qos: int, packet_id: bytes, item: Item, outcome: Outcome, good: bool) -> None:
        kind = packets.PUBACK if qos == 1 else packets.PUBREC
        reason = packets.SUCCESS if good else packets.PAYLOAD_FORMAT_INVALID
        if qos == 2 and (good or self._level == packets.V4):
            self._owned_qos2.add(packet_id)
        text = "" if good else self._connection.told(why(item, outcome))
        self._acknowledge(packets.acknowledge(kind, packet_id, self._level, reason, text))

    def _acknowledge(self, packet: bytes) -> None:
        if not self._acks:
            self._loop.call_soon(self.flush)
        self._acks.append(packet)

    def flush(self) -> None:
        """Write what is due in one piece; it is dropped where the connection is closing already."""
        if self._acks and self._connection.phase is not Phase.CLOSING:
            self._connection.write(b"".join(self._acks))
        self._acks.clear()
        self._gate.settled.set()


def why(item: Item, outcome: Outcome) -> str:
    """The reason string of a refused event: its reason, and words."""
    if isinstance(item, Refusal):
        return f"{item.reason.value}: {item.detail}"
    return f"{outcome.value}: this id was stored before with other content"
