"""`nightsafe conform`: each case passes who keeps the rules, and fails who breaks the one that it is about."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from agent.conform.cases import CASES
from tests.integration.machine import NIGHTSAFE
from tests.node_modules import command as node_command
from tests.repo.tree import ROOT

pytestmark = pytest.mark.needs("mosquitto")

TILL = f"{shlex.quote(sys.executable)} -m tests.conform.till {{host}} {{port}}"


def conform(
    report: Path, start: str, *cases: str, wait_s: float = 8.0
) -> tuple[int, dict[str, str], dict[str, list[str]]]:
    """Exit status, results and words by case."""
    options = ["--listen", "127.0.0.1:0", "--wait", str(wait_s), "--report", str(report), "--json", "--start", start]
    for case in cases:
        options += ["--only", case]
    done = subprocess.run(
        [*NIGHTSAFE, "conform", *options], capture_output=True, text=True, cwd=ROOT, timeout=170, check=False
    )
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return done.returncode, {one["case"]: one["result"] for one in found}, {one["case"]: one["words"] for one in found}


def test_who_keeps_every_rule_passes_every_case_and_both_reports_say_so(tmp_path: Path) -> None:
    status, results, words = conform(tmp_path, TILL)
    assert results == {case.name: "passed" for case in CASES}, words
    assert status == 0
    page = (tmp_path / "conform.html").read_text()
    assert "9 passed" in page
    assert all(case.title in page for case in CASES)
    suite = ElementTree.parse(tmp_path / "conform.xml").getroot()
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["9", "0", "0", "0"]


WRONG = [
    ("forgets", "lost-receipt", "keep each event in the outbox"),
    ("new ids", "lost-receipt", "a repeat has the same id"),
    ("changes what it repeats", "lost-receipt", "other bytes"),
    ("repeats for ever", "duplicate", "its PUBACK ends it"),
    ("newest first", "box-restart", "out of order"),
    ("resends nothing", "resend", "sent it not again"),
    ("confirms nothing", "resend", "did not name the command"),
    ("hears no commands", "resend", "subscribe to"),
    ("repeats what is refused", "conflict", "its PUBACK ends it"),
    ("hammers", "quota", "sooner than"),
    ("drops what was not taken", "quota", "keep each event in the outbox"),
    ("trusts the clock", "clock", "new epoch"),
    ("waits for the cloud", "realtime", "go on without it"),
    ("leaves holes", "events", "without holes"),
    ("counts nothing", "duplicate", "used twice"),
    ("says card numbers", "events", "card_number"),
]
"""What a till does wrong, the case that finds it, and a part of the words that it gets."""


def test_every_case_has_a_wrong_till() -> None:
    assert {case for _, case, _ in WRONG} == {case.name for case in CASES}


FIRST = {case: fault for fault, case, _ in reversed(WRONG)}
"""One wrong till for each case; the others are played with --long."""


@pytest.mark.parametrize(
    ("fault", "case", "part"),
    [pytest.param(*one, id=one[0], marks=() if one[0] in FIRST.values() else pytest.mark.long) for one in WRONG],
)
def test_a_till_that_is_wrong_on_purpose_fails_the_case_about_it(
    tmp_path: Path, fault: str, case: str, part: str
) -> None:
    status, results, words = conform(tmp_path, f"{TILL} {shlex.quote(fault)}", case, wait_s=5.0)
    assert (status, results) == (1, {case: "failed"}), words
    assert any(part in one for one in words[case]), words
    suite = ElementTree.parse(tmp_path / "conform.xml").getroot()
    assert suite.find("testcase/failure") is not None


def test_a_device_that_never_comes_is_not_judged(tmp_path: Path) -> None:
    status, results, words = conform(tmp_path, "sleep 60", "events", wait_s=1.0)
    assert (status, results) == (2, {"events": "not judged"})
    assert words["events"] == ["till-1 did not connect."]


# What stock clients can pass, written down before they are played -----------------------------------------------------

PASSES = {case.name: "passed" for case in CASES}
SIMULATED = PASSES | {"realtime": "not applicable"}  # nightsafe simulate asks for nothing in real time
SAMPLE = PASSES | {"realtime": "not applicable"}  # so does the sample
MQTT_JS = PASSES | {
    "resend": "failed",  # a client library has no outbox: what is acknowledged is gone
    "quota": "failed",  # what is published while it is away is gone when the next connection ends, too
    "clock": "not applicable",  # nor does it read the venue's status
    "realtime": "not applicable",
}
MOSQUITTO_PUB = PASSES | {
    "resend": "failed",  # it subscribes to nothing
    "clock": "not applicable",
    "realtime": "not applicable",
}


def test_our_own_simulated_till_passes(tmp_path: Path) -> None:
    start = f"{sys.executable} -m agent simulate --host {{host}} --port {{port}} --tills 1 --rate 20 --seconds 160"
    _, results, words = conform(tmp_path, f"{start} --directory {tmp_path / 'tills'}")
    assert results == SIMULATED, words


def test_the_sample_that_vendors_copy_passes(tmp_path: Path) -> None:
    sample = ROOT / "docs" / "vendors" / "sample_till.py"
    start = f"{sys.executable} {sample} sell --plain {{host}}:{{port}} --count 100000 --every 0.05"
    _, results, words = conform(tmp_path, f"env -C {tmp_path} {start}")
    assert results == SAMPLE, words


def test_mqtt_js_passes_what_a_bare_client_library_can(tmp_path: Path) -> None:
    start = shlex.join(node_command("till.cjs")) + " {port}"
    _, results, words = conform(tmp_path, start)
    assert results == MQTT_JS, words


@pytest.mark.needs("mosquitto_pub")
def test_mosquitto_pub_passes_what_a_command_line_client_can(tmp_path: Path) -> None:
    start = f"{sys.executable} -m tests.conform.pub {{port}}"
    _, results, words = conform(tmp_path, start)
    assert results == MOSQUITTO_PUB, words
