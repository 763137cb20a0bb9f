"""The cloud in memory refuses what the contract refuses, so that a drain that does wrong is seen."""

import pytest

from agent.core.answers import CloudRefused
from agent.core.lineage import Stream
from tests.crash.judge import seal
from tests.crash.power.cloud import ORIGIN, Cloud
from tests.crash.power.lives import Uploading

AT = "2026-11-22T12:00:00.000Z"


def record(sequence: int, prevhash: bytes = ORIGIN, event: bytes = b"{}") -> Uploading:
    return Uploading(sequence, "till-1", AT, prevhash, seal(prevhash, sequence, AT, "till-1", event), event)


@pytest.fixture
async def cloud() -> Cloud:
    made = Cloud()
    await made.open_stream(Stream("e", 0, ORIGIN, None, "created"))
    await made.put("e", [record(1)])
    return made


async def test_the_same_record_again_is_there_once(cloud: Cloud) -> None:
    answer = await cloud.put("e", [record(1)])
    assert (answer.accepted, answer.duplicate, len(cloud.records()), cloud.refusals) == (0, 1, 1, [])


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(record(3, record(1).rechash), id="one is left out"),
        pytest.param(record(2), id="does not join on"),
        pytest.param(record(1, event=b"[]"), id="another record in its place"),
        pytest.param(record(2, record(1).rechash)._replace(event=b"[]"), id="other bytes than were sealed"),
    ],
)
async def test_what_is_not_the_next_record_is_refused_and_noted(cloud: Cloud, wrong: Uploading) -> None:
    with pytest.raises(CloudRefused):
        await cloud.put("e", [wrong])
    assert len(cloud.records()) == len(cloud.refusals) == 1
