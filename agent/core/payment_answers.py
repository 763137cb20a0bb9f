"""payments → [what is told of them] → payment.status, page, command line, contract. Shapes and words only.

Instants are RFC 3339 in UTC with milliseconds, amounts minor units. Of a card only the last four digits are told.
"""

from typing import Literal

import msgspec

from agent.core.events import Money
from agent.core.fates import Fate
from agent.core.takings import DeviceDay, TenderTotal


class PaymentEvent(msgspec.Struct, frozen=True):
    """One record of a payment. `time` is the device's own."""

    type: str
    device: str
    amount: Money
    recorded_at: str
    time: str | None = None
    epoch: str | None = None
    sequence: str | None = None


class PaymentShown(msgspec.Struct, frozen=True):
    """A payment as people know it. Of a card only the last four digits are shown."""

    payment_id: str
    fate: Fate
    times: dict[str, str]
    device: str
    amount: Money
    tender: str
    check_id: str | None = None
    last4: str | None = None
    offline: bool = False
    training: bool = False
    authorization_code: str | None = None
    events: tuple[PaymentEvent, ...] = ()


class PaymentStatus(msgspec.Struct, frozen=True):
    """What became of a payment, or of those that a search found: then the one told is the least certain of them.

    `times` are instants by what they tell of: `till`, `edge_durable`, `uploaded` (seen at the latest then), `posted`,
    `declined`.
    """

    fate: Fate
    times: dict[str, str]
    re_charge_safe: Literal["no", "yes"]
    reason: str
    payments: tuple[PaymentShown, ...] = ()


class Suspect(msgspec.Struct, frozen=True):
    """Payments that look like one sale that was charged more than once."""

    payments: tuple[PaymentShown, ...]
    reason: str


class Suspects(msgspec.Struct, frozen=True):
    """What people have to look at. `untimely`: refunded, voided or reversed before its fate was final."""

    suspects: tuple[Suspect, ...]
    count: int
    untimely: tuple[PaymentShown, ...]
    untimely_count: int
    up_to_date: bool


class BusinessDay(msgspec.Struct, frozen=True):
    """One business day, as this box knows it now. `late_count` counts payments' records that came after its end."""

    business_date: str
    timezone: str
    begins_at: str
    ends_at: str
    safe_to_close: bool
    reasons: tuple[str, ...]
    devices: tuple[DeviceDay, ...]
    totals: tuple[TenderTotal, ...]
    training: tuple[TenderTotal, ...]
    late_count: int
