"""Orders for the venue over the running agent, a real broker and the reference cloud: told, offered, answered, once."""

import json
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from agent.cli.local import ask
from agent.core.errors import Rejected
from tests.crash.test_rebuild import zero_root
from tests.integration.machine import Box, CloudServer, until
from tests.integration.person import Person, write_pin
from tests.integration.tablet import Tablet
from tests.integration.test_downlink import send
from tests.integration.test_queue_cli import nightsafe
from tests.repo.tree import ROOT
from tests.sales import new_name

pytestmark = pytest.mark.needs("mosquitto")

NewBox = Callable[..., Box]
NewCloud = Callable[[], CloudServer]
LINES = [
    {
        "product_id": "p1",
        "name": "Flat white",
        "quantity": 2,
        "options": [{"option_id": "o1", "name": "Oat milk"}],
        "unit_amount": {"amount": 350, "currency": "GBP"},
    }
]
SECOND = {"second_actor": "Bea", "reason": "the guest sent it back"}


def ago(seconds: float = 0.0) -> str:
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def placed(order_id: str, **changes: Any) -> dict[str, Any]:
    """The data of an order of 7.00 GBP that is complete."""
    return {
        "order_id": order_id,
        "placed_at": ago(),
        "prepaid": True,
        "customer": {"name": "Kim", "phone": "+44 20 7946 0000"},
        "fulfilment": {"kind": "pickup", "at": ago(-900)},
        "lines": LINES,
        "line_count": 1,
        "total": {"amount": 700, "currency": "GBP"},
        "menu_version": "m1",
    } | changes


def place(cloud: CloudServer, order_id: str, **changes: Any) -> str:
    send(cloud, "order.placed", **placed(order_id, **changes))
    return order_id


def order(box: Box, order_id: str) -> Any:
    """The order as the box tells it on its Unix socket; None while it is not known."""
    try:
        return ask(box.state, "GET", f"/api/v1/orders/{order_id}")
    except Rejected:
        return None


def at_the_cloud(cloud: CloudServer, order_id: str) -> Any:
    """What the platform knows of an order: its state, and who has said what."""
    with urllib.request.urlopen(f"{cloud.url}/v1/venues/demo/orders", timeout=10) as answer:
        found = json.load(answer)["orders"]
    return next((one for one in found if one["order_id"] == order_id), None)


def has(box: Box, order_id: str, **wanted: Any) -> Any:
    """The order as soon as it is as wanted."""

    def look() -> Any:
        found = order(box, order_id)
        return found if found and all(found[name] == value for name, value in wanted.items()) else None

    return until(look, f"{order_id} is {wanted}; it is {order(box, order_id)}", 20)


def act(box: Box, order_id: str, what: str, actor: str = "Ann", **more: str) -> Any:
    return ask(box.state, "POST", f"/api/v1/orders/{order_id}/{what}", {"actor": actor} | more)


def records(box: Box, order_id: str) -> list[str]:
    """What the box has recorded of an order, in order, by the last word of each type."""
    own = [one for one in box.own_records() if one["type"].startswith("nightsafe.order.")]
    return [one["type"].rpartition(".")[2] for one in own if one["data"]["order_id"] == order_id]


def conditions(box: Box) -> dict[str, str]:
    return {one["id"]: one["text"] for one in box.status()["conditions"]}


@pytest.fixture(scope="module")
def venue() -> Iterator[tuple[Box, CloudServer]]:
    """A box and a cloud that several tests share; each takes orders and devices of its own."""
    cloud = CloudServer()
    box = Box()
    try:
        cloud.start()
        box.settings["cloud"]["url"] = cloud.url
        box.settings["uplink"] = {"probe_interval_s": 1}
        yield box.start(), cloud
        assert "Traceback" not in box.text, box.text
    finally:
        box.close()
        cloud.close()


def test_A6_1_an_order_is_known_here_by_number_and_name_though_no_device_took_it(
    venue: tuple[Box, CloudServer],
) -> None:
    box, cloud = venue
    one = place(cloud, new_name("A"), customer={"name": "Zoë Quillfeather"})
    found = has(box, one, state="received", prepaid=True)
    assert found["lines"] == LINES
    assert (found["total"], found["awaiting"], found["late"]) == ({"amount": 700, "currency": "GBP"}, False, False)
    for words in (one, one.upper(), "quillf"):
        told = json.loads(nightsafe(box, "orders", "list", "--find", words, "--json").stdout)
        assert [each["order_id"] for each in told["orders"]] == [one]
    text = nightsafe(box, "orders", "show", one).stdout
    assert "2 x Flat white" in text
    assert "+ Oat milk" in text
    assert "GBP" in text
    assert "paid already" in text


def test_an_order_goes_its_way_over_a_device_and_each_state_goes_up(venue: tuple[Box, CloudServer]) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet:
        one = place(cloud, new_name("A"))
        first = tablet.shown(one, state="offered")
        assert first == {
            "order_id": one,
            "state": "offered",
            "prepaid": True,
            "placed_at": first["placed_at"],
            "late": False,
            "age_s": first["age_s"],
            "alerted_at": None,
            "provided": False,
            "customer": {"name": "Kim"},
            "lines": LINES,
            "total": {"amount": 700, "currency": "GBP"},
            "menu_version": "m1",
            "ask": "none",
        }
        assert 0 <= first["age_s"] < 30
        for said in ("accepted", "ready", "provided"):
            tablet.says(said, one).shown(one, state=said)
        assert tablet.of(one)[-1]["provided"] is True
        assert [offer["state"] for offer in tablet.of(one)].count("offered") == 1
        schema = Draft202012Validator(json.loads((ROOT / "docs" / "schemas" / "order.json").read_text()))
        for offer in tablet.of(one):
            assert not [error.message for error in schema.iter_errors(offer)]
    assert records(box, one) == ["accepted", "ready", "provided"]
    until(box.uploaded, "all is up")
    up = [each.event for each in cloud.records("agent") if each.event["data"].get("order_id") == one]
    assert [each["type"] for each in up] == [f"nightsafe.order.{said}" for said in ("accepted", "ready", "provided")]
    assert {each["data"]["actor"] for each in up} == {tablet.device}


def test_A6_16_an_order_is_redelivered_under_its_own_id_and_only_as_it_is(venue: tuple[Box, CloudServer]) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet, Tablet(box, new_name("tablet")) as other:
        one = place(cloud, new_name("A"))
        tablet.shown(one, state="offered")
        other.shown(one, state="offered")
        place(cloud, one)
        tablet.says("accepted", one)
        other.shown(one, state="accepted")
        before = len(tablet.of(one))
        tablet.is_now("background").is_now("ready")
        until(lambda: len(tablet.of(one)) > before, "told again after ready", 15)
        assert tablet.of(one)[-1]["state"] == "accepted"
        states = [offer["state"] for offer in tablet.of(one)]
        assert states.index("accepted") == states.count("offered"), "once accepted it is never new again"
    assert records(box, one) == ["accepted"]


def test_A6_14_a_reject_requests_one_refund_whoever_says_it_and_however_often(
    venue: tuple[Box, CloudServer],
) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet, Tablet(box, new_name("tablet")) as other:
        one = place(cloud, new_name("A"))
        tablet.shown(one, state="offered")
        other.shown(one, state="offered")
        tablet.says("rejected", one).says("rejected", one)
        other.says("rejected", one)
        has(box, one, state="rejected")
        act(box, one, "reject")
        other.shown(one, state="rejected")
        other.says("accepted", one)
        until(lambda: f"order_answered_after:{one}" in conditions(box), "a person must tell the kitchen")
    assert records(box, one) == ["rejected"]


def test_A6_15_what_was_provided_is_not_refunded_without_a_second_person(venue: tuple[Box, CloudServer]) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet:
        one = place(cloud, new_name("A"))
        tablet.shown(one, state="offered")
        act(box, one, "provided")
        tablet.shown(one, state="provided", provided=True)
        before = len(tablet.of(one))
        tablet.says("rejected", one)
        until(lambda: f"order_reject_refused:{one}" in conditions(box), "the attention")
        until(lambda: len(tablet.of(one)) > before, "it is shown the order as it is", 4)
        assert tablet.of(one)[-1]["state"] == "provided"
        with pytest.raises(Rejected, match="cannot be reversed"):
            act(box, one, "reject")
        with pytest.raises(Rejected, match="second person"):
            act(box, one, "reject", second_actor=" ann ", reason="x")
        with pytest.raises(Rejected, match="second person"):
            act(box, one, "reject", second_actor="Bea")
        assert records(box, one) == ["provided", *["reject_refused"] * 4]
        assert act(box, one, "reject", **SECOND)["state"] == "rejected"
    (last,) = [each["data"] for each in box.own_records("nightsafe.order.rejected") if each["data"]["order_id"] == one]
    assert (last["actor"], last["second_actor"], last["reason"]) == ("Ann", "Bea", SECOND["reason"])


def test_A6_15_what_devices_have_stored_is_heard_before_a_person_rejects(venue: tuple[Box, CloudServer]) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet:
        for _ in range(5):
            one = place(cloud, new_name("A"))
            tablet.shown(one, state="offered")
            tablet.says("ready", one)
            with pytest.raises(Rejected, match="ready"):
                act(box, one, "reject")
            assert "rejected" not in records(box, one)


def test_A6_13_provided_is_recorded_for_an_order_that_never_came_and_it_is_not_new_when_it_comes(
    venue: tuple[Box, CloudServer],
) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet:
        one = new_name("A")
        assert act(box, one, "provided")["state"] == "provided"
        with pytest.raises(Rejected, match="does not know"):
            act(box, new_name("A"), "accept")
        place(cloud, one, placed_at=ago(7_200))
        offer = tablet.shown(one)
        assert (offer["state"], offer["provided"], offer["late"], offer["ask"]) == ("provided", True, True, "none")
        assert has(box, one, provided=True)["proposed"] == ["accepted", "ready"]
        tablet.says("accepted", one).says("ready", one)
        has(box, one, proposed=[])
        tablet.says("rejected", one)
        until(lambda: "reject_refused" in records(box, one), "the reject is refused")
    assert all(offer["state"] == "provided" for offer in tablet.of(one))
    assert "rejected" not in records(box, one)


def test_A6_5_an_incomplete_order_is_kept_back_until_it_is_told_whole(venue: tuple[Box, CloudServer]) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet:
        one = place(cloud, new_name("A"), line_count=2)
        found = has(box, one, awaiting=True)
        assert "1" in found["incomplete"][0]
        assert one in until(lambda: conditions(box).get("orders_waiting"), "a person is told")
        assert tablet.of(one) == []
        place(cloud, one)
        assert tablet.shown(one, state="offered")["lines"] == LINES
        assert has(box, one)["incomplete"] == []
        tablet.says("accepted", one)
        until(lambda: one not in conditions(box).get("orders_waiting", ""), "it has ended")
    assert records(box, one) == ["awaiting_venue", "accepted"]


def test_A6_4_an_order_that_cannot_be_read_is_listed_and_made_by_hand_and_never_offered(
    venue: tuple[Box, CloudServer],
) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet:
        one = place(cloud, new_name("A"), lines="two coffees")
        found = has(box, one, state="undeliverable", by_hand=True, awaiting=True)
        assert found["marks"]["undeliverable"]["reason"].startswith("it cannot be read")
        place(cloud, one)
        two = place(cloud, new_name("A"))
        tablet.shown(two)
        assert tablet.of(one) == []
        with pytest.raises(Rejected, match="made by hand"):
            act(box, one, "reject")
        assert act(box, one, "provided")["provided"] is True
        until(lambda: one not in conditions(box).get("orders_waiting", ""), "it has ended")
    assert records(box, one) == ["undeliverable", "reject_refused", "provided"]


def test_a_cancelled_order_is_taken_back_where_it_is_shown_and_told_where_it_is_made(
    venue: tuple[Box, CloudServer],
) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet:
        one, made = place(cloud, new_name("A")), place(cloud, new_name("A"))
        tablet.shown(one, state="offered")
        tablet.shown(made, state="offered")
        tablet.says("accepted", made)
        has(box, made, state="accepted")
        send(cloud, "order.cancelled", order_id=one, reason="guest")
        send(cloud, "order.cancelled", order_id=made, reason="guest")
        tablet.shown(one, state="cancelled")
        until(lambda: f"order_cancelled:{made}" in conditions(box), "a person is told")
    assert records(box, one) == ["cancelled"]
    assert records(box, made) == ["accepted"]


def test_A6_14_the_platform_gives_money_back_once_and_only_because_the_box_says_so(
    venue: tuple[Box, CloudServer],
) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet")) as tablet:
        one, kept = place(cloud, new_name("A")), place(cloud, new_name("A"))
        tablet.shown(one, state="offered")
        tablet.shown(kept, state="offered")
        tablet.says("rejected", one).says("provided", kept).says("rejected", kept)
        until(lambda: at_the_cloud(cloud, one)["state"] == "refunded", "the money is back", 20)
        until(lambda: "reject_refused" in records(box, kept), "refused", 20)
        has(box, one, state="rejected")
        until(lambda: "refunded" in has(box, one)["marks"], "the box knows it", 20)
    until(box.uploaded, "all is up")
    marks = [each["mark"] for each in at_the_cloud(cloud, one)["marks"]]
    assert marks == ["placed", "rejected", "refunded"]
    until(lambda: "reject_refused" in str(at_the_cloud(cloud, kept)["marks"]), "the desk has followed")
    assert at_the_cloud(cloud, kept)["state"] == "provided"
    assert box.rows("select count(*) from commands where event = 'order.refunded' and business = ?", kept) == [(0,)]


def test_orders_are_told_and_acted_on_behind_the_pin_and_the_sessions_own_token(new_box: NewBox) -> None:
    box = new_box(web={"listen_tls": "127.0.0.1:0", "pin_file": "pin"})
    write_pin(box)
    box.start()
    person, path = Person(box), "/api/v1/orders/A%2F1"
    for refused in (person.look("/api/v1/orders"), person.look(path), person.say(f"{path}/provided", {"actor": "A"})):
        assert (refused.status, json.loads(refused.text)["type"]) == (401, "urn:nightsafe:pin-required")
    person.log_in()
    token = {"X_CSRF_Token": person.look("/devices").form("/logout")["token"]}
    for wrong in ({}, {"X_CSRF_Token": "x"}):
        refused = person.say(f"{path}/provided", {"actor": "Ann"}, **wrong)
        assert (refused.status, json.loads(refused.text)["type"]) == (403, "urn:nightsafe:token-required")
    foreign = person.say(f"{path}/provided", {"actor": "Ann"}, Origin="https://evil.example", **token)
    assert (foreign.status, json.loads(foreign.text)["type"]) == (403, "urn:nightsafe:foreign-page")
    form = person.ask("POST", f"{path}/provided", {"actor": "Ann"}, **token)
    assert form.status == 415
    assert person.look(path).status == 404
    for body in ({}, {"actor": ""}, {"actor": " "}, {"actor": "x" * 101}, [], {"actor": 7}):
        assert person.say(f"{path}/provided", body, **token).status == 400, body
    assert person.say("/api/v1/orders/4242424242424242/provided", {"actor": "Ann"}, **token).status == 400
    done = person.say(f"{path}/provided", {"actor": "Ann"}, **token)
    assert (done.status, json.loads(done.text)["order_id"]) == (200, "A/1")
    refused = person.say(f"{path}/reject", {"actor": "Ann"}, **token)
    assert (refused.status, json.loads(refused.text)["type"]) == (409, "urn:nightsafe:already-provided")
    refused = person.say(f"{path}/reject", {"actor": "Ann", "reason": "x"}, **token)
    assert json.loads(refused.text)["type"] == "urn:nightsafe:second-actor-needed"
    refused = person.say("/api/v1/orders/A-2/ready", {"actor": "Ann"}, **token)
    assert (refused.status, json.loads(refused.text)["type"]) == (409, "urn:nightsafe:unknown-order")
    listed, one = json.loads(person.look("/api/v1/orders").text), json.loads(person.look(path).text)
    assert listed["orders"] == [one]
    document = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
    for name, answer in (("OrdersShown", listed), ("OrderShown", one), ("OrderShown", json.loads(done.text))):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        assert not [error.message for error in Draft202012Validator(schema).iter_errors(answer)]
    assert person.say(f"{path}/eat", {"actor": "Ann"}, **token).status == 404


@pytest.mark.parametrize("spoil", ["update order_facts set fact = '{' || id", "zero the root page"])
def test_A6_15_what_was_provided_is_known_again_after_the_orders_were_damaged(
    new_box: NewBox, new_cloud: NewCloud, spoil: str
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, uplink={"probe_interval_s": 1}).start()
    with Tablet(box) as tablet:
        one, taken = place(cloud, new_name("A")), place(cloud, new_name("A"))
        tablet.shown(one, state="offered")
        tablet.says("accepted", taken)
        act(box, one, "provided")
        has(box, taken, state="accepted")
    assert box.stop() == 0
    if spoil.startswith("update"):
        with sqlite3.connect(box.journal) as connection:
            connection.execute(spoil)
    else:
        zero_root(box.state, "order_facts")
    box.start()
    assert has(box, one, provided=True)["customer"]["name"] == "Kim"

    def refused() -> bool:
        """Until the journal was built anew the act fails for that."""
        with pytest.raises(Rejected) as words:
            act(box, one, "reject")
        return "cannot be reversed" in str(words.value)

    until(refused, "the guard stands again", 30)
    assert (records(box, one), records(box, taken)) == (["provided", "reject_refused"], ["accepted"])
    assert box.own_records("nightsafe.journal.repaired")


@pytest.mark.parametrize("state", ["asleep", "background", None])
def test_A6_2_a_device_is_offered_orders_when_it_says_that_it_is_ready(
    venue: tuple[Box, CloudServer], state: str | None
) -> None:
    box, cloud = venue
    with Tablet(box, new_name("tablet"), state) as tablet, Tablet(box, new_name("tablet")) as other:
        one = place(cloud, new_name("A"))
        other.shown(one)
        time.sleep(1.2)
        assert tablet.of(one) == []
        tablet.is_now("ready").shown(one, state="offered")


def test_orders_that_were_kept_before_anything_acted_on_them_are_taken_in(new_box: NewBox, new_cloud: NewCloud) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, uplink={"probe_interval_s": 1}).start()
    one, gone = place(cloud, new_name("A")), place(cloud, new_name("A"))
    send(cloud, "order.cancelled", order_id=gone, reason="guest")
    has(box, gone, state="cancelled")
    assert box.stop() == 0
    with sqlite3.connect(box.journal) as connection:  # as an older version has left it
        connection.executescript("delete from order_facts; delete from orders; update orders_place set taken = 0;")
    box.start()
    with Tablet(box) as tablet:
        tablet.shown(one, state="offered")
        has(box, gone, state="cancelled")
        assert tablet.of(gone) == []


def test_only_named_devices_are_offered_orders(new_box: NewBox, cloud: CloudServer) -> None:
    box = new_box(cloud.url, uplink={"probe_interval_s": 1}, orders={"devices": ["tablet-1"]}).start()
    with Tablet(box, "tablet-1") as named, Tablet(box, "tablet-2") as other:
        one = place(cloud, new_name("A"))
        named.shown(one)
        time.sleep(1.5)
        assert other.of(one) == []


def test_A6_2_A6_12_an_order_for_a_sleeping_tablet_waits_goes_up_and_comes_late_and_never_as_fresh(
    new_box: NewBox, new_cloud: NewCloud
) -> None:
    cloud = new_cloud().start()
    orders = {"response_timeout_s": 3, "devices": ["tablet-1", "till-2"]}
    box = new_box(cloud.url, uplink={"probe_interval_s": 1}, orders=orders, devices={"unresponsive_s": 5}).start()
    Tablet(box, "tablet-1").sleeps()
    with Tablet(box, "till-2") as deaf:
        one = place(cloud, new_name("A"))
        deaf.shown(one, state="offered", late=False)
        deaf.shown(one, 15, late=True, ask="check_whether_already_provided")
        has(box, one, awaiting=True, state="offered")
        words = until(lambda: conditions(box).get("orders_waiting"), "a person is told")
        assert one in words
        assert "tablet-1 is asleep" in words
        until(lambda: "till-2 is connected but does not answer" in conditions(box)["orders_waiting"], "A6.2", 15)
        assert box.status()["cause"] == "none", "the internet has no part in it"
        until(box.uploaded, "A6.8: the platform can tell the guest")
        assert [each.event["type"] for each in cloud.records("agent")].count("nightsafe.order.awaiting_venue") == 1
    with Tablet(box, "tablet-1") as awake:
        offer = awake.shown(one)
        assert (offer["late"], offer["ask"], offer["state"]) == (True, "check_whether_already_provided", "offered")
        awake.says("accepted", one)
        awake.shown(one, state="accepted", ask="none")
    assert records(box, one) == ["awaiting_venue", "late", "accepted"]
    assert all(offer["late"] for offer in awake.of(one))


def test_an_offer_that_waits_in_the_broker_for_a_tablet_is_dropped(new_box: NewBox, cloud: CloudServer) -> None:
    """A tablet whose connection broke is not known to sleep yet; what goes out to it must not come hours later."""
    box = new_box(cloud.url, uplink={"probe_interval_s": 1}, orders={"response_timeout_s": 3}).start()
    tablet = Tablet(box, "tablet-1")
    one = place(cloud, new_name("A"))
    tablet.shown(one, state="offered")
    tablet.close()  # said ready before, and left
    act(box, one, "accept")
    act(box, one, "provided")
    time.sleep(16)
    with Tablet(box, "tablet-1") as awake:
        awake.shown(one, state="provided")
        assert [offer["state"] for offer in awake.of(one)] == ["provided"]


def test_A6_7_whatever_fails_nobody_but_a_person_rejects(new_box: NewBox, new_cloud: NewCloud) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, uplink={"probe_interval_s": 1}, orders={"response_timeout_s": 1}).start()
    ids = [place(cloud, new_name("A"), placed_at=ago(age)) for age in (0, 30, 100_000)]
    ids += [place(cloud, new_name("A"), line_count=9), place(cloud, new_name("A"), total="much")]
    send(cloud, "order.cancelled", order_id=ids[1], reason="rejected")
    box.kill()
    cloud.kill()
    box.start()
    cloud.start()
    with Tablet(box) as tablet:
        tablet.shown(ids[0], 30)
        box.kill()
        box.start()
        until(lambda: len(tablet.of(ids[0])) > 1, "told again after a kill", 30)
    for one in ids:
        has(box, one)
    assert box.own_records("nightsafe.order.rejected") == []


def test_the_command_line_says_how_far_an_order_is(venue: tuple[Box, CloudServer]) -> None:
    box, cloud = venue
    one = place(cloud, new_name("A"))
    has(box, one, state="received")
    for act_, words in (("accept", "ACCEPTED"), ("ready", "READY"), ("provided", "PROVIDED")):
        done = nightsafe(box, "orders", act_, one, "--actor", "Ann")
        assert (done.returncode, words in done.stdout) == (0, True), done
    refused = nightsafe(box, "orders", "reject", one, "--actor", "Ann")
    assert (refused.returncode, "cannot be reversed" in refused.stderr) == (1, True), refused
    assert "provided by Ann" in nightsafe(box, "orders", "show", one).stdout
    more = ("--second-actor", "Bea", "--reason", "sent back")
    assert "REJECTED" in nightsafe(box, "orders", "reject", one, "--actor", "Ann", *more).stdout
    assert "rejected by Ann and Bea" in nightsafe(box, "orders", "show", one).stdout
    assert nightsafe(box, "orders", "show", "nobody's").returncode == 1


def test_the_story_of_a_late_order_with_a_kill_after_every_step(new_box: NewBox, new_cloud: NewCloud) -> None:
    """A6.2, A6.12, A6.13, A6.15, A6.16: it sleeps, it is cooked without it, it wakes; no order twice, none lost, no
    refund."""
    cloud = new_cloud().start()
    box = new_box(cloud.url, uplink={"probe_interval_s": 1}, orders={"response_timeout_s": 2}).start()

    def killed() -> None:
        box.kill()
        box.start()

    with Tablet(box) as tablet:
        other = place(cloud, new_name("A"))
        tablet.shown(other)
        tablet.says("accepted", other).sleeps()
    one = place(cloud, new_name("A"))
    has(box, one, state="received")
    killed()
    has(box, one, awaiting=True)
    killed()
    until(lambda: one in conditions(box).get("orders_waiting", ""), "a person is told after the kill, too", 20)
    assert act(box, one, "provided")["provided"] is True
    killed()
    with Tablet(box) as tablet:
        seen = tablet.shown(one, 20, provided=True)
        assert (seen["state"], seen["late"], seen["ask"]) == ("provided", True, "none")
        killed()
        tablet.says("rejected", one)
        until(lambda: "reject_refused" in records(box, one), "it is refused", 20)
        killed()
        tablet.says("accepted", one)
        has(box, one, proposed=["ready"])
        killed()
        tablet.says("ready", one)
        has(box, one, proposed=[])
        killed()
        with pytest.raises(Rejected, match="cannot be reversed"):
            act(box, one, "reject")
    until(box.uploaded, "all is up", 30)
    assert records(box, one) == [
        "awaiting_venue", "provided", "late", "reject_refused", "accepted", "ready", "reject_refused",
    ]  # fmt: skip
    assert {offer["state"] for offer in tablet.of(one)} == {"provided"}
    assert records(box, other) == ["accepted"]
    until(lambda: at_the_cloud(cloud, one)["state"] == "provided", "the platform knows it")
    assert len(box.rows("select 1 from orders")) == 2


@pytest.mark.parametrize("killed_after_s", [0.0, 0.02, 0.1, 0.3, 1.0])
def test_A6_16_kills_at_any_time_neither_double_nor_lose_an_order_nor_refund_one(
    new_box: NewBox, new_cloud: NewCloud, killed_after_s: float
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, uplink={"probe_interval_s": 1}).start()
    with Tablet(box) as tablet, Tablet(box, "tablet-2") as other:
        ids = [place(cloud, new_name("A")) for _ in range(5)]
        time.sleep(killed_after_s)
        box.kill()
        box.start()
        for one in ids:
            tablet.shown(one, 30, state="offered")
        tablet.says("rejected", ids[0]).says("provided", ids[1])
        other.says("provided", ids[0]).says("ready", ids[2])
        time.sleep(killed_after_s)
        box.kill()
        box.start()
        has(box, ids[0], provided=True)
        has(box, ids[1], state="provided")
        has(box, ids[2], state="ready")
        tablet.shown(ids[2], 30, state="ready")
        for one in ids[1:3]:
            with pytest.raises(Rejected, match="reversed"):
                act(box, one, "reject")
        box.kill()
        box.start()
    for one in ids:
        found = [kind for kind in records(box, one) if kind != "reject_refused"]
        assert len(found) == len(set(found)), (one, found)
    assert "rejected" not in records(box, ids[1]) + records(box, ids[2])
    assert len(box.rows("select order_id from orders")) == 5
