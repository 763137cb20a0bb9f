"""till → [questions] → gate → replies. What one till asks in real time, how it is answered, and whether that adds up.

Knows which questions are open, asks again with the same id what may not have been heard, and keeps the balance of a
gift card of its own: an answer that disagrees with it, or with an earlier answer to the same id, counts as wrong.
Instants come in as arguments; nothing here sends, and nothing here is an event.
"""

from collections import OrderedDict
from random import Random
from typing import Final, NamedTuple

import msgspec

from agent.tills.basket import CURRENCY, LETTERS, MENU, Authorize, Data

AGAIN_S: Final = 2.0
"""Pause before a question without a final answer is asked again, in seconds."""
PATIENCE_S: Final = 10.0
"""How long a guest waits for a card; then another tender is found."""
ANSWERED_MAX: Final = 200
"""Final answers that are remembered, to compare what comes twice."""
UNKNOWN: Final = "outcome_unknown"
BUSY: Final = "busy"
HELD: Final = "payments_held"
GIFT_CARD: Final = 5_000
"""What a gift card is sold for, in minor units."""
_FINAL: Final = ("ok", "declined", "requires_realtime")


class Reply(msgspec.Struct):
    """A message on `replies`."""

    id: str
    status: str
    result: Data = {}
    reason: str | None = None


class Question(NamedTuple):
    """What goes out on `requests/{service}`."""

    id: str
    service: str
    args: Data


class Answers(NamedTuple):
    """How questions ended. `refused` for want of the cloud, `given_up` by a guest who did not wait.

    `unknown` went out and nobody says what became of them; `waiting` have no answer yet, whatever it might be. Answers
    to one id that differ, or that disagree with the till's own gift card, are `wrong`. `slowest_s` is the longest wait.
    """

    asked: int = 0
    ok: int = 0
    refused: int = 0
    declined: int = 0
    failed: int = 0
    given_up: int = 0
    unknown: int = 0
    waiting: int = 0
    wrong: int = 0
    slowest_s: float = 0.0


class _Open(msgspec.Struct):
    question: Question
    began_s: float
    due_s: float
    unknown: bool = False


class Questions:
    """One till's. `share` is how often it asks something beside what happens at the till, 0 to 1."""

    def __init__(self, share: float, random: Random) -> None:
        self._share = share
        self._random = random
        self._run = "".join(random.choices(LETTERS, k=16))
        self._open: dict[str, _Open] = {}
        self._answered: OrderedDict[str, tuple[str, Data, str | None]] = OrderedDict()
        self._gift_card = f"gift-{self._run}"
        self._balance = 0
        self._counts: dict[str, int] = {}
        self._slowest_s = 0.0
        self._card: str | None = None
        """The card payment that a guest waits for."""
        self._decided: list[Data | None] = []

    @property
    def guest_waits(self) -> bool:
        """A card is asked about, or what became of it was not taken yet."""
        return self._card is not None or bool(self._decided)

    def taken(self) -> list[Data | None]:
        """What became of the card that was asked about: what its payment says of the approval, or None for none."""
        decided, self._decided = self._decided, []
        return decided

    @property
    def answers(self) -> Answers:
        unknown = sum(one.unknown for one in self._open.values())
        counts = dict(self._counts)
        counts["unknown"] = counts.get("unknown", 0) + unknown
        return Answers(**counts, waiting=len(self._open) - unknown, slowest_s=self._slowest_s)

    # What is asked ----------------------------------------------------------------------------------------------------

    def wonder(self, now_s: float) -> None:
        """Something happened at the till: now and then that makes somebody ask, one thing at a time."""
        if self._random.random() < self._share and not any(not one.unknown for one in self._asides()):
            service, args = self._random.choice((self._loyalty, self._stock, self._gift))()
            self._ask(service, args, now_s)

    def authorize(self, wanted: Authorize, now_s: float) -> None:
        """A guest pays by card, and waits."""
        args = {"payment_id": wanted.payment_id, "amount": wanted.amount, "card": wanted.card}
        self._card = self._ask("card.authorize", args, now_s)

    def _ask(self, service: str, args: Data, now_s: float) -> str:
        self._count("asked")
        question = Question(f"{self._run}-{self._counts['asked']}", service, args)
        self._open[question.id] = _Open(question, now_s, now_s)
        return question.id

    def _asides(self) -> list[_Open]:
        return [one for id, one in self._open.items() if id != self._card]

    def _loyalty(self) -> tuple[str, Data]:
        return "loyalty.balance", {"customer_id": f"member-{self._random.randrange(1, 5000)}"}

    def _stock(self) -> tuple[str, Data]:
        return "availability.lookup", {"product_id": self._random.choice(MENU).product_id}

    def _gift(self) -> tuple[str, Data]:
        """Something about the till's own gift card; while an outcome is unknown, its balance is too."""
        if any(one.question.service.startswith("gift_card.") for one in self._open.values()):
            return self._loyalty()
        card: Data = {"card_id": self._gift_card}
        if self._balance == 0:
            return "gift_card.sell", {**card, "amount": {"amount": GIFT_CARD, "currency": CURRENCY}}
        if self._random.random() < 0.3:
            return "gift_card.balance", card
        amount = min(self._balance, self._random.randrange(100, 2000))
        return "gift_card.redeem", {**card, "amount": {"amount": amount, "currency": CURRENCY}}

    # What goes out ----------------------------------------------------------------------------------------------------

    def due(self, now_s: float) -> list[Question]:
        """What is to be sent now, for the first time or again."""
        due = [one for one in self._open.values() if now_s >= one.due_s]
        for one in due:
            one.due_s = now_s + AGAIN_S if one.unknown else float("inf")
        return [one.question for one in due]

    def connected(self, now_s: float) -> None:
        """What was asked before may never have been heard."""
        for one in self._open.values():
            one.due_s = min(one.due_s, now_s)

    def lose_patience(self, now_s: float) -> None:
        """A guest waits for so long and no longer; nobody asks about that card again."""
        card = self._open.get(self._card or "")
        if card is not None and now_s - card.began_s > PATIENCE_S:
            self._count("unknown" if card.unknown else "given_up")
            self._decide(None)
            del self._open[card.question.id]

    # What comes back --------------------------------------------------------------------------------------------------

    def hear(self, reply: Reply, now_s: float) -> None:
        """One reply."""
        seen = (reply.status, reply.result, reply.reason)
        one = self._open.get(reply.id)
        if one is None:
            self._compare(reply.id, seen)
            return
        if not one.unknown:
            self._slowest_s = max(self._slowest_s, now_s - one.began_s)
        service = one.question.service
        if reply.reason == BUSY:
            one.due_s = now_s + AGAIN_S
        elif reply.reason == UNKNOWN and service in ("card.authorize", "gift_card.sell", "gift_card.redeem"):
            one.unknown, one.due_s = True, now_s + AGAIN_S
        else:
            del self._open[reply.id]
            self._end(one.question, reply)
            self._remember(reply.id, seen)

    def _end(self, question: Question, reply: Reply) -> None:
        words = {"ok": "ok", "declined": "declined", "requires_realtime": "refused"}
        unknown = "unknown" if reply.reason == UNKNOWN else "failed"
        self._count(words.get(reply.status, unknown))
        if question.id == self._card:
            code, offline = reply.result.get("authorization_code"), bool(reply.result.get("store_and_forward"))
            self._decide({"authorization_code": code, "offline": offline} if reply.status == "ok" else None)
        elif question.service.startswith("gift_card.") and reply.status in ("ok", "declined"):
            self._add_up(question, reply)

    def _decide(self, approved: Data | None) -> None:
        self._card = None
        self._decided.append(approved)

    def _add_up(self, question: Question, reply: Reply) -> None:
        """The gift card is this till's alone: what the cloud says of it must be what this till did with it."""
        if reply.reason == HELD:
            return
        if reply.status == "ok" and question.service != "gift_card.balance":
            sign = 1 if question.service == "gift_card.sell" else -1
            self._balance += sign * int(question.args["amount"]["amount"])
        if reply.result.get("balance") != {"amount": self._balance, "currency": CURRENCY}:
            self._count("wrong")

    def _remember(self, id: str, seen: tuple[str, Data, str | None]) -> None:
        if seen[0] in _FINAL:
            self._answered[id] = seen
            while len(self._answered) > ANSWERED_MAX:
                self._answered.popitem(last=False)

    def _compare(self, id: str, seen: tuple[str, Data, str | None]) -> None:
        """A repeat gets the same reply."""
        before = self._answered.get(id)
        if before is not None and seen != before and seen[2] not in (UNKNOWN, BUSY):
            self._count("wrong")

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1


def add(answers: list[Answers]) -> Answers:
    """Of several tills."""
    sums = Answers(*(sum(column) for column in zip(*answers, strict=True))) if answers else Answers()
    return sums._replace(slowest_s=max((one.slowest_s for one in answers), default=0.0))


def since(now: Answers, before: Answers) -> Answers:
    """What came to an end between two looks; what waits, and the longest wait, as of now."""
    early = before._asdict()
    changed = Answers(**{name: count - early[name] for name, count in now._asdict().items()})
    return changed._replace(waiting=now.waiting, unknown=max(0, changed.unknown), slowest_s=now.slowest_s)


def asked_words(answers: Answers) -> str:
    """How questions ended, in words; the kinds that did not occur are left out."""
    kinds = (
        (answers.ok, "answered"),
        (answers.refused, "refused for want of the cloud"),
        (answers.declined, "declined"),
        (answers.failed, "failed"),
        (answers.given_up, "given up by a guest"),
        (answers.unknown, "of unknown outcome"),
        (answers.waiting, "without an answer"),
        (answers.wrong, "answered wrongly"),
    )
    ended = ", ".join(f"{count:,} {word}" for count, word in kinds if count)
    return f"{answers.asked:,} questions asked" + (f": {ended}" if ended else "")
