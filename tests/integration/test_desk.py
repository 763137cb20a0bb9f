"""Requests in real time over the running agent, real Mosquitto, a stock client and the reference cloud."""

import json
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.integration.asker import Asker
from tests.integration.machine import Box, CloudServer, until
from tests.integration.test_downlink import ask as ask_cloud
from tests.integration.test_downlink import payment, send
from tests.integration.test_pairing import nightsafe, paired
from tests.sales import event
from tests.sales import payment as sold

pytestmark = pytest.mark.needs("mosquitto")

NewBox = Callable[..., Box]
NewCloud = Callable[[], CloudServer]
TEN = {"amount": 1000, "currency": "GBP"}
NOBODY = "http://127.0.0.1:9"
REALTIME = (
    "loyalty.balance", "loyalty.redeem", "gift_card.balance", "gift_card.sell", "gift_card.redeem", "on_account.charge",
    "on_account.pay", "availability.lookup",
)  # fmt: skip


@contextmanager
def asking(box: Box, *devices: str) -> Iterator[list[Asker]]:
    with ExitStack() as stack:
        made = [Asker(box, device) for device in devices]
        for one in made:
            stack.callback(one.close)
        yield made


def made(new_box: NewBox, url: str, **settings: Any) -> Box:
    return new_box(url, **{"uplink": {"probe_interval_s": 1}} | settings).start()


def online(box: Box) -> None:
    until(lambda: box.status()["state"] == "online", "online", 20)


def card(id: str, amount: int = 1000, token: str = "tok-1", **more: Any) -> dict[str, Any]:
    return {"payment_id": id, "amount": {"amount": amount, "currency": "GBP"}, "card": {"token": token}, **more}


def test_A4_3_A4_4_A4_5_A4_6_A4_8_what_needs_the_cloud_is_refused_at_once_while_it_is_away(new_box: NewBox) -> None:
    """Gift cards, accounts, stock and rewards: `requires_realtime`, with no attempt a sale (A4.6). Prints the times."""
    box = made(new_box, NOBODY)
    until(lambda: box.status()["cause"] == "cloud", "it is known to be away", 20)
    took = []
    with asking(box, "till-1") as (till,):
        for service in REALTIME:
            found = till.ask(service, f"first-{service}", card_id="g1", customer_id="c1", amount=TEN, points=1)
            assert (found["status"], found["reason"]) == ("requires_realtime", "uplink_down"), found
        for number in range(200):
            began_s = till.send(REALTIME[number % len(REALTIME)], f"q{number}", card_id="g1")
            _, found, _, at_s = till.replies.get(timeout=5)
            assert found["status"] == "requires_realtime"
            took.append(at_s - began_s)
    took.sort()
    print(f"offline answers: p50 {took[100] * 1000:.1f} ms, p99 {took[197] * 1000:.1f} ms")
    assert took[100] < 0.05, "half of them; a shared machine may hold up single ones"
    assert "loyalty" not in box.text


def test_online_requests_reach_the_cloud_and_a_repeat_has_no_second_effect_over_a_kill(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    cloud = new_cloud().start()
    box = made(new_box, cloud.url)
    online(box)
    with asking(box, "till-1") as (till,):
        assert till.ask("gift_card.sell", "s1", card_id="g1", amount=TEN)["result"] == {"balance": TEN}
        first = till.ask("gift_card.redeem", "r1", card_id="g1", amount={"amount": 300, "currency": "GBP"})
        assert (first["status"], first["result"]["balance"]["amount"]) == ("ok", 700)
        again = till.ask("gift_card.redeem", "r1", card_id="g1", amount={"amount": 300, "currency": "GBP"})
        assert again == first
        other = till.ask("gift_card.redeem", "r1", card_id="g1", amount=TEN)
        assert (other["status"], other["reason"]) == ("error", "id_reused")
        own = "pos/v1/till-1/replies/mine"
        till.send("gift_card.balance", "b1", own, b"abc", card_id="g1")
        heard = {till.replies.get(timeout=5)[:1] + till.replies.get(timeout=5)[:1]}
        assert heard == {("pos/v1/till-1/replies", own)}
        till.send("gift_card.balance", "b2", "pos/v1/till-2/replies", card_id="g1")
        assert till.reply()["id"] == "b2"
        assert till.silent(), "nothing goes to another device's topic"
        for payload in (b"no JSON", b"{}", b'{"id":""}', b'{"id":7}'):
            till.raw("gift_card.balance", payload)
        assert till.silent()
        till.raw("gift_card.balance", b'{"id":"m1","args":[]}')
        assert till.reply()["reason"] == "malformed"
        till.raw("gift_card.balance", b'{"id":"m2","args":' + b'{"a":' * 2_000 + b"1" + b"}" * 2_001)
        assert till.silent()
        till.raw("gift_card.balance", b'{"id":"m3","args":' + b'{"a":' * 300 + b"1" + b"}" * 301)
        assert till.reply()["reason"] == "malformed"
        assert "stage_crashed" not in box.text, "one device's request ends nobody's session"
        assert till.ask("gift_card.balance", "b9", card_id="g1")["result"]["balance"]["amount"] == 700
        time.sleep(1)  # what was replied is written down behind it
    box.kill()
    box.start()
    online(box)
    with asking(box, "till-1") as (till,):
        assert till.ask("gift_card.redeem", "r1", card_id="g1", amount={"amount": 300, "currency": "GBP"}) == first
        assert till.ask("gift_card.balance", "b3", card_id="g1")["result"]["balance"]["amount"] == 700


def test_A4_5_stock_that_is_asked_offline_is_answered_as_it_was_known_with_its_age(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    cloud = new_cloud().start()
    box = made(new_box, cloud.url)
    online(box)
    with asking(box, "till-1") as (till,):
        assert till.ask("availability.lookup", "a1", product_id="p1")["reason"] == "unknown_product"
        import sqlite3

        with sqlite3.connect(cloud.directory / "ledger.sqlite-desk") as desk:
            desk.execute("insert into accounts values ('demo', 'stock', 'p1', 7, 'pieces', 0)")
        assert till.ask("availability.lookup", "a2", product_id="p1")["result"] == {"quantity": 7}
        cloud.stop()
        until(lambda: box.status()["cause"] == "cloud", "away", 20)
        found = till.ask("availability.lookup", "a3", product_id="p1")
        assert (found["status"], found["result"]["quantity"], found["result"]["stale"]) == ("ok", 7, True)
        assert found["result"]["age_s"] >= 0
        assert till.ask("availability.lookup", "a4", product_id="p2")["status"] == "requires_realtime"


class Mute:
    """A cloud whose health is good, and whose counter takes connections and says nothing."""

    def __init__(self) -> None:
        self.asked = 0
        self.speaks = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with accepted:
            head = accepted.recv(65_536)
            if b" /v1/health " in head:
                body = b'{"status":"pass","cloud":"t","time":"2026-11-22T10:15:00.131Z"}'
            elif b"/requests/" not in head:
                accepted.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            else:
                self.asked += 1
                if not self.speaks:
                    accepted.settimeout(30)
                    accepted.recv(65_536)
                    accepted.recv(65_536)
                    return
                body = b'{"status":"ok","result":{"points":3},"reason":null}'
            head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            )
            accepted.sendall(head % len(body) + body)

    def close(self) -> None:
        self._listener.close()


def test_A4_6_a_brown_out_is_as_fast_as_an_outage_after_the_first_few_and_ends_by_itself(new_box: NewBox) -> None:
    mute = Mute()
    try:
        services = {"deadline_s": 1, "trial_interval_s": 1}
        box = made(new_box, mute.url, services=services)
        online(box)
        with asking(box, "till-1") as (till,):
            for number in range(3):
                found = till.ask("loyalty.balance", f"slow{number}", customer_id="c1")
                assert (found["status"], found["reason"]) == ("error", "outcome_unknown")
            began_s, asked_before = time.monotonic(), mute.asked
            for number in range(20):
                found = till.ask("loyalty.balance", f"fast{number}", customer_id="c1")
                assert (found["status"], found["reason"]) == ("requires_realtime", "cloud_not_answering")
            assert time.monotonic() - began_s < 1.0
            assert mute.asked - asked_before <= 2, "no attempt a sale: only the background's own"
            told = until(lambda: _capability(till, "loyalty.balance", False), "tills are told", 5)
            assert told == {"available": False, "reason": "cloud_not_answering"}
            mute.speaks = True
            until(lambda: _capability(till, "loyalty.balance", True), "it was tried in the background", 10)
            assert till.ask("loyalty.balance", "slow0", customer_id="c1")["result"] == {"points": 3}, "the same id"
    finally:
        mute.close()


def test_what_went_out_without_an_answer_is_never_decided_offline_under_the_same_id(new_box: NewBox) -> None:
    """The cloud may have approved it: only the cloud can say, also after a kill of the box."""
    mute = Mute()
    box = made(new_box, mute.url, services={"deadline_s": 1}, policy={"offline_card_payments": "queue"})
    online(box)
    with asking(box, "till-1") as (till,):
        assert till.ask("card.authorize", "1", **card("p1"))["reason"] == "outcome_unknown"
        mute.close()
        until(lambda: box.status()["state"] == "offline", "away", 20)
        assert till.ask("card.authorize", "1", **card("p1"))["reason"] == "outcome_unknown"
        assert till.ask("card.authorize", "2", **card("p2"))["status"] == "ok", "another one is taken on trust"
    box.kill()
    box.start()
    with asking(box, "till-1") as (till,):
        assert till.ask("card.authorize", "1", **card("p1"))["reason"] == "outcome_unknown"
    assert _open(box) == ["p2"]


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_A4_3_A4_4_A4_8_what_the_cloud_may_have_done_before_a_kill_is_never_told_as_not_done(
    new_box: NewBox, end: str
) -> None:
    """A gift card that was perhaps redeemed is not asked for in cash: the same id hears `outcome_unknown`."""
    mute = Mute()
    box = made(new_box, mute.url, services={"deadline_s": 20})
    online(box)
    services = ("gift_card.redeem", "gift_card.sell", "on_account.charge", "on_account.pay", "loyalty.redeem")
    with asking(box, "till-1") as (till,):
        for service in services:
            till.send(service, service, card_id="g1", customer_id="c1", amount=TEN, points=5)
        till.send("gift_card.balance", "balance", card_id="g1")
        until(lambda: mute.asked == len(services) + 1, "all went out", 10)
    getattr(box, end)()
    mute.close()
    box.start()
    until(lambda: box.status()["cause"] == "cloud", "away", 20)
    with asking(box, "till-1") as (till,):
        for service in services:
            found = till.ask(service, service, card_id="g1", customer_id="c1", amount=TEN, points=5)
            assert (found["status"], found["reason"]) == ("error", "outcome_unknown"), found
        assert till.ask("gift_card.balance", "balance", card_id="g1")["status"] == "requires_realtime", (
            "changes nothing"
        )
        assert till.ask("gift_card.redeem", "new", card_id="g1", amount=TEN)["status"] == "requires_realtime"


def test_A4_2_what_is_stored_right_before_a_kill_or_a_stop_counts_after_the_start(new_box: NewBox) -> None:
    """An approved payment is known to have come, and one that a device took by itself counts towards the limits."""
    box = made(new_box, NOBODY, policy={"offline_card_payments": "queue"})
    until(lambda: box.status()["cause"] == "cloud", "away", 20)
    expected = []
    for number, end in enumerate((box.kill, box.stop)):
        approved, own = f"a{number}", f"b{number}"
        with asking(box, "till-1") as (till,):
            assert till.ask("card.authorize", approved, **card(approved))["status"] == "ok"
            for id in (approved, own):
                data = sold(payment_id=id, amount=TEN, offline=True, card={"token": "tok-1"})
                till.tell(event(data=data))
            assert till.ask("payment.status", f"s{number}", payment_id=own)["result"]["fate"] == "edge_durable"
        end()
        box.start()
        until(lambda: box.status()["cause"] == "cloud", "away", 20)
        expected += [(approved, 1, 0), (own, 1, 1)]
        rows = "select payment_id, stored, against from reservations order by payment_id"
        until(lambda: box.rows(rows) == sorted(expected), "both count", 10)  # noqa: B023 - asked at once
    assert "offline_against_policy:till-1" in {one["id"] for one in box.status()["conditions"]}


def test_A3_2_a_device_whose_payments_are_held_authorises_no_card_online_either(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    secure: dict[str, Any] = {"devices": {"open": False}, "web": {"listen_tls": "127.0.0.1:0"}, "gate.tls": {}}
    box = made(new_box, new_cloud().start().url, **secure)
    online(box)
    with ExitStack() as stack:
        tills = [Asker(box, name, paired(box, name)) for name in ("till-1", "till-2")]
        for till in tills:
            stack.callback(till.close)
        held, free = tills
        assert held.ask("card.authorize", "1", **card("p1"))["status"] == "ok"
        assert nightsafe(box, "devices", "hold", "till-1").returncode == 0
        assert held.ask("card.authorize", "2", **card("p2"))["reason"] == "payments_held"
        assert held.ask("card.authorize", "1", **card("p1"))["status"] == "ok", "a repeat is told what it was told"
        assert free.ask("card.authorize", "1", **card("p3"))["status"] == "ok"


def test_no_card_number_that_a_device_asks_with_comes_to_the_disk(new_box: NewBox) -> None:
    box = made(new_box, NOBODY, policy={"offline_card_payments": "queue"})
    until(lambda: box.status()["cause"] == "cloud", "away", 20)
    number = "4111111111111111"
    with asking(box, "till-1") as (till,):
        assert till.ask("card.authorize", "1", **card("p1", token=number))["reason"] == "malformed"
        assert till.ask("card.authorize", "2", **card(number))["reason"] == "malformed"
        assert till.ask("gift_card.balance", number, card_id=number)["status"] == "requires_realtime"
        time.sleep(1)  # replies are written down behind them
    assert box.stop() == 0
    for file in box.state.rglob("*"):
        assert not file.is_file() or number.encode() not in file.read_bytes(), file


def _capability(till: Asker, service: str, available: bool) -> Any:
    found = till.retained.get("pos/v1/venue/capabilities", {}).get(service)
    return found if found is not None and found["available"] is available else None


def test_A4_7_A4_10_A1_12_capabilities_follow_line_and_settings_and_name_only_what_is_used(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    cloud = new_cloud().start()
    used = ["loyalty.balance", "gift_card.redeem", "card.authorize", "payment.status"]
    box = made(new_box, cloud.url, services={"used": used}, loyalty={"realtime": True})
    online(box)
    with asking(box, "till-1") as (till,):
        until(lambda: _capability(till, "loyalty.balance", True), "all is there")
        assert set(till.retained["pos/v1/venue/capabilities"]) == set(used)
        assert till.ask("on_account.pay", "o1", customer_id="c", amount=TEN)["reason"] == "service_off"
        box.settings["loyalty"]["realtime"] = False
        box.write_config()
        told = until(lambda: _capability(till, "loyalty.balance", False), "loyalty is switched off", 10)
        assert told["reason"] == "loyalty_off"
        assert till.ask("loyalty.balance", "l1", customer_id="c")["reason"] == "loyalty_off"
        assert till.ask("gift_card.redeem", "g1", card_id="x", amount=TEN)["status"] == "declined"
        box.settings["loyalty"]["realtime"] = True
        box.write_config()
        until(lambda: _capability(till, "loyalty.balance", True), "and on again", 10)
        cloud.stop()
        until(lambda: _capability(till, "gift_card.redeem", False), "the line is down", 20)
        known = till.retained["pos/v1/venue/capabilities"]
        assert known["gift_card.redeem"]["reason"] == known["card.authorize"]["reason"] == "uplink_down"
        assert known["payment.status"] == {"available": True, "reason": None}


def test_A4_1_the_lite_plan_refuses_cards_offline_and_never_stores_them_as_accepted(new_box: NewBox) -> None:
    box = made(new_box, NOBODY)
    until(lambda: box.status()["cause"] == "cloud", "away", 20)
    with asking(box, "till-1") as (till,):
        found = till.ask("card.authorize", "1", **card("p1"))
        assert (found["status"], found["reason"]) == ("declined", "offline_refused")
        assert till.ask("card.authorize", "2", payment_id="p2")["reason"] == "malformed"
    assert box.rows("select count(*) from reservations") == [(0,)]


def test_A4_2_the_pro_plan_queues_cards_within_limits_of_the_whole_venue_over_a_kill(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    """Floor, card, device and venue limits across devices; released by the payment's final fate; an override."""
    policy = {
        "offline_card_payments": "queue", "floor_limit": 5_000, "card_limit": 6_000, "device_limit": 9_000,
        "venue_limit": 12_000, "override": ["floor_limit"],
    }  # fmt: skip
    cloud = new_cloud().start()
    cloud.stop()
    box = made(new_box, cloud.url, policy=policy)
    until(lambda: box.status()["cause"] == "cloud", "away", 20)
    with asking(box, "till-1", "till-2") as (one, two):
        taken = one.ask("card.authorize", "1", **card("p1", 5_000))
        assert (taken["status"], taken["result"]["store_and_forward"]) == ("ok", True)
        assert one.ask("card.authorize", "1", **card("p1", 5_000)) == taken, "a repeat reserves nothing more"
        assert one.ask("card.authorize", "2", **card("p2", 5_001))["reason"] == "floor_limit"
        assert two.ask("card.authorize", "1", **card("p3", 1_001))["reason"] == "card_limit", "another device"
        assert one.ask("card.authorize", "3", **card("p4", 4_001, "tok-2"))["reason"] == "device_limit"
        assert two.ask("card.authorize", "2", **card("p5", 4_500, "tok-3"))["status"] == "ok"
        assert two.ask("card.authorize", "3", **card("p6", 2_501, "tok-4"))["reason"] == "venue_limit"
        euro = {"payment_id": "p7", "amount": {"amount": 1, "currency": "EUR"}, "card": {"token": "t"}}
        assert two.ask("card.authorize", "4", **euro)["reason"] == "other_currency"
        one.tell(payment("p1", amount=5_000))
    box.kill()
    box.start()
    with asking(box, "till-1", "till-2") as (one, two):
        until(lambda: box.status()["cause"] == "cloud", "away", 20)
        assert two.ask("card.authorize", "5", **card("p8", 2_501, "tok-5"))["reason"] == "venue_limit", "after a kill"
        assert one.ask("card.authorize", "1", **card("p1", 5_000)) == taken
        by = {"manager": "Kim", "reason": "a regular"}
        until(lambda: _capability(one, "card.authorize", True), "some are taken still", 5)
        assert one.ask("card.authorize", "6", **card("p9", 2_500, "tok-6", override=by))["status"] == "ok"
        told = until(lambda: _capability(one, "card.authorize", False), "the venue's limit is used up (A4.10)", 5)
        assert told["reason"] == "venue_limit"
        cloud.start()
        online(box)
        until(box.uploaded, "everything is up", 30)
        until(lambda: _capability(one, "card.authorize", True), "the cloud authorises", 5)
        until(lambda: _open(box) == ["p5", "p9"], "the cloud has posted p1: it is released", 30)
        send(cloud, "payment.declined", payment_id="p5", at="-", reason="no money")
        until(lambda: _open(box) == ["p9"], "declined is final, too", 20)


def _open(box: Box) -> list[str]:
    return [row[0] for row in box.rows("select payment_id from reservations where ended is null order by payment_id")]


def test_A4_2_a_person_sees_what_is_reserved_and_ends_a_taken_payment_only_by_saying_so(new_box: NewBox) -> None:
    """One approved that never came, one approved that came, one taken without asking, in another currency."""
    box = made(new_box, NOBODY, policy={"offline_card_payments": "queue"})
    until(lambda: box.status()["cause"] == "cloud", "away", 20)

    def release(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        return nightsafe(box, "payments", "release", name, "--actor", "Ann", "--reason", "looked at", *more)

    def reserved() -> list[tuple[str, bool, bool]]:
        found = json.loads(nightsafe(box, "payments", "reservations", "--json").stdout)
        assert all("token" not in one for one in found)
        return [(one["payment_id"], one["stored"], one["against"]) for one in found]

    with asking(box, "till-1") as (till,):
        for name in ("never-came", "came"):
            assert till.ask("card.authorize", name, **card(name, 1_000))["status"] == "ok"
        till.tell(payment("came", amount=1_000))
        euro = {"amount": 900, "currency": "EUR"}
        till.tell(event(data=sold(payment_id="unasked", amount=euro, offline=True)))
        until(lambda: len(reserved()) == 3, "what was taken unasked is counted", 15)
        assert reserved() == [("never-came", False, False), ("came", True, False), ("unasked", True, True)]
        assert till.ask("card.authorize", "4", **card("p4", 1_000))["status"] == "ok", "one in euros refuses no pounds"
    shown = nightsafe(box, "payments", "reservations").stdout
    assert "never-came  till-1  10.00 GBP  allowed, and has not come" in shown
    assert "unasked  till-1  9.00 EUR  taken without asking" in shown
    for name in ("came", "unasked"):
        done = release(name)
        assert done.returncode == 1
        assert "was taken" in done.stderr
    assert release("never-came").returncode == 0
    assert release("came", "--taken").returncode == 0
    assert release("came", "--taken").returncode == 1, "nothing is reserved any more"
    assert [name for name, _, _ in reserved()] == ["unasked", "p4"]
    cleared = box.own_records("nightsafe.condition.cleared")
    assert {(one["data"]["condition"], one["data"]["actor"]) for one in cleared} >= {
        ("reservation:never-came", "Ann"),
        ("reservation:came", "Ann"),
    }


def test_A4_2_a_manager_lets_a_limit_be_passed_and_that_is_on_the_record(new_box: NewBox) -> None:
    policy = {"offline_card_payments": "queue", "floor_limit": 1_000, "override": ["floor_limit"]}
    box = made(new_box, NOBODY, policy=policy)
    until(lambda: box.status()["cause"] == "cloud", "away", 20)
    by = {"manager": "Kim", "reason": "a regular"}
    with asking(box, "till-1") as (till,):
        assert till.ask("card.authorize", "1", **card("p1", 2_000))["reason"] == "floor_limit"
        assert till.ask("card.authorize", "2", **card("p2", 2_000, override=by))["status"] == "ok"
        assert till.ask("card.authorize", "3", **card("p3", 300_000, override=by))["reason"] == "card_limit"
    (found,) = box.own_records("nightsafe.condition.raised")
    assert found["data"]["actor"] == "Kim"
    assert found["data"]["condition"] == "limit_overridden:p2"


def test_too_much_at_once_is_answered_and_the_rest_of_the_venue_is_served(new_box: NewBox) -> None:
    mute = Mute()
    try:
        box = made(
            new_box, mute.url, services={"deadline_s": 3, "requests_per_device_max": 4, "requests_failed_max": 99}
        )
        online(box)
        with asking(box, "till-1", "till-2") as (one, two):
            for number in range(12):
                one.send("loyalty.balance", f"q{number}", customer_id="c")
            found = [one.reply()["reason"] for _ in range(8)]
            assert found == ["busy"] * 8
            mute.speaks = True
            assert two.ask("loyalty.balance", "mine", customer_id="c")["status"] == "ok"
            assert sorted(one.reply()["reason"] for _ in range(4)) == ["outcome_unknown"] * 4
    finally:
        mute.close()


def test_A4_9_points_that_are_earned_offline_are_told_as_unknown_and_are_there_once_afterwards(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    cloud = new_cloud().start()
    cloud.stop()
    box = made(new_box, cloud.url)
    until(lambda: box.status()["cause"] == "cloud", "away", 20)
    with asking(box, "till-1") as (till,):
        till.tell(event(type="pos.loyalty.accrued", data={"customer_id": "c7", "points": 5}, id="acc-1"))
        found = till.ask("loyalty.balance", "1", customer_id="c7")
        assert (found["status"], found["result"]) == ("requires_realtime", {}), "never a guess"
        cloud.start()
        online(box)
        until(box.uploaded, "it is up", 30)
        until(lambda: ask_cloud(cloud, "loyalty.balance", "x", customer_id="c7")[1] == {"points": 5}, "counted", 20)
        assert till.ask("loyalty.balance", "2", customer_id="c7")["result"] == {"points": 5}


def test_A1_11_a_notice_is_muted_at_a_till_until_it_begins_anew(new_box: NewBox) -> None:
    box = made(new_box, NOBODY, uplink={"probe_interval_s": 1, "offline_debounce_s": 0})
    with asking(box, "till-1") as (till,):
        until(lambda: _notices(till) == ["offline"], "the notice", 20)
        assert mute(till, "1", "unknown")["status"] == "declined"
        assert mute(till, "2", "offline")["status"] == "ok"
        until(lambda: _notices(till) == [], "it is muted", 5)
    with urllib.request.urlopen(f"http://127.0.0.1:{box.web_port}/livez", timeout=5) as answer:
        assert answer.status == 200


def mute(till: Asker, id: str, notice: str) -> dict[str, Any]:
    till.raw("notices.mute", json.dumps({"id": id, "args": {"id": notice}}).encode())
    return till.reply()


def _notices(till: Asker) -> list[str]:
    return [one["id"] for one in till.retained.get("pos/v1/venue/notices", {"notices": []})["notices"]]
