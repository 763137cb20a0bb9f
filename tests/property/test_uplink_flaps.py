"""The uplink's state over random links: at rest it agrees with the truth, and people are not told of every flap."""

import random

import pytest

from agent.core import uplink as machine
from agent.core.diagnosis import CAUSES, Diagnosis
from agent.core.facts import Finding
from agent.core.uplink import ProbeOutcome, ProbeResult, Uplink

DEBOUNCE_S = 10.0
PROBE_S = 2.5
REST_S = 30.0
FAILURES: tuple[tuple[ProbeOutcome, Finding], ...] = (
    ("unreachable", "no_carrier"),
    ("unreachable", "gateway_silent"),
    ("unreachable", "blocked"),
    ("lookup_failed", "lookup_failed"),
    ("tls_failed", "captive_portal"),
    ("tls_not_now", "clock_wrong"),
    ("refused", "refused"),
    ("server_error", "server_error"),
)


class World:
    """A link that comes and goes, the probe and the look at all layers; `told` counts what people were shown."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.uplink: Uplink = machine.start(0.0)
        self.at_s = 0.0
        self.fault: tuple[ProbeOutcome, Finding] | None = None
        self.told: list[tuple[str, str, str]] = []

    def adopt(self, uplink: Uplink) -> None:
        before, self.uplink = self.uplink.shown, uplink
        after = uplink.shown
        if (after.state, after.cause, after.finding) != (before.state, before.cause, before.finding):
            self.told.append((after.state, after.cause, after.finding))

    def turn(self, examined: bool) -> None:
        """One probe, and where it failed perhaps one look at all layers; sometimes an upload goes through."""
        began_s, self.at_s = self.at_s, self.at_s + self.chance.uniform(0.5, 1.0) * PROBE_S
        if self.fault is None:
            if self.chance.random() < 0.3:
                self.adopt(machine.upload_succeeded(self.uplink, self.at_s, DEBOUNCE_S))
            self.adopt(machine.probed(self.uplink, ProbeResult("passed"), self.at_s - 0.1, self.at_s, DEBOUNCE_S))
            return
        outcome, finding = self.fault
        self.adopt(machine.probed(self.uplink, ProbeResult(outcome), began_s, self.at_s, DEBOUNCE_S))
        if examined:
            found = Diagnosis(CAUSES[finding], finding)
            self.adopt(machine.diagnosed(self.uplink, outcome, found, self.at_s, DEBOUNCE_S))
        self.adopt(machine.passed_time(self.uplink, self.at_s, DEBOUNCE_S))

    def rest(self) -> None:
        until_s = self.at_s + REST_S
        while self.at_s < until_s:
            self.turn(examined=True)

    @property
    def truth(self) -> tuple[str, str, str]:
        if self.fault is None:
            return "online", "none", ""
        return "offline", CAUSES[self.fault[1]], self.fault[1]


@pytest.mark.parametrize("seed", range(5))
def test_A1_6_after_a_thousand_flaps_the_state_agrees_with_the_truth_at_rest(seed: int) -> None:
    world = World(seed)
    for flap in range(200):
        world.fault = world.chance.choice(FAILURES) if world.chance.random() < 0.6 else None
        for _ in range(world.chance.randrange(1, 6)):
            world.turn(examined=world.chance.random() < 0.7)
        if flap % 10 == 9:
            world.rest()
            shown = world.uplink.shown
            assert (shown.state, shown.cause, shown.finding) == world.truth


def test_A1_11_a_link_that_flaps_faster_than_people_read_is_never_shown() -> None:
    world = World(7)
    world.turn(examined=True)
    told_before = len(world.told)
    for _ in range(1_000):
        world.fault = world.chance.choice(FAILURES)
        world.turn(examined=True)
        world.fault = None
        world.turn(examined=True)
    assert len(world.told) == told_before


def test_A1_11_an_offline_whose_faults_take_turns_changes_its_words_only_when_all_layers_were_looked_at() -> None:
    world = World(9)
    world.fault = FAILURES[0]
    world.rest()
    told_before = len(world.told)
    for number in range(300):
        world.fault = FAILURES[number % 2 * 3]
        world.turn(examined=False)
    assert len(world.told) == told_before
