"""`nightsafe conform`: each case passes who keeps the rules, and fails who breaks the one that it is about."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agent.conform.cases import CASES
from tests.conform.command import conform
from tests.integration.machine import NIGHTSAFE
from tests.repo.tree import ROOT

pytestmark = pytest.mark.needs("mosquitto")

TILL = f"{shlex.quote(sys.executable)} -m tests.conform.till {{host}} {{port}}"


def test_who_keeps_every_rule_passes_every_case_and_both_reports_say_so(tmp_path: Path) -> None:
    status, results, words = conform(tmp_path, TILL)
    assert results == {case.name: "passed" for case in CASES}, words
    assert status == 0
    page = (tmp_path / "conform.html").read_text()
    assert "9 passed" in page
    assert all(case.title in page for case in CASES)
    suite = ElementTree.parse(tmp_path / "conform.xml").getroot()
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["9", "0", "0", "0"]


def test_who_keeps_every_rule_at_qos_2_passes_every_case(tmp_path: Path) -> None:
    _, results, words = conform(tmp_path, f"{TILL} 'at QoS 2'")
    assert results == {case.name: "passed" for case in CASES}, words


def test_events_without_epoch_and_sequence_are_allowed_and_the_vendor_is_told_what_that_costs(tmp_path: Path) -> None:
    _, results, words = conform(tmp_path, f"{TILL} 'counts not at all'", "events", "lost-receipt", "resend")
    assert results == {"events": "passed", "lost-receipt": "passed", "resend": "not applicable"}, words
    assert "cannot be missed" in words["events"][0]
    assert "cannot be missed" in (tmp_path / "conform.html").read_text()


@pytest.mark.needs("unshare", "mosquitto_pub")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")
def test_over_a_network_a_device_comes_by_tls_and_with_its_password_only(tmp_path: Path) -> None:
    start = f"env PYTHONPATH={ROOT} {sys.executable} -m tests.conform.over_tls {{host}} {{port}} {{ca}} {{password}}"
    inside = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', *NIGHTSAFE, "conform"]
    options = ["--listen", "0.0.0.0:8883", "--json", "--only", "events", "--start", start]
    done = subprocess.run([*inside, *options], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    log = (tmp_path / "conform-report" / "device.log").read_text()
    assert done.returncode == 0, (done.stderr, log)
    assert "wrong password in 3.1.1: Connection error: Connection Refused: bad user name or password" in log
    assert "wrong password in 5.0: Connection error: Bad User Name or Password" in log
    assert "plain: nothing" in log
    assert (tmp_path / "conform-identity" / "password").stat().st_mode & 0o777 == 0o600


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
    ("repeats what is refused on each connection", "conflict", "when the device had connected again"),
    ("QoS 2 without a release", "events", "a PUBREL follows"),
    ("hammers", "quota", "sooner than"),
    ("drops what was not taken", "quota", "keep each event in the outbox"),
    ("trusts the clock", "clock", "new epoch"),
    ("dies of the clock", "clock", "nothing more after the clock"),
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
