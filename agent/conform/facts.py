"""[facts] What was seen on the device's wire, in order. Values only."""

from typing import NamedTuple


class Opened(NamedTuple):
    """The device came: `level` 4 is MQTT 3.1.1, 5 is 5.0. Instants are seconds of one monotonic clock."""

    at_s: float
    line: int
    level: int


class Closed(NamedTuple):
    """A connection is over, whoever ended it."""

    at_s: float
    line: int


class Sent(NamedTuple):
    """One PUBLISH of an event. `id`, `epoch` and `sequence` as far as they can be read."""

    at_s: float
    line: int
    topic: str
    qos: int
    packet_id: int
    id: str | None
    epoch: str | None
    sequence: int | None
    body: bytes


class Acknowledged(NamedTuple):
    """The device got a PUBACK, or with QoS 2 a PUBREC, for the event with this id."""

    at_s: float
    line: int
    id: str | None
    reason: int


class Released(NamedTuple):
    """The device answered the PUBREC of the event with this id by a PUBREL."""

    at_s: float
    id: str | None


class Stated(NamedTuple):
    """The device's state."""

    at_s: float
    applied: tuple[str, ...]


class Commanded(NamedTuple):
    """The device got a command."""

    at_s: float
    id: str
    command: str


class Requested(NamedTuple):
    """The device asked for a real-time service."""

    at_s: float
    id: str


class Replied(NamedTuple):
    """The device got the box's reply to a request."""

    at_s: float
    id: str
    status: str


class Told(NamedTuple):
    """The device got the venue's status with a time that was made up."""

    at_s: float


Fact = Opened | Closed | Sent | Acknowledged | Released | Stated | Commanded | Requested | Replied | Told
