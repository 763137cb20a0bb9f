"""A start that finds an empty folder where the data disk should be mounted: what it does, and what becomes of both.

Nothing tells such a folder from that of a new box, so the agent begins a new journal there. This is not promised to end
well for what was not uploaded; it is written down here so that nobody believes otherwise.
"""

import json
from collections.abc import Callable

import pytest

from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

SOLD = 20


def sell(box: Box, device: str) -> None:
    with Device(box.port, device) as till:
        for number in range(1, SOLD + 1):
            till.tell(counted("e1", number))


@pytest.mark.long
def test_an_empty_folder_at_a_start_begins_a_new_journal_and_what_was_uploaded_from_both_is_in_the_cloud_once(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    """What was stored there and not uploaded stays there, under the disk that is mounted over it."""
    cloud = new_cloud().start()
    box = new_box(cloud.url).start()
    sell(box, "till-before")
    until(box.uploaded, "the cloud has the first sales")
    assert box.stop() == 0
    disk, beneath = box.directory / "disk", box.directory / "beneath"

    box.state.rename(disk)
    box.state.mkdir(0o700)
    box.start()
    sell(box, "till-without")
    until(box.uploaded, "the cloud has what was sold without the disk")
    cloud.stop()
    sell(box, "till-beneath")
    assert box.stop() == 0
    assert len(box.stored("till-beneath")) == SOLD
    cloud.start()

    box.state.rename(beneath)
    disk.rename(box.state)
    box.start()
    sell(box, "till-after")
    until(box.uploaded, "the cloud has what was sold since", 20)
    epochs = [json.loads(line)["epoch"] for line in cloud.export()]
    assert len(set(epochs)) == 2
    sold = {name: len(cloud.records(name)) for name in ("till-before", "till-without", "till-beneath", "till-after")}
    assert sold == {"till-before": SOLD, "till-without": SOLD, "till-beneath": 0, "till-after": SOLD}
    assert box.stop() == 0
    box.state.rename(disk)
    beneath.rename(box.state)
    assert len(box.stored("till-beneath")) == SOLD
