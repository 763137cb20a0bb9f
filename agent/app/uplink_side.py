"""[app: uplink] Joins the uplink's monitor to probe, layers, drain and the table of its history."""

import random
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from agent.app.joints import Live
from agent.cloud.layers import Layers
from agent.cloud.probe import CloudProbe
from agent.core.uplink import Reading
from agent.drain.drainer import Drain
from agent.journal.uplink_changes import Change, UplinkChanges
from agent.journal.writer import Journal
from agent.lan.identity import names_here
from agent.runtime.clock import Clock
from agent.settings.uplink import UplinkSettings
from agent.uplink.history import History
from agent.uplink.monitor import Monitor

HISTORY_PATH: Final = "/api/v1/uplink/history"


class UplinkSide(NamedTuple):
    """The two stages."""

    monitor: Monitor
    history: History


def make_uplink(url: str, journal: Journal, drain: Drain, clock: Clock, live: Live) -> UplinkSide:
    """The stages, joined."""
    monitor = Monitor(
        CloudProbe(url),
        drain,
        clock,
        lambda: live.settings.uplink,
        random.random,
        drain.reached,
        make_layers(url, clock, lambda: live.settings.uplink),
    )

    def change(reading: Reading) -> Change:
        return Change(reading.state, reading.cause, reading.finding, clock.wall_ms(), clock.uptime_ms())

    history = History(UplinkChanges(journal.writing), change, lambda: live.settings.uplink)
    for reading in monitor.changes():  # where it begins: a box that was off is a gap in its history
        history.note(reading)
    monitor.on_raw(history.note)
    return UplinkSide(monitor, history)


def history_json(history: History) -> bytes:
    """The body of `HISTORY_PATH`: `{"changes": [{"at","state","cause","finding"}]}`, oldest first."""
    return msgspec.json.encode({"changes": history.latest()})


def make_layers(url: str, clock: Clock, settings: Callable[[], UplinkSettings]) -> Layers:
    """What looks at the layers between this box and the cloud."""
    return Layers(url, clock, settings, lambda: names_here().addresses)
