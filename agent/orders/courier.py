"""journal → [courier] → broker → devices. Brings each order to the devices that are ready, with its true state.

An offer goes out when something of it has changed, and again after each `ready`, always under the order's own id; what
a sleeping device has not fetched is dropped by the broker, and told afresh when it wakes. Holds nothing that must
survive: orders are in the journal, and what devices have on their screen is told again. Never rejects an order.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec
import structlog

from agent.core import cards, order_offers, order_shown, orders
from agent.core.commands import Command
from agent.core.conditions import Severity
from agent.core.errors import NightsafeError
from agent.core.facts import PresenceFacts
from agent.core.order_commands import EVENTS
from agent.core.order_facts import Fact, Order
from agent.core.order_offers import Offer
from agent.core.orders import Step
from agent.core.placed import PlacedOrder, read
from agent.orders.hearing import Hearing, Take

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""How often devices and ages are looked at, in seconds."""
HEAR_S: Final = 5.0
"""How often the log is looked through while nobody says that there is something in it, in seconds."""
PAUSE_S: Final = 0.05
"""Least pause between two looks: what comes meanwhile is looked at together."""
ORDERS_AT_ONCE: Final = 50
"""After so many orders others have their turn."""
RETRY_S: Final = 1.0
"""Until what could not be written or sent is tried again, in seconds."""
AGAIN_S: Final = 5.0
"""A device that says `ready` again and again is told everything anew once in so long, in seconds."""
EXPIRY_S: Final = 15
"""A device that has not fetched an offer within this many seconds never sees it: it is told what is true by then."""
IN_HAND_MAX: Final = 500
"""So many orders are offered, the latest; all are listed."""
TOLD_AGAIN_S: Final = 86_400.0
"""Of an order that is at rest, devices are told after a `ready` for so long, in seconds that the box has run."""
KEEP_S: Final = 400 * 86_400.0
"""Orders at rest are forgotten after so long, in seconds that the box has run."""
TIDY_S: Final = 3_600.0
TIDY_ORDERS: Final = 200
"""So many are forgotten at once, every so many seconds."""
WAITING: Final = "orders_waiting"
"""The condition that holds while orders wait for a person."""


class Kept(Protocol):
    """An order as the journal has it."""

    @property
    def order(self) -> Order: ...
    @property
    def data(self) -> str | None: ...
    @property
    def heard_s(self) -> float: ...


class Tables(Protocol):
    """The orders in the journal. Raises NightsafeError."""

    async def take_in(self) -> None: ...
    async def get(self, order_id: str) -> Kept | None: ...
    async def in_hand(self, changed_after_s: float, count_max: int) -> Sequence[Kept]: ...
    async def step(self, order_id: str, take: Take) -> Step: ...
    async def forget_old(self, changed_before_s: float, orders_max: int) -> None: ...


class Presence(Protocol):
    """How devices are. `unanswered`: something shown at a mark should be answered by now."""

    def facts(self) -> Mapping[str, PresenceFacts]: ...
    def mark(self, device: str) -> Any: ...
    def unanswered(self, device: str, mark: Any) -> None: ...


class Publisher(Protocol):
    """The agent's own session. Raises Transient while the broker is away."""

    async def publish(self, topic: str, payload: bytes, *, expiry_s: int | None = None) -> None: ...


class Telling(Protocol):
    """Where people are told of a state."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def lift(self, id: str) -> None: ...


class Clock(Protocol):
    """The time of day as well as it is known, and how long the box has run."""

    def now_ms(self) -> int: ...
    def lived_s(self) -> float: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def response_timeout_s(self) -> float: ...
    @property
    def devices(self) -> Sequence[str]: ...


class _InHand:
    """One order. `told` is what each device was last told, `shown` when it was first told in this run."""

    __slots__ = ("changed_s", "content", "heard_s", "made", "order", "shown", "told")

    def __init__(self, order: Order, content: PlacedOrder | None, heard_s: float, changed_s: float) -> None:
        self.order = order
        self.content = content
        self.heard_s = heard_s
        self.changed_s = changed_s
        self.told: dict[str, bytes] = {}
        self.shown: dict[str, tuple[float, Any]] = {}
        self.made: tuple[Order, bool, bytes] | None = None
        """What any device is to be told, as a digest: of which order, and whether it is late."""


class Courier:
    """The stage."""

    name = "orders"

    def __init__(
        self,
        tables: Tables,
        hearing: Hearing,
        presence: Presence,
        publisher: Publisher,
        telling: Telling,
        clock: Clock,
        limits: Callable[[], Limits],
    ) -> None:
        self._tables = tables
        self._hearing = hearing
        self._presence = presence
        self._publisher = publisher
        self._telling = telling
        self._clock = clock
        self._limits = limits
        self._orders: dict[str, _InHand] = {}
        self._loaded = False
        self._dirty: dict[str, None] = {}
        self._ready: frozenset[str] = frozenset()
        self._spoke: dict[str, None] = {}
        """Devices that have said how they are since they were told everything."""
        self._told_s: dict[str, float] = {}
        """When a device was last told everything."""
        self._heard_s = self._tidied_s = float("-inf")
        self._now = clock.now_ms(), clock.lived_s()
        self._wake = asyncio.Event()
        self._waiting: tuple[str, str] | None = None
        hearing.on_step(self._stepped)

    # What calls it ----------------------------------------------------------------------------------------------------

    def commanded(self, command: Command) -> None:
        """The cloud has said something that is durable now."""
        if command.event in EVENTS:
            self._dirty[command.business] = None
            self._loaded = self._loaded and cards.text_clean(command.business)  # else it is kept under another name
            self._wake.set()

    def answered(self) -> None:
        """A device's word of an order is stored."""
        self._heard_s = float("-inf")
        self._wake.set()

    def state(self, device: str, payload: bytes) -> None:
        """A device has told how it is: whatever it has on its screen may be gone."""
        self._spoke[device] = None
        self._wake.set()

    def connected(self) -> None:
        """The broker is new to us: what waited in it for devices is gone."""
        self._ready = frozenset()
        self._wake.set()

    def reopened(self) -> None:
        """The journal was opened anew: another file may be there."""
        self._loaded = False
        self._hearing.reopened()
        self._wake.set()

    def _stepped(self, step: Step) -> None:
        """Devices or a person have done something to an order."""
        if step.facts or step.tell:
            self._dirty[step.order.order_id] = None
            self._wake.set()
        if step.tell and (one := self._orders.get(step.order.order_id)) is not None:
            one.told = {}

    # The loop ---------------------------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Look after orders until `stop`."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._serve(), name="orders-serve")
            ready()
            await stop.wait()
            serving.cancel()

    async def _serve(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._turn()
            except NightsafeError as error:
                log.debug("orders_put_off", code=error.code)
                self._heard_s = float("-inf")
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(PAUSE_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()

    async def _turn(self) -> None:
        now_s = asyncio.get_running_loop().time()
        self._now = self._clock.now_ms(), self._clock.lived_s()
        if not self._loaded:
            await self._load()
        if now_s - self._heard_s >= HEAR_S:
            self._heard_s = now_s
            await self._hearing.catch_up()
        await self._reload()
        await self._note_unanswered(now_s)
        self._note_ready(now_s)
        await self._deliver()
        self._tell_people()
        if now_s - self._tidied_s >= TIDY_S:
            await self._tables.forget_old(self._clock.lived_s() - KEEP_S, TIDY_ORDERS)
            self._tidied_s = now_s

    async def _load(self) -> None:
        """All that is to be offered, as the journal has it."""
        await self._tables.take_in()
        kept = await self._tables.in_hand(self._clock.lived_s() - TOLD_AGAIN_S, IN_HAND_MAX)
        self._orders = {}
        for one in kept:
            self._put(one)
        self._loaded, self._ready = True, frozenset()

    async def _reload(self) -> None:
        for order_id in tuple(self._dirty):
            del self._dirty[order_id]
            try:
                kept = await self._tables.get(order_id)
            except BaseException:
                self._dirty[order_id] = None
                raise
            if kept is not None:
                self._put(kept)
        lived_s = self._clock.lived_s()
        old = [
            order_id
            for order_id, one in self._orders.items()
            if order_offers.resting(one.order) and lived_s - one.changed_s > TOLD_AGAIN_S
        ]
        for order_id in old:
            del self._orders[order_id]

    def _put(self, kept: Kept) -> None:
        order_id, before = kept.order.order_id, self._orders.get(kept.order.order_id)
        found = read(kept.data) if kept.data is not None else None
        content = found if isinstance(found, PlacedOrder) else None
        one = self._orders[order_id] = _InHand(kept.order, content, kept.heard_s, self._clock.lived_s())
        if before is not None:
            one.told, one.shown = before.told, before.shown
        if len(self._orders) > IN_HAND_MAX:
            resting = (name for name, each in self._orders.items() if order_offers.resting(each.order))
            del self._orders[next(resting, next(iter(self._orders)))]

    # Time -------------------------------------------------------------------------------------------------------------

    def _age_s(self, one: _InHand) -> int:
        now_ms, lived_s = self._now
        placed = one.order.placed
        return order_offers.age_s(placed.placed_ms, now_ms, lived_s - one.heard_s) if placed is not None else 0

    async def _note_unanswered(self, now_s: float) -> None:
        """Whose time is over: that goes up. Who has had it on the screen for as long should have answered."""
        timeout_s = self._limits().response_timeout_s
        for order_id, one in tuple(self._orders.items()):
            if one.order.touched or one.order.closed or not order_offers.due(one.order, self._age_s(one), timeout_s):
                continue
            if orders.unanswered(one.order, 0).facts:
                one.order = (await self._tables.step(order_id, orders.unanswered)).order
                log.warning("order_unanswered", order=order_id, offered_to=list(one.order.offered))
            within_s = order_offers.time_to_respond_s(one.order, timeout_s)
            for device, (at_s, mark) in tuple(one.shown.items()):
                if now_s - at_s >= within_s:
                    del one.shown[device]
                    self._presence.unanswered(device, mark)

    # Devices ----------------------------------------------------------------------------------------------------------

    def _devices(self) -> dict[str, PresenceFacts]:
        """Those that orders are offered to, as they are."""
        facts, named = self._presence.facts(), self._limits().devices
        return {name: facts.get(name, PresenceFacts()) for name in named} if named else dict(facts)

    def _note_ready(self, now_s: float) -> None:
        """Who is ready; who became so, or has said so again, is told everything."""
        ready = frozenset(
            name for name, device in self._devices().items() if device.said == "ready" and device.connected
        )
        for device in tuple(self._spoke):
            if device not in ready:
                del self._spoke[device]
            elif device not in self._ready or now_s - self._told_s.get(device, float("-inf")) >= AGAIN_S:
                self._tell_anew(device, now_s)
        for device in sorted(ready - self._ready):
            self._tell_anew(device, now_s)
        self._told_s = {device: at_s for device, at_s in self._told_s.items() if device in ready}
        self._ready = ready

    def _tell_anew(self, device: str, now_s: float) -> None:
        self._spoke.pop(device, None)
        self._told_s[device] = now_s
        for one in self._orders.values():
            one.told.pop(device, None)

    async def _deliver(self) -> None:
        """Tell each device what it was not told yet."""
        ready = sorted(self._ready)
        for number, (order_id, one) in enumerate(tuple(self._orders.items())):
            if number % ORDERS_AT_ONCE == 0:
                await asyncio.sleep(0)
            due = self._due(one, ready)
            if not due:
                continue
            take = self._offering(one, due)
            if take(one.order, 0).facts:
                one.order = (await self._tables.step(order_id, take)).order
            for device in due:
                await self._send(one, device)

    def _due(self, one: _InHand, devices: Sequence[str]) -> list[str]:
        """Those that may be told of it, and were told something else or nothing."""
        may = [device for device in devices if order_offers.offerable(one.order, device)] if one.content else []
        if not may:
            return []
        digest = self._digest(one, may[0])
        return [device for device in may if one.told.get(device) != digest]

    def _offering(self, one: _InHand, devices: Sequence[str]) -> Take:
        """The step that notes whom it goes to."""
        content, age_s, timeout_s = one.content, self._age_s(one), self._limits().response_timeout_s
        assert content is not None
        known = content

        def take(order: Order, at_ms: int) -> Step:
            facts: list[Fact] = []
            for device in devices:
                offer = order_offers.offer(order, known, device, age_s, timeout_s)
                if offer is not None:
                    step = orders.offered(order, device, offer.late, offer.age_s, at_ms)
                    order, facts = step.order, [*facts, *step.facts]
            return Step(order, tuple(facts))

        return take

    def _offer(self, one: _InHand, device: str) -> Offer | None:
        if one.content is None:
            return None
        return order_offers.offer(one.order, one.content, device, self._age_s(one), self._limits().response_timeout_s)

    def _digest(self, one: _InHand, device: str) -> bytes:
        """What a device is to be told, but for the age, which grows by itself. All devices are told the same."""
        late = order_offers.is_late(one.order, self._age_s(one), self._limits().response_timeout_s)
        if one.made is None or one.made[0] is not one.order or one.made[1] != late:
            offer = self._offer(one, device)
            assert offer is not None
            body = msgspec.json.encode(msgspec.structs.replace(offer, age_s=0))
            one.made = one.order, late, sha256(body).digest()
        return one.made[2]

    async def _send(self, one: _InHand, device: str) -> None:
        offer = self._offer(one, device)
        if offer is None or device not in one.order.offered:
            return
        topic, payload = f"pos/v1/{device}/orders", msgspec.json.encode(offer)
        await self._publisher.publish(topic, payload, expiry_s=EXPIRY_S)
        one.told[device] = self._digest(one, device)
        if not one.order.touched:
            one.shown.setdefault(device, (asyncio.get_running_loop().time(), self._presence.mark(device)))
        log.info("order_offered", order=one.order.order_id, device=device, state=offer.state, late=offer.late)

    # People -----------------------------------------------------------------------------------------------------------

    def _tell_people(self) -> None:
        """One condition for all orders that wait for somebody."""
        waiting = [one.order for one in self._orders.values() if order_offers.awaits(one.order)]
        if not waiting:
            if self._waiting is not None:
                self._telling.lift(WAITING)
            self._waiting = None
            return
        words = order_shown.waiting_title(len(waiting)), order_shown.waiting_text(waiting, self._devices())
        if words != self._waiting:
            hint = "Make them, then say so at a device or with `nightsafe orders provided`. They are paid."
            self._telling.hold(WAITING, "critical", *words, hint)
            self._waiting = words
