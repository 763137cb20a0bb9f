"""device → [requests] → desk → replies. What a request is, which way it goes now, and what every service takes.

Pure: clocks and facts are arguments. (device, id) names a request for seven days; a repeat gets the same reply.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple

import msgspec

from agent.core import cards
from agent.core.nesting import NESTING_MAX, shallow

Status = Literal["ok", "requires_realtime", "declined", "error"]

KEEP_S: Final = 7 * 86_400.0
"""How long (device, id) names a request, in seconds that the box runs."""
ID_CHARS_MAX: Final = 128
ARGS_BYTES_MAX: Final = 16_384
LOYALTY: Final = frozenset({"loyalty.balance", "loyalty.redeem"})
CHANGES: Final = frozenset(
    {"card.authorize", "gift_card.redeem", "gift_card.sell", "loyalty.redeem", "on_account.charge", "on_account.pay"}
)
"""What changes something at the cloud: whoever asks again must never hear "not done" of what may have been done."""
LOCAL: Final = frozenset({"payment.status", "notices.mute"})
"""Answered by the box itself, whatever the line is like."""


class Reply(msgspec.Struct, frozen=True):
    """What a device reads at `replies`; `reason` is a stable word, `detail` is for people."""

    id: str
    status: Status
    result: dict[str, Any] = {}
    reason: str | None = None
    detail: str | None = None


class Request(NamedTuple):
    """One request of a device. `digest` is empty where the arguments may hold a card number."""

    device: str
    service: str
    id: str
    args: dict[str, Any]
    digest: str


class _Body(msgspec.Struct):
    id: str
    args: msgspec.Raw = msgspec.Raw(b"{}")


_body = msgspec.json.Decoder(_Body).decode
_args = msgspec.json.Decoder(dict[str, Any]).decode


def read(device: str, service: str, payload: bytes) -> Request | Reply | None:
    """A request; or the reply to one that cannot be read; None where not even its id can be."""
    try:
        body = _body(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if not 0 < len(body.id) <= ID_CHARS_MAX:
        return None
    if len(body.args) > ARGS_BYTES_MAX:
        return Reply(body.id, "error", {}, "malformed", f"args are more than {ARGS_BYTES_MAX} bytes.")
    if not shallow(bytes(body.args)):
        return Reply(body.id, "error", {}, "malformed", f"args are nested deeper than {NESTING_MAX}, or no JSON.")
    try:
        args = _args(body.args)
    except (msgspec.DecodeError, UnicodeError):
        return Reply(body.id, "error", {}, "malformed", "args must be an object.")
    return Request(device, service, body.id, args, _digest(service, msgspec.json.encode(args, order="sorted")))


def _digest(service: str, args: bytes) -> str:
    """By which a repeat is the same; of what may hold a card number none is made, since all numbers could be tried."""
    try:
        clean = cards.clean(args, cards.flattened(args, None))
    except ValueError:
        clean = False
    return sha256(service.encode() + b"\n" + args).hexdigest() if clean else ""


# Which way ------------------------------------------------------------------------------------------------------------


class Breaker(msgspec.Struct, frozen=True):
    """How the cloud's counter has fared: failures in a row, and whether nobody waits for it any more."""

    failures: int = 0
    open: bool = False


def failed(breaker: Breaker, failures_max: int) -> Breaker:
    """It did not answer in time, or not properly."""
    failures = breaker.failures + 1
    return Breaker(failures, breaker.open or failures >= failures_max)


Refusal = Literal["uplink_down", "cloud_not_answering", "loyalty_off", "service_off"]


def refusal(service: str, used: bool, loyalty: bool, offline: bool, breaker: Breaker) -> Refusal | None:
    """Why a service cannot be asked of the cloud now; None where it can."""
    if not used:
        return "service_off"
    if service in LOYALTY and not loyalty:
        return "loyalty_off"
    if offline:
        return "uplink_down"
    return "cloud_not_answering" if breaker.open else None


WORDS: Final[Mapping[str, str]] = {
    "uplink_down": "The cloud cannot be reached now.",
    "cloud_not_answering": "The cloud does not answer in time now.",
    "loyalty_off": "Loyalty in real time is switched off here.",
    "service_off": "This service is not used here.",
}


class Capability(msgspec.Struct, frozen=True):
    """Whether a service can be asked now, and why not."""

    available: bool
    reason: str | None = None


def capabilities(
    services: tuple[str, ...],
    loyalty: bool,
    offline: bool,
    breaker: Breaker,
    queues_cards: bool,
    cards_closed: str | None = None,
) -> dict[str, Capability]:
    """The retained `pos/v1/venue/capabilities`: one entry for each service that the venue uses. Cards that are queued
    while the cloud is away can be authorised unless that is `cards_closed`, which is the reason then."""
    found = {}
    for service in services:
        reason: str | None = None if service in LOCAL else refusal(service, True, loyalty, offline, breaker)
        if service == "card.authorize" and queues_cards and reason is not None:
            reason = cards_closed
        found[service] = Capability(reason is None, reason)
    return found
