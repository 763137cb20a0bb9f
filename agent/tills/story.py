"""[story] The whole point in under a minute: sell, lose the cloud, lose the box, get both back, and count.

Narrates each step, and judges at the end by the tills' own files and the cloud's export alone.
"""

import time
from typing import Final, NamedTuple

import msgspec

from agent.tills import audit
from agent.tills.checker import Verdict, check
from agent.tills.floor import Totals, is_settled, wait
from agent.tills.questions import Answers, asked_words, since
from agent.tills.venue import Venue
from agent.tills.voice import Voice

ONLINE_S: Final = 6.0
AWAY_S: Final = 11.0
AFTER_KILL_S: Final = 6.0
BACK_S: Final = 3.0
"""How long the tills sell in each part, in seconds."""
RECONNECT_MAX_S: Final = 15.0
"""How long the tills may take until they are told again after the box died."""
DRAIN_MAX_S: Final = 40.0
"""How long the box may take until everything is in the cloud."""


class Part(NamedTuple):
    """What the tills were told in one part of the story, and how their questions ended in it."""

    name: str
    told: int
    answers: Answers


class Outcome(msgspec.Struct, frozen=True):
    """The story's end. `empty` names parts in which nothing was told: they would prove nothing."""

    verdict: Verdict
    drained: bool
    empty: tuple[str, ...]
    answers: Answers = Answers()

    @property
    def good(self) -> bool:
        """Everything told is in the cloud once, in order, byte for byte, every part had something to lose, and no
        question was left without an answer or had two."""
        told = self.verdict.clean and self.drained and not self.empty and self.verdict.told > 0
        return told and not self.answers.waiting and not self.answers.wrong


def tell(venue: Venue, voice: Voice) -> Outcome:
    """Live through it in a fresh venue, and judge."""
    return _Story(venue, voice).tell()


class _Story:
    def __init__(self, venue: Venue, voice: Voice) -> None:
        self._venue = venue
        self._voice = voice
        self._parts: list[Part] = []
        self._told = 0
        self._answers = Answers()

    def tell(self) -> Outcome:
        self._step("Three tills, one box, one cloud. The tills sell; everything goes up as it happens.")
        self._venue.start()
        self._sell("everything up", ONLINE_S)
        self._step("The cloud is stopped. Nobody at the tills notices: the box goes on saying 'stored'.")
        self._venue.cloud.stop()
        self._sell("cloud away", AWAY_S)
        self._step(f"The box says: {self._totals().status.sentence or self._totals().status.state}")
        self._step(f"Now the box is killed in the middle of it (SIGKILL to process {self._venue.agent.pid}).")
        self._venue.agent.kill()
        self._wait_for_box()
        self._sell("box killed, cloud still away", AFTER_KILL_S)
        self._step("The cloud comes back. The box finds it by itself and sends what waited, in order.")
        self._venue.start_cloud()
        self._sell("cloud back", BACK_S)
        drained = self._drain()
        return self._judge(drained)

    def _sell(self, name: str, seconds: float) -> None:
        wait(lambda: False, seconds, self._look)
        totals = self._totals()
        part = Part(name, totals.told - self._told, since(totals.answers, self._answers))
        self._parts.append(part)
        self._voice.say(f"   {name}: {part.told:,} events told; {asked_words(part.answers)}.")
        self._told, self._answers = totals.told, totals.answers

    def _wait_for_box(self) -> None:
        """The supervisor starts the box again; the tills come back by themselves and send what was not acknowledged."""
        died_at_s = time.monotonic()
        before = self._totals()
        back = wait(lambda: self._totals().connects > before.connects, RECONNECT_MAX_S, self._look)
        if not (back and wait(lambda: self._totals().told > before.told, RECONNECT_MAX_S, self._look)):
            self._step(f"No till was told anything for {RECONNECT_MAX_S:g} s after the box died.")
            return
        took_s = time.monotonic() - died_at_s
        self._step(
            f"Started again, and the tills are told again, {took_s:.1f} s later (process {self._venue.agent.pid})."
        )

    def _drain(self) -> bool:
        self._step("The tills close. The box finishes alone.")
        started_s = time.monotonic()
        self._venue.floor.settle(DRAIN_MAX_S, self._look)
        drained = wait(lambda: is_drained(self._totals()), DRAIN_MAX_S, self._look)
        took_s = time.monotonic() - started_s
        self._voice.say(
            f"   Everything was up after {took_s:.1f} s." if drained else f"   Not drained in {took_s:.0f} s."
        )
        return drained

    def _judge(self, drained: bool) -> Outcome:
        answers = self._totals().answers
        self._venue.floor.close()
        self._step("The tills' own files are compared with what the cloud exports, event by event.")
        verdict = check(audit.read_evidence(self._venue.tills), self._venue.export())
        empty = tuple(part.name for part in self._parts if part.told <= 0)
        return Outcome(verdict, drained, empty, answers)

    def _totals(self) -> Totals:
        return self._venue.look()

    def _look(self) -> None:
        self._voice.progress(self._totals())

    def _step(self, text: str) -> None:
        self._voice.say(text, "bold")


def is_drained(totals: Totals) -> bool:
    """Nothing waits at the tills, nothing on the box, and the receipts say that the cloud has every event."""
    return is_settled(totals) and totals.status.sync.pending == 0 and totals.in_cloud >= totals.made
