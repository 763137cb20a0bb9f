"""escalation → [letters] → outbox → mail, webhook. What a letter is, and when it is tried again.

Pure. One letter goes to one address; its key names its occasion, so that the same occasion never makes a second one.
"""

import hashlib
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

Channel = Literal["mail", "webhook"]

TRY_FIRST_S: Final = 5.0
TRY_MAX_S: Final = 900.0
"""Pauses between the tries of one letter, in seconds: the first doubles with each, up to the second, with jitter."""
TEXT_BYTES_MAX: Final = 262_144
"""A letter's text, HTML and facts together."""


class Letter(msgspec.Struct, frozen=True):
    """A letter ready to be sent: to one mail address, or as JSON (`facts`) to one URL. Never a secret, no card data."""

    key: str
    channel: Channel
    to: str
    subject: str
    text: str
    html: str = ""
    facts: dict[str, Any] = {}


End = Literal["sent", "refused", "expired"]
"""How a letter stops waiting: taken by its server, never to be taken, or too old."""


class Waiting(msgspec.Struct, frozen=True):
    """A letter in the outbox: which one, since when in seconds that the box has run, and how often it was tried."""

    id: int
    letter: Letter
    queued_s: float
    tries_count: int
    detail: str


def trial(key: str, channel: Channel, to: str, location_id: str, location_name: str, version: str) -> Letter:
    """A letter that tells of nothing: somebody wants to know whether letters arrive."""
    name = f"{location_name} ({location_id})"
    text = (
        f"{name} tries whether its letters arrive. Nothing is wrong, and there is nothing to do.\n\n"
        f"Location ID:   {location_id}\nLocation name: {location_name}\nNightsafe:     {version}\n"
    )
    facts = {"kind": "test", "location_id": location_id, "location_name": location_name, "version": version}
    return Letter(key, channel, to, f"Test letter: {name}", text, "", facts if channel == "webhook" else {})


def shown(letter: Letter) -> str:
    """Whom it is for, for everybody to read: of a URL, which may hold a secret, the host only."""
    if letter.channel == "mail":
        return letter.to
    return f"the webhook at {urlsplit(letter.to).hostname}"


def message_id(venue: str, key: str) -> str:
    """The Message-ID: the same for each copy of one occasion of a venue, whoever sends it."""
    digest = hashlib.sha256(f"{venue}\n{key}".encode()).hexdigest()[:32]
    return f"<{digest}@{venue}.nightsafe.invalid>"


def pause_s(tries_count: int, chance: float) -> float:
    """How long a letter rests after so many tries that failed; `chance` from 0 to 1."""
    longest_s = min(TRY_MAX_S, TRY_FIRST_S * 2.0 ** min(tries_count - 1, 20))
    return longest_s * (0.5 + chance / 2)
