"""[desk] How soon a till hears that something cannot be asked of the cloud now: three dead lines, and a brown-out.

Each fault has a box of its own that was online before. The time until the box knows is told beside the figure, and how
many tills it made wait. Never asks for what the box could answer.
"""

import shutil
import time
from contextlib import ExitStack
from typing import Final

from agent.bench import machine
from agent.bench.asking import Answer, Asking, Question
from agent.bench.facts import LATE_MS, Asked
from agent.bench.figures import percentile
from agent.bench.generator import Broken
from agent.bench.load import Load
from agent.bench.plan import DEVICES, Plan
from agent.bench.programs import BenchFailed, Box
from agent.bench.ways import Counterless, State, Way

RATE_PER_S: Final = 100.0
SELLING_PER_S: Final = 200.0
FAULTS: Final[tuple[State, ...]] = ("refused", "dropped", "silent")
BROWN_OUT: Final = "brown-out"
"""Health, uploads and commands work; requests in real time are taken and never answered."""
FAST_IN_A_ROW: Final = 50
"""So many refusals in a row, none of them late: the box knows."""
KNOWN_MAX_S: Final = 60.0
"""How long it may take until the box knows."""
ONLINE_MAX_S: Final = 30.0
"""How long the box may take until it has found the cloud."""
LOOK_INTERVAL_S: Final = 0.2
_MONEY: Final = {"amount": 500, "currency": "GBP"}
QUESTIONS: Final = (
    Question("loyalty.balance", {"customer_id": "member-7"}),
    Question("gift_card.redeem", {"card_id": "gift-7", "amount": _MONEY}),
    Question("availability.lookup", {"product_id": "burger"}),
    Question("card.authorize", {"payment_id": "bench-payment", "amount": _MONEY, "card": {"token": "tok_bench"}}),
)
_REFUSED: Final = {
    ("requires_realtime", "uplink_down"),
    ("requires_realtime", "cloud_not_answering"),
    ("declined", "offline_refused"),
}
"""What an answer may be once the box knows, as status and reason."""


def measure(plan: Plan) -> tuple[Asked, ...]:
    """Every fault, without and with sales beside it."""
    found: list[Asked] = []
    for fault in (*FAULTS, BROWN_OUT):
        plan.say(f"desk: {fault}")
        found += _under(plan, fault)
    return tuple(found)


def _under(plan: Plan, fault: str) -> list[Asked]:
    directory = plan.work / f"desk-{fault}"
    with ExitStack() as stack:
        way = stack.enter_context(Way(directory))
        front = stack.enter_context(Counterless(way.port)) if fault == BROWN_OUT else None
        box = stack.enter_context(Box(directory, front.url if front else way.url))
        box.start()
        _until_online(box)
        try:
            tills = stack.enter_context(Asking(box.port, DEVICES, plan.level, directory.name))
            if front is not None:
                front.mute()
            else:
                way.turn(next(state for state in FAULTS if state == fault))
            known = _until_known(tills)
            found = [_span(plan, way, box, tills, fault, known, per_s) for per_s in (0.0, SELLING_PER_S)]
        except (Broken, OSError) as error:
            raise box.failure(f"broke the asking off: {error}") from error
    shutil.rmtree(directory)
    return found


def _until_known(tills: Asking) -> tuple[float, int]:
    """Ask until every answer comes at once: seconds until the last late one was there, and how many were late."""
    began_s = time.perf_counter()

    def is_known(answers: list[Answer], gone_s: float) -> bool:
        if gone_s > KNOWN_MAX_S:
            raise BenchFailed("never_known", f"Requests still wait after {gone_s:.0f} s.", "Look into the agent's log.")
        last = answers[-FAST_IN_A_ROW:]
        return tills.waiting == 0 and len(last) == FAST_IN_A_ROW and not any(map(_is_late, last))

    late = [one for one in tills.ask(QUESTIONS, RATE_PER_S, is_known) if _is_late(one)]
    return max((one.sent_s + one.took_s - began_s for one in late), default=0.0), len(late)


def _is_late(answer: Answer) -> bool:
    return answer.took_s * 1000 > LATE_MS


def _span(
    plan: Plan, way: Way, box: Box, tills: Asking, fault: str, known: tuple[float, int], selling_per_s: float
) -> Asked:
    """Refusals for one span, and nothing but refusals."""
    with ExitStack() as stack:
        load = None
        if selling_per_s:
            load = stack.enter_context(Load(plan.paced(box.port, selling_per_s), box))
            load.begun()
        used_s, before = _own_cpu_s(way, box), box.mark()
        answers = tills.ask(QUESTIONS, RATE_PER_S, lambda _, gone_s: gone_s >= plan.times.point_s)
        used_s, after = _own_cpu_s(way, box) - used_s, box.mark()
        if load is not None:
            load.ended()
            used_s += load.outcome().cpu_s
    for one in answers:
        if (one.reply["status"], one.reply["reason"]) not in _REFUSED:
            raise BenchFailed("not_refused", f"{one.service} was answered {one.reply}.", "Look into the agent's log.")
    took_ms = sorted(one.took_s * 1000 for one in answers)
    known_s, waited = known
    return Asked(
        fault=fault,
        selling_per_s=selling_per_s,
        rate_per_s=RATE_PER_S,
        known_s=known_s,
        waited=waited,
        requests=len(answers),
        p50_ms=percentile(took_ms, 0.50),
        p99_ms=percentile(took_ms, 0.99),
        max_ms=took_ms[-1],
        noise=machine.noise(before.host, after.host, used_s + after.cpu_s - before.cpu_s),
    )


def _own_cpu_s(way: Way, box: Box) -> float:
    """CPU time of what is measured beside the agent: this process asks."""
    return way.cpu_s + box.broker_cpu_s() + time.process_time()


def _until_online(box: Box) -> None:
    until_s = time.monotonic() + ONLINE_MAX_S
    while box.status().status.state != "online":
        if time.monotonic() > until_s:
            raise BenchFailed("not_online", "The box never came online.", "Look into the agent's log.")
        time.sleep(LOOK_INTERVAL_S)
