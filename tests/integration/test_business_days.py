"""Whether a business day is complete and what it took in, and who is told: over the running agent and its page."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.cli.local import ask
from agent.core.instants import to_text
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.integration.person import PIN, Person, write_pin
from tests.integration.test_queue_cli import nightsafe
from tests.sales import counted, event, payment
from tests.tools import needs

pytestmark = pytest.mark.needs("mosquitto")

Make = Callable[..., Box]


def today(days: int = 0) -> str:
    """A business date by the box's default cut-off, 05:00 UTC."""
    return f"{datetime.now(UTC) - timedelta(hours=5) + timedelta(days=days):%Y-%m-%d}"


def day(box: Box, date: str) -> Any:
    return ask(box.state, "GET", f"/api/v1/business-days/{date}")


def nets(totals: Any) -> dict[tuple[str, str], int]:
    return {(one["tender"], one["currency"]): one["net"] for one in totals}


def sale(kind: str, one: str, amount: int, *, at: str | None = None, **changes: Any) -> bytes:
    data = payment(payment_id=one, amount={"amount": amount, "currency": "GBP"}) | changes
    return event(type=f"pos.payment.{kind}", time=at, data=data)


def test_a_business_day_says_what_it_took_in_and_late_sales_count_for_their_own_day(
    new_box: Make, cloud: CloudServer
) -> None:
    box = new_box(cloud.url).start()
    yesterday = to_text(int((time.time() - 86_400) * 1000))
    again = sale("captured", "p1", 1250)
    with Device(box.port, "till-1") as till, Device(box.port, "till-2") as other:
        till.tell(sale("authorized", "p1", 1250))
        till.tell(again)
        till.tell(again)
        till.tell(sale("refunded", "p1", 250))
        till.tell(sale("captured", "p2", 700, tender="cash", card=None))
        other.tell(sale("captured", "p3", 900, training=True))
        other.tell(sale("authorized", "p4", 5000))
        other.tell(sale("voided", "p4", 5000))
        other.tell(sale("captured", "late", 330, at=yesterday))
        other.tell(event(type="pos.check.opened", time=None, data={"check_id": "c9", "business_date": today(-1)}))
        other.tell(sale("captured", "over-midnight", 40, check_id="c9"))
        till.tell(sale("refunded", "late", 30))
    until(box.uploaded, "all is uploaded")
    now, before = day(box, today()), day(box, today(-1))
    assert nets(now["totals"]) == {("card", "GBP"): 1250 - 250 - 30, ("cash", "GBP"): 700}
    assert nets(now["training"]) == {("card", "GBP"): 900}
    assert nets(before["totals"]) == {("card", "GBP"): 330 + 40}
    assert before["late_count"] == 2
    assert (now["safe_to_close"], now["reasons"]) == (True, [])
    assert {one["device"]: (one["received"], one["uploaded"]) for one in now["devices"]} == {
        "till-1": (5, 5),
        "till-2": (3, 3),
    }
    assert day(box, today(-9))["totals"] == []
    tomorrow = day(box, today(1))
    assert (tomorrow["safe_to_close"], tomorrow["reasons"]) == (False, ["The business day has not begun."])
    done = nightsafe(box, "payments", "day")
    assert (done.returncode, "Safe to close." in done.stdout) == (0, True), done.stdout + done.stderr


def test_a_business_day_is_not_safe_to_close_while_something_of_it_may_be_missing(new_box: Make) -> None:
    box = new_box().start()
    with Device(box.port, "till-1") as till:
        till.tell(counted("e1", 1, time=None, data=payment()))
        till.tell(counted("e1", 4, time=None, data=payment()))
        till.tell(event(type="pos.payment.captured", data={"payment_id": "p"}))
        reasons = day(box, today())["reasons"]
        assert any("till-1 has not delivered its events 2 to 3" in one for one in reasons)
        assert any("1 event of till-1 refused" in one for one in reasons)
        assert any("2 payment records of the day not at the cloud yet" in one for one in reasons)
        (device,) = day(box, today())["devices"]
        assert (device["gaps"], device["refused"], device["received"], device["uploaded"]) == ([["2", "3"]], 1, 2, 0)
        assert any("wait for the cloud" in one for one in day(box, today(1))["reasons"]) is True
        till.tell(counted("e2", 1, time=None, data=payment()))
    until(lambda: any("has lost 2 events" in one for one in day(box, today())["reasons"]), "the loss is told")
    assert not any("has lost" in one for one in day(box, today(1))["reasons"])
    until(lambda: "gap_lost:till-1" in {one["id"] for one in box.status()["conditions"]}, "people are told")
    done = nightsafe(box, "attention", "ack", "gap_lost:till-1", "--reason", "compared", "--actor", "Ann")
    assert done.returncode == 0, done.stderr
    assert not any("has lost" in one for one in day(box, today())["reasons"])
    done = nightsafe(box, "payments", "day", today())
    assert (done.returncode, "NOT safe to close" in done.stdout) == (1, True)


@pytest.fixture(scope="module")
def paged() -> Iterator[Box]:
    """A box with a page and a PIN, and one payment."""
    needs("mosquitto")
    page = {"listen_tls": "127.0.0.1:0", "pin_file": "pin"}
    box = Box(settings={"web": page})
    write_pin(box)
    try:
        box.start()
        with Device(box.port, "till-1") as till:
            till.tell(sale("captured", "pay/1 x", 1250))
        yield box
        assert PIN not in box.text
        assert "Traceback" not in box.text
    finally:
        box.close()


PATHS = ("/api/v1/payments/pay%2F1%20x", "/api/v1/payments?suspect=duplicate", f"/api/v1/business-days/{today()}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_what_is_known_of_payments_is_told_to_nobody_without_the_pin(paged: Box, scheme: str, path: str) -> None:
    person = Person(paged, scheme)
    refused = person.look(path)
    assert refused.status == 401
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert json.loads(refused.text)["type"] == "urn:nightsafe:pin-required"
    person.log_in()
    assert person.look(path).status == 200


def test_the_face_for_machines_answers_as_the_contract_says(paged: Box) -> None:
    person = Person(paged)
    person.log_in()
    one = json.loads(person.look(PATHS[0]).text)
    assert (one["fate"], one["re_charge_safe"]) == ("edge_durable", "no")
    assert json.loads(person.look("/api/v1/payments/nobody").text)["fate"] == "unknown"
    for path, words in (
        ("/api/v1/payments", "which payment"),
        ("/api/v1/payments?suspect=other", "only suspect=duplicate"),
        ("/api/v1/business-days/2026-13-01", "no date"),
        ("/api/v1/business-days/today", "no date"),
    ):
        refused = person.look(path)
        assert (refused.status, words in refused.text) == (400, True), (path, refused.text)
        assert json.loads(refused.text)["type"].startswith("urn:nightsafe:")
    act = person.ask("POST", "/api/v1/payments/dismiss", {"payment_id": "x"})
    assert act.status in (404, 405), "nobody acts here without a form of the page"


def test_the_page_says_in_plain_words_whether_a_guest_may_be_charged_again(new_box: Make) -> None:
    box = new_box(web={"listen_tls": "127.0.0.1:0", "pin_file": "pin"})
    write_pin(box)
    box.start()
    with Device(box.port, "till-1") as till:
        for number in (1, 2):
            till.tell(sale("captured", f"<pay-{number}>", 1250))
        till.tell(sale("refunded", "<pay-1>", 200))
    person = Person(box)
    assert person.look("/payments").where == "/login"
    person.log_in()
    seen = person.look("/payments?payment_id=%3Cpay-1%3E").text
    assert "Stored on this box, not at the cloud yet" in seen
    assert "Do not charge again" in seen
    assert "&lt;pay-1&gt;" in seen
    assert "<pay-1>" not in seen
    assert "refunded 2.00 GBP by till-1" in seen
    now = datetime.now(UTC)
    found = person.look(f"/payments?last4=4242&amount=12.50&on={now:%Y-%m-%d}&at={now:%H:%M}").text
    assert "&lt;pay-2&gt;" in found
    assert "not safe to close" in found
    assert "23.00 GBP" in found
    assert person.look("/payments?payment_id=nobody").text.count("does not know this payment") == 1
    for wrong in ("last4=4242&amount=x&on=2026-11-22&at=10:00", "last4=4242&amount=1.00&on=&at=", "date=soon"):
        assert person.look(f"/payments?{wrong}").status == 400
    assert person.press("/payments", "/payments/dismiss", reason="  ").status == 409
    assert person.press("/payments", "/payments/dismiss", reason="two rounds").where == "/payments"
    assert "No payment looks as if it was charged twice" in person.look("/payments").text
    (cleared,) = [one["data"] for one in box.own_records("nightsafe.condition.cleared")]
    assert (cleared["actor"], cleared["reason"]) == ("page", "two rounds")
    forged = person.send("/payments/dismiss", {"token": "x", "payment_id": "<pay-1>", "reason": "x"})
    assert forged.status == 403
