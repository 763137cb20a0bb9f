"""[app] The composition root: opens the edges, joins the stages to them, starts them downstream first.

The only place that knows every part. Decides nothing about events, answers or the uplink itself.
"""

import asyncio
import gc
import os
import random
import resource
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import structlog

from agent import __version__
from agent.app.alerts_side import make_alerts
from agent.app.desk_side import CAPABILITIES_TOPIC, make_services, paid, payment_status
from agent.app.devices_side import (
    gate_doors,
    hashes_of,
    make_desk,
    make_discovery,
    make_door,
    make_identity,
    make_pages,
    open_register,
    page_places,
)
from agent.app.downlink_side import make_downlink
from agent.app.drain_side import DrainSide
from agent.app.joints import JournalConditions, Lan, LanCounts, Live, LogPlace, SweepSide, Telling, press
from agent.app.limits import broker_limits, gate_limits, journal_limits
from agent.app.notice_side import NoticeSide
from agent.app.orders_side import make_orders
from agent.app.payments_side import make_payments
from agent.app.presence_side import Commanding, make_presence
from agent.app.uplink_side import HISTORY_PATH, history_json, make_uplink
from agent.cloud.client import Client
from agent.core.business_day import cut_off
from agent.core.conditions import Conditions
from agent.core.ids import CHANCE_BYTES, uuid7
from agent.core.pairing import fingerprint_shown
from agent.drain.drainer import Drain
from agent.ingest.checks import Checks
from agent.ingest.commands import Commands
from agent.ingest.gaps import Gaps
from agent.ingest.intake import Intake
from agent.ingest.presence import Presence
from agent.ingest.quarantine import Quarantine
from agent.ingest.receipts import Receipts
from agent.journal.reader import Reader
from agent.journal.reserve import Reserve
from agent.journal.survey import Survey
from agent.journal.writer import Journal
from agent.lan.broker import Broker
from agent.lan.gate import Gate
from agent.lan.identity import Identity
from agent.lan.register import Register
from agent.lan.session import Session
from agent.runtime import systemd
from agent.runtime.clock import Clock
from agent.runtime.files import held_lock, private_directory
from agent.runtime.stages import Entry, Pulse, run_stages
from agent.settings.schema import Settings
from agent.settings.watch import Watch
from agent.status.broadcast import NOTICES_TOPIC, Broadcast, Retained, status_topic
from agent.status.snapshot import Parts, StatusSource, Venue
from agent.upkeep.clock import ClockWatch
from agent.upkeep.disk import Disk
from agent.upkeep.retention import Retention
from agent.upkeep.sweep import Sweep
from agent.upkeep.wear import Wear
from agent.web.acts import Acts
from agent.web.door import PATH as door_path
from agent.web.orders import OrdersFace
from agent.web.pair import PATH as pair_path
from agent.web.pair import post as pair
from agent.web.payments import PaymentsFace
from agent.web.server import Web

log = structlog.get_logger()

SWITCH_INTERVAL_S: Final = 0.0005
"""How long one thread may keep the interpreter from another: the writer's thread and the loop hand over often, and a
batch being prepared for the cloud delays no acknowledgement by more than this."""

COLLECT_AFTER: Final = (20_000, 20, 20)
"""When Python looks for cycles (gc.set_threshold). Decoded events are trees: the default would walk them 30 times as
often and find nothing."""


SURVEY_CACHE_BYTES: Final = 1024 * 1024
"""SQLite's page cache of the connection that looks for damage: it reads everything once."""
OWN_DESCRIPTORS: Final = 256
"""Open files beside the devices' connections, of which each takes two: its own and the one to the broker."""


def run(settings: Settings, settings_file: Path) -> int:
    """Run the agent until SIGTERM or SIGINT; returns the exit status. Raises what start-up or a vital stage raised."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*COLLECT_AFTER)
    os.umask(0o077)
    _allow_descriptors(2 * settings.gate.connections_max + OWN_DESCRIPTORS)
    directory = settings.state.directory
    private_directory(directory)
    with held_lock(directory):
        return asyncio.run(_run(settings, settings_file))


def _allow_descriptors(wanted: int) -> None:
    """Raise this process's limit of open files to `wanted`, as far as the system lets us; never lower it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and reachable > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    if reachable < wanted:
        log.warning("descriptors_short", wanted=wanted, allowed=reachable, hint="Raise LimitNOFILE of the service.")


async def _run(settings: Settings, settings_file: Path) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        clock = Clock()
        telling = Telling(Conditions(), clock)
        patience = systemd.Patience("The journal was damaged and is being built anew", stop)
        entries, addresses = await _compose(settings, settings_file, stack, clock, telling, patience)

        def all_ready() -> None:
            log.info("ready", version=__version__, venue=settings.venue.id, **addresses())
            systemd.ready(f"Storing for {settings.venue.name}")

        def stopping() -> None:
            log.info("stopping")
            systemd.stopping()

        await run_stages(
            entries,
            stop,
            start_max_s=settings.runtime.start_stage_s,
            all_ready=all_ready,
            stopping=stopping,
            condition=telling.stage,
        )
    log.info("stopped")
    return 0


class Store(NamedTuple):
    """The journal, open, and who reads it."""

    reserve: Reserve
    journal: Journal
    reader: Reader
    survey: Survey


async def _open_store(
    settings: Settings, stack: AsyncExitStack, clock: Clock, patience: Callable[[], None], new_id: Callable[[], str]
) -> Store:
    """Open the journal; `stack` closes it."""
    directory = settings.state.directory
    reserve = Reserve(directory, settings.journal.reserve_bytes)
    reserve.ease(settings.journal.checkpoint_bytes)
    limits = journal_limits(settings)
    journal = await Journal.start(directory, settings.venue.id, new_id(), clock, limits, patience)
    stack.push_async_callback(journal.close)
    reader = Reader(
        directory, settings.journal.cache_bytes, lambda: journal.book.lineage, lambda: journal.generation,
        lambda: journal.book.boots,
    )  # fmt: skip
    stack.push_async_callback(reader.close)
    survey = Survey(directory, SURVEY_CACHE_BYTES, lambda: journal.book.lineage, lambda: journal.generation)
    stack.push_async_callback(survey.close)
    journal.writing.keep_out(reader.closed)
    journal.writing.keep_out(survey.closed)
    return Store(reserve, journal, reader, survey)


class LanParts(NamedTuple):
    """What stands between the devices and the journal."""

    identity: Identity | None
    register: Register
    broker: Broker
    session: Session
    heard: Lan
    intake: Intake
    quarantine: Quarantine
    receipts: Receipts
    presence: Presence
    gaps: Gaps
    commanding: Commanding
    checks: Checks
    gate: Gate


def _join_lan(
    settings: Settings, live: Live, store: Store, clock: Clock, telling: Telling, new_id: Callable[[], str]
) -> LanParts:
    """Join the gate and what hears devices beside it."""
    directory, journal = settings.state.directory, store.journal
    identity = make_identity(settings, clock)
    register = open_register(directory, telling)
    broker = Broker(directory, settings.devices.open, broker_limits(settings), hashes_of(register))
    terms = (settings.gate.event_bytes_max, settings.gate.event_depth_max, settings.intake.excerpt_bytes_max)
    intake, quarantine = Intake(journal, *terms), Quarantine(journal, *terms)
    heard = Lan(intake, telling)
    session = Session(broker.socket, broker.password, heard)
    receipts = Receipts(journal, session, lambda: live.settings.intake)
    presence = make_presence(directory, journal, lambda: gate.lines(), clock, telling, live)
    commanding = Commanding(session, presence.asked)
    gaps = Gaps(journal, commanding, telling, clock.boottime_s, new_id, lambda: live.settings.intake)
    heard.join(receipts, gaps, presence)
    checks = Checks(
        directory, LogPlace(journal), store.reader, session, settings.intake.checks_max, lambda: live.settings.intake
    )
    intake.on_check(checks.stored)
    session.on_connect(checks.republish)
    gate = Gate(
        gate_doors(settings.gate, identity),
        broker.socket,
        settings.devices.open,
        gate_limits(settings),
        intake,
        heard,
    )
    session.on_connect(journal.receipts_all_due)
    return LanParts(
        identity,
        register,
        broker,
        session,
        heard,
        intake,
        quarantine,
        receipts,
        presence,
        gaps,
        commanding,
        checks,
        gate,
    )


async def _compose(
    settings: Settings,
    settings_file: Path,
    stack: AsyncExitStack,
    clock: Clock,
    telling: Telling,
    patience: Callable[[], None],
) -> tuple[list[Entry], Callable[[], dict[str, Any]]]:
    """Open the edges and join the stages, downstream first."""
    live = Live(settings)
    pulse = Pulse(settings.runtime.beat_max_s, clock.boottime_s)
    directory = settings.state.directory

    def new_id() -> str:
        return uuid7(clock.wall_ms(), os.urandom(CHANCE_BYTES))

    store = await _open_store(settings, stack, clock, patience, new_id)
    journal, reader = store.journal, store.reader
    telling.join(journal.attentions)
    cloud = Client(
        settings.cloud.url, settings.venue.id, secrets.token_hex(16), settings.cloud.token_file, settings.cloud
    )
    stack.push_async_callback(cloud.close)
    await cloud.open()

    clock_watch = ClockWatch(journal, clock, telling, lambda: live.settings.clock)
    drain = Drain(DrainSide(journal, reader, new_id), cloud, clock, lambda: live.settings.drain, telling, random.random)
    journal.writing.on_change(drain.wake)
    journal.writing.on_reopen(drain.reached)
    watched = JournalConditions(journal, telling)
    journal.writing.on_change(watched.look)
    journal.on_reused(watched.reused)
    journal.on_uncounted(watched.uncounted)
    journal.mending.on_repaired(watched.repaired)
    sweep = Sweep(store.survey, SweepSide(journal), lambda: live.settings.journal, telling)
    watched.look()
    journal.heed(pulse.of("writer"))
    drain.heed(pulse.of("drain"))
    monitor, history = make_uplink(settings.cloud.url, journal, drain, clock, live)
    lan = _join_lan(settings, live, store, clock, telling, new_id)
    gate, session, presence = lan.gate, lan.session, lan.presence
    payments = make_payments(directory, stack, journal, telling, live, clock, presence.facts)
    orders = make_orders(directory, stack, journal, lan.intake, lan.heard, presence, session, telling, clock, live)
    disk = Disk(
        directory,
        journal,
        store.reserve,
        Wear(directory),
        press(journal, gate),
        telling,
        clock.boottime_s,
        lambda: live.settings.journal,
    )
    journal.writing.spare(disk.give)
    retention = Retention(journal.keeping, lambda: live.settings.journal)
    alerts = make_alerts(settings, journal, drain, monitor, disk.facts, telling, clock, live)
    counts = LanCounts(gate, session, presence, lan.receipts)
    parts = Parts(journal, drain, monitor, counts, telling.all, pulse.stale, disk.facts, sweep, presence.facts)
    versions = {"nightsafe": __version__}
    source = StatusSource(parts, clock, lambda: _venue(live.settings), directory, versions)
    downlink = make_downlink(settings, journal, cloud, monitor, source, telling, live, payments, orders)
    told = NoticeSide(source, lambda: live.settings.notices)
    services = make_services(
        settings,
        journal,
        cloud,
        monitor,
        session,
        lan.heard,
        lan.register,
        told,
        partial(payment_status, payments.inquiry),
        telling,
        clock,
        live,
        new_id,
    )
    stack.push_async_callback(services.counter.close)
    downlink.inbox.on_command(services.cards.command)
    payments.days.know_unseen(services.cards.unseen)
    payments.stage.on_facts(partial(paid, services.cards))
    topics = (
        status_topic(source),
        Retained(NOTICES_TOPIC, told.notices),
        Retained(CAPABILITIES_TOPIC, services.capabilities),
    )
    broadcast = Broadcast(topics, session, clock)
    session.on_connect(broadcast.republish)

    async def adopt(actor: str, reason: str) -> None:
        await journal.uploads.adopt(actor, reason)
        drain.retry()

    door = make_door(settings, lan.intake, lan.register, gate, lan.heard.locked_out)
    desk = make_desk(
        settings, lan.register, lan.broker, gate, clock, lan.identity, lambda: web.port_of("https"), new_id, presence
    )
    commands = Commands(desk, lan.commanding)
    desk.on_given(commands.given)
    desk.know_stored(lambda: {one.device: one.last_event_at for one in journal.facts().devices})
    lan.heard.on_state(commands.heard)
    identity = lan.identity
    shown = fingerprint_shown(identity.fingerprint) if identity is not None else ""
    web = Web(
        source,
        page_places(settings.web, identity),
        directory,
        names=lambda: identity.hosts if identity is not None else frozenset(),
        condition=telling.stage,
        acts=Acts(lan.quarantine, adopt, telling.acknowledge, desk, services.cards.release, services.cards.reserved),
        posts={door_path: door.post, pair_path: partial(pair, desk.pair, shown)},
        people=make_pages(settings.web, source, desk, clock, telling, lambda: web.port_of("https")),
        gets={HISTORY_PATH: partial(history_json, history)},
        changes=history.latest,
        payments=PaymentsFace(source, payments.inquiry, payments.suspicions, payments.days),
        orders=OrdersFace(orders.desk),
    )

    watch = Watch(settings_file, settings, live.changed(telling), live.refused(telling))

    times = settings.runtime
    entries = [
        Entry(systemd.Watchdog(pulse), vital=False, stop_s=times.stop_edges_s),
        Entry(web, vital=False, stop_s=times.stop_edges_s),
        Entry(watch, vital=False, stop_s=times.stop_edges_s),
        Entry(monitor, vital=False, stop_s=times.stop_edges_s),
        Entry(sweep, vital=False, stop_s=times.stop_edges_s),
        Entry(journal, vital=True, stop_s=times.stop_ingest_s),
        Entry(history, vital=False, stop_s=times.stop_edges_s),
        Entry(downlink.inbox, vital=False, stop_s=times.stop_edges_s),
        Entry(downlink.heartbeat, vital=False, stop_s=times.stop_edges_s),
        Entry(alerts.outbox, vital=False, stop_s=times.stop_edges_s),
        Entry(alerts.escalation, vital=False, stop_s=times.stop_edges_s),
        Entry(clock_watch, vital=False, stop_s=times.stop_edges_s),
        Entry(disk, vital=False, stop_s=times.stop_edges_s),
        Entry(retention, vital=False, stop_s=times.stop_edges_s),
        Entry(drain, vital=True, stop_s=times.stop_drain_s),
        Entry(lan.broker, vital=True, stop_s=times.stop_edges_s),
        Entry(session, vital=False, stop_s=times.stop_edges_s),
        Entry(broadcast, vital=False, stop_s=times.stop_edges_s),
        Entry(services.cards, vital=False, stop_s=times.stop_ingest_s),
        Entry(services.desk, vital=False, stop_s=times.stop_ingest_s),
        Entry(lan.receipts, vital=False, stop_s=times.stop_ingest_s),
        Entry(lan.checks, vital=False, stop_s=times.stop_ingest_s),
        Entry(lan.gaps, vital=False, stop_s=times.stop_ingest_s),
        Entry(commands, vital=False, stop_s=times.stop_ingest_s),
        Entry(payments.stage, vital=False, stop_s=times.stop_edges_s),
        Entry(orders.stage, vital=False, stop_s=times.stop_ingest_s),
        Entry(presence, vital=False, stop_s=times.stop_edges_s),
        Entry(gate, vital=True, stop_s=times.stop_gate_s),
    ]

    if identity is not None:
        entries.insert(0, Entry(identity, vital=False, stop_s=times.stop_edges_s))

    discovery = make_discovery(
        settings,
        identity,
        lambda: gate.addresses[0][1] if gate.addresses else None,
        lambda: web.port_of("https"),
        lambda: live.settings.venue.name,
    )
    if discovery is not None:
        entries.append(Entry(discovery, vital=False, stop_s=times.stop_edges_s))

    def addresses() -> dict[str, Any]:
        return {
            "gate": ",".join(f"{host}:{port}" for host, port in gate.addresses),
            "page": ",".join(f"{scheme}://{host}:{port}/" for scheme, host, port in web.addresses),
        }

    return entries, addresses


def _venue(settings: Settings) -> Venue:
    venue = settings.venue
    return Venue(venue.id, venue.name, venue.location, ZoneInfo(venue.timezone), cut_off(venue.day_starts_at))
