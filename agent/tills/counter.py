"""basket → [counter] → outbox → till. Rings up what is due, and has it kept before it is sent.

Time and chance come in as arguments.
"""

from random import Random
from typing import Final

from agent.tills.basket import Authorize, Basket, Data, Moment, envelope
from agent.tills.outbox import Key, Outbox

BATCH_MAX: Final = 64
"""Events rung up at once; they share one fsync."""


class Counter:
    """One till's counter: guests come at `rate_per_s` on average, until `count` events are made (None: without end)."""

    def __init__(self, basket: Basket, outbox: Outbox, rate_per_s: float, count: int | None, random: Random) -> None:
        self._basket = basket
        self._outbox = outbox
        self._rate_per_s = rate_per_s
        self._left = count
        self._random = random
        self.due_at_s = 0.0
        self.asking: Authorize | None = None
        """The card that is asked about: nothing else is rung up meanwhile."""

    @property
    def sold_out(self) -> bool:
        return self._left == 0

    def decided(self, approved: Data | None) -> None:
        """What became of the card: what its payment says of the approval, or None, and the guest pays otherwise."""
        self.asking = None
        self._basket.decided(approved)

    def pause(self, now_s: float) -> None:
        """Nobody sells now; what would have been due is not made up for later."""
        self.due_at_s = now_s

    def ring_up(self, now_s: float, at_ms: int) -> list[Key]:
        """Everything that is due at `now_s`, kept on disk; `at_ms` is the till's wall clock."""
        made: list[tuple[str, int, bytes]] = []
        if self.asking is not None:
            self.pause(now_s)
        while self.due_at_s <= now_s and not self.sold_out and len(made) < BATCH_MAX and self.asking is None:
            moment = self._basket.next_moment(at_ms, payments_held=self._outbox.device.payments_held)
            if isinstance(moment, Authorize):
                self.asking = moment
                break
            self.due_at_s += self._random.expovariate(self._rate_per_s)
            made.append(self._event(moment, self._outbox.last + len(made) + 1, at_ms))
            if self._left is not None:
                self._left -= 1
        if self.sold_out:
            self.due_at_s = float("inf")
        return self._outbox.keep(made) if made else []

    def _event(self, moment: Moment, sequence: int, at_ms: int) -> tuple[str, int, bytes]:
        own = self._outbox.device
        id = self._basket.uuid7(at_ms)
        event = envelope(moment, id=id, device=own.device, epoch=own.epoch, sequence=sequence, at_ms=at_ms)
        return id, sequence, event
