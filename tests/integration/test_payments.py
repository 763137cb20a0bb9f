"""What became of payments, asked of the running agent: fates, suspected duplicates, refunds before their time."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.cli.local import ask
from agent.core.errors import Rejected
from agent.core.instants import to_text
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.integration.test_downlink import send
from tests.integration.test_queue_cli import nightsafe
from tests.sales import event, new_name, payment

pytestmark = pytest.mark.needs("mosquitto")

Make = Callable[..., Box]


def paid(payment_id: str, kind: str = "captured", time: str | None = None, **changes: Any) -> bytes:
    """One event of a payment; without a time it counts when it is recorded."""
    return event(type=f"pos.payment.{kind}", time=time, data=payment(payment_id=payment_id, **changes))


def told(box: Box, *words: str) -> Any:
    """What the agent answers: `status ID`, `status check=…`, `suspects`; as the command line asks it."""
    path = {"suspects": "?suspect=duplicate", "status": ""}[words[0]]
    if words[1:]:
        path = f"?{'&'.join(words[1:])}" if "=" in words[1] else f"/{words[1]}"
    return ask(box.state, "GET", f"/api/v1/payments{path}")


def conditions(box: Box) -> dict[str, str]:
    return {one["id"]: one["text"] for one in box.status()["conditions"]}


@pytest.fixture(scope="module")
def away() -> Iterator[Box]:
    """A box that several tests share; its cloud is away."""
    box = Box()
    try:
        yield box.start()
        assert "Traceback" not in box.text
    finally:
        box.close()


def _payment_id(data: Any) -> Any:
    """Of a record's data; the box's own records have other shapes."""
    return data.get("payment_id") if isinstance(data, dict) else None


def test_A2_10_a_payment_is_found_as_soon_as_it_is_acknowledged_and_is_not_to_be_charged_again(away: Box) -> None:
    name, one = new_name(), new_name("pay")
    with Device(away.port, name) as till:
        till.tell(paid(one, "authorized"))
        till.tell(paid(one))
        answer = told(away, "status", one)
    assert (answer["fate"], answer["re_charge_safe"]) == ("edge_durable", "no")
    assert "Do not charge again" in answer["reason"]
    assert set(answer["times"]) == {"edge_durable"}
    (shown,) = answer["payments"]
    assert (shown["device"], shown["check_id"], shown["last4"]) == (name, "1009", "4242")
    assert [each["type"] for each in shown["events"]] == ["pos.payment.authorized", "pos.payment.captured"]
    text = nightsafe(away, "payments", "status", one).stdout
    assert "Do not charge again" in text
    assert "Safe to charge again: no" in text


def test_A2_10_the_fates_follow_the_payment_to_the_cloud_and_what_the_cloud_says_of_it(
    new_box: Make, cloud: CloudServer
) -> None:
    box = new_box(cloud.url).start()
    with Device(box.port, "till-1") as till:
        for one in ("pay-posted", "pay-declined", "pay-open"):
            till.tell(paid(one, card=WAITING))
    until(lambda: told(box, "status", "pay-open")["fate"] == "uploaded", "it is at the cloud")
    assert told(box, "status", "pay-open")["re_charge_safe"] == "no"
    assert told(box, "status", "pay-nowhere") == {
        "fate": "unknown",
        "times": {},
        "re_charge_safe": "no",
        "reason": told(box, "status", "pay-nowhere")["reason"],
        "payments": [],
    }
    assert "A till may still hold its last sale" in told(box, "status", "pay-nowhere")["reason"]
    say(cloud, box, "pay-posted", "posted")
    say(cloud, box, "pay-declined", "declined")
    box.stop()
    lose_the_index(box)
    box.start()
    posted, declined = told(box, "status", "pay-posted"), told(box, "status", "pay-declined")
    assert (posted["fate"], posted["re_charge_safe"]) == ("posted", "no")
    assert posted["times"]["posted"] == SAID_AT
    assert (declined["fate"], declined["re_charge_safe"]) == ("declined", "yes")
    by_check = told(box, "status", "check=1009")
    assert (by_check["fate"], by_check["re_charge_safe"]) == ("uploaded", "no"), "the least certain of the three"
    with Device(box.port, "till-1") as till:
        till.tell(paid("pay-declined", card=WAITING))
    again = told(box, "status", "pay-declined")
    assert (again["fate"] in ("edge_durable", "uploaded"), again["re_charge_safe"]) == (True, "no"), (
        "what was recorded after the decline is not declined"
    )


WAITING = {"token": "tok-hold", "last4": "4242", "brand": "visa"}
"""A card whose payments wait at the reference cloud until its operator says what became of them."""


def lose_the_index(box: Box) -> None:
    """What is made from the log; of cards it has nothing but token and last four digits."""
    with sqlite3.connect(box.journal) as connection:
        columns = [name for _, name, *_ in connection.execute("pragma table_info(payment_events)")]
        assert [name for name in columns if "card" in name or "last4" in name] == ["card_token", "last4"]
        connection.execute("delete from payment_events")
        connection.execute("update payments_place set position = 0")
    connection.close()


SAID_AT = "2026-11-22T11:00:00.000Z"


def say(cloud: CloudServer, box: Box, payment_id: str, fate: str) -> None:
    """The cloud's operator says what became of it."""
    send(cloud, f"payment.{fate}", payment_id=payment_id, at=SAID_AT)
    until(lambda: told(box, "status", payment_id)["fate"] == fate, f"{payment_id} is {fate}", 20)


def test_A2_10_a_payment_is_found_by_what_people_remember_and_never_safe_to_charge_again_by_that(away: Box) -> None:
    name, one, check = new_name(), new_name("pay"), new_name("check")
    card = {"token": "tok-b", "last4": "0042", "brand": "visa"}
    amount = {"amount": 3190, "currency": "GBP"}
    with Device(away.port, name) as till:
        data = payment(payment_id=one, check_id=check, card=card, amount=amount)
        till.tell(event(epoch="e1", sequence="1", time=now_text(), data=data))
    remembered = ("--last4", "0042", "--amount", "31.90", "--at", f"{datetime.now(UTC):%Y-%m-%d %H:%M}")
    by = [
        told(away, "status", f"check={check}"),
        json.loads(nightsafe(away, "payments", "status", *remembered, "--json").stdout),
        told(away, "status", "last4=0042", "amount=3190", "currency=GBP", f"at={now_text()}", "within_s=60"),
        told(away, "status", "last4=0042", "amount=3190", f"from={now_text(-60)}", f"to={now_text(60)}"),
        told(away, "status", f"device={name}", "sequence=1"),
    ]
    for answer in by:
        assert (answer["fate"], answer["re_charge_safe"]) == ("edge_durable", "no")
        assert [shown["payment_id"] for shown in answer["payments"]] == [one]
    assert by[0]["times"].keys() == {"till", "edge_durable"}
    long_ago = told(away, "status", "last4=0042", "amount=3190", "at=2026-01-01T10:00:00Z")
    assert (long_ago["fate"], long_ago["re_charge_safe"]) == ("unknown", "no")
    for wrong in (["last4=0042"], [f"device={name}"], ["amount=1"], ["last4=0042", "amount=1", "at=soon"]):
        with pytest.raises(Rejected):
            told(away, "status", *wrong)
    done = nightsafe(away, "payments", "status")
    assert (done.returncode, done.stdout) == (1, "")


def now_text(ahead_s: float = 0.0) -> str:
    return to_text(int((time.time() + ahead_s) * 1000))


def test_A3_3_payments_that_look_like_one_sale_are_listed_told_once_and_never_held_back(
    new_box: Make, cloud: CloudServer
) -> None:
    box = new_box(cloud.url).start()
    ids = sorted(new_name("pay") for _ in range(9))
    with Device(box.port, "till-1") as till, Device(box.port, "till-2") as other:
        till.tell(paid(ids[0], "authorized", check_id="a"))
        till.tell(paid(ids[0], check_id="a"))  # one payment, told in two steps
        other.tell(paid(ids[1], check_id="a"))  # the same check, by another device
        till.tell(paid(ids[2], check_id="b"))  # the same device, another check
        other.tell(paid(ids[3], check_id="c", card={"token": "tok-z", "last4": "1111"}))
        other.tell(paid(ids[4], check_id="c", card={"token": "tok-y", "last4": "1111"}))  # another card
        other.tell(paid(ids[5], check_id="c", card={"token": "tok-z"}, amount={"amount": 1, "currency": "GBP"}))
        other.tell(paid(ids[6], check_id="c", card={"token": "tok-z"}, training=True))
        other.tell(paid(ids[7], check_id="d", tender="cash", card=None))
        other.tell(paid(ids[8], check_id="d", tender="cash", card=None))
    listed = told(box, "suspects")
    assert [[one["payment_id"] for one in group["payments"]] for group in listed["suspects"]] == [ids[:3]]
    assert (listed["count"], listed["up_to_date"]) == (1, True)
    until(lambda: "payments_suspect" in conditions(box), "people are told")
    assert "1 sale may" in conditions(box)["payments_suspect"]
    until(box.uploaded, "all is uploaded")
    up = {_payment_id(record.event.get("data")) for record in cloud.records()}
    assert up >= set(ids), "nothing is held back"
    assert "May have been charged twice" in nightsafe(box, "payments", "suspects").stdout

    done = nightsafe(box, "payments", "dismiss", ids[1], "--reason", "two rounds of the same", "--actor", "Ann")
    assert done.returncode == 0, done.stderr
    box.restart()
    until(lambda: "payments_suspect" in conditions(box), "told after a restart too")
    left = told(box, "suspects")
    assert [[one["payment_id"] for one in group["payments"]] for group in left["suspects"]] == [[ids[0], ids[2]]], (
        "what was not compared stays"
    )
    assert nightsafe(box, "payments", "dismiss", ids[2], "--reason", "same", "--actor", "Ann").returncode == 0
    assert told(box, "suspects")["count"] == 0
    until(lambda: "payments_suspect" not in conditions(box), "nothing is told any more")
    (first, _) = [one["data"] for one in box.own_records("nightsafe.condition.cleared")]
    assert (first["actor"], first["reason"]) == ("Ann", "two rounds of the same")
    assert first["payments"] == ids[:2]
    refused = nightsafe(box, "payments", "dismiss", ids[2], "--reason", "same", "--actor", "Ann")
    assert refused.returncode == 1
    assert "not suspected" in refused.stderr
    with Device(box.port, "till-1") as till:
        till.tell(paid("pay-9", check_id="a"))
    assert told(box, "suspects")["count"] == 1, "a new one that looks like them is listed"
    with Device(box.port, "till-1") as till:
        till.tell(paid("pay-9", "voided", check_id="a"))
    assert told(box, "suspects")["count"] == 0, "what was voided charges nobody twice"


def test_A3_4_a_refund_before_the_payments_fate_is_final_is_flagged_and_stays_behind_it(away: Box) -> None:
    one, other, cash = (new_name("pay") for _ in range(3))
    name = new_name()
    with Device(away.port, name) as till, Device(away.port, new_name()) as till_2:
        till.tell(paid(one, check_id=one))
        till.tell(paid(other, check_id=other))
        till_2.tell(paid(one, "refunded", check_id=one))
        till.tell(paid(cash, tender="cash", card=None))
        till.tell(paid(cash, "refunded", tender="cash", card=None))
    listed = {each["payment_id"] for each in told(away, "suspects")["untimely"]}
    assert {one, other, cash} & listed == {one}
    until(lambda: "payments_untimely" in conditions(away), "people are told")
    log = [json.loads(event) for (event,) in away.rows("select event from records order by position")]
    order = [each["type"] for each in log if each["data"].get("payment_id") == one]
    assert order == ["pos.payment.captured", "pos.payment.refunded"], "nothing is held back or reordered"


def test_A3_5_what_was_received_for_a_check_and_by_a_device_is_listed(away: Box) -> None:
    one, other, check = new_name(), new_name(), new_name("check")
    first, second, third = (new_name("pay") for _ in range(3))
    with Device(away.port, one) as till, Device(away.port, other) as till_2:
        till.tell(paid(first, check_id=check, tender="cash", card=None))
        till_2.tell(paid(second, check_id=check))
        till_2.tell(paid(second, "voided", check_id=check))
        till_2.tell(event(epoch="e1", sequence="7", data=payment(payment_id=third)))
    found = told(away, "status", f"check={check}")["payments"]
    assert [(shown["payment_id"], shown["device"]) for shown in found] == [(second, other), (first, one)]
    assert [each["type"] for each in found[0]["events"]] == ["pos.payment.captured", "pos.payment.voided"]
    (by_device,) = told(away, "status", f"device={other}", "sequence=7")["payments"]
    assert by_device["payment_id"] == third
