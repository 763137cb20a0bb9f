"""`nightsafe queue` and `nightsafe verify` beside a running agent, and without one."""

import json
import sqlite3
import subprocess
from collections.abc import Callable

import pytest

from tests.integration.machine import NIGHTSAFE, Box, until
from tests.integration.mqtt import V5, Device


def nightsafe(box: Box, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command for this box."""
    return subprocess.run(
        [*NIGHTSAFE, *arguments, "--config", str(box.config)], capture_output=True, text=True, timeout=30
    )


def event(name: str, kind: str = "acme.thing", **more: object) -> bytes:
    """A small event as a device would send it."""
    body = {"specversion": "1.0", "id": name, "source": "/t", "type": kind, "data": {"n": 1}} | more
    return json.dumps(body, separators=(",", ":")).encode()


@pytest.fixture
def offline(new_box: Callable[..., Box]) -> Box:
    """A running box whose cloud is not there, with one event stored and one refused."""
    box = new_box().start()
    with Device(box.port, "till-1", level=V5) as till:
        assert till.tell(event("a1")).reason == 0
        assert till.tell(event("a2", "pos.check.opened")).reason == 0x99
    return box


def records_of(box: Box) -> int:
    """How many there are: the sale, the refusal, and one on the clock where this machine's is synchronised."""
    ((count,),) = box.rows("select count(*) from records")
    assert count in (2, 3)
    return int(count)


def test_what_waits_is_exported_byte_for_byte_and_the_chain_holds(offline: Box) -> None:
    shown = json.loads(nightsafe(offline, "queue", "show", "--json").stdout)
    records = records_of(offline)
    assert shown == {"pending": records, "quarantined": 1}
    lines = nightsafe(offline, "queue", "export").stdout.splitlines()
    assert len(lines) == records
    assert sum(event("a1").decode() in line for line in lines) == 1
    report = nightsafe(offline, "verify", "--json")
    assert report.returncode == 0
    assert json.loads(report.stdout)["records"] == records


def test_a_refused_event_is_dismissed_by_somebody_for_a_reason_and_leaves_the_list(offline: Box) -> None:
    (entry,) = json.loads(nightsafe(offline, "queue", "quarantine", "list", "--json").stdout)
    assert (entry["device"], entry["event_id"], entry["reason"]) == ("till-1", "a2", "schema")
    until(lambda: "quarantine" in str(offline.status()["conditions"]), "the attention")
    again = nightsafe(offline, "queue", "quarantine", "resubmit", "1", "--reason", "try")
    assert again.returncode == 1
    assert "refused again: schema" in again.stderr
    done = nightsafe(offline, "queue", "quarantine", "dismiss", "1", "--reason", "old till", "--actor", "Ann")
    assert done.returncode == 0, done.stderr
    assert json.loads(nightsafe(offline, "queue", "quarantine", "list", "--json").stdout) == []
    kept = json.loads(nightsafe(offline, "queue", "quarantine", "show", "1", "--json").stdout)
    assert (kept["state"], kept["actor"], kept["note"]) == ("dismissed", "Ann", "old till")
    until(lambda: "quarantine" not in str(offline.status()["conditions"]), "the attention is gone")
    gone = nightsafe(offline, "queue", "quarantine", "dismiss", "1", "--reason", "twice")
    assert gone.returncode == 1
    assert "no open entry 1" in gone.stderr


def test_a_resubmitted_event_that_is_good_now_is_stored_once(offline: Box) -> None:
    """As after an update that knows the type better: the kept bytes are replaced by ones that pass."""
    good = event("a2", "pos.check.opened", data={"check_id": "7"})
    offline.stop()
    records = records_of(offline)
    with sqlite3.connect(offline.journal) as connection:
        connection.execute("update quarantine set payload = ? where id = 1", (good,))
    connection.close()
    offline.start()
    done = nightsafe(offline, "queue", "quarantine", "resubmit", "1", "--reason", "fixed")
    assert done.returncode == 0, done.stderr
    assert good.decode() in nightsafe(offline, "queue", "export").stdout
    assert json.loads(nightsafe(offline, "verify", "--json").stdout)["records"] == records + 1


def test_deciding_needs_a_running_agent_and_says_so(offline: Box) -> None:
    offline.stop()
    done = nightsafe(offline, "queue", "quarantine", "dismiss", "1", "--reason", "x")
    assert done.returncode == 1
    assert "Start it" in done.stderr
    assert nightsafe(offline, "verify").returncode == 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            "update records set event = cast(replace(event, 'acme', 'acne') as blob)",
            "do not match its seal",
        ),
        ("update records set rechash = randomblob(32) where position = 1", "do not match its seal"),
        ("delete from records where position = 1", "positions 1 to 1 are missing"),
        ("update journal set cursor = 99", "cursor stands at 99"),
    ],
)
def test_verify_names_what_was_changed_behind_the_agents_back(offline: Box, damage: str, words: str) -> None:
    offline.stop()
    with sqlite3.connect(offline.journal) as connection:
        connection.execute(damage)
    connection.close()
    report = nightsafe(offline, "verify")
    assert report.returncode == 1
    assert words in report.stdout
