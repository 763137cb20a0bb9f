"""The shapes that tills are made from, and what they read of the box's messages. No behaviour."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.tills.link import Protocol
from agent.tills.questions import Answers


class Habits(msgspec.Struct, frozen=True):
    """How a till misbehaves; 0 means never. What it does is allowed by the contract, and the box must bear it.

    Every `duplicate_every`-th event is sent twice, every `withhold_every`-th is not sent before it is asked for again,
    and the connection breaks every `reconnect_every_s` seconds on average.
    """

    duplicate_every: int = 0
    withhold_every: int = 0
    reconnect_every_s: float = 0.0


class TillSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One till. `directory` is its own folder; `rate_per_s` its events a second; `count` None sells without end.

    `reinstalled` starts a new epoch, as after a reinstall that found the old outbox. A share `asks` of what happens, 0
    to 1, has something asked in real time: cards before they are charged, balances, stock, gift cards.
    """

    device: str
    host: str
    port: int
    directory: Path
    protocol: Protocol = "5"
    seed: str = "0"
    window: int = 8
    reinstalled: bool = False
    rate_per_s: float = 2.0
    count: int | None = None
    habits: Habits = Habits()
    asks: float = 0.0


class Sync(msgspec.Struct, frozen=True):
    """The drain as the venue's status tells it."""

    state: str = "idle"
    pending: int = 0


class VenueStatus(msgspec.Struct, frozen=True):
    """What a till reads of `pos/v1/venue/status`."""

    state: str = "unknown"
    cause: str = "none"
    sentence: str = ""
    sync: Sync = Sync()


class Figures(NamedTuple):
    """A till at this instant; counts are events over the outbox's whole life, `in_cloud` by the receipts."""

    made: int = 0
    told: int = 0
    untold: int = 0
    refused: int = 0
    in_cloud: int = 0
    connected: bool = False
    connects: int = 0
    resends: int = 0
    duplicates: int = 0
    withheld: int = 0
    problem: str = ""
    status: VenueStatus = VenueStatus()
    answers: Answers = Answers()


class Receipt(msgspec.Struct):
    """What a till reads of its receipt; sequences are unpadded strings."""

    epoch: str | None = None
    uploaded: str | None = None
    refused: list[dict[str, Any]] = []


class Command(msgspec.Struct):
    """A message on `commands`."""

    id: str
    command: str
    args: dict[str, Any] = {}
