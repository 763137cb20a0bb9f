"""Histories part: copies of a box, older copies put back, a cloud that forgot or refuses; each record goes up once.

Nothing is overwritten or skipped: where the box's records and the cloud's are not the same any more, the box goes on in
a new epoch behind the last record in common, and says so.
"""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.core import chain
from tests.crash.front import Front, Say, problem
from tests.crash.venue import quick_box, quick_cloud
from tests.integration.machine import NIGHTSAFE, Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

SETTLE_MAX_S = 30.0
QUICK = {
    "journal": {"project_events": 1},
    "drain": {
        "backoff_first_s": 0.2,
        "backoff_max_s": 1.0,
        "refused_retry_s": 2,
        "batch_records_first": 8,
        "check_interval_s": 2,
    },
}


class Stage:
    """A cloud behind a front, and boxes that upload to it under one identity. `told` are the events that were told."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._names = count(1)
        self.cloud: CloudServer = quick_cloud().start()
        stack.callback(self.cloud.close)
        self.front = Front(self.cloud.url)
        stack.callback(self.front.close)
        self.told: list[tuple[str, str]] = []
        self.own = 0
        """Records of its own that the first box made before any sale: it notes how right the clock is, if it knows."""

    def box(self, state_of: Path | None = None) -> Box:
        """A box, not started; with a copy of another one's state."""
        box = quick_box(f"http://127.0.0.1:{self.front.port}", QUICK)
        self._stack.callback(box.close)
        if state_of is not None:
            shutil.copytree(state_of, box.state, ignore=shutil.ignore_patterns("*.sock"))
        return box

    def sell(self, box: Box, events: int) -> None:
        """So many events of a new device, each told."""
        if not self.told:
            self.own = len(box.own_records())
        name = f"till-{next(self._names)}"
        frames = [counted("e1", number) for number in range(1, events + 1)]
        with Device(box.port, name) as device:
            for at in range(0, events, 32):
                part = [device.frame(frame) for frame in frames[at : at + 32]]
                device.send(*part)
                device.packets(len(part))
        self.told += [(name, json.loads(frame)["id"]) for frame in frames]

    def settle(self, box: Box) -> None:
        """The cloud has everything that this box has."""
        until(box.uploaded, "the cloud has everything", SETTLE_MAX_S)

    def ledger(self, query: str) -> list[tuple[Any, ...]]:
        path = self.cloud.directory / "ledger.sqlite"
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def streams(self) -> list[tuple[str, str | None, int | None, str]]:
        """(epoch, parent, the last common sequence, reason), in the order of opening."""
        found = self.ledger("select epoch, parent_epoch, parent_sequence, reason from streams order by number")
        return [tuple(row) for row in found]  # type: ignore[misc]

    def once(self) -> dict[str, int]:
        """Every told event is in the cloud exactly once, each epoch's chain holds; returns records by epoch."""
        seen: dict[tuple[str, str], int] = {}
        heads = {epoch: bytes(origin) for epoch, origin in self.ledger("select epoch, origin from streams")}
        nexts = dict.fromkeys(heads, 1)
        holes = self.holes()
        for line in self.cloud.export():
            record = json.loads(line)
            epoch, sequence = record["epoch"], int(record["sequence"])
            while (hole := holes.get((epoch, nexts[epoch]))) is not None:
                nexts[epoch], heads[epoch] = hole["last"] + 1, bytes.fromhex(hole["rechash"])
            assert sequence == nexts[epoch]
            event = _raw(line)
            seal = chain.rechash(heads[epoch], sequence, record["recordedtime"], record["device"], event)
            assert seal.hex() == record["rechash"]
            heads[epoch], nexts[epoch] = seal, sequence + 1
            if record["device"] != "agent":
                key = (record["device"], record["data"]["id"])
                seen[key] = seen.get(key, 0) + 1
        assert seen == dict.fromkeys(self.told, 1)
        return {epoch: following - 1 for epoch, following in nexts.items()}

    def holes(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The declared holes by (epoch, first)."""
        found = [json.loads(line) for line in self.cloud.export("--show", "holes")]
        return {(one["epoch"], one["first"]): one for one in found}


def _raw(line: bytes) -> bytes:
    """The event's bytes as they stand in a line of the export: `data` is its last member."""
    return line[line.index(b'"data":') + len(b'"data":') : -1]


def condition(box: Box, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = next((one for one in box.status()["conditions"] if one["id"] == name), None)
    return found


def sound(box: Box) -> None:
    """`nightsafe verify` finds nothing."""
    done = subprocess.run([*NIGHTSAFE, "verify", "--config", str(box.config)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout.decode()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack)


def test_an_older_copy_of_the_box_put_back_goes_on_in_an_epoch_of_its_own(stage: Stage, tmp_path: Path) -> None:
    """A restored image: the cloud has records that the box does not know any more, and keeps them."""
    box = stage.box().start()
    stage.sell(box, 20)
    stage.settle(box)
    assert box.stop() == 0
    shutil.copytree(box.state, tmp_path / "image", ignore=shutil.ignore_patterns("*.sock"))
    box.start()
    stage.sell(box, 10)
    stage.settle(box)
    assert box.stop() == 0
    shutil.rmtree(box.state)
    shutil.copytree(tmp_path / "image", box.state)
    box.start()
    stage.sell(box, 15)
    stage.settle(box)
    stage.once()
    (first, *_), (second, parent, common, reason) = stage.streams()
    assert (parent, common, reason) == (first, stage.own + 20, "restored")
    told = condition(box, "forked")
    assert told is not None
    assert told["attention"]
    assert "10 records" in told["text"]
    raised = box.own_records("nightsafe.condition.raised")
    assert [one["data"]["condition"] for one in raised] == ["forked"]
    until(lambda: box.rows("select 1 from attentions where condition = 'forked'"), "it is kept")
    box.kill()
    box.start()
    assert condition(box, "forked") == told, "a restart forgets what happened"
    stage.sell(box, 5)
    stage.settle(box)
    stage.once()
    assert [epoch for epoch, *_ in stage.streams()] == [first, second]
    sound(box)


def test_a_cloned_card_that_is_behind_parts_without_touching_the_first_box(stage: Stage) -> None:
    """It asks before it takes anything over, sees that the cloud has more than it knows, and goes its own way."""
    box = stage.box().start()
    stage.sell(box, 20)
    stage.settle(box)
    assert box.stop() == 0
    copy = stage.box(box.state)
    box.start()
    stage.sell(box, 5)
    stage.settle(box)
    copy.start()
    stage.sell(copy, 6)
    stage.settle(copy)
    first, second = stage.streams()
    assert second[1:] == (first[0], stage.own + 20, "restored")
    assert condition(box, "forked") is None, "the copy parted without touching the first box"
    stage.sell(box, 4)
    stage.settle(box)
    stage.once()


def test_two_boxes_with_one_identity_are_told_apart_and_nothing_is_lost_or_doubled(stage: Stage) -> None:
    """The copy knows all that the cloud has, so it takes the epoch over: the first one is fenced."""
    box = stage.box().start()
    stage.sell(box, 20)
    stage.settle(box)
    shutil.copytree(box.state, box.directory / "copy", ignore=shutil.ignore_patterns("*.sock", "*-shm"))
    copy = stage.box(box.directory / "copy").start()
    stage.sell(copy, 6)
    stage.settle(copy)
    stage.sell(box, 5)
    held = until(lambda: condition(box, "drain_held"), "people are told")
    assert "nightsafe queue adopt" in held["hint"]
    assert box.status()["sync"]["state"] == "held"
    since = len(stage.front.calls)
    box.restart()
    stage.sell(box, 7)
    until(lambda: condition(box, "drain_held"), "people are told again")
    assert not [call for call in stage.front.calls[since:] if call.method in ("POST", "PUT")]
    assert copy.stop() == 0
    adopt = [*NIGHTSAFE, "queue", "adopt", "--config", str(box.config), "--actor", "sam", "--reason", "copy is off"]
    done = subprocess.run(adopt, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    stage.settle(box)
    stage.once()
    (first, *_), second = stage.streams()
    assert second[1:] == (first, stage.own + 20, "forked")
    told = condition(box, "forked")
    assert told is not None
    assert "6 more" in told["text"]
    assert [one["data"]["actor"] for one in box.own_records("nightsafe.condition.cleared")] == ["sam"]
    sound(box)


def test_adopting_what_nobody_took_is_refused_with_words(stage: Stage) -> None:
    box = stage.box().start()
    adopt = [*NIGHTSAFE, "queue", "adopt", "--config", str(box.config), "--reason", "just so"]
    done = subprocess.run(adopt, capture_output=True, timeout=30)
    assert done.returncode != 0
    assert b"nothing to adopt" in done.stderr + done.stdout


def put_back(stage: Stage, saved: Path) -> None:
    """The cloud is restored from a backup of its ledger."""
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (stage.cloud.directory / name).unlink(missing_ok=True)
        if (saved / name).exists():
            shutil.copy(saved / name, stage.cloud.directory / name)


def backup(stage: Stage, to: Path) -> None:
    """A backup of the ledger of a stopped cloud."""
    to.mkdir()
    for path in stage.cloud.directory.glob("ledger.sqlite*"):
        shutil.copy(path, to / path.name)


def test_a_cloud_restored_from_yesterdays_backup_is_sent_everything_since(stage: Stage, tmp_path: Path) -> None:
    box = stage.box().start()
    stage.sell(box, 20)
    stage.settle(box)
    assert stage.cloud.stop() == 0
    backup(stage, tmp_path / "yesterday")
    stage.cloud.start()
    stage.sell(box, 30)
    stage.settle(box)
    stage.cloud.kill()
    put_back(stage, tmp_path / "yesterday")
    stage.cloud.start()
    stage.sell(box, 3)
    everything = stage.own + 53 + 1  # and the record that the cloud had lost records
    until(lambda: len(stage.cloud.export()) == everything, "the cloud has everything again", SETTLE_MAX_S)
    assert list(stage.once().values()) == [everything]
    told = condition(box, "cloud_rewound")
    assert told is not None
    assert "Nothing is lost here" in told["hint"]


def test_a_cloud_restored_from_before_a_fork_gets_the_parent_first(stage: Stage, tmp_path: Path) -> None:
    """It knows neither the present epoch nor all of the one before: both are sent, in their order."""
    box = stage.box().start()
    stage.sell(box, 20)
    stage.settle(box)
    assert stage.cloud.stop() == 0
    backup(stage, tmp_path / "yesterday")
    stage.cloud.start()
    stage.sell(box, 10)
    stage.settle(box)
    stage.front.uploads.append(problem(410, "closed"))
    stage.sell(box, 8)
    stage.settle(box)
    assert len(stage.streams()) == 2
    stage.cloud.kill()
    put_back(stage, tmp_path / "yesterday")
    stage.cloud.start()
    stage.sell(box, 4)
    until(lambda: len(stage.streams()) == 2 and len(stage.cloud.export()) >= 42, "all is there again", SETTLE_MAX_S)
    stage.settle(box)
    stage.once()
    (first, *_), second = stage.streams()
    assert second[1:3] == (first, stage.own + 30)


def adopt(box: Box) -> None:
    """A person says that this box is the right one."""
    order = [*NIGHTSAFE, "queue", "adopt", "--config", str(box.config), "--actor", "sam", "--reason", "copy is off"]
    done = subprocess.run(order, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_cloud_that_lost_the_end_of_a_fenced_epoch_gets_it_again_in_a_new_one(stage: Stage, tmp_path: Path) -> None:
    """The fenced epoch is never opened again, so what the cloud lacks of it goes on behind what it still has."""
    box = stage.box().start()
    stage.sell(box, 10)
    stage.settle(box)
    assert stage.cloud.stop() == 0
    backup(stage, tmp_path / "yesterday")
    stage.cloud.start()
    stage.sell(box, 10)
    stage.settle(box)
    shutil.copytree(box.state, box.directory / "copy", ignore=shutil.ignore_patterns("*.sock", "*-shm"))
    copy = stage.box(box.directory / "copy").start()
    stage.sell(copy, 3)
    stage.settle(copy)
    del stage.told[-3:]  # only the copy and the cloud of today have them
    stage.sell(box, 5)
    until(lambda: condition(box, "drain_held"), "people are told")
    assert copy.stop() == 0
    adopt(box)
    stage.settle(box)
    (first, *_), _ = stage.streams()
    stage.cloud.kill()
    put_back(stage, tmp_path / "yesterday")
    stage.cloud.start()
    since = len(stage.front.calls)
    stage.sell(box, 4)
    until(lambda: len(stage.cloud.export()) >= stage.own + 29, "all is there again", SETTLE_MAX_S)
    stage.settle(box)
    stage.once()
    (_, second) = stage.streams()
    assert second[1:] == (first, stage.own + 10, "forked")
    assert not [call for call in stage.front.calls[since:] if call.method == "PUT" and first in call.path]
    told = condition(box, "forked")
    assert told is not None
    assert "lost the end of an epoch" in told["title"]
    box.restart()
    stage.sell(box, 2)
    stage.settle(box)
    stage.once()
    sound(box)


def test_an_older_copy_takes_the_lost_end_of_the_parent_from_a_box_without_a_wheel_of_new_epochs(
    stage: Stage, tmp_path: Path
) -> None:
    """The cloud forgot, and another box wrote other records where the present epoch has its parent's."""
    box = stage.box().start()
    stage.sell(box, 10)
    stage.settle(box)
    assert stage.cloud.stop() == 0
    backup(stage, tmp_path / "yesterday")
    stage.cloud.start()
    assert box.stop() == 0
    copy = stage.box(box.state)
    box.start()
    stage.sell(box, 10)
    stage.settle(box)
    stage.front.uploads.append(problem(410, "closed"))
    stage.sell(box, 5)
    stage.settle(box)
    stage.cloud.kill()
    put_back(stage, tmp_path / "yesterday")
    stage.cloud.start()
    copy.start()
    stage.sell(copy, 15)
    stage.settle(copy)
    stage.sell(box, 2)
    until(lambda: len(stage.cloud.export()) >= stage.own + 42, "all is there again", SETTLE_MAX_S)
    stage.settle(box)
    stage.once()
    (first, *_), second = stage.streams()
    assert second[1:] == (first, stage.own + 10, "forked")
    assert condition(copy, "forked") is None
    sound(box)


def test_a_process_that_did_not_open_the_parent_itself_leaves_it_to_whoever_writes_it(
    stage: Stage, tmp_path: Path
) -> None:
    """A restored cloud lacks the parent's end, and a stale copy comes first: it takes nothing over from the box."""
    box = stage.box()
    box.settings["drain"]["check_interval_s"] = 300  # it sits still until it sells
    box.start()
    stage.sell(box, 10)
    stage.settle(box)
    assert stage.cloud.stop() == 0
    backup(stage, tmp_path / "yesterday")
    stage.cloud.start()
    stage.sell(box, 10)
    stage.settle(box)
    stage.front.uploads.append(problem(410, "closed"))
    stage.sell(box, 5)
    stage.settle(box)
    shutil.copytree(box.state, box.directory / "copy", ignore=shutil.ignore_patterns("*.sock", "*-shm"))
    stage.cloud.kill()
    put_back(stage, tmp_path / "yesterday")
    stage.cloud.start()
    copy = stage.box(box.directory / "copy").start()
    since = len(stage.front.calls)
    stage.sell(copy, 3)
    stage.settle(copy)
    (first, *_), _ = stage.streams()
    puts = [call.path for call in stage.front.calls[since:] if call.method == "PUT"]
    assert puts
    assert not [path for path in puts if first in path]
    stage.sell(box, 4)
    stage.settle(box)
    assert condition(box, "drain_held") is None
    sound(box)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_restored_cloud_is_noticed_though_nothing_is_sold(stage: Stage, tmp_path: Path, restarted: bool) -> None:
    box = stage.box().start()
    stage.sell(box, 20)
    stage.settle(box)
    assert stage.cloud.stop() == 0
    backup(stage, tmp_path / "yesterday")
    stage.cloud.start()
    stage.sell(box, 10)
    stage.settle(box)
    if restarted:
        assert box.stop() == 0
    stage.cloud.kill()
    put_back(stage, tmp_path / "yesterday")
    stage.cloud.start()
    if restarted:
        box.start()
    until(lambda: len(stage.cloud.export()) >= stage.own + 30, "the cloud has everything again", SETTLE_MAX_S)
    stage.once()
    assert condition(box, "cloud_rewound") is not None


def test_an_idle_box_asks_without_taking_anything_over(stage: Stage) -> None:
    box = stage.box().start()
    stage.sell(box, 5)
    stage.settle(box)
    box.restart()
    since = len(stage.front.calls)
    until(lambda: len([one for one in stage.front.calls[since:] if "/streams/" in one.path]) >= 3, "it asks", 20)
    assert {call.method for call in stage.front.calls[since:] if "/streams" in call.path} == {"GET"}
    assert box.status()["sync"]["state"] == "idle"


def test_a_cloud_restored_from_before_the_last_start_is_named_and_adopting_sends_it_all(
    stage: Stage, tmp_path: Path
) -> None:
    """It takes the box for another one: nobody is sent to look for a copy that does not exist."""
    box = stage.box().start()
    stage.sell(box, 20)
    stage.settle(box)
    assert stage.cloud.stop() == 0
    backup(stage, tmp_path / "yesterday")
    stage.cloud.start()
    box.restart()
    stage.sell(box, 10)
    stage.settle(box)
    stage.cloud.kill()
    put_back(stage, tmp_path / "yesterday")
    stage.cloud.start()
    stage.sell(box, 3)
    held = until(lambda: condition(box, "drain_held"), "people are told", SETTLE_MAX_S)
    assert "restored from a backup" in held["text"]
    assert "If no copy of this box runs, run `nightsafe queue adopt`" in held["hint"]
    assert not [one for one in box.status()["conditions"] if "Find the copy" in one.get("hint", "")]
    adopt(box)
    stage.settle(box)
    stage.once()
    assert condition(box, "drain_held") is None


def test_a_cloud_that_asks_for_years_between_two_batches_is_obeyed_as_long_as_any_wait(stage: Stage) -> None:
    """Two seconds at most, in this box's settings."""
    box = stage.box()
    box.settings["drain"]["retry_after_max_s"] = 2
    box.start()
    stage.sell(box, 5)
    stage.settle(box)
    stage.front.others.extend([lambda answer: answer | {"limits": answer["limits"] | {"min_interval_s": 1e9}}] * 20)
    box.restart()
    stage.sell(box, 30)
    stage.settle(box)
    stage.front.others.clear()
    stage.once()


REFUSALS: dict[str, Say] = {
    "conflict": problem(409, "conflict", sequence=21),
    "closed": problem(410, "closed", successor="0199c0de-0000-7000-8000-00000000ffff"),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_an_epoch_that_the_cloud_does_not_continue_is_left_for_a_new_one(stage: Stage, refusal: Say) -> None:
    box = stage.box().start()
    stage.sell(box, 20)
    stage.settle(box)
    stage.front.uploads.append(refusal)
    stage.sell(box, 10)
    stage.settle(box)
    stage.once()
    (first, *_), second = stage.streams()
    assert second[1:] == (first, stage.own + 20, "forked")
    assert condition(box, "forked") is not None


def test_a_cloud_that_refuses_every_epoch_is_not_flooded_with_new_ones(stage: Stage) -> None:
    box = stage.box().start()
    stage.sell(box, 5)
    stage.settle(box)
    stage.front.standing = lambda request, size: problem(409, "conflict", sequence=6) if size else None
    stage.sell(box, 5)
    until(lambda: condition(box, "drain_held"), "people are told")
    epochs = len(stage.streams())
    assert epochs <= 4
    stage.front.standing = lambda request, size: None
    stage.settle(box)
    stage.once()


def forget(box: Box, first: int, last: int) -> None:
    """The records at these positions of a stopped box are gone from its disk."""
    connection = sqlite3.connect(box.journal)
    connection.execute("delete from records where position between ? and ?", (first, last))
    connection.commit()
    connection.close()


def test_records_that_the_box_lost_are_declared_as_a_hole_and_the_rest_goes_up(stage: Stage) -> None:
    box = stage.box().start()
    stage.sell(box, 10)
    stage.settle(box)
    stage.cloud.kill()
    stage.sell(box, 20)
    assert box.stop() == 0
    forget(box, stage.own + 14, stage.own + 17)
    del stage.told[13:17]
    stage.cloud.start()
    box.start()
    stage.settle(box)
    (hole,) = stage.holes().values()
    assert (hole["first"], hole["last"]) == (stage.own + 14, stage.own + 17)
    assert "lost on the box's disk" in hole["reason"]
    stage.once()


def test_an_amnesiac_cloud_gets_a_hole_for_what_is_deleted_and_all_the_rest(stage: Stage) -> None:
    """The records that the cloud had called safe are not kept for ever; the loss is the cloud's, and it is named."""
    box = stage.box().start()
    stage.sell(box, 30)
    stage.settle(box)
    assert box.stop() == 0
    forget(box, 1, stage.own + 12)
    del stage.told[:12]
    stage.cloud.kill()
    put_back(stage, Path("/nonexistent"))
    stage.cloud.start()
    box.start()
    stage.sell(box, 3)
    left = 21 + 1  # and the record that the cloud had lost records
    until(lambda: len(stage.cloud.export()) == left, "the cloud has what is left", SETTLE_MAX_S)
    stage.once()
    (hole,) = stage.holes().values()
    assert (hole["first"], hole["last"]) == (1, stage.own + 12)
    assert "safe" in hole["reason"]


def within(record: int, status: int, kind: str) -> Callable[[web.Request, int], Say | None]:
    """A cloud that chokes on one record, in whatever batch it comes."""

    def standing(request: web.Request, size: int) -> Say | None:
        if "/records/" not in request.path:
            return None
        first, last = (int(part) for part in request.path.rpartition("/")[2].split("-"))
        return problem(status, kind) if first <= record <= last else None

    return standing


@pytest.mark.parametrize(("status", "kind"), [(400, "malformed"), (413, "too-large")])
def test_one_record_that_the_cloud_cannot_take_neither_blocks_nor_vanishes(
    stage: Stage, status: int, kind: str
) -> None:
    """It is found by halving, tried as base64, kept in quarantine, declared as a hole with its digest."""
    box = stage.box().start()
    stage.sell(box, 5)
    stage.settle(box)
    stage.front.standing = within(stage.own + 17, status, kind)
    stage.sell(box, 25)
    stage.settle(box)
    (hole,) = stage.holes().values()
    assert (hole["first"], hole["last"]) == (stage.own + 17, stage.own + 17)
    ((reason, payload, digest),) = box.rows("select reason, payload, sha256 from quarantine")
    assert reason == "cloud_refused"
    assert digest in hole["reason"]
    assert json.loads(payload)["id"] == stage.told[16][1]
    del stage.told[16]
    stage.once()
    assert condition(box, "quarantine") is not None
    assert len([call for call in stage.front.calls if call.size == 1]) >= 2


@pytest.mark.long
def test_a_kill_while_records_are_sealed_anew_changes_nothing(stage: Stage) -> None:
    """The new epoch is finished by the next start, wherever the last one was cut."""
    box = stage.box().start()
    stage.sell(box, 20)
    stage.settle(box)
    stage.cloud.kill()
    stage.sell(box, 4000)
    assert box.stop() == 0
    connection = sqlite3.connect(box.journal)
    connection.execute("update journal set doubt = 'restored'")
    connection.commit()
    connection.close()
    stage.cloud.start()
    cut = 0
    for _ in range(6):
        box.start()
        until(lambda: box.rows("select count(*) from streams")[0][0] == 2, "the new epoch has begun", SETTLE_MAX_S)
        box.kill()
        cut += box.rows("select sealed from streams order by id desc limit 1") != [(None,)]
    assert cut > 0, "no kill came while records were sealed"
    box.start()
    told = until(lambda: condition(box, "forked"), "whoever ends it tells it", SETTLE_MAX_S)
    assert "restored or damaged" in told["title"]
    stage.sell(box, 10)
    stage.settle(box)
    stage.once()
    assert len(stage.streams()) == 2
    raised = [one["data"] for one in box.own_records("nightsafe.condition.raised")]
    assert [one["why"] for one in raised if one["condition"] == "forked"] == ["restored"]
    sound(box)
