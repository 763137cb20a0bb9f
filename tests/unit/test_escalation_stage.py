"""The stage that tells of a sync that does not come about: its words, its letters over a kill, and what holds it up."""

from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from agent.alerts.escalation import STALLED, Escalation, Terms
from agent.core.conditions import Words
from agent.core.errors import Rejected, Transient
from agent.core.escalation import Now
from agent.core.facts import DiskFacts, DrainFacts, JournalFacts, UplinkFacts
from agent.core.letters import Letter
from tests.unit.test_status import JOURNAL
from tests.unit.test_uplink_in_time import IDLE

HOUR_S = 3_600.0
TERMS = Terms(
    "demo",
    "demo-1",
    "Demo Bar",
    "1",
    "support@vendor.example",
    "",
    "",
    900.0,
    (24.0, 48.0, 72.0),
    zone=ZoneInfo("Europe/London"),
)


class World:
    """A box by a fake clock: what it knows, what its disk keeps, what was queued and what people are told."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.uploaded_count = 0
        self.done, self.end = 0, 0
        self.disk_kept: dict[str, Any] = {}
        self.queued: list[Letter] = []
        self.refuses: Rejected | None = None
        self.kept_fails = False
        self.told: dict[str, Words] = {}

    def journal(self) -> JournalFacts:
        return JOURNAL

    def drain(self) -> DrainFacts:
        return msgspec.structs.replace(IDLE, uploaded_count=self.uploaded_count, exchanges_count=self.uploaded_count)

    def uplink(self) -> UplinkFacts:
        return UplinkFacts("offline", "link", "")

    def disk(self) -> DiskFacts:
        return DiskFacts()

    def cursor(self) -> int:
        return self.done

    def last(self) -> int:
        return self.end

    def boottime_s(self) -> float:
        return self.at_s

    def now(self) -> Now:
        return Now(self.at_s, int(self.at_s * 1000), True)

    async def read(self, name: str) -> Any:
        return self.disk_kept.get(name)

    async def write(self, name: str, value: Any) -> None:
        if self.kept_fails:
            raise Transient("disk", "It cannot be written.")
        self.disk_kept[name] = value

    async def queue(self, letter: Letter) -> bool:
        if self.refuses is not None:
            raise self.refuses
        self.queued.append(letter)
        return True

    def hold(self, id: str, *words: Any) -> None:
        self.told[id] = Words(*words)

    happened = hold

    def lift(self, id: str) -> None:
        self.told.pop(id, None)

    def stands(self, id: str) -> bool:
        return id in self.told


def begun(world: World, terms: Terms = TERMS) -> Escalation:
    """A start of the box."""
    return Escalation(world, world, world, world, lambda: terms)


async def run(stage: Escalation, world: World, seconds: int, moves: int = 0) -> None:
    """So many seconds of good uplink; the cloud takes `moves` records in each."""
    for _ in range(seconds):
        world.at_s += 1
        taken = min(moves, world.end - world.done)
        world.done += taken
        world.uploaded_count += taken
        stage.probed(True, world.at_s)
        await stage._look()


async def test_A5_1_A5_4_a_long_time_without_sync_is_told_once_by_letter_also_over_a_kill() -> None:
    world = World()
    stage = begun(world)
    await stage._look()
    world.at_s, world.uploaded_count = 400.0, 1
    await stage._look()
    world.end = 9
    world.at_s += 25 * HOUR_S
    await stage._look()
    killed = begun(world)
    world.at_s += 5
    await killed._look()
    assert len(world.queued) == 2
    assert len({letter.key for letter in world.queued}) == 1, "the outbox takes the second for the same"


async def test_a_letter_that_the_outbox_will_never_take_is_told_and_keeps_nothing_back() -> None:
    world = World()
    world.refuses = Rejected("letters_many", "1000 letters wait already.", "Look at [alerts.smtp].")
    stage = begun(world)
    await stage._look()
    world.end, world.at_s = 9, 25 * HOUR_S
    await stage._look()
    (told,) = [words for id, words in world.told.items() if id.startswith("letter_not_sent:")]
    assert "1000 letters wait already." in told.text
    world.refuses = None
    world.at_s = 49 * HOUR_S
    await stage._look()
    assert [letter.key.split(":")[2] for letter in world.queued] == ["2"], "the next one goes"


async def test_what_cannot_be_written_down_now_is_queued_later_and_not_lost() -> None:
    world = World()
    stage = begun(world)
    await stage._look()
    world.end, world.at_s, world.uploaded_count = 9, 700.0, 1
    world.kept_fails = True
    with pytest.raises(Transient):
        await stage._look()
    world.at_s += 25 * HOUR_S
    with pytest.raises(Transient):
        await stage._look()
    assert world.queued == []
    world.kept_fails = False
    await stage._look()
    assert len(world.queued) == 1


async def test_A2_8_a_backlog_that_shrinks_too_slowly_is_never_called_stuck() -> None:
    world = World()
    world.end = 10_000
    stage = begun(world)
    await run(stage, world, 1_000, moves=2)
    told = world.told[STALLED]
    assert (told.severity, told.title) == ("warning", "Sales reach the cloud slowly")
    assert "the backlog shrinks" in told.text
    assert "since 01:00. Of 9,998 records that waited then, 1,800 have arrived, and 8,198 records still" in told.text
    (letter,) = world.queued
    assert letter.subject == "Sync slow: Demo Bar (demo-1)"
    assert "do not reach" not in letter.text
    assert '"kind": "sync_stalled"' in letter.text, "the packet stays the contract's"
    assert '"moving": true' in letter.text


async def test_A2_8_a_backlog_of_which_nothing_more_arrives_is_told_as_such() -> None:
    world = World()
    world.end = 10_000
    stage = begun(world)
    await run(stage, world, 300, moves=2)
    await run(stage, world, 610)
    told = world.told[STALLED]
    assert (told.severity, told.title) == ("critical", "Sales do not reach the cloud")
    assert "none for 10 minutes" in told.text
    (letter,) = world.queued
    assert letter.subject == "Sync stalled: Demo Bar (demo-1)"


async def test_A2_8_once_the_backlog_has_arrived_nobody_reads_any_more_that_it_has_not() -> None:
    world = World()
    world.end = 10
    stage = begun(world)
    await run(stage, world, 910)
    assert world.told[STALLED].title == "Sales do not reach the cloud"
    stage = begun(world)
    await run(stage, world, 5)
    assert world.told[STALLED].title == "Sales do not reach the cloud", "over a restart"
    await run(stage, world, 10, moves=5)
    assert world.told[STALLED].severity == "info"
    assert "is in the cloud since" in world.told[STALLED].text
    assert world.disk_kept[STALLED] is None


async def test_what_a_person_has_ended_is_not_told_again_when_the_backlog_has_arrived() -> None:
    world = World()
    world.end = 10
    stage = begun(world)
    await run(stage, world, 910)
    del world.told[STALLED]
    await run(stage, world, 10, moves=5)
    assert STALLED not in world.told


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (TERMS, "Support is being told by itself."),
        (TERMS._replace(support_email="", webhook_url="https://x.example/"), "Support is being told by itself."),
        (TERMS._replace(support_email=""), "no support address is set in [alerts]"),
        (TERMS._replace(support_email="", unmailed="support@vendor.example"), "no mail server is set in [alerts.smtp]"),
    ],
)
async def test_A2_9_people_are_told_whether_support_is_told(terms: Terms, words: str) -> None:
    world = World()
    world.end = 10
    await run(begun(world, terms), world, 910)
    assert words in world.told[STALLED].hint
    assert ("no support address" in world.told[STALLED].hint) == (words.startswith("no support"))
