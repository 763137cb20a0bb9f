"""device ↔ session ↔ [desk] ↔ cloud. Answers requests in real time, and at once what cannot be asked now.

While the cloud is known to be away no request tries it: a sale waits for nothing. A cloud that takes connections and
answers nothing is given up after a few, and tried again in the background. Never replays a request by itself.
"""

import asyncio
from collections import Counter as Tally
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog

from agent.core import policy
from agent.core import requests as rules
from agent.core.errors import NightsafeError, Rejected, Transient
from agent.core.requests import WORDS, Breaker, Reply, Request

log = structlog.get_logger()

NOTE_INTERVAL_S: Final = 0.5
"""Replies that promise nothing are written down so often at most, in seconds."""
NOTED_MAX: Final = 5_000
"""So many replies are held, written down or not yet; the latest."""
UNKNOWN: Final = "outcome_unknown"
CHARGES: Final = frozenset({"card.authorize", "gift_card.redeem", "on_account.charge"})
"""What a device whose payments are held may not ask for, whatever the line is like."""
TRIAL: Final = ("availability.lookup", "agent", {"product_id": "-"})
"""What a given-up cloud is asked in the background: it changes nothing there."""


class Way(NamedTuple):
    """Where a reply goes, beside the device's own topic."""

    topic: str
    correlation: bytes | None


class Cloud(Protocol):
    """The cloud's counter. Raises Transient; `unsent` is the code of one that surely did not go out."""

    async def ask(self, service: str, id: str, device: str, args: dict[str, Any], deadline_s: float) -> Any: ...


class Kept(Protocol):
    """Replies that were given. Raises NightsafeError."""

    async def known(self, device: str, id: str) -> Any: ...
    async def note(self, answered: Sequence[tuple[Request, Reply]]) -> None: ...
    async def sent(self, request: Request, unknown: Reply) -> None: ...


class Publisher(Protocol):
    """The agent's own session. Raises Transient while the broker is away."""

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1, correlation: bytes | None = None
    ) -> None: ...


class Cards(Protocol):
    """Decides on a card payment while the cloud cannot be asked; what it approves is durable, with its reply."""

    async def offline(self, request: Request) -> Reply: ...


class Terms(NamedTuple):
    """What holds for one device now; from the settings."""

    used: bool
    loyalty: bool
    deadline_s: float
    failures_max: int
    trial_interval_s: float
    per_device_max: int
    in_all_max: int
    stale_max: int
    held: bool


Local = Callable[[Request], "Any"]
"""Answers a request here: an awaitable of a Reply."""


class Desk:
    """The stage. `offline` tells whether the cloud is known to be away, `now_s` is boottime."""

    def __init__(
        self,
        cloud: Cloud,
        kept: Kept,
        publisher: Publisher,
        cards: Cards,
        local: dict[str, Local],
        offline: Callable[[], bool],
        terms: Callable[[str, str], Terms],
        now_s: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.name = "desk"
        self.breaker = Breaker()
        self.counts: Tally[str] = Tally()
        self._cloud = cloud
        self._kept = kept
        self._publisher = publisher
        self._cards = cards
        self._local = local
        self._offline = offline
        self._terms = terms
        self._now_s = now_s
        self._new_id = new_id
        self._waiting: OrderedDict[tuple[str, str], list[Way]] = OrderedDict()
        """Requests under way, and where their replies go beside the device's own topic."""
        self._of_device: Tally[str] = Tally()
        self._noted: OrderedDict[tuple[str, str], tuple[str, Reply]] = OrderedDict()
        self._unwritten: list[tuple[Request, Reply]] = []
        self._stale: OrderedDict[str, tuple[dict[str, Any], float]] = OrderedDict()
        """The last known answer about each product, and when it was given."""
        self._group: asyncio.TaskGroup | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Answer until `stop`; what is under way then is not answered: the device asks again with its id."""
        async with asyncio.TaskGroup() as group:
            upkeep = (
                group.create_task(self._keep_noting(), name="desk-note"),
                group.create_task(self._keep_trying(), name="desk-try"),
            )
            self._group = group
            ready()
            await stop.wait()
            self._group = None
            for task in (*upkeep, *self._answering):
                task.cancel()

    def request(self, device: str, service: str, payload: bytes, way: Way | None) -> None:
        """A device asks; the reply comes by itself."""
        found = rules.read(device, service, payload)
        if found is None or self._group is None:
            self.counts["unread"] += 1
            return
        key = (device, found.id)
        if isinstance(found, Request) and key in self._waiting:
            self._waiting[key] += [way] if way else []
            return
        terms = self._terms(device, service)
        busy = len(self._waiting) >= terms.in_all_max or self._of_device[device] >= terms.per_device_max
        if busy:
            found = Reply(found.id, "error", {}, "busy", "Too much is asked at once: ask again.")
        self._waiting[key] = [way] if way else []
        self._of_device[device] += 1
        task = self._group.create_task(self._serve(device, found), name="desk-answer")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _serve(self, device: str, found: Request | Reply) -> None:
        try:
            reply = found if isinstance(found, Reply) else await self._reply(found)
        except NightsafeError as error:
            log.warning("request_failed", device=device, code=error.code)
            reply = Reply(found.id, "error", {}, error.code, error.text)
        finally:
            ways = self._waiting.pop((device, found.id), [])
            self._of_device[device] -= 1
            if not self._of_device[device]:
                del self._of_device[device]
        self.counts[reply.status] += 1
        body = msgspec.json.encode(reply)
        try:
            await self._publisher.publish(f"pos/v1/{device}/replies", body)
            for way in ways:
                await self._publisher.publish(way.topic, body, correlation=way.correlation)
        except (Transient, Rejected) as error:  # the device asks again
            log.debug("reply_not_sent", device=device, code=error.code)

    async def _reply(self, request: Request) -> Reply:
        """What is replied: the same as before to a repeat."""
        known = self._noted.get((request.device, request.id)) or await self._kept.known(request.device, request.id)
        if known is not None and known[0] != request.digest:
            return Reply(request.id, "error", {}, "id_reused", "This id was used for another request.")
        if known is not None and known[1].reason != UNKNOWN:
            return known[1]
        reply = await self._decide(request, unknown=known is not None)
        if reply.status != "error" or reply.reason == UNKNOWN:
            self._note(request, reply)
        return reply

    async def _decide(self, request: Request, unknown: bool) -> Reply:
        """What happens now. What went out once without an answer (`unknown`) is for the cloud alone to say."""
        local = self._local.get(request.service)
        terms = self._terms(request.device, request.service)
        if local is not None and terms.used:
            found: Reply = await local(request)
            return found
        why = rules.refusal(request.service, terms.used, terms.loyalty, self._offline(), self.breaker)
        if terms.held and request.service in CHARGES and not unknown:
            return Reply(request.id, "declined", {}, "payments_held", policy.WORDS["payments_held"])
        if why is None:
            if request.service in rules.CHANGES and not unknown:
                await self._note_sent(request)
            return await self._ask(request, terms, unknown)
        if why == "service_off":
            return Reply(request.id, "error", {}, why, WORDS[why])
        if unknown:
            return Reply(request.id, "error", {}, UNKNOWN, f"{WORDS[why]} Ask again with the same id.")
        return await self._without_cloud(request, why)

    async def _note_sent(self, request: Request) -> None:
        """From now on only the cloud may say what becomes of this request, also after a kill: its answer, or a decision
        here once it surely did not go out, takes the place of this note."""
        try:
            await self._kept.sent(request, Reply(request.id, "error", {}, UNKNOWN))
        except NightsafeError as error:  # the journal says so by itself, and a sale that can be authorised goes on
            log.debug("request_not_noted", code=error.code)

    async def _ask(self, request: Request, terms: Terms, unknown: bool) -> Reply:
        try:
            answer = await self._cloud.ask(request.service, request.id, request.device, request.args, terms.deadline_s)
        except Transient as error:
            self._failed(terms)
            if error.code == "unsent" and not unknown:
                return await self._without_cloud(request, "cloud_not_answering")
            text = f"{error.text} Ask again with the same id."
            return Reply(request.id, "error", {}, UNKNOWN, text)
        self.breaker = Breaker()
        status: rules.Status = answer.status if answer.status in ("ok", "declined") else "error"
        if request.service == "availability.lookup" and status == "ok":
            self._remember(request, answer.result, terms.stale_max)
        return Reply(request.id, status, answer.result, answer.reason)

    async def _without_cloud(self, request: Request, why: str) -> Reply:
        if request.service == "card.authorize":
            return await self._cards.offline(request)
        known = self._stale.get(_product(request)) if request.service == "availability.lookup" else None
        if known is not None:
            result, at_s = known
            aged = {**result, "stale": True, "age_s": round(self._now_s() - at_s)}
            return Reply(request.id, "ok", aged, why, WORDS[why])
        return Reply(request.id, "requires_realtime", {}, why, WORDS[why])

    # What is remembered ----------------------------------------------------------------------------------------------

    def _remember(self, request: Request, result: dict[str, Any], count_max: int) -> None:
        self._stale[_product(request)] = (result, self._now_s())
        self._stale.move_to_end(_product(request))
        while len(self._stale) > count_max:
            self._stale.popitem(last=False)

    def _note(self, request: Request, reply: Reply) -> None:
        self._noted[request.device, request.id] = (request.digest, reply)
        self._unwritten.append((request, reply))
        while len(self._noted) > NOTED_MAX:
            self._noted.popitem(last=False)
        del self._unwritten[:-NOTED_MAX]

    async def _keep_noting(self) -> None:
        while True:
            await asyncio.sleep(NOTE_INTERVAL_S)
            due = self._unwritten
            if not due:
                continue
            self._unwritten = []
            try:
                await self._kept.note(due)
            except NightsafeError as error:
                log.debug("replies_put_off", code=error.code)
                self._unwritten = due + self._unwritten

    # A cloud that does not answer ------------------------------------------------------------------------------------

    def _failed(self, terms: Terms) -> None:
        before, self.breaker = self.breaker, rules.failed(self.breaker, terms.failures_max)
        if self.breaker.open and not before.open:
            log.warning("counter_given_up", failures=self.breaker.failures)

    async def _keep_trying(self) -> None:
        """A given-up cloud is asked something in the background, so that no sale pays for the trial."""
        while True:
            service, device, args = TRIAL
            terms = self._terms(device, service)
            await asyncio.sleep(terms.trial_interval_s)
            if not self.breaker.open or self._offline():
                continue
            try:
                await self._cloud.ask(service, self._new_id(), device, dict(args), terms.deadline_s)
            except Transient:
                continue
            self.breaker = Breaker()
            log.info("counter_answers_again")


def _product(request: Request) -> str:
    return str(request.args.get("product_id"))
