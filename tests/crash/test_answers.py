"""Every answer of the contract's table, and some that it does not know: the drain obeys, waits or is held, never drops.

A cloud with a script stands before the real one. Meanwhile intake goes on, and afterwards the cloud has everything.
"""

import email.utils
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from agent.cli.local import ask
from tests.crash.front import Line, Say, problem
from tests.crash.venue import Venue
from tests.integration.machine import until
from tests.integration.mqtt import Device
from tests.integration.test_queue_cli import nightsafe
from tests.sales import event, payment


def upload(venue: Venue, events: int, *script: Line) -> int:
    """Sell, the next uploads being answered by the script; returns how many calls were seen before."""
    since = len(venue.front.calls)
    venue.front.uploads.extend(script)
    venue.sell(events)
    until(lambda: not venue.front.uploads, "the script has been played")
    return since


def sizes(venue: Venue, since: int) -> list[int]:
    return [call.size for call in venue.front.uploads_seen(since)]


@pytest.mark.parametrize(("status", "form"), [(429, "seconds"), (503, "seconds"), (503, "date")])
def test_retry_after_is_obeyed_though_probes_pass(venue: Venue, status: int, form: str) -> None:
    wait_s = 1
    asked = str(wait_s) if form == "seconds" else email.utils.formatdate(time.time() + wait_s + 1, usegmt=True)
    since = upload(venue, 5, problem(status, "unavailable", {"Retry-After": asked}))
    venue.settle()
    first, second, *_ = venue.front.uploads_seen(since)
    assert second.at_s - first.at_s >= wait_s
    assert [call for call in venue.front.calls[since:] if call.path == "/v1/health"], "no probe passed meanwhile"


def test_a_503_without_a_word_is_tried_again(venue: Venue) -> None:
    upload(venue, 5, *[problem(503, "unavailable")] * 3)
    venue.settle()


def test_a_500_twice_in_a_row_halves_the_batch(venue: Venue) -> None:
    since = upload(venue, 40, *[problem(500, "internal")] * 2)
    venue.settle()
    seen = sizes(venue, since)
    assert seen[2] == seen[1] // 2


def test_a_413_halves_and_the_limit_is_remembered(venue: Venue) -> None:
    def standing(request: web.Request, size: int) -> Say | None:
        limits = {"records": 10, "bytes": 1_000_000, "min_interval_s": 0}
        return problem(413, "too-large", limits=limits) if size > 10 else None

    venue.sell(200)
    venue.settle()
    venue.front.standing = standing
    since = upload(venue, 60)
    venue.settle()
    upload(venue, 60)
    venue.settle()
    venue.front.standing = lambda request, size: None
    too_large = [call for call in venue.front.uploads_seen(since) if call.status == 413]
    assert len(too_large) <= 1, "the limit was not remembered"
    assert max(sizes(venue, since)[1:]) <= 10


@pytest.mark.parametrize(
    "page",
    [
        Say(200, "<html>Welcome! Accept our terms</html>"),
        Say(302, "<html>this way</html>", {"Location": "http://127.0.0.1:1/terms"}),
        Say(200, '{"next": 99999}', {"Content-Type": "text/html"}),
        Say(511, "<html>log in first</html>"),
    ],
    ids=["html", "redirect", "json-as-html", "511"],
)
def test_A1_7_a_captive_portal_is_no_cloud(venue: Venue, page: Say) -> None:
    """Nothing that it says moves the cursor, no redirect is followed, and nobody has to act when it is gone."""
    venue.settle()
    cursor, since = venue.cursor, len(venue.front.calls)
    venue.front.standing = lambda request, size: page
    venue.sell(20)
    until(lambda: len(venue.front.uploads_seen(since)) or len(venue.front.calls) > since + 3, "it was asked")
    time.sleep(0.5)
    assert venue.cursor == cursor
    assert venue.box.status()["sync"]["state"] == "waiting"
    venue.front.standing = lambda request, size: None
    venue.settle()


def test_a_401_waits_for_a_new_token_and_goes_on_by_itself(venue: Venue) -> None:
    def standing(request: web.Request, size: int) -> Say | None:
        known = request.headers.get("Authorization") == "Bearer second"
        return None if known or request.path == "/v1/health" else problem(401, "unauthorized")

    venue.settle()
    cursor = venue.cursor
    venue.front.standing = standing
    venue.sell(20)
    until(lambda: venue.condition("cloud_auth"), "people are told")
    until(lambda: venue.box.status()["cause"] == "auth", "the cause is named")
    assert venue.box.status()["state"] == "degraded"
    venue.sell(20)
    assert venue.cursor == cursor
    (venue.box.directory / "token").unlink()
    time.sleep(0.5)  # it looks for the token and finds none
    venue.sell(20)
    venue.give_token("second")
    venue.settle()
    venue.front.standing = lambda request, size: None
    assert venue.condition("cloud_auth") is None


def test_a_token_file_that_was_cut_off_leaves_the_token_that_is_known(venue: Venue) -> None:
    asked = 0

    def standing(request: web.Request, size: int) -> Say | None:
        nonlocal asked
        asked += request.path != "/v1/health"
        known = request.headers.get("Authorization") == "Bearer second"
        return None if request.path == "/v1/health" or (known and asked != 3) else problem(401, "unauthorized")

    venue.settle()
    venue.give_token("second")
    venue.front.standing = standing
    venue.sell(20)
    venue.settle()
    (venue.box.directory / "token").write_text("")
    asked = 2  # the next request is refused, so that the file is read again
    venue.sell(20)
    venue.settle()
    assert asked > 3
    assert "token_unreadable" in venue.box.text
    venue.front.standing = lambda request, size: None


def test_a_record_that_the_cloud_rejects_is_told_and_the_rest_goes_on(venue: Venue) -> None:
    rejected: list[int] = []

    def reject_the_first(answer: dict[str, Any]) -> dict[str, Any]:
        rejected.append(answer["next"] - answer["accepted"])
        return answer | {"rejected": [{"sequence": rejected[0], "type": "urn:nightsafe:schema", "detail": "by script"}]}

    upload(venue, 20, reject_the_first)
    venue.settle()
    told = venue.condition("records_rejected")
    assert told is not None
    assert told["attention"]
    assert str(rejected[0]) in told["text"]
    assert venue.box.status()["drain"]["rejected"] >= 1


def test_A2_10_a_payment_that_the_cloud_rejects_is_not_in_its_books_until_a_person_has_looked(venue: Venue) -> None:
    """Over kill -9: it waits in quarantine, the day is not safe to close, and nothing may be charged again."""
    sequences: list[int] = []

    def reject_the_last(answer: dict[str, Any]) -> dict[str, Any]:
        sequences.append(answer["next"] - 1)
        return answer | {
            "rejected": [{"sequence": sequences[0], "type": "urn:nightsafe:schema", "detail": "by script"}]
        }

    def day() -> Any:
        date = f"{datetime.now(UTC) - timedelta(hours=5):%Y-%m-%d}"
        return ask(venue.box.state, "GET", f"/api/v1/business-days/{date}")

    def told() -> Any:
        return ask(venue.box.state, "GET", "/api/v1/payments/p-rejected")

    def stands_in_the_way() -> bool:
        return any("1 event of till-p refused" in one for one in day()["reasons"])

    venue.settle()
    venue.front.uploads.append(reject_the_last)
    with Device(venue.box.port, "till-p") as till:
        till.tell(event(data=payment(payment_id="p-rejected")))
    until(lambda: sequences, "the script has been played")
    venue.settle()
    for again in (False, True):
        if again:
            venue.box.kill()
            venue.box.start()
            venue.settle()
        assert (told()["fate"], told()["re_charge_safe"]) == ("edge_durable", "no")
        assert "quarantine" in told()["reason"]
        assert venue.condition("quarantine") is not None
        assert stands_in_the_way()
    shown = nightsafe(venue.box, "queue", "quarantine", "list", "--json")
    (entry,) = (one for one in json.loads(shown.stdout) if one["device"] == "till-p")
    assert (entry["reason"], entry["detail"]) == ("cloud_refused", "urn:nightsafe:schema: by script")
    assert "p-rejected" in nightsafe(venue.box, "queue", "quarantine", "show", str(entry["id"])).stdout
    done = nightsafe(
        venue.box,
        "queue",
        "quarantine",
        "dismiss",
        str(entry["id"]),
        "--actor",
        "Ann",
        "--reason",
        "in the books now",
    )
    assert done.returncode == 0, done.stderr
    until(lambda: told()["fate"] == "uploaded", "the payment counts as uploaded")
    assert not stands_in_the_way()


UNKNOWN: dict[str, Line] = {
    "409 of a new kind": problem(409, "something-new"),
    "410 of somebody else": problem(410),
    "403": problem(403, "forbidden"),
    "404 of a new kind": problem(404, "not-found"),
    "418": problem(418, "teapot"),
    "451": problem(451),
    "a next before the batch": lambda answer: answer | {"next": 1},
    "safe beyond next": lambda answer: answer | {"safe": answer["next"] + 5},
}


@pytest.mark.parametrize("line", UNKNOWN.values(), ids=UNKNOWN)
def test_an_answer_that_it_cannot_act_on_holds_the_drain_and_nothing_else(venue: Venue, line: Line) -> None:
    """People are told, devices go on selling, nothing is dropped; it is tried again now and then, and never by POST."""
    venue.sell(1)  # a box that has just started binds its stream with its first upload
    venue.settle()
    since = upload(venue, 20, line)
    held = until(lambda: venue.condition("drain_held"), "people are told")
    assert held is not None
    assert held["attention"]
    assert held["text"]
    assert held["hint"]
    assert venue.box.status()["sync"]["state"] == "held"
    venue.sell(10)
    venue.settle()
    until(lambda: venue.condition("drain_held") is None, "it is over")
    assert not [call for call in venue.front.calls[since:] if call.method == "POST"]


LOST: dict[str, Callable[[Venue], Line]] = {
    "gap": lambda venue: problem(409, "gap", next=venue.cursor + 1, head=venue.in_cloud()[-1].hex()),
    "no-stream": lambda venue: problem(404, "no-stream"),
}


@pytest.mark.parametrize("line", LOST.values(), ids=LOST)
def test_a_cloud_that_lost_its_place_is_asked_and_gets_the_rest(venue: Venue, line: Callable[[Venue], Line]) -> None:
    venue.sell(5)
    venue.settle()
    since = upload(venue, 20, line(venue))
    venue.settle()
    upload_at = next(at for at, call in enumerate(venue.front.calls) if at >= since and call.size)
    assert venue.front.calls[upload_at + 1].method == "GET"


def test_a_cloud_that_forgot_the_stream_altogether_is_opened_again(venue: Venue) -> None:
    """The GET says so too: then the same epoch is opened."""
    venue.sell(5)
    venue.settle()
    since = len(venue.front.calls)
    venue.front.others.append(problem(404, "no-stream"))
    upload(venue, 20, problem(404, "no-stream"))
    venue.settle()
    methods = [call.method for call in venue.front.calls[since:] if call.path != "/v1/health"]
    assert methods[:4] == ["PUT", "GET", "POST", "PUT"]


def test_A3_1_a_late_upload_that_overtakes_its_repetition_is_no_reason_to_stop(venue: Venue) -> None:
    """The cloud has more then than the smaller batch that was sent anew: the box asks, and goes on behind it."""
    venue.sell(5)
    venue.settle()
    said = len(venue.box.text)
    since = upload(venue, 40, "keep", "late")
    venue.settle()
    assert "drain_held" not in venue.box.text[said:]
    first, second, *_ = sizes(venue, since)
    assert second < first
    venue.export_is_the_journal()


def test_a_next_behind_the_batch_moves_nothing_until_the_cloud_was_asked(venue: Venue) -> None:
    said = len(venue.box.text)
    upload(venue, 20, lambda answer: answer | {"next": answer["next"] + 1000})
    venue.settle()
    assert "drain_held" not in venue.box.text[said:]


def test_another_head_moves_nothing_until_the_cloud_was_asked(venue: Venue) -> None:
    upload(venue, 20, lambda answer: answer | {"head": "00" * 32})
    venue.settle()
    assert venue.condition("forked") is None


def test_what_the_cloud_cannot_read_is_sent_smaller_down_to_one_record(venue: Venue) -> None:
    since = upload(venue, 16, *[problem(400, "malformed")] * 4)
    venue.settle()
    seen = sizes(venue, since)
    assert seen[1:4] == [max(1, seen[0] // 2**turn) for turn in (1, 2, 3)]
    assert len(seen) >= 5


def test_A3_1_after_all_of_it_the_export_is_the_journal(venue: Venue) -> None:
    venue.sell(5)
    venue.settle()
    venue.export_is_the_journal()
    assert "Traceback" not in venue.box.text
