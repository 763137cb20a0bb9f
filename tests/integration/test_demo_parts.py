"""What the demo stands on: children that are watched and ended by their own pid, ports, and a folder that is ours."""

import os
import socket
import sys
from pathlib import Path

import pytest

from agent.tills.children import Child, ChildFailed, choose_port
from agent.tills.floor import wait
from agent.tills.venue import MARK, Venue, VenueFailed

WAIT_MAX_S = 15.0
SLEEPS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def a_venue(directory: Path, *, keep: bool = False) -> Venue:
    return Venue(directory, keep=keep, rate_per_s=6.0, seed="0")


def test_a_child_that_was_killed_is_started_again(tmp_path: Path) -> None:
    child = Child("The box", SLEEPS, tmp_path / "log", restarts=True)
    child.start()
    first = child.pid
    child.kill()
    assert not child.alive
    assert wait(lambda: child.alive, WAIT_MAX_S, child.look)
    assert child.pid != first
    child.stop()
    assert not child.alive


def test_a_child_that_was_stopped_stays_stopped(tmp_path: Path) -> None:
    child = Child("The box", SLEEPS, tmp_path / "log", restarts=True)
    child.start()
    child.stop()
    child.look()
    assert not child.alive


def test_a_child_that_will_not_end_is_killed_after_its_time(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    child = Child("The box", [sys.executable, "-c", stubborn], tmp_path / "log", restarts=True)
    child.start()
    assert wait(lambda: (tmp_path / "log").stat().st_size > 0, WAIT_MAX_S)
    child.stop(0.2)
    assert not child.alive


def test_a_child_that_keeps_dying_is_given_up_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child(
        "The box", [sys.executable, "-c", "raise SystemExit('no broker here')"], tmp_path / "log", restarts=True
    )
    child.start()
    with pytest.raises(ChildFailed, match="no broker here"):
        wait(lambda: False, WAIT_MAX_S, child.look)


def test_a_child_ends_when_we_are_killed_outright(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from agent.tills.children import Child\n"
        "child = Child('x', [sys.executable, '-c', 'import time; time.sleep(60)'], Path(sys.argv[1]), restarts=True)\n"
        "child.start(); time.sleep(0.3); print(child.pid, flush=True); time.sleep(60)"
    )
    parent = Child(
        "parent", [sys.executable, "-c", program, str(tmp_path / "child.log")], tmp_path / "log", restarts=False
    )
    parent.start()
    assert wait(lambda: (tmp_path / "log").read_text().endswith("\n"), WAIT_MAX_S)
    orphan = int((tmp_path / "log").read_text())
    parent.kill()
    assert wait(lambda: gone(orphan), WAIT_MAX_S)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_an_occupied_port_is_named_with_its_holder_and_another_is_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        usual = taken.getsockname()[1]
        port = choose_port(usual, "devices")
        assert port.number != usual
        assert port.note is not None
        assert f"Port {usual} (devices) is taken" in port.note
        assert f"(process {os.getpid()})" in port.note
        assert f"kill {os.getpid()}" in port.note
    assert choose_port(usual, "devices") == (usual, None)


def test_a_folder_that_the_demo_did_not_write_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear")
    with pytest.raises(VenueFailed, match="did not write"):
        a_venue(tmp_path)
    assert (tmp_path / "letters").read_text() == "dear"


def test_a_venue_starts_fresh_unless_it_is_kept(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    with a_venue(directory):
        assert directory.joinpath("nightsafe.toml").read_text().startswith(MARK)
        (directory / "state").mkdir()
        (directory / "cloud.db").touch()
    with a_venue(directory, keep=True):
        assert (directory / "state").exists()
    with a_venue(directory):
        assert not (directory / "state").exists()
        assert not (directory / "cloud.db").exists()


def test_two_demos_never_share_a_folder(tmp_path: Path) -> None:
    with a_venue(tmp_path / "demo"), pytest.raises(VenueFailed, match="Another demo runs"):
        a_venue(tmp_path / "demo")


def test_the_demos_settings_are_the_smallest_that_the_box_takes(tmp_path: Path) -> None:
    from agent.settings.load import load

    with a_venue(tmp_path / "demo") as venue:
        settings = load(venue.config)
        assert settings.devices.open
        assert settings.gate.listen[0].port == venue.ports["devices"].number
