"""[app: limits] The settings as the parts take them: each part's own bounds, by the settings of the same names."""

from agent.core.lockout import Terms
from agent.journal.writing import Limits as JournalLimits
from agent.lan.broker import Limits as BrokerLimits
from agent.lan.gate import Limits as GateLimits
from agent.settings.schema import Settings


def journal_limits(settings: Settings) -> JournalLimits:
    """The journal's bounds."""
    journal = settings.journal
    return JournalLimits(
        journal.queue_events_max,
        journal.queue_bytes_max,
        journal.commit_events_max,
        journal.project_events,
        journal.cache_bytes,
        journal.bytes_max,
        journal.checkpoint_bytes,
        journal.reopen_first_s,
        journal.reopen_max_s,
        journal.damaged_bytes_max,
        settings.intake.epochs_max,
    )


def gate_limits(settings: Settings) -> GateLimits:
    """The gate's."""
    gate = settings.gate
    return GateLimits(
        gate.connections_max,
        gate.connect_timeout_s,
        gate.event_bytes_max,
        gate.inflight_max,
        gate.preconnack_bytes_max,
        gate.partial_bytes_max,
        gate.stranger_bytes_max,
        gate.refuse_delay_s,
        gate.linger_s,
        gate.keepalive_idle_s,
        gate.keepalive_interval_s,
        gate.keepalive_probes_max,
        Terms(gate.login_tries_max, gate.login_window_s, gate.lockout_s),
        gate.messages_per_s_max,
        gate.messages_at_once_max,
        gate.subscriptions_max,
        *((gate.tls.handshakes_max, gate.tls.handshakes_per_address_max) if gate.tls else ()),
    )


def broker_limits(settings: Settings) -> BrokerLimits:
    """The broker's, none of which is below the gate's."""
    broker, gate = settings.broker, gate_limits(settings)
    return BrokerLimits(
        broker.command,
        broker.queued_bytes_max,
        broker.queued_messages_max,
        gate.inflight_max,
        gate.packet_bytes_max,
        broker.memory_bytes_max,
        broker.restart_delay_s,
        broker.restart_delay_max_s,
    )
