"""[plays] What each case does to packets: loses, withholds, forges, tells wrong. Judges nothing."""

import asyncio
import json
from typing import Final

from agent.conform import frames
from agent.conform.facts import Sent
from agent.conform.frames import Frame
from agent.conform.relay import OUR_PACKET_ID, Line, Play, Relay
from agent.conform.rules import sent

REFUSE_S: Final = 1.0
"""Until a box that can store nothing sends the device away; a real one waits five seconds."""
REFUSALS: Final = 3
YEARS: Final = ("2031", "1999")


class Catching(Play):
    """Waits for one new event."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.caught: Sent | None = None
        self._known = {one.id for one in sent(relay.facts)}

    def catches(self, one: Sent) -> bool:
        """Whether this is the one."""
        if self.caught is None and one.qos and one.id is not None and one.id not in self._known:
            self.caught = one
        return self.caught is not None and one.id == self.caught.id


class LosesReceipt(Catching):
    """Its PUBACK is lost, and the connection with it, once."""

    done = False

    def event(self, line: Line, sent: Sent, frame: Frame) -> bool:
        self.catches(sent)
        return False

    def acknowledged(self, line: Line, sent: Sent, frame: Frame) -> bool:
        if self.done or self.caught is None or sent.id != self.caught.id:
            return False
        self.done = True
        line.cut()
        return True


class Withholds(Play):
    """Nothing is acknowledged."""

    def acknowledged(self, line: Line, sent: Sent, frame: Frame) -> bool:
        return True


class MakesHole(Catching):
    """One event is acknowledged and never reaches the box."""

    done = False

    def event(self, line: Line, sent: Sent, frame: Frame) -> bool:
        if self.done or not self.catches(sent):
            return False
        self.done = True
        self.relay.take(line, sent)
        return True


class MakesConflict(Catching):
    """The box knows the event's id already, with another content."""

    done = False

    def event(self, line: Line, sent: Sent, frame: Frame) -> bool:
        if self.done or not self.catches(sent):
            return False
        self.done = True
        other = {key: value for key, value in json.loads(sent.body).items() if key not in ("data", "data_base64")}
        body = json.dumps({**other, "type": "vendor.conform"}).encode()
        line.to_box(frames.publish(sent.topic, body, line.level, qos=1, packet_id=OUR_PACKET_ID))
        return False


class StoresNothing(Catching):
    """Events are not acknowledged, and the device is sent away, some times."""

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self.refused: set[int] = set()

    @property
    def over(self) -> bool:
        """Whether it was sent away often enough."""
        return len(self.refused) >= REFUSALS

    def event(self, line: Line, sent: Sent, frame: Frame) -> bool:
        if self.caught is None and not self.catches(sent):
            return False
        if self.over and line.number not in self.refused:
            return False
        if line.number not in self.refused:
            self.refused.add(line.number)
            asyncio.get_running_loop().call_later(REFUSE_S, self._send_away, line)
        return True

    def _send_away(self, line: Line) -> None:
        if line.level == frames.V5:
            line.to_device(frames.packet(frames.DISCONNECT << 4, b"\x97\x00"))
        line.end()


class TellsWrongTime(Play):
    """The venue's status has a time years away."""

    def __init__(self) -> None:
        self.count = 0

    def status(self, line: Line, body: bytes) -> bytes:
        status = json.loads(body)
        status["time"] = YEARS[self.count % len(YEARS)] + str(status["time"])[4:]
        self.count += 1
        return json.dumps(status).encode()
