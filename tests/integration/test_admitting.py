"""Who may connect changes while Mosquitto runs, starts, or starts again."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.machine import Box, until
from tests.integration.test_pairing import Till, nightsafe, paired

pytestmark = pytest.mark.needs("mosquitto", "strace")

SLOW = """#!/bin/sh
exec strace -D -qq -o /dev/null -e trace=rt_sigaction -e inject=rt_sigaction:delay_enter=60000 {program} "$@"
"""
"""Mosquitto takes connections before it has a handler for SIGHUP: here that time is long."""


@pytest.fixture
def slow(new_box: Callable[..., Box], tmp_path: Path) -> Box:
    program = tmp_path / "slow-mosquitto"
    program.write_text(SLOW.format(program="/usr/sbin/mosquitto"))
    program.chmod(0o755)
    return new_box(
        devices={"open": False},
        web={"listen_tls": "127.0.0.1:0"},
        broker={"command": str(program)},
        **{"gate.tls": {}},
    ).start()


def test_mosquitto_is_not_ended_by_a_change_that_comes_while_it_starts(slow: Box) -> None:
    told = [paired(slow, "till-1")]
    assert "broker_ended" not in slow.text, "no signal comes before it has a handler"
    psutil.Process(slow.mosquitto_pid()).send_signal(signal.SIGKILL)
    until(lambda: "broker_ended" in slow.text, "it is gone")
    told.append(paired(slow, "till-2"))
    assert nightsafe(slow, "devices", "remove", "till-1", "--yes").returncode == 0
    until(lambda: slow.text.count("broker_started") == 2, "it is back")

    def let_in() -> Till | None:
        till = Till(slow, told[1])
        return till if till.answer == 0 else None

    until(let_in, "who was admitted meanwhile is let in").close()
    assert Till(slow, told[0]).answer != 0, "and who was removed meanwhile is not"
    assert len(re.findall("broker_ended", slow.text)) == 1


def test_devices_are_admitted_and_removed_one_after_the_other_without_a_disconnect_of_the_others(
    new_box: Callable[..., Box],
) -> None:
    box = new_box(devices={"open": False}, web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": {}}).start()
    tills = [Till(box, paired(box, f"till-{number}")) for number in range(3)]
    pid = box.mosquitto_pid()
    for _ in range(4):
        guest = Till(box, paired(box, "guest"))
        assert guest.answer == 0, "the secret holds when it is handed out"
        assert nightsafe(box, "devices", "remove", "guest", "--yes").returncode == 0
        assert guest.gone.wait(5)
        assert Till(box, guest.told).answer != 0, "and no longer when the removal is told"
    assert not any(till.gone.is_set() for till in tills)
    assert box.mosquitto_pid() == pid
    assert "broker_reload_late" not in box.text
    for till in tills:
        till.sell(1)
        till.close()
