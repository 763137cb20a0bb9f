"""The totals of a business day equal a plain recomputation over all events, whatever order they came in."""

from collections import Counter
from datetime import UTC, time
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from agent.core.payments import Kind, PaymentFact
from agent.core.takings import TenderTotal, day_of, takings

DAYS = ("2026-11-21", "2026-11-22", "2026-11-23")
NOON_MS = 1_795_262_400_000
DAY_MS = 86_400_000


class Sale(NamedTuple):
    """A payment as the test makes it: what happened to it, in order, and on which day."""

    tender: str
    currency: str
    training: bool
    steps: tuple[tuple[Kind, int, int], ...]


KINDS: tuple[Kind, ...] = ("authorized", "captured", "refunded", "voided", "reversed")
steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 500), st.integers(0, len(DAYS) - 1)), min_size=1, max_size=5
).map(tuple)
sales = st.lists(
    st.builds(Sale, st.sampled_from(("card", "cash")), st.sampled_from(("GBP", "EUR")), st.booleans(), steps),
    max_size=8,
)


def facts_of(number: int, sale: Sale) -> list[PaymentFact]:
    return [
        PaymentFact(
            position=0,
            payment_id=f"pay-{number}",
            kind=kind,
            device=f"till-{at % 2}",
            event_id=f"{number}-{at}",
            epoch=None,
            sequence=None,
            check_id=None,
            amount=amount,
            currency=sale.currency,
            tender=sale.tender,
            card_token=None,
            last4=None,
            offline=False,
            training=sale.training,
            authorization_code=None,
            business_date=None,
            device_ms=NOON_MS + day * DAY_MS,
            recorded_ms=NOON_MS + len(DAYS) * DAY_MS,
            uptime_ms=0,
            boot=1,
        )
        for at, (kind, amount, day) in enumerate(sale.steps)
    ]


def dated(fact: PaymentFact) -> str:
    return day_of(fact, fact.recorded_ms, UTC, time(5))


def plainly(made: list[Sale]) -> dict[tuple[bool, str, str], Counter[str]]:
    """Over all days at once, as one would add it up by hand."""
    found: dict[tuple[bool, str, str], Counter[str]] = {}
    for sale in made:
        into = found.setdefault((sale.training, sale.tender, sale.currency), Counter())
        sums: Counter[str] = Counter()
        for kind, amount, _ in sale.steps:
            sums[kind] += amount
        undone = min(sums["voided"] + sums["reversed"], max(0, sums["captured"] - sums["refunded"]))
        into["captured"] += sums["captured"]
        into["refunded"] += sums["refunded"]
        into["undone"] += undone
        into["net"] += sums["captured"] - sums["refunded"] - undone
    return found


@given(sales, st.randoms(use_true_random=False), st.integers(1, 3))
def test_A3_4_totals_are_the_same_in_any_order_late_and_repeated(made: list[Sale], chance: object, copies: int) -> None:
    payments = [facts_of(number, sale) for number, sale in enumerate(made)]
    straight = [takings(payments, day, dated) for day in DAYS]
    mixed = [[fact._replace(position=at) for at in range(copies) for fact in facts] for facts in payments]
    for facts in [*mixed, mixed]:
        chance.shuffle(facts)  # type: ignore[attr-defined]
    assert [takings(mixed, day, dated) for day in DAYS] == straight

    summed: dict[tuple[bool, str, str], Counter[str]] = {}
    for found in straight:
        for training, totals in ((False, found.sales), (True, found.training)):
            for one in totals:
                assert one.net == one.captured - one.refunded - one.voided - one.reversed
                into = summed.setdefault((training, one.tender, one.currency), Counter())
                into["captured"] += one.captured
                into["refunded"] += one.refunded
                into["undone"] += one.voided + one.reversed
                into["net"] += one.net
    assert moved(summed) == moved(plainly(made))


def moved(found: dict[tuple[bool, str, str], Counter[str]]) -> set[tuple[tuple[bool, str, str], str, int]]:
    return {(key, what, amount) for key, sums in found.items() for what, amount in sums.items() if amount}


def total(totals: tuple[TenderTotal, ...]) -> int:
    return sum(one.net for one in totals)


def test_training_is_no_money_and_the_void_of_what_was_only_authorized_takes_nothing_away() -> None:
    made = [
        Sale("card", "GBP", False, (("authorized", 1250, 1), ("captured", 1250, 1))),
        Sale("card", "GBP", False, (("authorized", 900, 1), ("voided", 900, 1))),
        Sale("card", "GBP", True, (("captured", 700, 1),)),
    ]
    found = takings([facts_of(number, sale) for number, sale in enumerate(made)], DAYS[1], dated)
    assert (total(found.sales), total(found.training)) == (1250, 700)
    assert found.sales[0].voided_count == 1
