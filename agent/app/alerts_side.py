"""[app: alerts] Joins outbox and escalation to the journal, the monitor, the mail server and the settings."""

import random
from collections.abc import Callable
from typing import NamedTuple
from zoneinfo import ZoneInfo

from agent import __version__
from agent.alerts.escalation import Escalation, Terms
from agent.alerts.outbox import Outbox
from agent.app.joints import Live, Telling
from agent.cloud.webhook import Webhook
from agent.core.escalation import Now
from agent.core.facts import DiskFacts, DrainFacts, JournalFacts, UplinkFacts
from agent.drain.drainer import Drain
from agent.journal.outbox import KeptFacts
from agent.journal.outbox import Outbox as Letters
from agent.journal.writer import Journal
from agent.mail.smtp import Smtp
from agent.runtime.clock import Clock
from agent.settings.schema import Settings
from agent.uplink.monitor import Monitor


class AlertsSide(NamedTuple):
    """The two stages."""

    outbox: Outbox
    escalation: Escalation


class Facts:
    """What escalation looks at."""

    def __init__(
        self, journal: Journal, drain: Drain, monitor: Monitor, disk: Callable[[], DiskFacts], clock: Clock
    ) -> None:
        self._journal = journal
        self._drain = drain
        self._monitor = monitor
        self._clock = clock
        self.disk = disk

    def journal(self) -> JournalFacts:
        """The journal at this instant."""
        return self._journal.facts()

    def drain(self) -> DrainFacts:
        """The drain at this instant."""
        return self._drain.facts()

    def uplink(self) -> UplinkFacts:
        """The uplink as people are shown it."""
        return self._monitor.facts()

    def cursor(self) -> int:
        """Position up to which the cloud has everything."""
        return self._journal.book.cursor

    def last(self) -> int:
        """Position of the last durable record."""
        return self._journal.book.committed

    def boottime_s(self) -> float:
        """Seconds of this boot."""
        return self._clock.boottime_s()

    def now(self) -> Now:
        """This instant by the clocks that outlive a boot."""
        wall_ms = self._clock.wall_ms_at(self._clock.boottime_s())
        return Now(self._journal.lived_s(), wall_ms, self._clock.offset_known())


def make_alerts(
    settings: Settings,
    journal: Journal,
    drain: Drain,
    monitor: Monitor,
    disk: Callable[[], DiskFacts],
    telling: Telling,
    clock: Clock,
    live: Live,
) -> AlertsSide:
    """The stages, joined."""
    venue = settings.venue.id
    mail = Smtp(venue, lambda: live.settings.alerts.smtp, lambda: clock.wall_ms_at(clock.boottime_s()) / 1000)
    outbox = Outbox(
        Letters(journal.writing),
        {"mail": mail, "webhook": Webhook(venue)},
        telling,
        clock.boottime_s,
        random.random,
        lambda: live.settings.alerts,
    )
    monitor.on_change(lambda: outbox.reached() if monitor.facts().state != "offline" else None)
    facts = Facts(journal, drain, monitor, disk, clock)
    escalation = Escalation(facts, KeptFacts(journal.writing), outbox, telling, lambda: _terms(live.settings))
    monitor.on_probe(escalation.probed)
    return AlertsSide(outbox, escalation)


def _terms(settings: Settings) -> Terms:
    venue, alerts = settings.venue, settings.alerts
    return Terms(
        venue.id,
        venue.location,
        venue.name,
        __version__,
        alerts.support_email if alerts.smtp is not None else "",
        alerts.webhook_url,
        venue.contact_email if alerts.smtp is not None else "",
        alerts.sync_stalled_s,
        (alerts.sync_overdue_h, alerts.sync_overdue_second_h, alerts.sync_overdue_third_h),
        alerts.support_email if alerts.smtp is None else "",
        ZoneInfo(venue.timezone),
    )
