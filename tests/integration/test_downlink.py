"""What the cloud tells a venue, and what it hears from it beside the records, over the running agent and cloud."""

import json
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import event

pytestmark = pytest.mark.needs("mosquitto")

NewBox = Callable[..., Box]
NewCloud = Callable[[], CloudServer]


def post(cloud: CloudServer, path: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{cloud.url}/v1/venues/demo{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def send(cloud: CloudServer, name: str, **data: Any) -> str:
    status, answer = post(cloud, "/commands", {"event": name, "data": data})
    assert status == 201, answer
    return str(answer["id"])


def ask(cloud: CloudServer, service: str, id: str, device: str = "till-1", **args: Any) -> tuple[str, Any, Any]:
    status, answer = post(cloud, f"/requests/{service}", {"id": id, "device": device, "args": args})
    assert status == 200, answer
    return answer["status"], answer["result"], answer["reason"]


def heard(box: Box, name: str) -> list[str]:
    return [row[0] for row in box.rows("select business from commands where event = ? order by id", name)]


def cursor(box: Box) -> str:
    rows = box.rows("select cursor from downlink")
    return str(rows[0][0]) if rows else ""


def quick(new_box: NewBox, cloud: CloudServer) -> Box:
    return new_box(cloud.url, uplink={"probe_interval_s": 1, "heartbeat_interval_s": 3600}, cloud={"silence_s": 15})


def payment(id: str, token: str = "tok-1", amount: int = 425) -> bytes:
    data = {
        "payment_id": id,
        "check_id": "c1",
        "amount": {"amount": amount, "currency": "GBP"},
        "tender": "card",
        "card": {"token": token, "last4": "4242", "brand": "visa"},
    }
    return event(type="pos.payment.captured", data=data, id=f"e-{id}")


def test_a_command_is_kept_once_over_kills_of_box_and_cloud_and_the_cursor_goes_on(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    cloud = new_cloud().start()
    box = quick(new_box, cloud).start()
    send(cloud, "payment.posted", payment_id="p1", at="2026-11-22T10:00:00.000Z")
    until(lambda: heard(box, "payment.posted") == ["p1"], "the first")
    box.kill()
    second = [send(cloud, "payment.posted", payment_id=f"p{number}", at="-") for number in (1, 2, 3)]
    box.start()
    until(lambda: heard(box, "payment.posted") == ["p1", "p2", "p3"], "the rest, and the first not twice")
    assert cursor(box) == second[-1]
    cloud.kill()
    cloud.start()
    last = send(cloud, "payment.declined", payment_id="p4", at="-", reason="no money")
    until(lambda: heard(box, "payment.declined") == ["p4"], "after the cloud's kill", 40)
    until(lambda: cursor(box) == last, "the cursor", 5)
    assert box.text.count("event=command_unusable") == 0


def test_a_cloud_that_has_lost_its_commands_resets_the_box_and_tells_all_it_has(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    cloud = new_cloud().start()
    box = quick(new_box, cloud).start()
    send(cloud, "payment.posted", payment_id="p1", at="-")
    until(lambda: heard(box, "payment.posted") == ["p1"], "the first")
    before = cursor(box)
    cloud.stop()
    for file in cloud.directory.glob("ledger.sqlite-desk*"):
        file.unlink()
    cloud.start()
    send(cloud, "payment.posted", payment_id="p2", at="-")
    until(lambda: heard(box, "payment.posted") == ["p1", "p2"], "what the new log has", 40)
    assert cursor(box).split("-")[0] != before.split("-")[0]


def told(cloud: CloudServer, cursor: str, until_event: str) -> list[tuple[str, str]]:
    """Events and cursors of a stream behind `cursor`, up to the first of `until_event`."""
    headers = {"Last-Event-ID": cursor} if cursor else {}
    request = urllib.request.Request(f"{cloud.url}/v1/venues/demo/commands", headers=headers)
    found, id = [], ""
    with urllib.request.urlopen(request, timeout=10) as stream:
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                id = value
            elif name == "event":
                found.append((value, id))
                if value == until_event:
                    break
    return found


def test_a_reset_tells_what_still_holds_and_no_old_ping_or_menu(new_cloud: NewCloud) -> None:
    cloud = new_cloud().start()
    before = send(cloud, "ping", ping_id="1")
    send(cloud, "menu.updated", menu_version="m1")
    send(cloud, "payment.posted", payment_id="p1", at="-")
    send(cloud, "menu.updated", menu_version="m2")
    send(cloud, "ping", ping_id="2")
    send(cloud, "payment.declined", payment_id="p2", at="-")
    reset = ["reset", "payment.posted", "menu.updated", "payment.declined"]
    assert [name for name, _ in told(cloud, "", "payment.declined")] == reset
    assert [name for name, _ in told(cloud, before, "payment.declined")] == [*reset[1:3], "ping", reset[3]]


def test_a_box_whose_cursor_is_older_than_what_the_cloud_keeps_is_reset(new_cloud: NewCloud) -> None:
    cloud = new_cloud().start()
    ids = [send(cloud, "payment.posted", payment_id=f"p{number}", at="-") for number in range(4)]
    cloud.stop()
    with sqlite3.connect(cloud.directory / "ledger.sqlite-desk") as desk:
        desk.execute("delete from commands where number <= 2")
    cloud.start()
    assert [name for name, _ in told(cloud, ids[0], "payment.posted")] == ["reset", "payment.posted"]
    assert told(cloud, ids[1], "payment.posted") == [("payment.posted", ids[2])], "it has missed nothing"


def test_A1_3_no_card_number_that_the_cloud_sends_comes_to_the_disk(new_box: NewBox, new_cloud: NewCloud) -> None:
    cloud, number = new_cloud().start(), "4111111111111111"
    box = quick(new_box, cloud).start()
    send(cloud, "payment.posted", payment_id=number, at="-", reason=f"card {number}")
    last = send(cloud, "payment.posted", payment_id="p2", at="-")
    until(lambda: cursor(box) == last, "both are heard")
    assert box.stop() == 0
    assert len(heard(box, "payment.posted")) == 2
    for file in box.state.rglob("*"):
        assert not file.is_file() or number.encode() not in file.read_bytes(), file
    assert number not in box.text


def test_a_ping_is_answered_by_a_heartbeat_that_carries_it(new_box: NewBox, new_cloud: NewCloud) -> None:
    cloud = new_cloud().start()
    box = quick(new_box, cloud).start()
    until(lambda: cursor(box), "the stream is open", 20)
    send(cloud, "ping", ping_id="are you there")
    body = until(lambda: _health(cloud, "are you there"), "the heartbeat", 5)
    assert body["status"] in ("pass", "warn")
    assert body["nightsafe"]["status"]["venue"] == "demo"


def _health(cloud: CloudServer, ping_id: str) -> Any:
    import sqlite3

    connection = sqlite3.connect(f"file:{cloud.directory / 'ledger.sqlite'}?mode=ro", uri=True)
    try:
        row = connection.execute("select body from health").fetchone()
    finally:
        connection.close()
    body = json.loads(row[0]) if row is not None else {}
    return body if body.get("ping_id") == ping_id else None


def test_the_fate_of_card_payments_comes_down_and_each_accrual_counts_once(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    """A4.9: points that were earned offline are there once, whoever was killed in between."""
    cloud = new_cloud().start()
    cloud.stop()
    box = quick(new_box, cloud).start()
    accrued = {"customer_id": "guest-7", "points": 12}
    with Device(box.port, "till-1") as till:
        till.tell(payment("p1"))
        till.tell(payment("p2", token="tok-decline-me"))
        for number in range(3):
            till.tell(event(type="pos.loyalty.accrued", data=accrued, id=f"a{number}"))
        till.tell(event(type="pos.loyalty.accrued", data=accrued, id="a0"))
    cloud.start()
    until(box.uploaded, "everything is up", 60)
    cloud.kill()
    cloud.start()
    until(lambda: heard(box, "payment.posted") == ["p1"], "posted", 60)
    until(lambda: heard(box, "payment.declined") == ["p2"], "declined", 20)
    until(lambda: ask(cloud, "loyalty.balance", "q1", customer_id="guest-7")[1] == {"points": 36}, "points", 10)


def test_the_clouds_counter_is_honest_and_answers_a_repeat_with_the_same(new_cloud: NewCloud) -> None:
    cloud = new_cloud().start()
    ten = {"amount": 1000, "currency": "GBP"}
    sold = ask(cloud, "gift_card.sell", "1", card_id="g1", amount=ten)
    assert sold == ("ok", {"balance": ten}, None)
    assert ask(cloud, "gift_card.sell", "1", card_id="g1", amount=ten) == sold, "a repeat has no second effect"
    assert ask(cloud, "gift_card.sell", "1", card_id="g2", amount=ten)[2] == "id_used_for_another_request"
    assert ask(cloud, "gift_card.redeem", "1", "till-2", card_id="g1", amount=ten)[0] == "ok", "another device's id"
    assert ask(cloud, "gift_card.redeem", "2", card_id="g1", amount=ten)[2] == "not_enough"
    euro = {"amount": 1, "currency": "EUR"}
    assert ask(cloud, "gift_card.redeem", "3", card_id="g1", amount=euro)[2] == "other_currency"
    assert ask(cloud, "gift_card.balance", "4", card_id="nobody's")[2] == "unknown_card"
    assert ask(cloud, "on_account.charge", "5", customer_id="c", amount={"amount": 100_001, "currency": "GBP"})[2] == (
        "over_the_limit"
    )
    assert ask(cloud, "loyalty.redeem", "6", customer_id="c", points=1)[2] == "not_enough_points"
    assert ask(cloud, "card.authorize", "7", payment_id="p", amount=ten, card={"token": "tok-decline"})[0] == "declined"
    assert ask(cloud, "card.authorize", "8", payment_id="p", amount=ten, card={"token": "tok-1"})[0] == "ok"
    for args in ({}, {"card_id": "g1", "amount": {"amount": -1, "currency": "GBP"}}, {"card_id": 7, "amount": ten}):
        assert ask(cloud, "gift_card.redeem", f"x{len(json.dumps(args))}", **args)[0] == "error"
    assert ask(cloud, "invented", "9")[2] == "unknown_service"
    cloud.kill()
    cloud.start()
    assert ask(cloud, "gift_card.sell", "1", card_id="g1", amount=ten) == sold, "after a kill, too"
    assert post(cloud, "/commands", {"event": "order.invented", "data": {}})[0] == 400
    assert post(cloud, "/commands", {"event": "ping", "data": {}})[0] == 400


class Strange:
    """A cloud whose health is good, and whose stream of commands is what a test makes of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda request: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/v1/health":
                    self.say(
                        200, "application/json", b'{"status":"pass","cloud":"t","time":"2026-11-22T10:15:00.131Z"}'
                    )
                elif self.path.endswith("/commands"):
                    outer.asked.append(self.headers.get("Last-Event-ID", ""))
                    outer.answer(self)
                else:
                    self.say(404, "text/plain", b"no")

            def say(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def strange() -> Iterator[Strange]:
    made = Strange()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_cloud_without_commands_is_asked_seldom_and_nobody_is_troubled(new_box: NewBox, strange: Strange) -> None:
    strange.answer = lambda request: request.say(404, "text/plain", b"no")  # type: ignore[attr-defined]
    box = new_box(strange.url, uplink={"probe_interval_s": 1}).start()
    until(lambda: strange.asked, "it is asked", 20)
    started = box.status()["uptime_s"]
    until(lambda: box.status()["uptime_s"] >= started + 6, "some seconds", 20)
    assert len(strange.asked) <= 2
    assert box.status()["conditions"] == []


def test_what_is_no_stream_of_commands_is_not_heard_and_what_cannot_be_used_blocks_nothing(
    new_box: NewBox, strange: Strange
) -> None:
    page = b"<html>event: payment.posted\ndata: {}\n\n"
    strange.answer = lambda request: request.say(200, "text/html", page)  # type: ignore[attr-defined]
    box = new_box(strange.url, uplink={"probe_interval_s": 1}, cloud={"silence_s": 2}).start()
    until(lambda: len(strange.asked) >= 2, "a portal's page is tried again", 30)
    assert box.rows("select count(*) from commands") == [(0,)]

    def stream(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        if len(strange.asked) > before + 1:
            return
        request.wfile.write(
            b"id: l-1\nevent: order.invented\ndata: {}\n\nid: l-2\nevent: payment.posted\ndata: oops\n\n"
        )
        request.wfile.write(b"id: l-2\nevent: order.placed\ndata: " + b"x" * 1_200_000 + b"\n\n")
        request.wfile.write(b'id: l-3\nevent: payment.posted\ndata: {"payment_id":"p1"}\n\n')
        request.wfile.flush()
        threading.Event().wait(30)

    before = len(strange.asked)
    strange.answer = stream
    until(lambda: heard(box, "payment.posted") == ["p1"], "the good one", 40)
    found = next(one for one in box.status()["conditions"] if one["id"] == "command_unusable")
    assert found["attention"]
    until(lambda: strange.asked[-1] == "l-3", "a silent stream is dead, and goes on behind its cursor", 20)
