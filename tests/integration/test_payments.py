"""What became of payments, asked of the running agent: fates, suspected duplicates, refunds before their time."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.integration.test_queue_cli import nightsafe
from tests.sales import event, new_name, payment

pytestmark = pytest.mark.needs("mosquitto")

Make = Callable[..., Box]


def paid(payment_id: str, kind: str = "captured", time: str | None = None, **changes: Any) -> bytes:
    """One event of a payment; without a time it counts when it is recorded."""
    return event(type=f"pos.payment.{kind}", time=time, data=payment(payment_id=payment_id, **changes))


def told(box: Box, *arguments: str) -> Any:
    """What `nightsafe payments … --json` says."""
    done = nightsafe(box, "payments", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
