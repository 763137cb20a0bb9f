"""basket → outbox → [till] → gate. One simulated till: rings up sales, sends them, and forgets nothing untold.

One thread owns the outbox; the link's callbacks only leave facts in a queue. An event is on the till's own disk before
it is sent, leaves the list of what must be sent only by a successful PUBACK, and can be sent again until the receipt
says that the cloud has it. Never speaks anything but the device contract.
"""

import time
from collections import deque
from queue import Empty, SimpleQueue
from random import Random
from threading import Event, Thread
from typing import Final, NamedTuple

import msgspec

from agent.core.errors import NightsafeError
from agent.core.ids import CHANCE_BYTES, uuid7
from agent.core.instants import to_text
from agent.tills.basket import MENU_VERSION, Basket
from agent.tills.counter import Counter
from agent.tills.link import Acknowledged, Connected, Disconnected, Fact, Link, Received
from agent.tills.outbox import Key, Outbox
from agent.tills.questions import Questions, Reply
from agent.tills.words import Command, Figures, Receipt, TillSettings, VenueStatus

APP: Final = "nightsafe-till"
APP_VERSION: Final = "1.0.0"
FACTS_BATCH_MAX: Final = 1000
"""Facts of the link handled between two looks at the clock; acknowledgements among them share one fsync."""
UNTOLD_MAX: Final = 100_000
"""Events waiting in the outbox above which the till stops selling."""
STATE_INTERVAL_S: Final = 2.0
"""How often the retained state is renewed while its figures change."""
IDLE_MAX_S: Final = 0.25
"""The longest nap between two looks at the clock."""
WITHHELD_MAX_S: Final = 4.0
"""When the till finishes: how long events held back on purpose wait to be asked for before they are sent unasked."""
CLOSE_MAX_S: Final = 2.0
"""How long the last state may take on its way out."""


class _Flight(NamedTuple):
    """An event on its way; `first` when it never was before."""

    key: Key
    first: bool


class TillFailed(NightsafeError):
    """The till's thread ended by an error; the cause is chained."""


class Till:
    """`start`, watch `figures`, `stop_selling`, `close`. A till that was killed goes on by the same folder."""

    def __init__(self, settings: TillSettings) -> None:
        """Opens the outbox. OutboxDamaged when it cannot be read."""
        self._settings = settings
        self._random = Random(f"{settings.seed}/{settings.device}/habits")
        new_epoch = uuid7(_wall_ms(), Random().randbytes(CHANCE_BYTES))
        self._outbox = Outbox.open(settings.directory, settings.device, new_epoch)
        if settings.reinstalled:
            self._outbox.new_epoch(new_epoch)
        seed = f"{settings.seed}/{self._outbox.device.epoch}/{self._outbox.last}"
        basket = Basket(settings.device, seed, settings.asks)
        self._questions = Questions(settings.asks, Random())  # ids of its own in every life: a repeat means the same
        self._counter = Counter(basket, self._outbox, settings.rate_per_s, settings.count, self._random)
        self._facts: SimpleQueue[Fact] = SimpleQueue()
        self._prefix = f"pos/v1/{settings.device}"
        self._link = Link(
            device=settings.device,
            host=settings.host,
            port=settings.port,
            protocol=settings.protocol,
            window=settings.window,
            topics=(
                *(f"{self._prefix}/{what}" for what in ("receipt/#", "commands", "replies")),
                "pos/v1/venue/status",
            ),
            will=(f"{self._prefix}/state", b'{"state":"offline"}'),
            facts=self._facts,
        )
        self._unsent: deque[Key] = deque(self._outbox.untold)
        self._urgent: deque[Key] = deque()
        self._withheld: dict[Key, None] = {}
        self._flights: dict[int, _Flight] = {}
        self._resends: dict[str, set[Key]] = {}
        self._uploaded: dict[str, int] = {}
        self._status = VenueStatus()
        self._connected = False
        self._connects = self._resent = self._duplicates = 0
        self._problem = ""
        self._cut_at_s = self._state_at_s = 0.0
        self._state_said = b""
        self._selling, self._closing = Event(), Event()
        self._finishing_at_s: float | None = None
        self._failure: Exception | None = None
        self._thread = Thread(target=self._live, name=settings.device, daemon=True)
        self._figures = Figures()
        self._count_figures()

    @property
    def device(self) -> str:
        return self._settings.device

    @property
    def figures(self) -> Figures:
        """As of a moment ago. TillFailed when the till's thread ended by an error."""
        if self._failure is not None:
            raise TillFailed("till_failed", f"{self.device} ended: {self._failure}.") from self._failure
        return self._figures

    @property
    def sold_out(self) -> bool:
        """True when the till made as many events as it was to make."""
        return self._counter.sold_out

    @property
    def _open_for_sales(self) -> bool:
        return self._selling.is_set() and self._outbox.untold_count < UNTOLD_MAX

    def start(self) -> None:
        """Connect, send what the last process left untold, and sell."""
        self._selling.set()
        self._thread.start()

    def stop_selling(self) -> None:
        """Make no more events; what is kept is still sent, and what was held back goes after a while unasked."""
        self._selling.clear()
        self._finishing_at_s = time.monotonic()

    def leave(self) -> None:
        """Say goodbye and end, soon. What is untold stays in the outbox for the next process."""
        self._closing.set()

    def close(self) -> None:
        """`leave`, and wait until it has ended."""
        self.leave()
        if self._thread.ident is None:
            self._outbox.close()
        else:
            self._thread.join()

    def _live(self) -> None:
        try:
            self._link.open()
            self._counter.pause(time.monotonic())
            self._cut_at_s = self._next_cut_s(time.monotonic())
            while not self._closing.is_set():
                self._turn()
            self._say_goodbye()
        except Exception as error:
            self._failure = error
        finally:
            self._link.close()
            self._outbox.close()

    def _turn(self) -> None:
        """One round: hear, sell, send, say."""
        self._hear(self._nap_s())
        now_s = time.monotonic()
        self._sell(now_s)
        self._release(now_s)
        self._send()
        self._ask(now_s)
        self._say_state(now_s)
        if self._cut_at_s and now_s >= self._cut_at_s:
            self._cut_at_s = self._next_cut_s(now_s)
            self._link.cut()
        self._count_figures()

    def _nap_s(self) -> float:
        if not self._open_for_sales or self._counter.asking is not None:
            return IDLE_MAX_S
        return min(IDLE_MAX_S, max(0.0, self._counter.due_at_s - time.monotonic()))

    def _next_cut_s(self, now_s: float) -> float:
        every_s = self._settings.habits.reconnect_every_s
        return now_s + self._random.expovariate(1 / every_s) if every_s else 0.0

    # ---- what happens at the till

    def _sell(self, now_s: float) -> None:
        """What is due is rung up and kept; held back from the network where the till's habits say so."""
        if not self._open_for_sales:
            self._counter.pause(now_s)
            return
        withhold_every = self._settings.habits.withhold_every
        for key in self._counter.ring_up(now_s, _wall_ms()):
            self._questions.wonder(now_s)
            if withhold_every and key.sequence % withhold_every == 0:
                self._withheld[key] = None
            else:
                self._unsent.append(key)
        wanted = self._counter.asking
        if wanted is not None and not self._questions.guest_waits:
            self._questions.authorize(wanted, now_s)

    def _release(self, now_s: float) -> None:
        """Send unasked what was held back, once the till finishes and the box had time to ask."""
        began_s = self._finishing_at_s
        if self._withheld and began_s is not None and now_s - began_s > WITHHELD_MAX_S:
            self._urgent.extend(self._withheld)
            self._withheld.clear()

    # ---- what goes out

    def _send(self) -> None:
        """Fill the window: what was asked for first, then what happened, in order."""
        while self._connected and len(self._flights) < self._settings.window and (self._urgent or self._unsent):
            key = self._urgent.popleft() if self._urgent else self._unsent.popleft()
            event = self._outbox.event(key)
            if event is None:
                continue
            first = self._outbox.mark_sent(key, to_text(_wall_ms()))
            mid = self._link.publish(f"{self._prefix}/events", event)
            self._flights[mid] = _Flight(key, first)

    def _ask(self, now_s: float) -> None:
        """What staff and guests want to know now; a card's answer lets the till go on."""
        self._questions.lose_patience(now_s)
        for question in self._questions.due(now_s) if self._connected else ():
            body = msgspec.json.encode({"id": question.id, "args": question.args})
            self._link.publish(f"{self._prefix}/requests/{question.service}", body)
        for approval in self._questions.taken():
            self._counter.decided(approval)

    def _say_state(self, now_s: float) -> None:
        """Renew the retained state when it changed, now and then."""
        if not self._connected or now_s < self._state_at_s:
            return
        self._state_at_s = now_s + STATE_INTERVAL_S
        state = self._state("ready")
        if state != self._state_said:
            self._state_said = state
            self._link.publish(f"{self._prefix}/state", state, retain=True)

    def _state(self, word: str) -> bytes:
        device = self._outbox.device
        return msgspec.json.encode(
            {
                "state": word,
                "app": APP,
                "version": APP_VERSION,
                "epoch": device.epoch,
                "last": str(self._outbox.last),
                "pending": self._outbox.untold_count,
                "menu_version": MENU_VERSION,
                "applied": device.applied,
            }
        )

    def _say_goodbye(self) -> None:
        """A will is for the unexpected: whoever leaves says so."""
        if not self._connected:
            return
        mid = self._link.publish(f"{self._prefix}/state", self._state("offline"), retain=True)
        end_s = time.monotonic() + CLOSE_MAX_S
        while time.monotonic() < end_s:
            fact = self._next_fact(end_s - time.monotonic())
            if fact is None or isinstance(fact, Disconnected) or (isinstance(fact, Acknowledged) and fact.mid == mid):
                return
            self._take([fact])

    # ---- what comes in

    def _hear(self, wait_s: float) -> None:
        """Everything that the link has to tell, after waiting for the first of it."""
        fact = self._next_fact(wait_s)
        facts: list[Fact] = []
        while fact is not None and len(facts) < FACTS_BATCH_MAX:
            facts.append(fact)
            fact = self._next_fact(0)
        if fact is not None:
            facts.append(fact)
        self._take(facts)

    def _next_fact(self, wait_s: float) -> Fact | None:
        try:
            return self._facts.get(block=wait_s > 0, timeout=wait_s or None)
        except Empty:
            return None

    def _take(self, facts: list[Fact]) -> None:
        told: list[Key] = []
        for fact in facts:
            match fact:
                case Connected():
                    self._connected, self._problem, self._state_said, self._state_at_s = True, "", b"", 0.0
                    self._connects += 1
                    self._questions.connected(time.monotonic())
                case Disconnected(reason):
                    self._connected, self._problem = False, reason
                case Acknowledged():
                    self._take_acknowledgement(fact, told)
                case Received(topic, payload):
                    self._take_message(topic, payload)
        self._outbox.mark_told(told, to_text(_wall_ms()))
        self._finish_resends()

    def _take_acknowledgement(self, fact: Acknowledged, told: list[Key]) -> None:
        flight = self._flights.pop(fact.mid, None)
        if flight is None:
            return
        for wanted in self._resends.values():
            wanted.discard(flight.key)
        id = self._outbox.id_of(flight.key)
        if fact.refusal is not None:
            self._problem = f"refused: {fact.refusal} {fact.detail}".rstrip()
            if id is not None:
                self._outbox.mark_refused(id, fact.refusal, fact.detail, to_text(_wall_ms()))
            return
        told.append(flight.key)
        every = self._settings.habits.duplicate_every
        if every and flight.first and flight.key.sequence % every == 0:
            self._duplicates += 1
            self._urgent.append(flight.key)

    def _take_message(self, topic: str, payload: bytes) -> None:
        """What cannot be read is left alone: a till is no judge of the box."""
        try:
            if topic == "pos/v1/venue/status":
                self._status = msgspec.json.decode(payload, type=VenueStatus)
            elif topic == f"{self._prefix}/commands":
                self._take_command(msgspec.json.decode(payload, type=Command))
            elif topic == f"{self._prefix}/replies":
                self._questions.hear(msgspec.json.decode(payload, type=Reply), time.monotonic())
            elif payload:
                self._take_receipt(msgspec.json.decode(payload, type=Receipt))
        except (msgspec.MsgspecError, KeyError, ValueError) as error:
            self._problem = f"unreadable message on {topic}: {error}"

    def _take_receipt(self, receipt: Receipt) -> None:
        for refused in receipt.refused:
            reason, detail = str(refused.get("reason", "")), str(refused.get("detail", ""))
            self._outbox.mark_refused(str(refused["id"]), reason, detail, to_text(_wall_ms()))
        if receipt.epoch is not None and receipt.uploaded is not None:
            uploaded = int(receipt.uploaded)
            self._uploaded[receipt.epoch] = uploaded
            self._outbox.cover(receipt.epoch, uploaded)

    def _take_command(self, command: Command) -> None:
        """Repeats of a command that is done are answered by the state that names it."""
        if command.id in self._resends:
            return
        self._state_at_s = 0.0
        if command.id in self._outbox.device.applied:
            self._state_said = b""
        elif command.command == "resend":
            self._take_resend(command)
        elif command.command in ("hold_payments", "release_payments"):
            self._outbox.remember(applied=(command.id,), payments_held=command.command == "hold_payments")
        elif command.command == "identify":
            self._outbox.remember(applied=(command.id,))

    def _take_resend(self, command: Command) -> None:
        """Everything of the range that is still kept goes out again before anything else."""
        epoch, first, last = str(command.args["epoch"]), int(command.args["from"]), int(command.args["to"])
        keys = self._outbox.kept(epoch, first, last)
        self._resends[command.id] = set(keys)
        self._resent += 1
        waiting = {flight.key for flight in self._flights.values()} | set(self._unsent) | set(self._urgent)
        for key in keys:
            self._withheld.pop(key, None)
            if key not in waiting:
                self._urgent.append(key)

    def _finish_resends(self) -> None:
        done = [id for id, wanted in self._resends.items() if not wanted]
        for id in done:
            del self._resends[id]
        if done:
            self._outbox.remember(applied=done)
            self._state_at_s = 0.0

    def _count_figures(self) -> None:
        outbox = self._outbox
        self._figures = Figures(
            made=outbox.made_count,
            told=outbox.told_count,
            untold=outbox.untold_count,
            refused=outbox.refused_count,
            in_cloud=sum(self._uploaded.values()),
            connected=self._connected,
            connects=self._connects,
            resends=self._resent,
            duplicates=self._duplicates,
            withheld=len(self._withheld),
            problem=self._problem,
            status=self._status,
            answers=self._questions.answers,
        )


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
