"""device → gate → [intake] → journal. Judges each event once and hands it, or its refusal, to the writer.

The hot path: everything here happens once for every event. It never blocks and never answers a device itself.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from agent.core import events
from agent.core.arrivals import Item, Outcome, Settle
from agent.core.checks import concerns_check
from agent.core.events import Event
from agent.core.order_events import PREFIX as ORDERS


class Journal(Protocol):
    """Where items are queued for the next commit."""

    @property
    def has_room(self) -> bool: ...
    def submit(self, item: Item, settle: Settle) -> None: ...
    def on_room(self, call: Callable[[], None]) -> None: ...


class Intake:
    """The one door for devices' events, whatever way they came."""

    def __init__(self, journal: Journal, event_bytes_max: int, event_depth_max: int, excerpt_bytes_max: int) -> None:
        self._journal = journal
        self._limits = (event_bytes_max, event_depth_max, excerpt_bytes_max)
        self.refused_count = 0
        self._on_check: Callable[[Event], None] = lambda event: None
        self._on_order: Callable[[], None] = lambda: None

    @property
    def has_room(self) -> bool:
        """False while so much waits for its commit that callers should come later."""
        return self._journal.has_room

    def on_check(self, call: Callable[[Event], None]) -> None:
        """Call `call` with each event of a check, after its commit, in the order of the log."""
        self._on_check = call

    def on_order(self, call: Callable[[], None]) -> None:
        """Call `call` when a device's word of an order is stored."""
        self._on_order = call

    def offer(self, device: str, payload: bytes, settle: Settle) -> bool:
        """Take one event of `device`; `settle` hears its outcome after the commit. False: the queue is full."""
        verdict = events.judge(device, payload, *self._limits)
        if type(verdict) is not Event:
            self.refused_count += 1
        elif concerns_check(verdict):
            settle = partial(self._settle_check, settle)
        elif verdict.type.startswith(ORDERS):
            settle = partial(self._settle_order, settle)
        self._journal.submit(verdict, settle)
        return self._journal.has_room

    def _settle_check(self, settle: Settle, item: Item, outcome: Outcome) -> None:
        if outcome is Outcome.STORED and type(item) is Event:
            self._on_check(item)
        settle(item, outcome)

    def _settle_order(self, settle: Settle, item: Item, outcome: Outcome) -> None:
        if outcome is Outcome.STORED:
            self._on_order()
        settle(item, outcome)

    def on_room(self, call: Callable[[], None]) -> None:
        """Call `call` when there is room again."""
        self._journal.on_room(call)
