"""[app: downlink] Joins the cloud's commands to the journal, the heartbeat and the uplink."""

import random
from typing import NamedTuple

from agent.app.joints import Live, Telling
from agent.app.payments_side import Payments
from agent.cloud.client import Client
from agent.cloud.downlink import Downlink
from agent.core.commands import PING, Command
from agent.journal.inbox import Inbox as Kept
from agent.journal.writer import Journal
from agent.orders.inbox import Inbox
from agent.settings.schema import Settings
from agent.status.heartbeat import Heartbeat
from agent.status.snapshot import StatusSource
from agent.uplink.monitor import Monitor


class DownlinkSide(NamedTuple):
    """The two stages, and the durable commands."""

    inbox: Inbox
    heartbeat: Heartbeat
    commands: Kept


def make_downlink(
    settings: Settings,
    journal: Journal,
    cloud: Client,
    monitor: Monitor,
    source: StatusSource,
    telling: Telling,
    live: Live,
    payments: Payments,
) -> DownlinkSide:
    """The stages, joined."""
    stream = Downlink(settings.cloud.url, settings.venue.id, lambda: cloud.token, settings.cloud.silence_s)
    kept = Kept(journal.writing, payments.fate)
    inbox = Inbox(stream, kept, telling, random.random, cloud.read_token)
    heartbeat = Heartbeat(source, cloud, lambda: live.settings.uplink)

    def heard(command: Command) -> None:
        if command.event == PING:
            heartbeat.ping(command.business)
        elif command.event.startswith("payment."):
            payments.stage.news()

    def changed() -> None:
        if monitor.facts().state != "offline":
            inbox.reached()
            heartbeat.reached()

    inbox.on_command(heard)
    monitor.on_change(changed)
    return DownlinkSide(inbox, heartbeat, kept)
