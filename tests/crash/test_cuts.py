"""The way up is cut, slow, late and mixed up: nothing is lost or doubled, and every cut costs one batch at most."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.crash.conftest import Story
from tests.crash.front import problem
from tests.crash.judge import judge
from tests.crash.load import Load
from tests.crash.proxy import Harm, sent_again
from tests.crash.venue import Venue
from tests.integration.machine import until

CUTS: tuple[Harm, ...] = ("lose_request", "lose_answer", "half_body", "reset")
CLEAR: tuple[Harm, ...] = ("none", "none", "none", "none")


@pytest.mark.parametrize("harm", CUTS)
def test_A3_1_a_cut_costs_its_own_batch_at_most_and_the_cloud_is_asked_first(venue: Venue, harm: Harm) -> None:
    venue.sell(100)
    venue.settle()
    venue.proxy.harm = harm
    began, asked = len(venue.proxy.uploads), len(venue.proxy.requests)
    venue.sell(400)
    struck = venue.proxy.struck
    until(lambda: venue.proxy.struck >= struck + 3 and venue.cursor, "three uploads are cut")
    venue.proxy.harm = "none"
    venue.settle()
    uploads, requests = venue.proxy.uploads[began:], venue.proxy.requests[asked:]
    cut = [upload for upload in uploads if upload.harm != "none"]
    assert sent_again(uploads) <= sum(upload.last - upload.first + 1 for upload in cut)
    if harm == "lose_answer":
        assert sent_again(uploads) == 0, "what the cloud has is not sent again"
    after_a_cut = [method for (_, done), (method, _) in pairwise(requests) if done != "none"]
    assert set(after_a_cut) == {"GET"}
    venue.export_is_the_journal()


def test_A3_1_an_upload_that_arrives_when_nobody_waits_for_it_any_more_changes_nothing(venue: Venue) -> None:
    """It was held on the way, the box gave up, asked, sent anew; then the line heals and the old request comes in."""
    venue.sell(100)
    venue.settle()
    venue.proxy.harm = "stall"
    struck, late = venue.proxy.struck, venue.proxy.late
    venue.sell(200)
    until(lambda: venue.proxy.struck > struck, "an upload is held")
    venue.proxy.harm = "none"
    venue.settle()
    venue.proxy.heal()
    until(lambda: venue.proxy.late > late, "the held upload is let go")
    venue.sell(50)
    venue.settle()
    time.sleep(0.2)
    assert venue.in_cloud() == venue.disk.seals
    venue.export_is_the_journal()


def test_A2_2_a_line_of_64_kbit_makes_progress_in_smaller_batches() -> None:
    with Venue({"drain": {"gzip": False, "batch_target_s": 1.0}}) as venue:
        venue.front.uploads.append(problem(503, "unavailable", {"Retry-After": "1"}))
        venue.sell(16)
        venue.proxy.bytes_per_s = 64_000 // 8
        until(lambda: len(venue.proxy.uploads) >= 2, "the first batch is on its slow way")
        venue.sell(30)
        until(lambda: venue.cursor >= 26, "more is through than the first batch", 60)
        sizes = [upload.last - upload.first + 1 for upload in venue.proxy.uploads[1:]]
        assert len(sizes) >= 3, f"in one piece there would be no progress on a bad line: {sizes}"
        assert max(sizes[1:]) < sizes[0], f"batches do not shrink: {sizes}"
        venue.proxy.bytes_per_s = 0
        venue.settle()
        venue.export_is_the_journal()


def test_A1_2_a_cloud_that_was_killed_in_the_middle_of_it_gets_everything(venue: Venue) -> None:
    venue.proxy.bytes_per_s = 100_000
    for turn in range(1, 4):
        venue.sell(300)
        venue.proxy.uploads.clear()
        until(lambda: venue.proxy.uploads, f"upload {turn} is under way")
        venue.cloud.kill()
        venue.cloud.start()
    venue.proxy.bytes_per_s = 0
    venue.settle()
    venue.export_is_the_journal()


def mixed(venue: Venue, load: Load, story: Story, for_s: float) -> None:
    """Whatever chance brings, one after another, while devices go on selling."""
    end_s = time.monotonic() + for_s
    harms = (*CUTS, "stall", *CLEAR)
    while time.monotonic() < end_s:
        harm = story.chance.choice(harms)
        venue.proxy.bytes_per_s = story.chance.choice((0, 0, 8_000, 100_000))
        venue.proxy.harm = harm
        if story.chance.random() < 0.1:
            venue.cloud.kill()
            venue.cloud.start()
            story.tell("cloud killed")
        time.sleep(story.chance.uniform(0.1, 0.8))
        if harm == "stall" and story.chance.random() < 0.7:
            venue.proxy.heal()
        figures = f"cursor {venue.cursor}, pending {venue.pending}, told {load.told_count}"
        story.tell(f"{harm}, {venue.proxy.bytes_per_s or 'no'} limit of bytes/s; {figures}")
    venue.proxy.bytes_per_s = 0
    venue.proxy.heal()


def run_mixed(venue: Venue, story: Story, outside: Path, for_s: float) -> None:
    load = Load(outside, venue.box.port, 6, story.seed)
    load.start()
    mixed(venue, load, story, for_s)
    load.finish(30)
    venue.settle()
    time.sleep(0.3)  # what was held on the way arrives
    venue.disk.look()
    verdict = judge(load, venue.disk, venue.cloud).verdict
    story.tell(f"told {verdict.told}, in cloud {verdict.in_cloud}, uploads {len(venue.proxy.uploads)}")
    assert verdict.told > 50


IMPATIENT = {"cloud": {"request_timeout_s": 1.5, "connect_timeout_s": 1.5}}


def test_A3_1_any_mix_of_cuts_loses_nothing_and_doubles_nothing(story: Story, outside: Path) -> None:
    with Venue(IMPATIENT) as venue:
        run_mixed(venue, story, outside, 4)


@pytest.mark.long
@pytest.mark.parametrize("turn", range(10))
def test_A3_1_long_mixes_of_cuts_lose_nothing_and_double_nothing(story: Story, outside: Path, turn: int) -> None:
    story.chance.seed(f"{story.seed}/{turn}")
    with Venue(IMPATIENT) as venue:
        run_mixed(venue, story, outside, 30)
