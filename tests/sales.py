"""Events as tills write them, for tests that need one: whole, valid, and with any part replaced."""

import json
from itertools import count
from typing import Any
from uuid import uuid4

_numbers = count(1)


def new_name(kind: str = "till") -> str:
    """A device name or the like that no other test uses."""
    return f"{kind}-{next(_numbers)}-{uuid4().hex[:6]}"


def padded(sequence: int) -> str:
    """A sequence as the contract writes it."""
    return f"{sequence:020d}"


def fields(**changes: Any) -> dict[str, Any]:
    """A captured payment as a dict; `changes` replace or add attributes, None takes one out."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": "/devices/till-1",
        "type": "pos.payment.captured",
        "time": "2026-11-22T10:15:00.120Z",
        "data": payment(),
    }
    event.update(changes)
    return {name: value for name, value in event.items() if value is not None}


def payment(**changes: Any) -> dict[str, Any]:
    """Data of a payment."""
    return {
        "payment_id": f"pay-{next(_numbers)}",
        "check_id": "1009",
        "amount": {"amount": 1250, "currency": "GBP"},
        "tender": "card",
        "card": {"token": "tok-a", "last4": "4242", "brand": "visa"},
        "offline": False,
        "training": False,
    } | changes


def event(**changes: Any) -> bytes:
    """A captured payment as bytes; see `fields`."""
    return json.dumps(fields(**changes), separators=(",", ":"), ensure_ascii=False).encode()


def counted(epoch: str, sequence: int, **changes: Any) -> bytes:
    """An event with its place in the device's counting."""
    return event(epoch=epoch, sequence=padded(sequence), **changes)
