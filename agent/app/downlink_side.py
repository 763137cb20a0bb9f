"""[app: downlink] Joins the cloud's commands to the journal, the heartbeat and the uplink."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from agent.app.joints import Live, Telling
from agent.app.orders_side import Orders
from agent.app.payments_side import Payments
from agent.cloud.client import Client
from agent.cloud.downlink import Downlink
from agent.core.commands import PING, Command
from agent.journal.fold import Fold
from agent.journal.inbox import Inbox as Kept
from agent.journal.told import Told
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
    orders: Orders,
) -> DownlinkSide:
    """The stages, joined."""
    stream = Downlink(settings.cloud.url, settings.venue.id, lambda: cloud.token, settings.cloud.silence_s)

    def along(fold: Fold, command: Command, new: bool) -> tuple[bool, Sequence[Told]]:
        if new:
            payments.fate(fold.connection, command)
        return orders.tables.command(fold, command, new)

    kept = Kept(journal.writing, along, lambda told: telling.happened(told.id, *told.words))
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
    inbox.on_command(orders.stage.commanded)
    monitor.on_change(changed)
    return DownlinkSide(inbox, heartbeat, kept)
