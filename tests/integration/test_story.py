"""The demo as a person starts it: the whole story with its verdict, and an orderly end on SIGTERM."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.tills.floor import wait

STORY_MAX_S = 120.0
WAIT_MAX_S = 30.0
DEMO = [sys.executable, "-m", "agent.tills.demo"]

pytestmark = pytest.mark.needs("mosquitto")


def left_behind(directory: Path) -> list[str]:
    """Command lines of processes that still speak of the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


def test_the_story_ends_with_nothing_lost_doubled_or_reordered(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    done = subprocess.run(
        [*DEMO, "--story", "--rate", "30", "--directory", str(directory)],
        capture_output=True,
        text=True,
        timeout=STORY_MAX_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line[:10].strip(): line[10:].split()[0] for line in done.stdout.splitlines() if "  " in line}
    told, in_cloud = (int(rows[name].replace(",", "")) for name in ("told", "in cloud"))
    assert told == in_cloud > 300
    assert [rows[kind] for kind in ("lost", "doubled", "reordered", "altered", "phantom")] == ["0"] * 5
    parts = re.findall(r"^   ([a-z ,]+): .* (\d+) questions asked: (.*)\.$", done.stdout, re.MULTILINE)
    online, away, killed, _ = ({"asked": int(asked), "ends": ends} for _, asked, ends in parts)
    assert online["asked"] > 20
    assert " answered" in online["ends"]
    assert " refused for want of the cloud" in away["ends"] + killed["ends"]
    assert "without an answer" not in done.stdout.splitlines()[-2]
    assert "questions asked" in done.stdout.splitlines()[-2]
    assert left_behind(directory) == []


def test_the_demo_sells_until_it_is_told_to_end_and_leaves_nothing_running(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    log = tmp_path / "said"
    with log.open("wb") as said:
        demo = subprocess.Popen([*DEMO, "--directory", str(directory)], stdout=said, stderr=subprocess.STDOUT)
    try:
        told = directory / "tills" / "till-1" / "told.jsonl"
        assert wait(lambda: told.exists() and told.stat().st_size > 0, WAIT_MAX_S), log.read_text()
        assert left_behind(directory)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(WAIT_MAX_S) == 0, log.read_text()
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    text = log.read_text()
    assert "The box's page        http://127.0.0.1:" in text
    assert "mosquitto_sub" in text
    assert "The end: sold " in text
    assert wait(lambda: not left_behind(directory), WAIT_MAX_S)
