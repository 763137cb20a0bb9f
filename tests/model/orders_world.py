"""The venue around one order, as small as it can be told: two tills, the page, the cloud, the journal, and kills.

What a till says is first stored, then heard; what a step adds is durable at once, in part, or never. A kill leaves what
is durable: the records and the cloud's commands. Every move of everybody is possible at every time.
"""

from collections.abc import Iterator
from itertools import accumulate, product
from typing import Final, NamedTuple

from agent.core import order_offers, orders
from agent.core.order_facts import RECORDED, Fact, Order, Placed, answer_key, fold
from agent.core.orders import Answer, Override, Said, Step
from agent.core.placed import PlacedOrder, read

ID: Final = "A-1009"
AT_MS: Final = 1_795_342_500_000
TIMEOUT_S: Final = 120.0
AGE_S: Final = (5, 7_200)
"""An order's age before and after its time to respond."""
TILLS: Final = ("till-1", "till-2")
SAID: Final[tuple[Said, ...]] = ("accepted", "ready", "provided", "rejected")
STORED_MAX: Final = 2
"""So many answers are stored and not heard yet; a till that says more waits."""
FROM_COMMANDS: Final = frozenset({"placed", "cancel_asked", "refunded"})
ONCE: Final = RECORDED - {"reject_refused", "alerted"}

COMPLETE: Final = Placed(AT_MS)
INCOMPLETE: Final = Placed(AT_MS, incomplete=("2 lines were announced, 1 came",))
AGREED: Final = Override("Bea", "the guest sent it back")
CLICKS: Final[tuple[tuple[str, Said, Override | None], ...]] = (
    ("accept", "accepted", None),
    ("ready", "ready", None),
    ("provided", "provided", None),
    ("reject", "rejected", None),
    ("reject with a second person", "rejected", AGREED),
    ("reject with oneself", "rejected", Override(" ann ", "agreed")),
    ("reject without a reason", "rejected", Override("Bea", " ")),
)


def content() -> PlacedOrder:
    """What was ordered."""
    found = read(
        '{"order_id":"A-1009","placed_at":"2026-11-22T10:15:00.000Z","prepaid":true,"customer":{"name":"Kim"},"lines":'
        '[{"product_id":"p1","name":"Flat white","quantity":1,"unit_amount":{"amount":350,"currency":"GBP"}}],'
        '"line_count":1,"total":{"amount":350,"currency":"GBP"},"menu_version":"m1"}'
    )
    assert isinstance(found, PlacedOrder)
    return found


CONTENT: Final = content()


class Broken(AssertionError):
    """A promise that did not hold."""


class Way(NamedTuple):
    """Who takes part, and how the venue is joined together: what is not as here is wrong, and has to be found."""

    tills: tuple[str, ...] = TILLS
    clicks: tuple[str, ...] = tuple(name for name, _, _ in CLICKS)
    commands: tuple[str, ...] = ("places", "places incomplete", "cancels", "refunds")
    others: tuple[str, ...] = ("problem", "undeliverable", "letter")
    hear_before_acting: bool = True
    hear_together: bool = True


ALL: Final = Way()


class World(NamedTuple):
    """`known` is what the running box knows, `kept` what a kill leaves; `stored` is durable and not heard yet.

    Each answer is an event of its own, `said_count` numbers them; a kill may make the box hear the same one again.
    `log` are the facts that made `kept`.
    """

    known: Order
    kept: Order
    stored: tuple[Answer, ...] = ()
    late: bool = False
    said_count: int = 0
    log: tuple[Fact, ...] = ()


Move = tuple[str, World]
Key = tuple[object, ...]
Seen = dict[Key, tuple[Key | None, str]]

START: Final = World(Order(ID), Order(ID))


def moves(world: World, way: Way = ALL) -> Iterator[Move]:
    """Every move that is possible, by name, and the world after it. Raises Broken where a promise does not hold."""
    for name, step in (*_commands(world.known, way), *_own(world, way)):
        yield from _durable(name, world, step, by_person=False)
    yield from _heard(world, way)
    yield from _clicked(world, way)
    if not world.late:
        yield "time passes", world._replace(late=True)
    if len(world.stored) < STORED_MAX:
        for till, said in product(way.tills, SAID):
            answer = Answer(till, str(world.said_count), said)
            yield (
                f"{till} says {said}",
                world._replace(stored=(*world.stored, answer), said_count=world.said_count + 1),
            )
    if world.known != world.kept:
        yield "kill", world._replace(known=world.kept)


def _commands(known: Order, way: Way) -> Iterator[tuple[str, Step]]:
    """What the cloud may say; each of it at any time, and again."""
    if "places" in way.commands:
        yield "cloud places it", orders.placed(known, COMPLETE, AT_MS)
    if "places incomplete" in way.commands:
        yield "cloud places it incomplete", orders.placed(known, INCOMPLETE, AT_MS)
    if "cancels" in way.commands:
        yield "cloud cancels it", orders.cancelled(known, "guest", AT_MS)
    if "refunds" in way.commands:
        yield "cloud refunds it", orders.refunded(known, "platform", AT_MS)


def _own(world: World, way: Way) -> Iterator[tuple[str, Step]]:
    """What the box does by itself."""
    known = world.known
    if known.placed is not None and "problem" in way.others:
        yield "menus do not know it", orders.unfit(known, "problem", "product p1 is gone", AT_MS)
    if "undeliverable" in way.others:
        yield "it can go nowhere", orders.unfit(known, "undeliverable", "platform", AT_MS)
    if order_offers.due(known, AGE_S[world.late], TIMEOUT_S):
        yield "time runs out", orders.unanswered(known, AT_MS)
    wanted = order_offers.letter(known)
    if wanted is not None and "letter" in way.others:
        yield "letter", orders.alerted(known, wanted, AT_MS)
    for till in way.tills:
        yield from ((f"offer to {till}", step) for step in _offer(world, till))


def _offer(world: World, till: str) -> Iterator[Step]:
    known = world.known
    made = order_offers.offer(known, CONTENT, till, AGE_S[world.late], TIMEOUT_S)
    if made is None:
        return
    if world.kept.by_hand:
        raise Broken("an order that no device can show was offered")
    if made.state == "offered" and (known.touched or known.closed):
        raise Broken("an order that was answered was offered as new")
    if made.provided != (known.provided is not None):
        raise Broken("an offer hides what was provided")
    if not made.late and not known.taken and (world.late or known.alerts or known.late):
        raise Broken("a late order was offered as fresh")
    if made.late and made.state == "offered" and made.ask == "none":
        raise Broken("a late order was offered without asking")
    yield orders.offered(known, till, made.late, made.age_s, AT_MS)


def _heard(world: World, way: Way) -> Iterator[Move]:
    if not world.stored:
        return
    if way.hear_together:
        step, rest = orders.heard(world.known, world.stored, AT_MS), ()
    else:
        step, rest = orders.heard(world.known, world.stored[:1], AT_MS), world.stored[1:]
    yield from _durable("box hears", world, step, by_person=True, stored=rest)


def _clicked(world: World, way: Way) -> Iterator[Move]:
    before = orders.heard(world.known, world.stored if way.hear_before_acting else (), AT_MS)
    stored = () if way.hear_before_acting else world.stored
    for name, said, override in CLICKS:
        if name in way.clicks:
            acted = orders.acted(before.order, said, "Ann", AT_MS, override)
            step = Step(acted.order, before.facts + acted.facts)
            yield from _durable(f"page: {name}", world, step, by_person=True, stored=stored)


def _durable(
    name: str, world: World, step: Step, *, by_person: bool, stored: tuple[Answer, ...] | None = None
) -> Iterator[Move]:
    """The step done; then killed in it with only the first of its facts durable: the stored is heard again."""
    stored = world.stored if stored is None else stored
    if not step.facts and stored == world.stored:
        return
    judge(world, step, by_person)
    facts = tuple(fact for fact in step.facts if durable(fact))
    kept = list(accumulate(facts, fold, initial=world.kept))
    yield name, world._replace(known=step.order, kept=kept[-1], stored=stored, log=world.log + facts)
    for count, part in enumerate(kept[1:], 1):
        killed = world._replace(known=part, kept=part, log=world.log + facts[:count])
        yield f"{name}, killed after {count}", killed


def durable(fact: Fact) -> bool:
    """Whether a kill leaves it: a record, or what a command says."""
    return fact.kind in RECORDED or fact.kind in FROM_COMMANDS


def judge(world: World, step: Step, by_person: bool) -> None:
    """The promises about what one step adds, held against all that is durable."""
    made = made_already(world)
    kept = world.kept
    for fact in step.facts:
        if fact.kind in ONCE and getattr(kept, fact.kind) is not None:
            raise Broken(f"{fact.kind} was recorded twice")
        if fact.kind != "rejected":
            continue
        if not by_person:
            raise Broken("the box rejected by itself")
        if kept.cancelled is not None or kept.refunded is not None:
            raise Broken("a refund was requested that the cloud has made")
        second = fact.second_actor.casefold() not in ("", fact.actor.casefold()) and fact.reason
        if made and not second:
            raise Broken("a refund was requested of what was provided or ready")


def made_already(world: World) -> bool:
    """Whether anything durable says that the food was made: heard or not."""
    kept = world.kept
    return (
        kept.provided is not None
        or kept.ready is not None
        or any(answer.said in ("ready", "provided") for answer in world.stored)
    )


def marks(order: Order) -> tuple[object, ...]:
    """An order without what decides nothing: who exactly, when, and in which words; and without what is of one till."""
    placed = order.placed
    return (
        order.accepted and order.accepted.device,
        order.ready and order.ready.device,
        order.provided and order.provided.device,
        order.awaiting_venue is None,
        order.rejected is None,
        order.problem is None,
        order.undeliverable is None,
        order.cancelled is None,
        order.late is None,
        order.cancel_asked is None,
        order.refunded is None,
        placed and placed.incomplete,
        len(order.alerts) == 1 and order.alerts[0].letter,
        len(order.alerts),
    )


def key(world: World) -> Key:
    """What makes two worlds the same. The tills are alike, so it is one world whichever of them did what; and `heard`
    takes what is stored together, so that its order decides nothing. Of refused answers those matter that may be
    heard again."""
    known, kept, stored = world.known, world.kept, world.stored
    one, other = (
        (
            till in known.offered,
            till in kept.offered,
            *sorted(_said(world, one) for one in stored if one.device == till),
        )
        for till in TILLS
    )
    own = marks(known)
    return own, own if known is kept else marks(kept), (one, other) if one < other else (other, one), world.late


def _said(world: World, answer: Answer) -> tuple[str, bool, bool]:
    name = answer_key(answer.device, answer.event)
    return answer.said, name in world.known.refused, name in world.kept.refused


class Explored(NamedTuple):
    """How far a search came; `broken` is the shortest way to a broken promise, None where there is none."""

    states_count: int
    moves_count: int
    depth: int
    whole: bool
    broken: tuple[str, ...] | None
    promise: str = ""


def explore(depth: int, way: Way = ALL) -> Explored:
    """Breadth first over every interleaving of `depth` moves, each world once."""
    seen: Seen = {key(START): (None, "")}
    frontier, moves_count = [START], 0
    for level in range(depth):
        following: list[World] = []
        for world in frontier:
            own = key(world)
            try:
                for name, after in moves(world, way):
                    moves_count += 1
                    found = key(after)
                    if found not in seen:
                        seen[found] = (own, name)
                        following.append(after)
            except Broken as broken:
                return Explored(len(seen), moves_count, level + 1, False, _way_to(seen, own), str(broken))
        if not following:
            return Explored(len(seen), moves_count, level, True, None)
        frontier = following
    return Explored(len(seen), moves_count, depth, False, None)


def _way_to(seen: Seen, end: Key) -> tuple[str, ...]:
    names: list[str] = []
    at: Key | None = end
    while at is not None:
        at, name = seen[at]
        names.append(name)
    return tuple(reversed([name for name in names if name]))
