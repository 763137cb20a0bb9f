"""[uplink] What a dead line costs the till that sells: intake with the uplink up and down, in turns on one agent.

Each round begins with the fault: that the box notices it, looks for its cause and keeps trying is part of the span.
Coming up, it is given the time to send what waited, so that a round that is up uploads what it takes and no more.
"""

import shutil
import statistics
import time
from typing import Final

from agent.bench import machine
from agent.bench.facts import Round, Uplink
from agent.bench.load import Load
from agent.bench.plan import DEVICES, Plan
from agent.bench.programs import BenchFailed, Box
from agent.bench.ways import STATES, State, Way

RATE_PER_S: Final = 1_000.0
WINDOW: Final = 8
LOADS: Final = (RATE_PER_S, None)
"""Events a second by the clock, well below what the path can take; None: each device keeps `WINDOW` in flight."""
LOOK_INTERVAL_S: Final = 0.2
BACK_MAX_S: Final = 120.0
"""How long the box may take until it has found the cloud again and sent what waited."""


def measure(plan: Plan, rate_per_s: float | None) -> Uplink:
    """Rounds of all states of the way, each round in another order."""
    name = "uplink-paced" if rate_per_s else "uplink-pressed"
    rounds: list[Round] = []
    with Way(plan.work / name) as way, Box(plan.work / name, way.url) as box:
        box.start()
        for number in range(plan.rounds):
            for state in turned(number):
                plan.say(f"uplink: {state}, {_words(rate_per_s)}, round {number + 1} of {plan.rounds}")
                way.turn("up")
                _until_back(box)
                way.turn(state)
                rounds.append(_round(plan, way, box, rate_per_s))
    shutil.rmtree(plan.work / name)
    p99_ms = medians(rounds)
    ratio = max(p99 for state, p99 in p99_ms.items() if state != "up") / p99_ms["up"]
    return Uplink(DEVICES, WINDOW, rate_per_s, tuple(rounds), p99_ms, ratio)


def turned(number: int) -> tuple[State, ...]:
    """The states in the order of one round: another begins each time."""
    at = number % len(STATES)
    return STATES[at:] + STATES[:at]


def medians(rounds: list[Round]) -> dict[str, float]:
    """The median of the rounds' p99s, for each state that was measured."""
    found = {state: [one.p99_ms for one in rounds if one.way == state] for state in STATES}
    return {state: statistics.median(values) for state, values in found.items() if values}


def _round(plan: Plan, way: Way, box: Box, rate_per_s: float | None) -> Round:
    job = plan.paced(box.port, rate_per_s) if rate_per_s else plan.pressed(box.port, DEVICES, WINDOW)
    with Load(job, box) as load:
        load.begun()
        others_s, before, cursor = way.cpu_s + box.broker_cpu_s(), box.mark(), _cursor(box)
        load.ended()
        others_s, after = way.cpu_s + box.broker_cpu_s() - others_s, box.mark()
        drained = _cursor(box) - cursor
        seen = load.outcome()
    own_s = others_s + after.cpu_s - before.cpu_s + seen.cpu_s
    return Round(
        way=way.state,
        events_per_s=seen.acked / seen.seconds,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        drained_per_s=drained / (after.at_s - before.at_s),
        noise=machine.noise(before.host, after.host, own_s),
    )


def _until_back(box: Box) -> None:
    """The box is online and has sent everything."""
    until_s = time.monotonic() + BACK_MAX_S
    while True:
        seen = box.status()
        if seen.status.state == "online" and seen.status.sync.pending == 0:
            return
        if time.monotonic() > until_s:
            text = f"The box is {seen.status.state} with {seen.status.sync.pending:,} records waiting."
            raise BenchFailed("not_back", text, "Look into the agent's log.")
        time.sleep(LOOK_INTERVAL_S)


def _cursor(box: Box) -> int:
    return int(box.status().details.journal.cursor)


def _words(rate_per_s: float | None) -> str:
    return f"{rate_per_s:,.0f} events/s" if rate_per_s else f"{DEVICES} x {WINDOW} in flight"
