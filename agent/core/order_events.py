"""records → [what devices say of orders] → life of an order. The answer that stands in one record of a device.

Pure: the same bytes always give the same answer. Whether it is right to say so is judged by the order's life.
"""

from typing import Final, NamedTuple

import msgspec

from agent.core.orders import Answer, Said

PREFIX: Final = "pos.order."
MARKS: Final = (b'"pos.order.', b"\\u")
"""An answer has the first in it; or some character of it is written as an escape."""
SAID: Final[dict[str, Said]] = {
    f"{PREFIX}accepted": "accepted",
    f"{PREFIX}ready": "ready",
    f"{PREFIX}provided": "provided",
    f"{PREFIX}rejected": "rejected",
}


class Told(NamedTuple):
    """An answer, and which order it is about."""

    order_id: str
    answer: Answer


class _Typed(msgspec.Struct):
    type: str


class _Data(msgspec.Struct):
    order_id: str


class _Event(msgspec.Struct):
    id: str
    data: _Data


_typed = msgspec.json.Decoder(_Typed).decode
_event = msgspec.json.Decoder(_Event).decode


def told_in(device: str, body: bytes) -> Told | None:
    """What a device's record says of an order; None where it says nothing of one."""
    try:
        said = SAID.get(_typed(body).type)
        event = _event(body) if said is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Told(event.data.order_id, Answer(device, event.id, said)) if event is not None and said is not None else None
