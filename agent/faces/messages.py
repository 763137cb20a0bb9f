"""[messages of the device contract] The shapes that have no type of their own elsewhere. Words and types only.

What devices send is described as loosely as it is taken: further fields are allowed everywhere.
"""

from typing import Annotated, Any, Literal

import msgspec

from agent.core.events import EPOCH_PATTERN, Money
from agent.core.presence import TEXT_CHARS_MAX, Word

Sequence = Annotated[str, msgspec.Meta(pattern="^(0|[1-9][0-9]{0,11})$", description="Unpadded.")]
Epoch = Annotated[str, msgspec.Meta(pattern=f"^{EPOCH_PATTERN}$")]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]
Instant = Annotated[str, msgspec.Meta(description="RFC 3339, UTC.")]


class Refused(msgspec.Struct):
    """One event that was refused: it is set aside on the box, and does not come again."""

    id: str | None
    sequence: Sequence | None
    reason: Literal["conflict", "malformed", "schema", "too_large", "card_number"]
    detail: str


class Receipt(msgspec.Struct):
    """What is durable of one epoch of a device. `stored`: each of 1..stored is stored, refused or named as lost;
    `uploaded`: each of 1..uploaded is at the cloud. Without an epoch the three are null. `gaps` are the latest holes,
    first and last sequence of each."""

    epoch: Epoch | None
    stored: Sequence | None
    uploaded: Sequence | None
    gaps: list[tuple[Sequence, Sequence]]
    refused: list[Refused]


class OwnReceipt(msgspec.Struct):
    """What became of one event whose PUBLISH named a Response Topic."""

    id: str | None
    epoch: Epoch | None
    sequence: Sequence | None
    status: Literal["stored", "refused"]
    reason: Literal["conflict", "malformed", "schema", "too_large", "card_number"] | msgspec.UnsetType = msgspec.UNSET


class State(msgspec.Struct):
    """How a device is; also its will. `last`: highest sequence of `epoch` that it has assigned. `pending`: events that
    were not acknowledged yet. `applied`: ids of commands that are done."""

    state: Word
    app: Text | msgspec.UnsetType = msgspec.UNSET
    version: Text | msgspec.UnsetType = msgspec.UNSET
    menu_version: Text | msgspec.UnsetType = msgspec.UNSET
    epoch: Epoch | msgspec.UnsetType = msgspec.UNSET
    last: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,20}$")] | msgspec.UnsetType = msgspec.UNSET
    pending: Annotated[int, msgspec.Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET
    applied: list[str] | msgspec.UnsetType = msgspec.UNSET


class ResendArgs(msgspec.Struct):
    """Which sequences are missing, both ends included."""

    epoch: Epoch
    first: Sequence = msgspec.field(name="from")
    last: Sequence = msgspec.field(name="to")


class Resend(msgspec.Struct, tag_field="command", tag="resend"):
    """Send these again, with the ids and bytes they have."""

    id: str
    args: ResendArgs


class Identify(msgspec.Struct, tag_field="command", tag="identify"):
    """Show people which device this is."""

    id: str
    args: dict[str, Any]


class HoldPayments(msgspec.Struct, tag_field="command", tag="hold_payments"):
    """Take no payments until they are released."""

    id: str
    args: dict[str, Any]


class ReleasePayments(msgspec.Struct, tag_field="command", tag="release_payments"):
    """Take payments again."""

    id: str
    args: dict[str, Any]


Command = Resend | Identify | HoldPayments | ReleasePayments


class Request(msgspec.Struct):
    """A real-time request. (device, id) names it for seven days: a repeat has no second effect."""

    id: str
    args: dict[str, Any]


class Reply(msgspec.Struct):
    """The answer to a request, by its id. `requires_realtime`: not without the cloud, go on selling."""

    id: str
    status: Literal["ok", "requires_realtime", "declined", "error"]
    result: dict[str, Any] | None = None
    reason: str | None = None
    detail: str | None = None


class Customer(msgspec.Struct):
    """Who has ordered."""

    name: str


class Order(msgspec.Struct):
    """An order that is offered to the device, with its true state. The same id is never new twice."""

    order_id: str
    state: str
    prepaid: bool
    placed_at: Instant
    late: bool
    age_s: int
    alerted_at: Instant | None
    provided: bool
    customer: Customer
    lines: list[dict[str, Any]]
    total: Money
    menu_version: str
    ask: Literal["none", "check_whether_already_provided"]


class Capability(msgspec.Struct):
    """Whether a real-time service can be asked now, and why not."""

    available: bool
    reason: str | None = None


class Notice(msgspec.Struct):
    """One condition in words for staff. An app older than `min_version` leaves it out; null: it is for every app."""

    id: str
    severity: Literal["info", "warning", "critical"]
    title: str
    text: str
    since: Instant
    min_version: str | None


class Notices(msgspec.Struct):
    """All that holds now; one notice for each condition, not one for each sale."""

    notices: list[Notice]


class OpenCheck(msgspec.Struct):
    """The last word about an open check: `type` and `data` of the event, and whose it is. Empty payload: it ended."""

    check_id: str
    type: str
    device: str
    id: str
    time: str | None
    data: dict[str, Any]
