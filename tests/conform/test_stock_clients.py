"""What stock clients can pass of `nightsafe conform`, written down before they are played."""

import shlex
import sys
from pathlib import Path

import pytest

from agent.conform.cases import CASES
from tests.conform.command import conform
from tests.node_modules import command as node_command
from tests.repo.tree import ROOT

pytestmark = pytest.mark.needs("mosquitto")

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


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.needs("mosquitto_pub")
def test_mosquitto_pub_passes_what_a_command_line_client_can(tmp_path: Path) -> None:
    start = f"{sys.executable} -m tests.conform.pub {{port}}"
    _, results, words = conform(tmp_path, start)
    assert results == MOSQUITTO_PUB, words
