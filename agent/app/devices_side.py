"""[app: devices] Who may connect and by which door: joins identity, register, broker and gate to desk and page."""

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from agent import __version__
from agent.app.joints import Telling
from agent.core.errors import Held
from agent.core.pairing import Terms
from agent.core.pin_tries import PinTries
from agent.core.pin_tries import Terms as PinTerms
from agent.core.sessions import Sessions
from agent.core.sessions import Terms as SessionTerms
from agent.ingest.intake import Intake
from agent.ingest.presence import Presence
from agent.lan.broker import Broker
from agent.lan.desk import Desk
from agent.lan.discovery import MQTT, PAGE, Announcement, Discovery, Service
from agent.lan.gate import Door, Gate
from agent.lan.identity import Identity, names_here, source_address
from agent.lan.register import Register
from agent.runtime.clock import Clock
from agent.settings.box import GateSettings, TlsSettings, WebSettings
from agent.settings.schema import Settings
from agent.status.snapshot import StatusSource
from agent.web.devices_pages import DevicesPages
from agent.web.door import Door as HttpDoor
from agent.web.door import Limits
from agent.web.login import Login
from agent.web.server import Place

ANYWHERE: Final = ("0.0.0.0", "::")
"""Hosts that stand for every address of the machine."""


class Address(NamedTuple):
    """Where devices find this box."""

    host: str
    port: int
    pairing_port: int
    fingerprint: str
    ca_pem: str


def make_identity(settings: Settings, clock: Clock) -> Identity | None:
    """The box's certificate, where anything speaks TLS."""
    tls = settings.gate.tls
    if tls is None and settings.web.listen_tls is None:
        return None
    tls = tls or TlsSettings()
    listening = [*settings.gate.listen, *([settings.web.listen_tls] if settings.web.listen_tls else [])]
    named = (one.host for one in listening if one.host not in ANYWHERE)
    names = partial(names_here, (*tls.names, *named, f"{local_name(settings)}.local"))
    return Identity(settings.state.directory, settings.venue.id, tls.life_days, clock, names)


def local_name(settings: Settings) -> str:
    """The host name, without `.local`, that the box is announced by: none that the machine itself may claim."""
    return f"nightsafe-{settings.venue.id}"[:63].rstrip("-")


def make_discovery(
    settings: Settings,
    identity: Identity | None,
    gate_port: Callable[[], int | None],
    page_port: Callable[[], int | None],
    venue_name: Callable[[], str],
) -> Discovery | None:
    """What announces this box, where the gate speaks TLS off loopback; the ports are those of right now."""
    if identity is None or settings.gate.tls is None or not settings.discovery.enabled:
        return None
    gate_hosts = tuple(one.host for one in settings.gate.listen)
    page = settings.web.listen_tls
    facts = (("venue", settings.venue.id), ("ca", identity.fingerprint[:20]))

    def wanted() -> Announcement | None:
        port, page_at = gate_port(), page_port()
        addresses = addresses_reached(gate_hosts, names_here().addresses)
        if port is None or not addresses:
            return None
        services: list[Service] = [(MQTT, port, facts)]
        if page is not None and page_at is not None and addresses_reached((page.host,), addresses):
            more = (("mqtt", str(port)), ("path", "/"), ("version", __version__))
            services.append((PAGE, page_at, (*facts, *more)))
        return Announcement(venue_name(), local_name(settings), addresses, tuple(services))

    return Discovery(wanted)


def addresses_reached(hosts: tuple[str, ...], here: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the machine's addresses `hosts` listens on, off loopback."""

    def reached(address: str) -> bool:
        one = ip_address(address)
        return not one.is_loopback and (("0.0.0.0" if one.version == 4 else "::") in hosts or address in hosts)

    return tuple(address for address in here if reached(address))


def gate_doors(gate: GateSettings, identity: Identity | None) -> tuple[Door, ...]:
    """With a table [gate.tls] the addresses speak TLS."""
    if gate.tls is None:
        return tuple(Door(one.host, one.port) for one in gate.listen)
    assert identity is not None
    plain = (Door(one.host, one.port) for one in gate.tls.also_plain)
    return (*(Door(one.host, one.port, identity.context) for one in gate.listen), *plain)


def page_places(web: WebSettings, identity: Identity | None) -> tuple[Place, ...]:
    """Where the page is served, plain and by TLS."""
    plain, tls = web.listen, web.listen_tls
    places = [Place(plain.host, plain.port)] if plain is not None else []
    if tls is not None and identity is not None:
        places.append(Place(tls.host, tls.port, identity.context))
    return tuple(places)


def open_register(directory: Path, telling: Telling) -> Register:
    """The paired devices. Without a list that can be read the box runs on: what it has must go up, people must see."""
    register = Register(directory)
    if register.stale:
        telling.happened(
            "register_damaged",
            "critical",
            "The list of devices was damaged",
            "The list of paired devices could not be read; its copy holds, and is written in its place.",
            "Compare `nightsafe devices list` with the venue's devices: pair what is missing, remove what is too many.",
        )
    if register.lost is not None:
        text = f"{register.lost.text} No till can connect."
        telling.hold("register_lost", "critical", "The list of devices cannot be read", text, register.lost.hint)
    return register


def hashes_of(register: Register) -> Callable[[], dict[str, str]]:
    """What the broker asks by."""
    return lambda: {one.id: one.hash for one in register.all()}


def make_desk(
    settings: Settings,
    register: Register,
    broker: Broker,
    gate: Gate,
    clock: Clock,
    identity: Identity | None,
    page_port: Callable[[], int | None],
    new_id: Callable[[], str],
    presence: Presence,
) -> Desk:
    """The desk of this box; `page_port` is where the page speaks TLS right now."""
    devices = settings.devices

    def address() -> Address | None:
        port = page_port()
        if identity is None or settings.gate.tls is None or port is None or not gate.addresses:
            return None
        page = settings.web.listen_tls
        if page is not None and page.is_loopback and not all(one.is_loopback for one in settings.gate.listen):
            raise Held(
                "pairing_loopback",
                f"No till can be paired: the page with TLS listens on {page}, which only this machine reaches.",
                'Set [web] listen_tls = "0.0.0.0:8443", then restart nightsafe.',
            )
        return Address(_host(settings), gate.addresses[0][1], port, identity.fingerprint, identity.ca_pem)

    terms = Terms(devices.pairing_s, devices.pairing_tries_max, devices.pairings_max)
    return Desk(register, broker, gate, clock, address, terms, new_id, presence)


def _host(settings: Settings) -> str:
    """By what devices call this box: a name from the settings, else an address on the venue's network."""
    tls = settings.gate.tls
    if tls is not None and tls.names:
        return tls.names[0]
    listen = settings.gate.listen[0].host
    if listen not in ANYWHERE:
        return listen
    found = addresses_reached(ANYWHERE, names_here().addresses)
    way_out = source_address()
    return way_out if way_out in found else min(found, key=lambda one: ip_address(one).version, default="127.0.0.1")


def make_door(
    settings: Settings, intake: Intake, register: Register, gate: Gate, locked_out: Callable[[str, str], None]
) -> HttpDoor:
    """The HTTP door: it asks as the gate's broker does, and any may come where any may connect."""

    def knows(device: str, password: str) -> bool:
        return settings.devices.open or register.knows(device, password)

    limits = Limits(settings.web.door_events_max, settings.web.door_bytes_max)
    return HttpDoor(intake, knows, limits, gate.lockout, gate.count, locked_out, gate.spoofed)


def make_pages(
    settings: WebSettings,
    source: StatusSource,
    desk: Desk,
    clock: Clock,
    telling: Telling,
    https_port: Callable[[], int | None],
) -> DevicesPages:
    """The pages that act, behind the venue PIN."""

    def locked_out(address: str) -> None:
        telling.happened(
            "pin_locked_out",
            "warning",
            "Somebody tries PINs",
            f"Too many wrong PINs were given on the page, the latest from {address}. Nobody was let in by them.",
            "If that was nobody of yours, find out who is on the network, and choose a new and longer PIN.",
        )

    tries = PinTries(PinTerms(settings.pin_tries_max, settings.pin_lockout_s, settings.pin_tries_day_max))
    sessions = Sessions(SessionTerms(settings.session_idle_s, settings.session_s, settings.sessions_max))
    login = Login(settings.pin_file, tries, sessions, clock.boottime_s, locked_out)
    return DevicesPages(source, desk, login, https_port)
