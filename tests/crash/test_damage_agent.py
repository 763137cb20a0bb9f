"""The whole agent on a damaged disk: it starts by itself, names what is lost, asks the tills, and sells on.

Covers, in the scenario table's words: a flipped bit, a zeroed page, a truncated database; a log cut or deleted; an
older copy or another file in the place of the database.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.journal.inspect import verify
from agent.runtime.files import write_whole
from tests.crash import damage
from tests.crash.damage import Made
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

CLOUD_SETTLES = True
"""Whether the drain declares holes and opens new epochs; then the cloud's export is judged too."""
EVENTS = 120
SETTLE_MAX_S = 40.0
BEFORE_RESEND_S = 0.2

SHORT = ("cut_log", "no_database")
LONG = (
    "zero_page", "older_copy",
    "flip_database", "flip_log", "garble_page", "zero_frame", "garble_frame", "flip_many", "cut_database", "no_log",
    "foreign", "flip_without_names",
)  # fmt: skip


class Till:
    """A device that keeps its outbox, and sends again what it is asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[bytes] = []

    def sell(self, box: Box, count: int) -> None:
        """So many new events, each acknowledged."""
        fresh = [counted("e1", len(self.sent) + number + 1) for number in range(count)]
        with Device(box.port, self.name) as device:
            for body in fresh:
                device.tell(body)
        self.sent += fresh

    def answer_resends(self, box: Box) -> int:
        """Connect, take the box's requests until there are none any more, and send what they ask for."""
        asked = 0
        with Device(box.port, self.name) as device:
            device.subscribe(f"pos/v1/{self.name}/commands")
            while gaps := box.device(self.name)["gaps"]:
                for first, last in gaps:
                    asked += int(last) - int(first) + 1
                    for number in range(int(first), int(last) + 1):
                        device.send(device.frame(self.sent[number - 1]))
                time.sleep(BEFORE_RESEND_S)
        return asked


def seed_of(kind: str) -> int:
    return sum(kind.encode())


@pytest.mark.parametrize("kind", [*SHORT, *(pytest.param(one, marks=pytest.mark.long) for one in LONG)])
def test_A3_7_a_box_whose_disk_was_damaged_names_its_losses_and_sells_on(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], tmp_path: Path, kind: str
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, intake={"gap_resend_s": 0.2}, journal={"project_events": 50}).start()
    tills = [Till("till-1"), Till("till-2")]
    for till in tills:
        till.sell(box, EVENTS // 2)
    until(box.uploaded, "the first half is up")
    older = tmp_path / "older"
    damage.copy(box.state, older)
    cloud.kill()
    for till in tills:
        till.sell(box, EVENTS // 2)
    box.kill()

    made = Made(older, older, damage.read(box.state), 0, {})
    print(getattr(damage, kind)(made, box.state, Random(seed_of(kind))))
    box.start()
    asked = 0
    for till in tills:
        if box.device(till.name) is not None:
            asked += till.answer_resends(box)
        till.sell(box, 5)
        asked += till.answer_resends(box)
    status = box.status()
    conditions = {one["id"] for one in status["conditions"]}
    repaired = box.own_records("nightsafe.journal.repaired")
    assert bool(repaired) == bool(conditions & {"journal_lost", "journal_mended"}), (repaired, conditions)

    stored = {till.name: set(box.stored(till.name)) for till in tills}
    in_cloud = {till.name: {json.dumps(one.event) for one in cloud.records(till.name)} for till in tills}
    for till in tills:
        assert len(box.stored(till.name)) == len(stored[till.name]), "an event is twice in the log"
        assert stored[till.name] <= set(till.sent), "a wrong byte is in the journal"
        gone = [
            number for number, body in enumerate(till.sent, 1)
            if body not in stored[till.name] and json.dumps(json.loads(body)) not in in_cloud[till.name]
        ]  # fmt: skip
        assert not gone, f"{till.name}: neither stored, nor in the cloud, nor sent again: {gone}"
        assert box.device(till.name)["stored"] == str(len(till.sent))
    if CLOUD_SETTLES:
        cloud.start()
        until(box.uploaded, "the cloud has everything", SETTLE_MAX_S)
        again = 0
        for till in tills:
            ids = [one.event["id"] for one in cloud.records(till.name)]
            sent = [json.loads(body)["id"] for body in till.sent]
            assert set(ids) == set(sent)
            again += len(ids) - len(set(ids))
        print(f"asked for {asked}, of which the cloud had {again}")
        assert again <= asked, "only what the box asked for, its own copy being gone, comes twice"
    assert box.stop() == 0, box.text
    assert not verify(box.state).faults


def test_a_flipped_bit_in_an_old_record_is_found_by_the_sweep_and_mended(new_box: Callable[..., Box]) -> None:
    """Nobody reads old records but the sweep: it finds the bit, mends it with proof, and says so."""
    box = new_box(journal={"sweep_records_per_s": 1000, "project_events": 10}).start()
    till = Till("till-1")
    till.sell(box, 40)
    box.stop()
    _flip_event(box, 7)
    box.start()
    until(lambda: _condition(box, "journal_mended"), "the damage is told", 20)
    until(lambda: box.status()["sweep"]["rounds_count"] >= 1, "the sweep is through", 20)
    assert box.stored("till-1") == till.sent
    (record,) = box.own_records("nightsafe.journal.repaired")
    assert record["data"]["mended"] == [{"position": "7", "what": "event"}]
    assert (record["data"]["lost"], record["data"]["positions"]) == ([], [])
    assert box.status()["sweep"]["structure"] == "sound"
    assert box.stop() == 0
    assert not verify(box.state).faults


def _flip_event(box: Box, position: int) -> None:
    """One bit of one event, in the file."""
    ((event,),) = box.rows("select event from records where position = ?", position)
    content = bytearray(box.journal.read_bytes())
    at = content.find(event[:200])
    assert at > 0
    content[at + 60] ^= 4
    write_whole(box.journal, bytes(content))


def _condition(box: Box, name: str) -> Any:
    return next((one for one in box.status()["conditions"] if one["id"] == name), None)
