"""downlink, menus → [checks before showing] → order's life, page. Whether an order can be shown, and what is wrong.

Pure. It names what is missing and never mends, drops or rejects an order. Ids decide about menus, names are for people.
What a device has never told about its menu is unknown, and unknown is no reason to keep an order from it.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from fractions import Fraction
from hashlib import sha256
from typing import Final, Literal

import msgspec

from agent.core.canonical import canonical
from agent.core.placed import Line, Option, PlacedOrder

PLATFORM: Final = "platform"
"""Whose menu it is that lacks something, where it is no device's."""
DUPLICATE_WITHIN_S: Final = 1_800
"""An equal order of the same guest within this is a possible duplicate, in seconds."""

_NOT_DIGITS = re.compile(r"[^0-9]+")


class Product(msgspec.Struct, frozen=True):
    """One product of the platform's menu."""

    product_id: str
    name: str = ""
    options: tuple[Option, ...] = ()


class Menu(msgspec.Struct, frozen=True):
    """What the platform sells: the data of `menu.updated`."""

    menu_version: str
    products: tuple[Product, ...] = ()


class DeviceMenu(msgspec.Struct, frozen=True):
    """What one device can sell: the data of its latest `pos.menu.loaded`."""

    menu_version: str
    product_ids: frozenset[str] = frozenset()
    option_ids: frozenset[str] = frozenset()


class Missing(msgspec.Struct, frozen=True):
    """A product or option that a menu does not have; `menu` is `platform` or a device."""

    menu: str
    kind: Literal["product", "option"]
    id: str
    name: str

    def __str__(self) -> str:
        whose = "the platform's menu" if self.menu == PLATFORM else f"the menu of {self.menu}"
        return f"{self.kind} {self.name or self.id} ({self.id}) is not in {whose}"


class Fit(msgspec.Struct, frozen=True):
    """Which devices an order may be offered to. `problem`: it can be shown nowhere as the menus stand.

    `able` know all of it, `unheard` have told nothing of their menus; `missing` names what the others lack.
    """

    problem: bool
    able: tuple[str, ...]
    unheard: tuple[str, ...]
    missing: tuple[Missing, ...]


class Drift(msgspec.Struct, frozen=True):
    """How one device's menu differs from the platform's, before an order fails for it."""

    device: str
    platform_version: str
    device_version: str
    platform_sha256: str
    device_sha256: str
    missing: tuple[Missing, ...]


class Sold(msgspec.Struct, frozen=True):
    """An earlier order, as far as a later one may be the same again."""

    order_id: str
    placed_ms: int
    sale: str


def fit(order: PlacedOrder, platform: Menu | None, menus: Mapping[str, DeviceMenu], devices: Collection[str]) -> Fit:
    """Whether the menus know the order. `devices` are those that orders are offered to, `menus` what each told."""
    lacking = _missing_on_platform(order, platform) if platform is not None else ()
    unheard = tuple(sorted(device for device in devices if device not in menus))
    heard = sorted(device for device in devices if device in menus)
    by_device = {device: tuple(_missing_on_device(order, device, menus[device])) for device in heard}
    able = tuple(device for device in heard if not by_device[device])
    nowhere = bool(heard) and not able and not unheard
    missing = (*lacking, *(one for device in heard for one in by_device[device]))
    return Fit(bool(lacking) or nowhere, able, unheard, missing)


def incomplete(order: PlacedOrder) -> tuple[str, ...]:
    """What of an order disagrees with the rest of it, in words; empty where it is complete."""
    found = (_wrong_count(order), _wrong_total(order), _wrong_content(order))
    return tuple(one for one in found if one)


def content_sha256(told: Mapping[str, object]) -> str | None:
    """The seal of an order's data without its field `content_sha256`; None where it has no canonical form."""
    try:
        return sha256(canonical({name: value for name, value in told.items() if name != "content_sha256"})).hexdigest()
    except ValueError:
        return None


def drift(platform: Menu, menus: Mapping[str, DeviceMenu]) -> tuple[Drift, ...]:
    """The devices that lack something of the platform's menu; by device."""
    ids = [product.product_id for product in platform.products]
    options = [option.option_id for product in platform.products for option in product.options]
    found = []
    for device, menu in sorted(menus.items()):
        missing = tuple(_lacking(device, menu, platform))
        if missing:
            theirs = menu_sha256(menu.product_ids, menu.option_ids)
            ours = menu_sha256(ids, options)
            found.append(Drift(device, platform.menu_version, menu.menu_version, ours, theirs, missing))
    return tuple(found)


def menu_sha256(product_ids: Iterable[str], option_ids: Iterable[str]) -> str:
    """What a menu sells as one hash, whatever its version is called."""
    return sha256(canonical([sorted(set(product_ids)), sorted(set(option_ids))])).hexdigest()


def sold(order: PlacedOrder) -> Sold | None:
    """What makes an order the same as another: guest, lines, total. None where nobody can tell who the guest is."""
    phone = _NOT_DIGITS.sub("", order.customer.phone)
    guest = phone or " ".join(order.customer.name.casefold().split())
    if not guest:
        return None
    basket = sorted(Counter(_line_key(line) for line in order.lines).items())
    told = [guest, [[key, count] for key, count in basket], order.total.amount, order.total.currency]
    return Sold(order.order_id, order.placed_ms, sha256(canonical(told)).hexdigest())


def possible_duplicate(
    order: PlacedOrder, earlier: Iterable[Sold], within_s: float = DUPLICATE_WITHIN_S
) -> tuple[str, ...]:
    """The ids of equal orders that were placed near it, nearest first. It is a flag for people, never a refusal."""
    own = sold(order)
    if own is None:
        return ()
    near = [
        (abs(one.placed_ms - own.placed_ms), one.order_id)
        for one in earlier
        if one.order_id != own.order_id
        and one.sale == own.sale
        and abs(one.placed_ms - own.placed_ms) <= within_s * 1000
    ]
    return tuple(order_id for _, order_id in sorted(near))


def _missing_on_platform(order: PlacedOrder, menu: Menu) -> tuple[Missing, ...]:
    products = {product.product_id: {option.option_id for option in product.options} for product in menu.products}

    def lacking() -> Iterator[Missing]:
        for line in order.lines:
            if line.product_id not in products:
                yield Missing(PLATFORM, "product", line.product_id, line.name)
                continue
            for option in line.options:
                if option.option_id not in products[line.product_id]:
                    yield Missing(PLATFORM, "option", option.option_id, option.name)

    return tuple(dict.fromkeys(lacking()))


def _missing_on_device(order: PlacedOrder, device: str, menu: DeviceMenu) -> Iterator[Missing]:
    yield from dict.fromkeys(
        Missing(device, "product", line.product_id, line.name)
        for line in order.lines
        if line.product_id not in menu.product_ids
    )
    yield from dict.fromkeys(
        Missing(device, "option", option.option_id, option.name)
        for line in order.lines
        for option in line.options
        if option.option_id not in menu.option_ids
    )


def _lacking(device: str, menu: DeviceMenu, platform: Menu) -> Iterator[Missing]:
    for product in platform.products:
        if product.product_id not in menu.product_ids:
            yield Missing(device, "product", product.product_id, product.name)
    options = {option.option_id: option.name for product in platform.products for option in product.options}
    for option_id, name in options.items():
        if option_id not in menu.option_ids:
            yield Missing(device, "option", option_id, name)


def _wrong_count(order: PlacedOrder) -> str:
    count = len(order.lines)
    return f"{order.line_count} lines were announced, {count} came" if count != order.line_count else ""


def _wrong_total(order: PlacedOrder) -> str:
    if any(line.unit_amount.currency != order.total.currency for line in order.lines):
        return f"a line is not in {order.total.currency}, the currency of the total"
    exact = sum((Fraction(line.quantity) * line.unit_amount.amount for line in order.lines), Fraction(0))
    parts_count = sum(Fraction(line.quantity).denominator != 1 for line in order.lines)
    if abs(exact - order.total.amount) <= Fraction(parts_count, 2):
        return ""  # a line of half a portion may have been rounded either way
    told = f"the total is {order.total.amount}, in minor units of {order.total.currency}"
    return f"the lines come to {round(exact)}, {told}"


def _wrong_content(order: PlacedOrder) -> str:
    if order.content_sha256 is None:
        return ""
    return "" if content_sha256(order.told) == order.content_sha256.lower() else "its content does not match its seal"


def _line_key(line: Line) -> str:
    options = sorted(option.option_id for option in line.options)
    return canonical([line.product_id, line.quantity, options, line.unit_amount.amount]).decode()
