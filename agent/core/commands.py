"""cloud → [commands] → inbox. What the cloud may tell a venue, by the table of the cloud contract.

Pure. A command is about one thing, named by its business id; the same one twice is heard once.
"""

from typing import Any, Final, NamedTuple

import msgspec

from agent.core.nesting import shallow

RESET: Final = "reset"
PING: Final = "ping"
NEWEST: Final = frozenset({"menu.updated", "platform.status"})
"""Of these only the newest holds, whatever it is about."""
MEMBERS: Final = {
    "order.placed": "order_id",
    "order.cancelled": "order_id",
    "order.refunded": "order_id",
    "payment.posted": "payment_id",
    "payment.declined": "payment_id",
    "ping": "ping_id",
}
"""The member of `data` that names what a command is about."""
BUSINESS_CHARS_MAX: Final = 200

_data = msgspec.json.Decoder(dict[str, Any]).decode


class Command(NamedTuple):
    """One command: its event, what it is about, and its data as one line of JSON."""

    event: str
    business: str
    data: str


class Unusable(NamedTuple):
    """What cannot be used, and why."""

    event: str
    reason: str


def read(event: str, data: str) -> Command | Unusable:
    """One event of the stream. What this version does not know, and what is malformed, is unusable."""
    if event not in MEMBERS and event not in NEWEST and event != RESET:
        return Unusable(event, "unknown")
    if not shallow(data.encode("utf-8", "replace")):
        return Unusable(event, "malformed")
    try:
        found = _data(data)
    except (msgspec.DecodeError, UnicodeError):
        return Unusable(event, "malformed")
    if event == RESET or event in NEWEST:
        return Command(event, "", data)
    business = found.get(MEMBERS[event])
    if not isinstance(business, str) or not 0 < len(business) <= BUSINESS_CHARS_MAX:
        return Unusable(event, f"without {MEMBERS[event]}")
    return Command(event, business, data)
