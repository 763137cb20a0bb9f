"""commands, answers, page → [life of an order] → records, offers, letters. What each of them does to an order.

Pure: instants are arguments. A step answers with the facts that one thing adds, with refusals, and with what a person
must see; the facts must be durable before anybody is told.

    received → offered → accepted → ready → provided
        ├ problem, undeliverable   final: never offered, but it can be made by hand, and provided
        ├ cancelled                the cloud took it back before anybody accepted it
        └ rejected                 a refund is requested: once, only because a person at a till or the page says so

It never rejects by itself. The guard stands before every refund request: what was provided or is ready, and what may
have been made from a letter, is refunded only if a second person agrees and a reason is given. A refund cannot be
reversed, and one that was not made can still be made: so of what devices said, rejects are heard last (`heard`), and
whoever acts for a person hears first, in the same transaction, what devices have stored.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from agent.core import cards
from agent.core.instants import to_text
from agent.core.order_facts import AGENT, RECORDED, Fact, Letter, Order, Placed, answer_key, fold, record

ACTOR_CHARS_MAX: Final = 100
REASON_CHARS_MAX: Final = 500
Said = Literal["accepted", "ready", "provided", "rejected"]
Code = Literal[
    "unknown_order",
    "already_provided",
    "already_ready",
    "made_by_hand",
    "refund_requested",
    "already_refunded",
    "order_cancelled",
    "second_actor_needed",
]
WORDS: Final[dict[Code, str]] = {
    "unknown_order": "This box does not know the order. Wait until it comes, or call support.",
    "already_provided": "The guest has had this order. Rejecting it would refund it, and a refund cannot be reversed.",
    "already_ready": "This order is ready. Rejecting it would refund it, and a refund cannot be reversed.",
    "made_by_hand": "This order may have been made by hand. Ask who took it before it is refunded.",
    "refund_requested": "A refund of this order is requested already. Do not make it.",
    "already_refunded": "The platform has refunded this order already.",
    "order_cancelled": "This order was cancelled. Do not make it.",
    "second_actor_needed": "To refund it all the same, a second person must agree and a reason must be given.",
}


class Answer(msgspec.Struct, frozen=True):
    """A device's `pos.order.*` event that is in the journal."""

    device: str
    event: str
    said: Said


class Override(msgspec.Struct, frozen=True):
    """A second person, who agrees to refund what was provided, and why."""

    second_actor: str
    reason: str


class Refusal(msgspec.Struct, frozen=True):
    """Why something was not done: a stable code, and a sentence for people."""

    code: Code
    text: str


class Attention(msgspec.Struct, frozen=True):
    """What a person must see to."""

    id: str
    title: str
    text: str
    hint: str


class Step(msgspec.Struct, frozen=True):
    """What one thing did. `order` is the order with `facts` in it; these must be durable before anybody is told.

    `tell`: the order is to be offered again with its true state, to whom `order_offers.offer` says.
    """

    order: Order
    facts: tuple[Fact, ...] = ()
    tell: bool = False
    refusals: tuple[Refusal, ...] = ()
    attentions: tuple[Attention, ...] = ()

    @property
    def records(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """The records that go up: type and data."""
        return tuple(record(fact) for fact in self.facts if fact.kind in RECORDED)


def placed(order: Order, told: Placed, at_ms: int) -> Step:
    """The cloud told the order. Told again it changes nothing, but that it may complete what was incomplete."""
    facts = []
    if order.placed is None or (order.placed.incomplete and not told.incomplete):
        facts.append(Fact("placed", order.order_id, AGENT, to_text(at_ms), placed=told))
    step = _step(order, facts, tell=bool(facts))
    incomplete = step.order.placed is not None and bool(step.order.placed.incomplete)
    return _awaiting(step, "incomplete: " + "; ".join(told.incomplete), at_ms) if incomplete else step


def offered(order: Order, device: str, late: bool, age_s: int, at_ms: int) -> Step:
    """An offer goes out to a device; that it is late is told once. `late`, `age_s`: as in the offer."""
    facts = []
    if device not in order.offered:
        facts.append(Fact("offered", order.order_id, device, to_text(at_ms)))
    if late and order.late is None and not order.closed:
        facts.append(Fact("late", order.order_id, AGENT, to_text(at_ms), age_s=age_s))
    return _step(order, facts)


def unanswered(order: Order, at_ms: int) -> Step:
    """Its time to respond is over."""
    return _awaiting(Step(order), "no_answer", at_ms)


def alerted(order: Order, letter: Letter, at_ms: int) -> Step:
    """A letter about it was sent."""
    if any(alert.letter == letter for alert in order.alerts):
        return Step(order)
    return _step(order, [Fact("alerted", order.order_id, AGENT, to_text(at_ms), letter=letter)], tell=True)


def unfit(order: Order, kind: Literal["problem", "undeliverable"], reason: str, at_ms: int) -> Step:
    """No device can show it, now and ever; nothing where a device has it already, or where it is over."""
    if order.offered or order.taken or order.closed or order.by_hand:
        return Step(order)
    return _step(order, [Fact(kind, order.order_id, AGENT, to_text(at_ms), reason=_plain(reason, REASON_CHARS_MAX))])


def cancelled(order: Order, reason: str, at_ms: int) -> Step:
    """The cloud takes it back. Whoever may be making it must be told by a person."""
    if order.rejected is not None or order.refunded is not None:
        return Step(order)
    return _given_back(order, "cancel_asked", "cancelled", reason, at_ms)


def refunded(order: Order, reason: str, at_ms: int) -> Step:
    """The platform has given the money back."""
    return _given_back(order, "refunded", "refunded", reason, at_ms)


def heard(order: Order, answers: Iterable[Answer], at_ms: int) -> Step:
    """All that devices have stored about it since it was last heard: what says that food was made before any reject."""
    whole = Step(order)
    for one in sorted(answers, key=lambda answer: answer.said == "rejected"):
        step = _answered(whole.order, one, at_ms)
        whole = Step(
            order=step.order,
            facts=whole.facts + step.facts,
            tell=whole.tell or step.tell,
            refusals=whole.refusals + step.refusals,
            attentions=whole.attentions + step.attentions,
        )
    return whole


def acted(order: Order, said: Said, person: str, at_ms: int, override: Override | None = None) -> Step:
    """A person at the page or the command line. What devices have stored is to be heard before."""
    actor = _plain(person, ACTOR_CHARS_MAX)
    if said == "rejected":
        return _rejected(order, actor, "", at_ms, override)
    if said != "provided" and order.state == "unknown":
        return Step(order, refusals=(refusal("unknown_order"),))
    return _said(order, said, actor, "", at_ms)


def guard(order: Order) -> Refusal | None:
    """The provided guard: why no single person and no device may request a refund; None where they may."""
    if order.provided is not None:
        return refusal("already_provided")
    if order.ready is not None:
        return refusal("already_ready")
    return refusal("made_by_hand") if order.by_hand else None


def refusal(code: Code) -> Refusal:
    """A refusal in its own words."""
    return Refusal(code, WORDS[code])


def _answered(order: Order, answer: Answer, at_ms: int) -> Step:
    if answer.said != "rejected":
        return _said(order, answer.said, answer.device, answer.event, at_ms)
    if answer_key(answer.device, answer.event) in order.refused:
        return Step(order)
    return _rejected(order, answer.device, answer.event, at_ms, None)


def _said(order: Order, said: Literal["accepted", "ready", "provided"], actor: str, event: str, at_ms: int) -> Step:
    """Somebody says how far it is. What was provided is noted whatever else holds: it is so."""
    if getattr(order, said) is not None:
        return Step(order)
    given_up = _given_up(order)
    if given_up is not None and said != "provided":
        attentions = (_attention(order, "answered_after", given_up.text),) if event else ()
        return Step(order, tell=bool(event), refusals=(given_up,), attentions=attentions)
    attentions = (_attention(order, "provided_after", given_up.text),) if given_up is not None else ()
    return _step(
        order, [Fact(said, order.order_id, actor, to_text(at_ms), event=event)], tell=True, attentions=attentions
    )


def _rejected(order: Order, actor: str, event: str, at_ms: int, override: Override | None) -> Step:
    """The one place where a refund is requested."""
    if order.rejected is not None:
        return Step(order, tell=bool(event))
    guarded = guard(order)
    agreed = _agreed(actor, override) if guarded is not None else None
    refused = _over(order) or (guarded if agreed is None else None)
    if refused is None and order.placed is None:
        refused = refusal("unknown_order")
    if refused is not None:
        if refused is guarded and override is not None:
            refused = refusal("second_actor_needed")
        return _reject_refused(order, refused, actor, event, at_ms)
    given = agreed or Override("", "")
    fact = Fact(
        "rejected",
        order.order_id,
        actor,
        to_text(at_ms),
        reason=given.reason,
        second_actor=given.second_actor,
        event=event,
    )
    return _step(order, [fact], tell=True)


def _reject_refused(order: Order, refused: Refusal, actor: str, event: str, at_ms: int) -> Step:
    """Every attempt is noted; a device's own has to be seen by a person, because that device shows something else."""
    fact = Fact("reject_refused", order.order_id, actor, to_text(at_ms), code=refused.code, event=event)
    attentions = (_attention(order, "reject_refused", refused.text, actor),) if event else ()
    return _step(order, [fact], tell=True, refusals=(refused,), attentions=attentions)


def _agreed(actor: str, override: Override | None) -> Override | None:
    """The override in plain words, if another person than the first agrees and says why."""
    if override is None:
        return None
    second = _plain(override.second_actor, ACTOR_CHARS_MAX)
    reason = _plain(override.reason, REASON_CHARS_MAX)
    other = second.casefold() != actor.casefold()
    return Override(second, reason) if actor and second and reason and other else None


def _over(order: Order) -> Refusal | None:
    """Why no refund needs to be requested any more."""
    if order.refunded is not None:
        return refusal("already_refunded")
    return refusal("order_cancelled") if order.cancelled is not None else None


def _given_up(order: Order) -> Refusal | None:
    """Why nobody should make it any more."""
    if order.rejected is not None:
        return refusal("refund_requested")
    if order.cancelled is not None:
        return refusal("order_cancelled")
    return refusal("already_refunded") if order.refunded is not None and not order.touched else None


def _awaiting(step: Step, reason: str, at_ms: int) -> Step:
    """And it waits for somebody, if nobody has it in hand."""
    order = step.order
    if order.touched or order.closed or order.by_hand or order.awaiting_venue is not None:
        return step
    fact = Fact("awaiting_venue", order.order_id, AGENT, to_text(at_ms), reason=_plain(reason, REASON_CHARS_MAX))
    return _step(order, [*step.facts, fact], tell=step.tell)


def _given_back(
    order: Order,
    kind: Literal["cancel_asked", "refunded"],
    how: Literal["cancelled", "refunded"],
    reason: str,
    at_ms: int,
) -> Step:
    """The cloud's word, and where nobody has accepted it yet, that it is over here; said again it completes that."""
    reason = _plain(reason, REASON_CHARS_MAX)
    facts = []
    if getattr(order, kind) is None:
        facts.append(Fact(kind, order.order_id, AGENT, to_text(at_ms), reason=reason))
    if not order.touched and order.rejected is None and order.cancelled is None:
        facts.append(Fact("cancelled", order.order_id, AGENT, to_text(at_ms), reason=reason))
    asked = order.rejected is not None and order.provided is None
    may_be_made = not asked and (order.touched or order.by_hand or order.alerts)
    text = f"It is {order.state} here, and may be in the making or provided already."
    return _step(order, facts, tell=bool(facts), attentions=(_attention(order, how, text),) if may_be_made else ())


_TITLES: Final = {
    "reject_refused": (
        "A reject was refused",
        "Nothing was refunded. If the guest has not had it, decide on the page.",
    ),
    "answered_after": ("An order was taken after it was given up", "Tell the kitchen not to make it."),
    "provided_after": ("An order was provided after it was given up", "Call the platform: the guest may be refunded."),
    "cancelled": ("An order was cancelled that may be in the making", "Tell the kitchen, and decide with the guest."),
    "refunded": (
        "An order was refunded that may be in the making",
        "Tell the kitchen; if it was provided, call support.",
    ),
}


def _attention(order: Order, what: str, text: str, actor: str = "") -> Attention:
    title, hint = _TITLES[what]
    who = f" ({actor})" if actor else ""
    return Attention(f"order_{what}:{order.order_id}", title, f"Order {order.order_id}{who}: {text}", hint)


def _step(
    order: Order,
    facts: Iterable[Fact],
    *,
    tell: bool = False,
    refusals: tuple[Refusal, ...] = (),
    attentions: tuple[Attention, ...] = (),
) -> Step:
    added = tuple(facts)
    for fact in added:
        order = fold(order, fact)
    return Step(order, added, tell, refusals, attentions)


def _plain(text: str, chars_max: int) -> str:
    """What people wrote, bounded, and without the digits of a card where one stands in it."""
    short = text.strip()[:chars_max]
    return short if cards.text_clean(short) else cards.masked(short.encode()).decode()
