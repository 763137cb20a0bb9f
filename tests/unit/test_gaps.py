"""Asking after holes: when, how often, with which words, and when a loss is named. Time and journal are the test's."""

import json
from typing import Any

import msgspec
import pytest

from agent.core.arrivals import Announced, Asked, Gap, GivenUp, Item, Loss, OpenGap
from agent.ingest.gaps import ANNOUNCED_MAX, LOSS_TOLD_S, Gaps

RESEND_S, ATTENTION_S, BACKOFF_MAX_S = 2.0, 300.0, 300.0
HOLE = OpenGap("till-1", "e1", 3, 5, 3, 5, 0, 1000.0, None)


class Limits(msgspec.Struct):
    gap_resend_s: float = RESEND_S
    gap_attention_s: float = ATTENTION_S
    resend_backoff_max_s: float = BACKOFF_MAX_S


class Desk:
    """The journal, the broker and the people, all that the stage sees; `disk` says whether anything can be stored."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.ran_s = 950.0
        self.gaps: list[OpenGap] = [HOLE]
        self.lost: list[Loss] = []
        self.known = 0
        self.disk = True
        self.stored: list[Item] = []
        self.sent: list[dict[str, Any]] = []
        self.holds: dict[str, str] = {}
        self.lasting: dict[str, str] = {}
        self.ended: dict[str, float] = {}
        self.ids = iter(f"c{number}" for number in range(1, 100))
        self.stage = Gaps(self, self, self, lambda: self.now_s, lambda: next(self.ids), Limits)

    def open_gaps(self) -> list[OpenGap]:
        return self.gaps

    def losses(self) -> list[Loss]:
        return self.lost

    def highest(self, device: str, epoch: str) -> int:
        return self.known

    def lived_s(self) -> float:
        return self.ran_s + self.now_s

    async def store(self, item: Item) -> bool:
        if not self.disk:
            return False
        self.stored.append(item)
        if isinstance(item, Asked):
            self.gaps = [gap._replace(command=item.command) if gap.first == item.first else gap for gap in self.gaps]
        if isinstance(item, GivenUp):
            self.gaps = [gap for gap in self.gaps if gap.first != item.first]
        return True

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        assert (topic, retain, qos) == ("pos/v1/till-1/commands", False, 1)
        self.sent.append(json.loads(payload))

    def hold(self, id: str, severity: str, title: str, text: str, hint: str) -> None:
        assert hint
        self.holds[id] = text

    def happened(self, id: str, severity: str, title: str, text: str, hint: str) -> None:
        assert hint
        self.lasting[id] = text

    def ended_s(self, id: str) -> float | None:
        return self.ended.get(id)

    def lift(self, id: str) -> None:
        del self.holds[id]

    def say(self, **state: Any) -> None:
        self.stage.heard("till-1", json.dumps({"state": "ready"} | state).encode())

    async def after(self, seconds: float) -> "Desk":
        """Time passes, the stage looking twice a second."""
        for _ in range(round(seconds * 2)):
            self.now_s += 0.5
            await self.stage._look()
        return self


async def test_A3_7_a_hole_is_asked_for_once_it_is_old_enough_then_with_back_off_and_always_by_one_id() -> None:
    desk = Desk()
    await desk.after(1.5)
    assert desk.sent == []
    await desk.after(60)
    body = {"id": "c1", "command": "resend", "args": {"epoch": "e1", "from": "3", "to": "5"}}
    assert desk.sent == [body] * 4  # after 2, 6, 14 and 30 s
    assert desk.stored == [Asked("till-1", "e1", 3, "c1")]


async def test_a_request_goes_on_after_a_restart_with_the_id_that_the_journal_kept() -> None:
    desk = Desk()
    desk.gaps = [HOLE._replace(command="before")]
    await desk.after(3)
    assert [one["id"] for one in desk.sent] == ["before"]
    assert desk.stored == []


async def test_a_hole_is_as_old_as_the_box_has_run_since_and_one_condition_to_its_end() -> None:
    desk = Desk()
    desk.ran_s = 1000.0 + ATTENTION_S - desk.now_s - 1
    await desk.after(0.5)
    assert desk.holds == {}
    await desk.after(1)
    assert list(desk.holds) == ["gap:till-1:e1:3"]
    desk.gaps = [desk.gaps[0]._replace(missing_first=5, came_count=2)]
    await desk.after(0.5)
    assert list(desk.holds) == ["gap:till-1:e1:3"]
    assert "its events 5." in desk.holds["gap:till-1:e1:3"]
    desk.gaps = []
    await desk.after(0.5)
    assert desk.holds == {}


async def test_A3_7_two_requests_called_done_that_brought_nothing_name_the_loss() -> None:
    desk = Desk()
    await desk.after(2.5)
    desk.say(applied=["c1"])
    await desk.after(10)
    assert [one["id"] for one in desk.sent] == ["c1", "c2"]
    desk.say(applied=["c1", "c2"])
    await desk.after(1.5)
    assert not any(isinstance(item, GivenUp) for item in desk.stored)  # what it brought has time to arrive
    await desk.after(1)
    assert desk.stored[-1] == GivenUp("till-1", "e1", 3)
    sent = len(desk.sent)
    await desk.after(600)
    assert len(desk.sent) == sent


async def test_a_request_that_brought_something_was_not_in_vain() -> None:
    desk = Desk()
    for number in range(1, 8):
        await desk.after(310)
        desk.gaps = [desk.gaps[0]._replace(came_count=desk.gaps[0].came_count + (number % 2))]
        desk.say(applied=[desk.sent[-1]["id"]])
    assert not any(isinstance(item, GivenUp) for item in desk.stored)
    assert len({one["id"] for one in desk.sent}) == 7


async def test_words_about_other_requests_change_nothing() -> None:
    desk = Desk()
    await desk.after(2.5)
    for _ in range(5):
        desk.say(applied=["x", 7, None, "c2"])
        desk.stage.heard("till-2", b'{"state":"ready","applied":["c1"]}')
    await desk.after(0.5)
    assert [one["id"] for one in desk.sent] == ["c1", "c1"]  # ready after an absence asks again, once a look
    assert not any(isinstance(item, GivenUp) for item in desk.stored)


async def test_nothing_is_asked_that_the_journal_could_not_keep() -> None:
    desk = Desk()
    desk.disk = False
    await desk.after(30)
    assert desk.sent == []
    desk.disk = True
    await desk.after(0.5)
    assert len(desk.sent) == 1


@pytest.mark.parametrize("last", ["7", "00000000000000000007", 7])
async def test_A3_7_a_count_beyond_all_that_came_opens_the_hole_when_nothing_is_under_way(last: Any) -> None:
    desk = Desk()
    desk.gaps, desk.known = [], 4
    desk.say(epoch="e1", last=last, pending=0)
    await desk.after(1.5)
    assert desk.stored == []
    await desk.after(1)
    assert desk.stored == [Announced("till-1", "e1", 7)]
    await desk.after(60)
    assert len(desk.stored) == 1


@pytest.mark.parametrize(
    "state",
    [
        {"epoch": "e1", "last": "7", "pending": 1},
        {"epoch": "e1", "last": "7"},
        {"epoch": "e1", "last": "7", "pending": False},
        {"epoch": "e1", "last": "4", "pending": 0},
        {"epoch": "e1", "last": "0", "pending": 0},
        {"epoch": "e1", "last": "-7", "pending": 0},
        {"epoch": "e1", "last": 7.5, "pending": 0},
        {"epoch": "e1", "last": True, "pending": 0},
        {"epoch": "e1", "last": "9" * 20, "pending": 0},
        {"epoch": "e1", "last": 10**12, "pending": 0},
        {"epoch": "e/#", "last": "7", "pending": 0},
        {"epoch": 5, "last": "7", "pending": 0},
        {"last": "7", "pending": 0},
    ],
)
async def test_a_count_that_says_nothing_is_not_heeded(state: dict[str, Any]) -> None:
    desk = Desk()
    desk.gaps, desk.known = [], 4
    desk.say(**state)
    await desk.after(10)
    assert desk.stored == []


async def test_a_device_that_has_something_under_way_again_takes_its_word_back() -> None:
    desk = Desk()
    desk.gaps = []
    desk.say(epoch="e1", last="7", pending=0)
    await desk.after(1)
    desk.say(epoch="e1", last="8", pending=1)
    await desk.after(10)
    assert desk.stored == []


async def test_what_devices_say_fills_no_memory() -> None:
    desk = Desk()
    desk.gaps = []
    for number in range(ANNOUNCED_MAX + 50):
        desk.stage.heard(f"x-{number}", b'{"state":"ready","epoch":"e","last":"1","pending":0,"applied":["a","b"]}')
    assert len(desk.stage._counts) == ANNOUNCED_MAX
    assert desk.stage._requests == {}
    await desk.after(3)
    assert desk.stage._counts == {}
    assert len(desk.stored) == ANNOUNCED_MAX


async def test_A3_7_people_are_told_of_a_loss_while_it_is_fresh() -> None:
    desk = Desk()
    desk.gaps = []
    desk.lost = [
        Loss("till-1", "e1", 3, 1, 4, (Gap(4, 6),), desk.lived_s()),
        Loss("till-1", "e0", 1, 1, 2, (Gap(2, 2),), 0.0),
    ]
    await desk.after(0.5)
    text = desk.lasting.pop("gap_lost:till-1")
    assert "4 events" in text
    assert "4 to 6 of epoch e1, 2 of epoch e0" in text
    desk.ran_s += LOSS_TOLD_S
    await desk.after(0.5)
    again = Desk()
    again.gaps, again.lost, again.ran_s = [], desk.lost, desk.ran_s
    await again.after(0.5)
    assert desk.lasting == again.lasting == {}


async def test_A3_7_a_loss_that_a_person_has_acknowledged_is_told_no_more_and_a_later_one_is() -> None:
    """Also by the next start, which finds the loss in the journal."""
    desk = Desk()
    desk.gaps = []
    old = Loss("till-1", "e0", 1, 1, 2, (Gap(2, 2),), desk.lived_s())
    desk.lost = [old]
    desk.ended["gap_lost:till-1"] = desk.lived_s() + 0.25
    await desk.after(5)
    assert desk.lasting == {}
    desk.lost = [old, Loss("till-1", "e1", 3, 1, 4, (Gap(4, 6),), desk.lived_s())]
    await desk.after(0.5)
    assert "3 events" in desk.lasting["gap_lost:till-1"]
    assert "e0" not in desk.lasting["gap_lost:till-1"]


async def test_A3_7_a_loss_of_which_all_has_come_after_all_says_so() -> None:
    desk = Desk()
    desk.gaps = []
    desk.lost = [Loss("till-1", "e1", 1, 1, 4, (Gap(4, 4),), desk.lived_s())]
    await desk.after(0.5)
    desk.lost = []
    await desk.after(0.5)
    assert desk.lasting["gap_lost:till-1"] == "All events of till-1 that had been called lost are stored now."
