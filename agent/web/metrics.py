"""snapshot → [metrics] → Prometheus. Every figure is read from one snapshot at the moment of the scrape.

Owns its registry; nothing is counted here, and no figure of the process or of other libraries slips in.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from agent.core.facts import DeviceState, DiskLevel, SyncState, UplinkState
from agent.core.instants import to_ms
from agent.core.status import DeviceStatus, DiskStatus, Snapshot

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_NOT_IN_NAMES = re.compile("[^a-z0-9_]")
_GATE_NOW: Final = {"connections": "open_connections"}
"""What the gate says of this moment, and its name here; all else that it counts only grows."""


class Metrics(Collector):
    """The collector over `look`, and its text."""

    def __init__(self, look: Callable[[], Snapshot]) -> None:
        self._look = look
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """One scrape, in the Prometheus text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: a description must not cost a snapshot."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All figures of one snapshot."""
        snapshot = self._look()
        yield from _venue(snapshot)
        yield from _journal(snapshot)
        yield from _gate(snapshot)
        yield from _devices(snapshot.details.devices)


def _venue(snapshot: Snapshot) -> Iterator[Metric]:
    status, details = snapshot.status, snapshot.details
    about = GaugeMetricFamily("nightsafe_info", "Always 1; who and what this is.", labels=["venue", "version"])
    about.add_metric([status.venue, details.versions.get("nightsafe", "")], 1)
    yield about
    yield _states("nightsafe_uplink_state", "1 at the uplink's state.", get_args(UplinkState), status.state)
    yield _states("nightsafe_sync_state", "1 at the drain's state.", get_args(SyncState), status.sync.state)
    sync = status.sync
    yield _gauge("nightsafe_pending_records", "Records that the cloud does not have yet.", sync.pending)
    yield _gauge("nightsafe_pending_bytes", "Bytes of those records' events.", sync.pending_bytes)
    yield _gauge("nightsafe_sync_rate_records_per_second", "Measured rate while sending.", sync.rate_per_s)
    yield _gauge("nightsafe_sync_progress_ratio", "Share of this drain's backlog that is up.", sync.progress)
    if sync.eta_s is not None:
        yield _gauge("nightsafe_sync_eta_seconds", "Time until nothing is pending.", sync.eta_s)
    if sync.oldest_at is not None:
        age_s = max(0, to_ms(status.time) - to_ms(sync.oldest_at)) / 1000
        yield _gauge("nightsafe_oldest_pending_age_seconds", "Age of the oldest pending record.", age_s)
    if status.last_sync_at is not None:
        at_s = to_ms(status.last_sync_at) / 1000
        yield _gauge("nightsafe_last_sync_timestamp_seconds", "When the cloud last took something.", at_s)
    yield _gauge("nightsafe_safe_to_power_off", "0 while a commit runs or none can succeed.", status.safe_to_power_off)
    conditions = GaugeMetricFamily("nightsafe_conditions", "Conditions that hold.", labels=["severity"])
    for severity in ("info", "warning", "critical"):
        conditions.add_metric([severity], sum(one.severity == severity for one in details.conditions))
    yield conditions
    yield _gauge("nightsafe_attentions", "Conditions that need a person.", sum(c.attention for c in details.conditions))
    yield _gauge("nightsafe_disk_total_bytes", "Size of the state directory's disk.", details.disk.total_bytes)
    yield _gauge("nightsafe_disk_free_bytes", "Free on that disk.", details.disk.free_bytes)
    yield _gauge("nightsafe_clock_synced", "1 while the kernel calls the clock synchronised.", details.clock.synced)
    yield from _disk(details.disk)
    yield _gauge("nightsafe_uptime_seconds", "Age of the agent's process.", details.uptime_s)


def _disk(disk: DiskStatus) -> Iterator[Metric]:
    yield _states("nightsafe_disk_level", "1 at the level of what is taken.", get_args(DiskLevel), disk.level)
    yield _gauge("nightsafe_journal_bytes", "Bytes of the journal that hold something.", disk.journal_bytes)
    yield _gauge("nightsafe_journal_max_bytes", "Size at which nothing more is stored.", disk.journal_bytes_max)
    yield _gauge("nightsafe_disk_reserve_kept", "1 while the reserve is there.", disk.reserve_kept)
    yield _counter("nightsafe_records_shed", "Records of the box's own left out for want of room.", disk.shed_count)
    if disk.hours_until_full is not None:
        text = "Time until the disk is full at the present rate."
        yield _gauge("nightsafe_disk_full_seconds", text, disk.hours_until_full * 3600)
    if disk.wear_used_percent is not None:
        yield _gauge(
            "nightsafe_disk_wear_ratio", "Share of the device's life that is used.", disk.wear_used_percent / 100
        )
    if disk.wear_days_left is not None:
        yield _gauge("nightsafe_disk_wear_seconds", "Estimate of the device's life left.", disk.wear_days_left * 86_400)


def _journal(snapshot: Snapshot) -> Iterator[Metric]:
    journal, drain = snapshot.details.journal, snapshot.details.drain
    yield _gauge("nightsafe_journal_writable", "1 while records can be stored.", journal.writable)
    yield _gauge("nightsafe_journal_last_sequence", "Newest sequence of the epoch.", int(journal.last))
    yield _gauge("nightsafe_journal_cursor_sequence", "Newest sequence that the cloud has.", int(journal.cursor))
    yield _gauge("nightsafe_journal_safe_sequence", "Newest sequence that may be deleted here.", int(journal.safe))
    yield _gauge("nightsafe_quarantined_events", "Refused events that are kept.", journal.quarantined)
    yield _counter("nightsafe_journal_commits", "Commits of the journal.", journal.commits)
    if (sweep := snapshot.details.sweep) is not None:
        yield _gauge("nightsafe_sweep_position", "Last record that was looked at for damage.", sweep.position)
        yield _counter("nightsafe_sweep_rounds", "Times the whole journal was looked at.", sweep.rounds_count)
        yield _counter("nightsafe_damaged_records", "Damaged records found since the start.", sweep.damaged_count)
        yield _gauge("nightsafe_journal_structure_damaged", "1 while it waits to be built anew.",
                     sweep.structure == "damaged")  # fmt: skip
    yield _counter("nightsafe_uploaded_records", "Records that the cloud took.", drain.uploaded)
    yield _counter("nightsafe_rejected_records", "Records that the cloud set aside.", drain.rejected)
    yield _gauge("nightsafe_drain_batch_records", "Size of the present batch.", drain.batch_records)


def _gate(snapshot: Snapshot) -> Iterator[Metric]:
    """What the gate and the session behind it have counted; whatever only grows ends in `_total`."""
    for key, value in sorted(snapshot.details.gate.items()):
        if now := _GATE_NOW.get(key):
            yield _gauge(f"nightsafe_gate_{now}", "As it is now.", value)
        else:
            name = _NOT_IN_NAMES.sub("_", key.lower().removesuffix("_total"))
            yield _counter(f"nightsafe_gate_{name}", "Counted since the start.", value)


def _devices(devices: tuple[DeviceStatus, ...]) -> Iterator[Metric]:
    states = GaugeMetricFamily("nightsafe_devices", "Devices by how they are.", labels=["state"])
    for state in get_args(DeviceState):
        states.add_metric([state], sum(one.state == state for one in devices))
    yield states
    old = sum(one.version_state == "old" for one in devices)
    yield _gauge("nightsafe_devices_version_old", "Devices whose app is older than the venue's minimum.", old)
    gauges: list[tuple[str, str, Callable[[DeviceStatus], int]]] = [
        ("nightsafe_device_pending_records", "Records of the device not up yet.", lambda one: one.pending),
        ("nightsafe_device_pending_bytes", "Bytes of those records' events.", lambda one: one.pending_bytes),
        ("nightsafe_device_gaps", "Holes in the device's counting.", lambda one: len(one.gaps)),
        (
            "nightsafe_device_lost_events",
            "Events that the device had counted and cannot deliver.",
            lambda one: one.lost_events,
        ),
        ("nightsafe_device_refused_events", "Refused events of the device.", lambda one: one.refused),
    ]
    for name, text, figure in gauges:
        family = GaugeMetricFamily(name, text, labels=["device"])
        for one in devices:
            family.add_metric([one.device], figure(one))
        yield family
    stored = CounterMetricFamily("nightsafe_device_events", "Events stored for the device.", labels=["device"])
    for one in devices:
        stored.add_metric([one.device], one.events)
    yield stored


def _states(name: str, text: str, states: tuple[str, ...], now: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["state"])
    for state in states:
        family.add_metric([state], state == now)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=float(value))
