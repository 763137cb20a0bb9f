"""The sample that vendors copy: it pairs, and it loses, doubles and reorders nothing, whoever is killed."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.machine import Box, until
from tests.integration.test_pairing import begin, nightsafe
from tests.repo.tree import ROOT

pytestmark = pytest.mark.needs("mosquitto")

SAMPLE = ROOT / "docs" / "vendors" / "sample_till.py"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SAMPLE), *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def told(folder: Path, device: str) -> list[tuple[str, int, str]]:
    """Id, sequence and state of all that stands in its outbox."""
    with sqlite3.connect(f"file:{folder / device / 'outbox.db'}?mode=ro", uri=True) as db:
        rows = db.execute("select body, state from events order by epoch, sequence").fetchall()
    return [(json.loads(body)["id"], int(json.loads(body)["sequence"]), state) for body, state in rows]


def test_nothing_is_lost_doubled_or_reordered_whoever_is_killed(new_box: Callable[..., Box], tmp_path: Path) -> None:
    box = new_box().start()
    chance = random.Random(20261123)
    plain = ("--device", "till-1", "--plain", f"127.0.0.1:{box.port}")
    for round in range(4):
        till = start(tmp_path, "sell", *plain, "--count", "1000", "--every", "0.005")
        time.sleep(1.0 + chance.random())
        if round % 2:
            os.kill(till.pid, signal.SIGKILL)
            till.communicate()
        else:
            box.kill()
            time.sleep(chance.random())
            os.kill(till.pid, signal.SIGKILL)
            till.communicate()
            box.start()
    last = start(tmp_path, "sell", *plain, "--count", "1", "--every", "0")
    said, _ = last.communicate(timeout=60)
    assert said.endswith("all on the box\n"), said
    kept = told(tmp_path, "till-1")
    assert len(kept) > 200
    assert {state for _, _, state in kept} == {"stored"}
    stored = [json.loads(body) for body in box.stored("till-1")]
    assert [(one["id"], int(one["sequence"])) for one in stored] == [(id, sequence) for id, sequence, _ in kept]
    assert [int(one["sequence"]) for one in stored] == list(range(1, len(stored) + 1))


def test_it_is_paired_by_the_digits_and_sells_with_tls(new_box: Callable[..., Box], tmp_path: Path) -> None:
    box = new_box(devices={"open": False}, web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": {}}).start()
    facts = begin(box, "till-1")
    port = str(box.pages["https"])
    till = start(tmp_path, "pair", "--device", "till-1", "--port", port, "--code", facts["code"])
    assert till.stdout is not None
    assert till.stdout.readline() == f"Compare with the box: {facts['fingerprint_shown']}\n"
    until(lambda: nightsafe(box, "devices", "confirm", "till-1").returncode == 0, "a person says yes")
    assert till.communicate(timeout=30)[0].startswith("paired:")
    assert (tmp_path / "till-1" / "box.json").stat().st_mode & 0o077 == 0
    said, _ = start(tmp_path, "sell", "--device", "till-1", "--count", "5", "--every", "0").communicate(timeout=30)
    assert said.endswith("all on the box\n"), said
    assert len(box.stored("till-1")) == 5


def test_it_fills_a_hole_that_the_box_asks_about(new_box: Callable[..., Box], tmp_path: Path) -> None:
    """As after a box that was replaced by an older copy: what it lacks is in the till's outbox still."""
    box = new_box(intake={"gap_resend_s": 0.3}).start()
    plain = ("--device", "till-1", "--plain", f"127.0.0.1:{box.port}")
    start(tmp_path, "sell", *plain, "--count", "5", "--every", "0").communicate(timeout=30)
    with sqlite3.connect(tmp_path / "till-1" / "outbox.db") as db:  # three sales that went nowhere, taken for stored
        for sequence in (6, 7, 8):
            (body,) = db.execute("select body from events where sequence = 5").fetchone()
            event = json.loads(body) | {"id": f"lost-{sequence}", "sequence": f"{sequence:020}"}
            epoch = event["epoch"]
            row = (epoch, sequence, json.dumps(event).encode())
            db.execute("insert into events (epoch, sequence, body, state) values (?, ?, ?, 'stored')", row)
        db.execute("update facts set value = '8' where name = ?", (f"last/{epoch}",))
    till = start(tmp_path, "sell", *plain, "--count", "40", "--every", "0.1")
    until(lambda: len(box.stored("till-1")) >= 48, "the hole is filled", 20)
    assert "all on the box" in till.communicate(timeout=30)[0]
    assert box.device("till-1")["gaps"] == []
    assert box.device("till-1")["lost_events"] == 0
