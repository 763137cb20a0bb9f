"""A simulated till as a stock client: what it keeps, sends again, and answers.

A plain broker stands in for the box where the test itself plays what the box says; the last tests run the real box.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.tills.audit import read_evidence
from agent.tills.checker import check
from agent.tills.floor import wait
from agent.tills.lines import read_lines
from agent.tills.link import Protocol
from agent.tills.outbox import Kept, Outbox, Told
from agent.tills.till import Till
from agent.tills.venue import Venue
from agent.tills.words import Habits, TillSettings

WAIT_MAX_S = 15.0

pytestmark = pytest.mark.needs("mosquitto")


class Broker:
    """A mosquitto of our own on a free port, and a client on it that hears everything and can speak as the box does."""

    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.heard: SimpleQueue[tuple[str, bytes]] = SimpleQueue()
        self._config = directory / "mosquitto.conf"
        self._config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        self._process: subprocess.Popen[bytes] | None = None
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="box", protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("pos/#", 1)
        self._client.on_message = lambda _c, _d, message: self.heard.put((message.topic, bytes(message.payload)))
        self._client.reconnect_delay_set(0.1, 0.5)  # type: ignore[arg-type]

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["mosquitto", "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def listen(self) -> None:
        self._client.connect_async("127.0.0.1", self.port)
        self._client.loop_start()
        assert wait(self._client.is_connected, WAIT_MAX_S)

    def say(self, topic: str, value: object, *, retain: bool = False) -> None:
        self._client.publish(topic, json.dumps(value), qos=1, retain=retain)

    def hear(self, topic: str, fits: Callable[[Any], bool] = lambda _: True) -> Any:
        """The next message on a topic that fits; what does not is passed over."""
        end_s = time.monotonic() + WAIT_MAX_S
        while time.monotonic() < end_s:
            try:
                got, payload = self.heard.get(timeout=0.1)
            except Empty:
                continue
            if got == topic and payload and fits(json.loads(payload)):
                return json.loads(payload)
        raise AssertionError(f"nothing on {topic} within {WAIT_MAX_S} s")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self.kill()


@pytest.fixture
def broker(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Broker]:
    broker = Broker(tmp_path, free_port())
    broker.start()
    try:
        broker.listen()
        yield broker
    finally:
        broker.close()


def a_till(broker: Broker, tmp_path: Path, **changes: Any) -> Till:
    terms: dict[str, Any] = {"rate_per_s": 100.0, "count": 40, "protocol": "5"}
    return Till(
        TillSettings(
            device="till-1", host="127.0.0.1", port=broker.port, directory=tmp_path / "till-1", **terms | changes
        )
    )


def told(tmp_path: Path) -> list[int]:
    return [line.sequence for line in read_lines(tmp_path / "till-1" / "told.jsonl", Told)]


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_till_is_told_about_everything_that_it_sold(broker: Broker, tmp_path: Path, protocol: Protocol) -> None:
    till = a_till(broker, tmp_path, protocol=protocol)
    till.start()
    assert wait(lambda: till.figures.told == 40, WAIT_MAX_S)
    till.close()
    assert told(tmp_path) == list(range(1, 41))


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_till_sends_the_same_bytes_again_after_the_broker_died(
    broker: Broker, tmp_path: Path, protocol: Protocol
) -> None:
    till = a_till(broker, tmp_path, protocol=protocol, count=200)
    till.start()
    assert wait(lambda: till.figures.told > 40, WAIT_MAX_S)
    broker.kill()
    assert wait(lambda: not till.figures.connected and till.figures.untold > 10, WAIT_MAX_S)
    broker.start()
    assert wait(lambda: till.figures.told == 200, WAIT_MAX_S)
    till.close()
    kept = {line.id: bytes(line.event) for line in read_lines(tmp_path / "till-1" / "events.jsonl", Kept)}
    heard: list[dict[str, Any]] = []
    while not broker.heard.empty():
        topic, payload = broker.heard.get()
        if topic == "pos/v1/till-1/events":
            assert kept[json.loads(payload)["id"]] == payload
            heard.append(json.loads(payload))
    assert heard


def test_a_till_whose_connection_breaks_again_and_again_is_told_about_everything(
    broker: Broker, tmp_path: Path
) -> None:
    till = a_till(broker, tmp_path, count=120, habits=Habits(reconnect_every_s=0.3, duplicate_every=7))
    till.start()
    assert wait(lambda: till.figures.told == 120, WAIT_MAX_S)
    assert till.figures.connects > 1
    assert till.figures.duplicates > 1
    till.close()


def test_a_till_answers_resend_from_its_outbox_and_names_the_command_as_applied(broker: Broker, tmp_path: Path) -> None:
    till = a_till(broker, tmp_path, habits=Habits(withhold_every=10))
    till.start()
    assert wait(lambda: till.figures.told == 36, WAIT_MAX_S)
    assert till.figures.withheld == 4
    epoch = broker.hear("pos/v1/till-1/state", lambda state: state["state"] == "ready")["epoch"]
    resend = {"id": "c-1", "command": "resend", "args": {"epoch": epoch, "from": "9", "to": "21"}}
    broker.say("pos/v1/till-1/commands", resend)
    broker.hear("pos/v1/till-1/state", lambda state: state["applied"] == ["c-1"])
    assert sorted(told(tmp_path)) == [n for n in range(1, 41) if n not in (30, 40)]
    assert told(tmp_path)[-2:] == [10, 20]
    till.close()


def test_a_till_keeps_events_for_a_resend_until_the_receipt_says_uploaded(broker: Broker, tmp_path: Path) -> None:
    till = a_till(broker, tmp_path)
    till.start()
    assert wait(lambda: till.figures.told == 40, WAIT_MAX_S)
    epoch = broker.hear("pos/v1/till-1/state", lambda state: state["state"] == "ready")["epoch"]
    broker.say("pos/v1/till-1/receipt", {"epoch": epoch, "stored": "40", "uploaded": "30", "gaps": [], "refused": []})
    assert wait(lambda: till.figures.in_cloud == 30, WAIT_MAX_S)
    while not broker.heard.empty():
        broker.heard.get()
    resend = {"id": "c-1", "command": "resend", "args": {"epoch": epoch, "from": "29", "to": "32"}}
    broker.say("pos/v1/till-1/commands", resend)
    again = [broker.hear("pos/v1/till-1/events")["sequence"] for _ in range(2)]
    assert [int(sequence) for sequence in again] == [31, 32]
    broker.hear("pos/v1/till-1/state", lambda state: state["applied"] == ["c-1"])
    assert len(told(tmp_path)) == 40
    till.close()


def test_a_till_says_again_that_a_repeated_command_is_done(broker: Broker, tmp_path: Path) -> None:
    till = a_till(broker, tmp_path)
    till.start()
    broker.hear("pos/v1/till-1/state")
    for _ in range(2):
        broker.say("pos/v1/till-1/commands", {"id": "c-1", "command": "identify", "args": {}})
        broker.hear("pos/v1/till-1/state", lambda state: state["applied"] == ["c-1"])
    till.close()


def test_a_till_under_hold_payments_takes_none_until_they_are_released(broker: Broker, tmp_path: Path) -> None:
    till = a_till(broker, tmp_path, count=400, rate_per_s=200.0)
    till.start()
    broker.hear("pos/v1/till-1/state")
    broker.say("pos/v1/till-1/commands", {"id": "c-1", "command": "hold_payments", "args": {}})
    last = int(broker.hear("pos/v1/till-1/state", lambda state: state["applied"] == ["c-1"])["last"])
    assert wait(lambda: till.figures.made > last + 100, WAIT_MAX_S)
    held = till.figures.made
    broker.say("pos/v1/till-1/commands", {"id": "c-2", "command": "release_payments", "args": {}})
    assert wait(lambda: till.sold_out, WAIT_MAX_S)
    till.close()
    kinds = {
        line.sequence: json.loads(bytes(line.event))["type"]
        for line in read_lines(tmp_path / "till-1" / "events.jsonl", Kept)
    }
    settled = last + 20  # what was begun before the hold is finished
    assert not [n for n in range(settled, held) if kinds[n].startswith("pos.payment.")]
    assert [n for n in range(held, 400) if kinds[n].startswith("pos.payment.")]


def test_a_receipt_that_names_a_refused_event_takes_it_off_the_list(broker: Broker, tmp_path: Path) -> None:
    till = a_till(broker, tmp_path, protocol="3.1.1")
    till.start()
    assert wait(lambda: till.figures.told == 40, WAIT_MAX_S)
    id = next(iter(read_lines(tmp_path / "till-1" / "told.jsonl", Told))).id
    refused = {"id": id, "sequence": "1", "reason": "schema", "detail": "no"}
    broker.say("pos/v1/till-1/receipt", {"epoch": None, "stored": None, "uploaded": None, "refused": [refused]})
    assert wait(lambda: till.figures.refused == 1, WAIT_MAX_S)
    till.close()
    assert read_evidence(tmp_path)[0].refused == {id}


def test_what_a_till_cannot_read_does_not_stop_it(broker: Broker, tmp_path: Path) -> None:
    till = a_till(broker, tmp_path)
    for topic in ("pos/v1/till-1/commands", "pos/v1/till-1/receipt", "pos/v1/venue/status"):
        value: object
        for value in ([], {"id": 7}, "?", {"id": "c-9", "command": "resend", "args": {"epoch": 1}}):
            broker.say(topic, value, retain=True)
    till.start()
    assert wait(lambda: till.figures.told == 40, WAIT_MAX_S)
    till.close()


def test_a_till_says_goodbye_and_its_will_speaks_when_it_is_killed(broker: Broker, tmp_path: Path) -> None:
    till = a_till(broker, tmp_path)
    till.start()
    broker.hear("pos/v1/till-1/state", lambda state: state["state"] == "ready")
    till.close()
    assert "epoch" in broker.hear("pos/v1/till-1/state", lambda state: state["state"] == "offline")
    process = simulate(broker, tmp_path)
    broker.hear("pos/v1/till-1/state", lambda state: state["state"] == "ready")
    process.kill()
    process.wait()
    assert broker.hear("pos/v1/till-1/state", lambda state: state["state"] == "offline") == {"state": "offline"}


def simulate(broker: Broker, tmp_path: Path, *more: str) -> subprocess.Popen[bytes]:
    """`nightsafe simulate` with one till."""
    program = "import typer; from agent.cli.simulate import simulate; typer.run(simulate)"
    options = ["--port", str(broker.port), "--tills", "1", "--directory", str(tmp_path), "--json", *more]
    return subprocess.Popen([sys.executable, "-c", program, *options], stdout=subprocess.PIPE)


def test_a_killed_till_goes_on_with_the_same_ids_epoch_and_sequences(broker: Broker, tmp_path: Path) -> None:
    for _ in range(3):
        before = len(told(tmp_path))
        process = simulate(broker, tmp_path, "--rate", "200")
        assert wait(lambda before=before: len(told(tmp_path)) > before + 30, WAIT_MAX_S)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = simulate(broker, tmp_path, "--rate", "200", "--count", "20")
    said, _ = process.communicate(timeout=WAIT_MAX_S)
    summary = json.loads(said)
    assert process.returncode == 0
    assert summary["made"] == summary["told"] >= 110
    kept = list(read_lines(tmp_path / "till-1" / "events.jsonl", Kept))
    assert len({line.epoch for line in kept}) == 1
    assert [line.sequence for line in kept] == list(range(1, summary["made"] + 1))
    assert sorted(told(tmp_path)) == list(range(1, summary["made"] + 1))


def test_simulate_ends_with_3_when_nobody_answers(tmp_path: Path, free_port: Callable[[], int]) -> None:
    nobody = Broker(tmp_path, free_port())
    process = simulate(nobody, tmp_path, "--count", "3", "--settle", "0.5")
    said, _ = process.communicate(timeout=WAIT_MAX_S)
    assert process.returncode == 3
    assert json.loads(said)["untold"] > 0


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    """A real box and a real cloud; the tills are the test's own."""
    with Venue(tmp_path / "demo", keep=False, rate_per_s=6.0, seed="0") as venue:
        venue.floor.close()
        venue.start_cloud()
        venue.start_box()
        yield venue


def at_the_box(venue: Venue, **changes: Any) -> Till:
    terms: dict[str, Any] = {"device": "till-9", "rate_per_s": 100.0, "count": 60, "protocol": "5"} | changes
    directory = venue.tills / terms["device"]
    return Till(TillSettings(host="127.0.0.1", port=venue.ports["devices"].number, directory=directory, **terms))


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_the_box_tells_a_till_about_everything_and_its_receipt_follows(venue: Venue, protocol: Protocol) -> None:
    till = at_the_box(venue, protocol=protocol)
    till.start()
    assert wait(lambda: till.figures.told == 60, WAIT_MAX_S)
    assert wait(lambda: till.figures.in_cloud == 60, WAIT_MAX_S)
    till.close()
    verdict = check(read_evidence(venue.tills), venue.export())
    assert verdict.clean
    assert verdict.told == verdict.in_cloud == 60


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_A3_7_the_box_asks_for_what_is_missing_and_the_till_brings_it(venue: Venue, protocol: Protocol) -> None:
    till = at_the_box(venue, protocol=protocol, count=61, habits=Habits(withhold_every=20))
    till.start()
    assert wait(lambda: till.figures.told == 61, WAIT_MAX_S), till.figures
    assert till.figures.resends >= 1
    assert wait(lambda: till.figures.in_cloud == 61, WAIT_MAX_S)
    till.close()
    assert check(read_evidence(venue.tills), venue.export()).clean


def test_A3_1_what_a_till_sends_twice_is_in_the_cloud_once(venue: Venue) -> None:
    till = at_the_box(venue, count=200, habits=Habits(duplicate_every=3, reconnect_every_s=0.3))
    till.start()
    assert wait(lambda: till.figures.told == 200 and till.figures.in_cloud == 200, WAIT_MAX_S), till.figures
    assert till.figures.duplicates > 20
    assert till.figures.connects > 2
    till.close()
    verdict = check(read_evidence(venue.tills), venue.export())
    assert verdict.clean
    assert verdict.in_cloud == 200


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_what_the_box_refuses_is_named_to_the_till_and_reported_to_the_cloud(venue: Venue, protocol: Protocol) -> None:
    outbox = Outbox.open(venue.tills / "till-9", "till-9", "0199c0de-0000-7000-8000-000000000000")
    refusable = (
        b'{"specversion":"1.0","id":"bad-1","source":"/devices/till-9","type":"nightsafe.gap.lost",'
        b'"epoch":"0199c0de-0000-7000-8000-000000000000","sequence":"1","data":{}}'
    )
    outbox.keep([("bad-1", 1, refusable)])
    outbox.close()
    till = at_the_box(venue, protocol=protocol, count=10)
    till.start()
    assert wait(lambda: till.figures.refused == 1 and till.figures.untold == 0, WAIT_MAX_S), till.figures
    assert wait(lambda: till.figures.in_cloud == 11, WAIT_MAX_S), till.figures
    till.close()
    verdict = check(read_evidence(venue.tills), venue.export())
    assert verdict.clean
    assert (verdict.in_cloud, verdict.refused) == (10, 1)


def test_a_reinstalled_till_counts_afresh_and_still_owes_what_it_had(venue: Venue) -> None:
    till = at_the_box(venue, count=10)
    till.start()
    assert wait(lambda: till.figures.in_cloud == 10, WAIT_MAX_S)
    till.close()
    again = at_the_box(venue, count=10, reinstalled=True)
    again.start()
    assert wait(lambda: again.figures.told == 20 and again.figures.untold == 0, WAIT_MAX_S)
    again.close()
    assert wait(lambda: len(venue.export()) >= 20, WAIT_MAX_S)
    kept = list(read_lines(venue.tills / "till-9" / "events.jsonl", Kept))
    assert [line.sequence for line in kept] == [*range(1, 11), *range(1, 11)]
    assert len({line.epoch for line in kept}) == 2
    assert check(read_evidence(venue.tills), venue.export()).clean


def test_a_till_knows_the_venues_status(venue: Venue) -> None:
    till = at_the_box(venue)
    till.start()
    assert wait(lambda: till.figures.status.state == "online", WAIT_MAX_S), till.figures
    till.close()
