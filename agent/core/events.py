"""device → gate → [the envelope] → ingest. Judges one event's bytes: what it is, or why it is refused.

Pure: the same bytes always get the same verdict. Never changes a byte: the payload is kept as it came, and `data`
is cut from it, not written anew.
"""

import math
import re
from base64 import b64decode
from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple

import jiter
import msgspec

from agent.core import cards

SEQUENCE_MAX = 10**12 - 1
"""The highest sequence of one epoch: a thousand events a second for thirty years, and shorter than any card number."""
NAME_CHARS_MAX = 256
SOURCE_CHARS_MAX = 2_048
DETAIL_CHARS_MAX = 200
"""What a refusal says at most in words: it may repeat what the device said."""
DEVICE_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
RESERVED_DEVICES = frozenset({"agent", "venue", "nightsafe"})
_DEVICE = re.compile(DEVICE_PATTERN, re.ASCII)
EPOCH_PATTERN = r"[A-Za-z0-9._:-]{1,64}"
TEXT_SEQUENCE_PATTERN = r"^0*[1-9][0-9]{0,11}$"
"""A sequence as devices write it, padded or not; never more than 20 digits."""
_EPOCH = re.compile(EPOCH_PATTERN)
_WHITE = b" \t\r\n"
_FLATTEN = bytes.maketrans(b"123456789", b"000000000")
_ENDLESS = b"0" * 309  # the shortest integer that binary64 cannot hold


@lru_cache(maxsize=4096)
def epoch_allowed(epoch: str) -> bool:
    """Whether an epoch can stand in a topic: letters, digits, dots, dashes, underscores, colons."""
    return _EPOCH.fullmatch(epoch) is not None


def device_allowed(name: str) -> bool:
    """Whether a device may bear this name: the contract's pattern, and none of the reserved names."""
    return _DEVICE.fullmatch(name) is not None and name not in RESERVED_DEVICES


class Reason(StrEnum):
    """Why an event is refused, in the contract's words."""

    CONFLICT = "conflict"
    MALFORMED = "malformed"
    SCHEMA = "schema"
    TOO_LARGE = "too_large"
    CARD_NUMBER = "card_number"


_CARD = (Reason.CARD_NUMBER, "a card number, track data or a card verification value stands in the event")


class Event(NamedTuple):
    """An event fit to be stored. `body` runs from first brace to last; `digest` seals type and data (16 bytes)."""

    device: str
    id: str
    type: str
    epoch: str | None
    sequence: int | None
    digest: bytes
    body: bytes


class Refusal(NamedTuple):
    """An event that can never be stored as it is. `id`, `epoch` and `sequence` only where they could be read safely.

    `sha256` (hex) and `size` (bytes) speak of the whole payload; `excerpt` is its beginning, digits masked where
    needed; `payload` is all of it, None where a card number may stand in it.
    """

    device: str
    reason: Reason
    detail: str
    id: str | None
    epoch: str | None
    sequence: int | None
    sha256: str
    size: int
    excerpt: str
    payload: bytes | None


_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]


class _Envelope(msgspec.Struct, gc=False):
    specversion: Literal["1.0"]
    id: _Name
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=SOURCE_CHARS_MAX)]
    type: _Name
    time: str | None = None
    epoch: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    sequence: str | None = None
    subject: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: msgspec.Raw = msgspec.Raw(b"")


class _Identity(msgspec.Struct):
    """What a refused event may still say of itself."""

    id: Any = None
    epoch: Any = None
    sequence: Any = None
    data_base64: Any = None


class Money(msgspec.Struct):
    """An amount in minor units, in the range that every JSON reader keeps exact."""

    amount: Annotated[int, msgspec.Meta(ge=-(2**53) + 1, le=2**53 - 1)]
    currency: Annotated[str, msgspec.Meta(min_length=3, max_length=3)]  # a pattern would cost more than all the rest


class Card(msgspec.Struct):
    """What may be known of a card: never its number."""

    token: str | None = None
    last4: Annotated[str, msgspec.Meta(min_length=4, max_length=4)] | None = None
    brand: str | None = None


class Payment(msgspec.Struct):
    """`data` of `pos.payment.*`."""

    payment_id: _Name
    amount: Money
    tender: Literal["card", "cash", "gift_card", "on_account", "other"]
    check_id: str | None = None
    card: Card | None = None
    offline: bool = False
    authorization_code: str | None = None
    training: bool = False


class Line(msgspec.Struct):
    """One line of a check."""

    id: str | None = None
    name: str | None = None
    quantity: int | float | None = None
    unit_amount: Money | None = None
    modifiers: list[Any] = []


class Check(msgspec.Struct):
    """`data` of `pos.check.*`."""

    check_id: _Name
    table: str | int | None = None
    covers: int | None = None
    lines: list[Line] = []
    total: Money | None = None
    business_date: str | None = None


class OrderAnswer(msgspec.Struct):
    """`data` of `pos.order.*`."""

    order_id: _Name


class MenuLoaded(msgspec.Struct):
    """`data` of `pos.menu.loaded`."""

    menu_version: str
    product_ids: list[str] = []
    option_ids: list[str] = []


SHAPES: dict[type, tuple[str, ...]] = {
    Check: ("check.opened", "check.updated", "check.closed", "check.voided"),
    Payment: tuple(f"payment.{what}" for what in ("authorized", "captured", "voided", "refunded", "reversed")),
    OrderAnswer: tuple(f"order.{what}" for what in ("accepted", "ready", "provided", "rejected")),
    MenuLoaded: ("menu.loaded",),
    dict: ("loyalty.accrued",),
}
"""What `data` of the known types must be; the types begin with `pos.`."""
FAMILIES = ("pos.cash.", "pos.shift.")
"""Types that begin like this have an object for data, whatever stands in it."""
_KNOWN: dict[str, msgspec.json.Decoder[Any]] = {
    f"pos.{name}": msgspec.json.Decoder(shape) for shape, names in SHAPES.items() for name in names
}
_OBJECT: msgspec.json.Decoder[Any] = msgspec.json.Decoder(dict)
_envelope = msgspec.json.Decoder(_Envelope).decode
_identity = msgspec.json.Decoder(_Identity).decode
_plain = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def judge(device: str, payload: bytes, bytes_max: int, depth_max: int, excerpt_bytes_max: int) -> Event | Refusal:
    """The verdict on one payload from `device`. Limits in bytes, and in levels of nesting."""
    verdict = _judge(device, payload, bytes_max, depth_max)
    if isinstance(verdict, Event):
        return verdict
    reason, detail = verdict
    return refuse(device, payload, reason, detail, excerpt_bytes_max)


def content_digest(kind: str, data: msgspec.Raw, data_base64: msgspec.Raw) -> bytes:
    """The 16 bytes by which two events with one id are the same or not: the contract compares type and data."""
    return sha256(b"%b\n%b" % (kind.encode(), data or data_base64)).digest()[:16]


def refuse(device: str, payload: bytes, reason: Reason, detail: str, excerpt_bytes_max: int) -> Refusal:
    """A refusal that keeps what may be kept of the payload: no card number survives in any of its fields."""
    name, epoch, sequence = _read_identity(payload)
    kept = payload if reason is not Reason.CARD_NUMBER and _may_be_kept(payload) else None
    head = payload[:excerpt_bytes_max]
    if kept is None:
        head = cards.masked(head)
        name, epoch, detail = _cleaned(name), _cleaned(epoch), _cleaned(detail) or ""
    if len(detail) > DETAIL_CHARS_MAX:
        detail = detail[:DETAIL_CHARS_MAX] + "…"
    excerpt = head.decode("utf-8", "replace")
    digest = sha256(payload).hexdigest()
    return Refusal(device, reason, detail, name, epoch, sequence, digest, len(payload), excerpt, kept)


def _cleaned(text: str | None) -> str | None:
    """The same text, or its digits masked where a card number stands in it."""
    return text if text is None or cards.text_clean(text) else cards.masked(text.encode()).decode()


def _judge(device: str, payload: bytes, bytes_max: int, depth_max: int) -> Event | tuple[Reason, str]:
    body = payload if payload[:1] == b"{" and payload[-1:] == b"}" else payload.strip(_WHITE)
    if len(body) > bytes_max:
        return Reason.TOO_LARGE, f"the event has {len(body)} bytes, {bytes_max} are allowed: send less in one event"
    if body[:1] != b"{" or body[-1:] != b"}":
        return Reason.MALFORMED, "the payload is not one JSON object in UTF-8 without a byte order mark"
    try:
        envelope = _envelope(body)
        flat = cards.flattened(body, envelope.sequence)
        strict = strictly(body, depth_max, cards.RUN in flat)
    except msgspec.ValidationError as error:
        return (Reason.MALFORMED if _plainly_bad(body, depth_max) else Reason.SCHEMA), str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Reason.MALFORMED, str(error)
    if strict is not None:
        return Reason.MALFORMED, strict
    sequence = _sequence(envelope)
    if isinstance(sequence, str):
        return Reason.SCHEMA, sequence
    if not cards.clean(body, flat):
        return _CARD
    if envelope.data_base64 and (refused := _binary(envelope)) is not None:
        return refused
    wrong = _schema(envelope.type, envelope.data)
    if wrong is not None:
        return Reason.SCHEMA, wrong
    digest = content_digest(envelope.type, envelope.data, envelope.data_base64)
    return Event(device, envelope.id, envelope.type, envelope.epoch, sequence, digest, body)


def strictly(body: bytes, depth_max: int, long_digits: bool = True) -> str | None:
    """What is wrong with JSON that a lenient reader takes: duplicate keys, numbers beyond binary64, depth; or None.

    JSON that survives decoding and encoding byte for byte has none of these; only the rest is read a second time.
    `long_digits` False spares the look for endless integers.
    """
    try:
        plain = _plain(body)
        same = _encode(plain) == body
    except (msgspec.ValidationError, OverflowError):  # a number that is too large for the one or the other
        same, plain = False, None
    if not same:
        try:
            plain = jiter.from_json(body, catch_duplicate_keys=True, allow_inf_nan=False)
        except ValueError as error:
            return str(error)
        if not _finite(plain):
            return "a number is not finite in binary64"
    elif long_digits and _ENDLESS in body.translate(_FLATTEN) and not _finite(plain):
        return "a number is not finite in binary64"
    if body.count(b"{") + body.count(b"[") > depth_max and _depth(plain) > depth_max:
        return f"nested deeper than {depth_max} levels"
    if b"\\u0000" in body and any("\0" in leaf for leaf in _leaves(plain) if isinstance(leaf, str)):
        return "a string holds U+0000"
    return None


def _plainly_bad(body: bytes, depth_max: int) -> bool:
    """Whether JSON that fits no envelope is no strict JSON either."""
    try:
        return strictly(body, depth_max) is not None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True


def _leaves(value: Any) -> Iterator[Any]:
    """Every key and every value that is neither object nor array."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        else:
            yield item


def _finite(value: Any) -> bool:
    try:
        return all(math.isfinite(leaf) for leaf in _leaves(value) if isinstance(leaf, int | float))
    except OverflowError:
        return False


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        item, level = stack.pop()
        if isinstance(item, dict):
            item = list(item.values())
        if isinstance(item, list):
            deepest = max(deepest, level)
            stack.extend((inner, level + 1) for inner in item)
    return deepest


def _sequence(envelope: _Envelope) -> int | str | None:
    """The device's counter, None without one, or what is wrong with it."""
    text = envelope.sequence
    if text is None and envelope.epoch is None:
        return None
    if text is None or envelope.epoch is None:
        return "epoch and sequence go together: send both or neither"
    if not epoch_allowed(envelope.epoch):
        return "epoch has other characters than letters, digits, and . _ : -"
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        return "sequence is not a string of 1 to 20 digits"
    number = int(text)
    return number if 0 < number <= SEQUENCE_MAX else "sequence is out of range: it counts 1, 2, 3 …"


def _binary(envelope: _Envelope) -> tuple[Reason, str] | None:
    """What is wrong with an event that has `data_base64`, or None."""
    if envelope.data:
        return Reason.SCHEMA, "data and data_base64 exclude each other"
    try:
        content = msgspec.json.decode(envelope.data_base64, type=bytes)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Reason.SCHEMA, "data_base64 is no base64 text"
    return None if cards.text_clean(content.decode("latin-1")) else _CARD


def _schema(kind: str, data: msgspec.Raw) -> str | None:
    """What a known type's data lacks, or None. Unknown types are carried untouched."""
    decoder = _KNOWN.get(kind)
    if decoder is None:
        if kind.startswith("nightsafe."):
            return "types nightsafe.* are the box's own: a device cannot send them"
        if not kind.startswith(FAMILIES):
            return None
        decoder = _OBJECT
    try:
        decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"data of {kind}: {error}"
    return None


def _may_be_kept(payload: bytes) -> bool:
    """Whether the payload surely holds no card number; what cannot be read is judged by its bytes alone."""
    flat = cards.flattened(payload, None)
    if b"base00" not in flat and cards.clearly_clean(payload, flat):
        return True
    try:
        seen = _identity(payload)
        text = seen.sequence if isinstance(seen.sequence, str) else None
        content = b64decode(seen.data_base64 or "")
        return cards.clean(payload, cards.flattened(payload, text)) and cards.text_clean(content.decode("latin-1"))
    except (ValueError, TypeError, RecursionError):
        return False


def _read_identity(payload: bytes) -> tuple[str | None, str | None, int | None]:
    try:
        seen = _identity(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None, None
    name = seen.id if isinstance(seen.id, str) and 0 < len(seen.id) <= NAME_CHARS_MAX else None
    epoch = seen.epoch if isinstance(seen.epoch, str) and epoch_allowed(seen.epoch) else None
    text = seen.sequence if isinstance(seen.sequence, str) else ""
    if epoch is None or not (text.isascii() and text.isdigit() and len(text) <= 20):
        return name, None, None
    number = int(text)
    return (name, epoch, number) if 0 < number <= SEQUENCE_MAX else (name, None, None)
