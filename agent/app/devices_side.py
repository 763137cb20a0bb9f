"""[app: devices] Joins register, broker, gate and identity to the pairing desk, and the desk to the page."""

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from agent.app.joints import Telling
from agent.core.pairing import Terms
from agent.lan.broker import Broker
from agent.lan.desk import Desk
from agent.lan.gate import Gate
from agent.lan.identity import Identity, names_here
from agent.lan.register import Register
from agent.runtime.clock import Clock
from agent.settings.schema import Settings


class Address(NamedTuple):
    """Where devices find this box."""

    host: str
    port: int
    pairing_port: int
    fingerprint: str
    ca_pem: str


def open_register(directory: Path, telling: Telling) -> Register:
    """The paired devices. Raises Held where they cannot be read."""
    register = Register(directory)
    if register.stale:
        telling.happened(
            "register_damaged",
            "critical",
            "The list of devices was damaged",
            "The list of paired devices could not be read; the one before its last change holds.",
            "Compare `nightsafe devices list` with the venue's devices: pair what is missing, remove what is too many.",
        )
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
) -> Desk:
    """The desk of this box; `page_port` is where the page speaks TLS right now."""
    devices = settings.devices

    def address() -> Address | None:
        port = page_port()
        if identity is None or settings.gate.tls is None or port is None or not gate.addresses:
            return None
        return Address(_host(settings), gate.addresses[0][1], port, identity.fingerprint, identity.ca_pem)

    terms = Terms(devices.pairing_s, devices.pairing_tries_max, devices.pairings_max)
    return Desk(register, broker, gate, clock, address, terms)


def _host(settings: Settings) -> str:
    """By what devices call this box: a name from the settings, else an address on the venue's network."""
    tls = settings.gate.tls
    if tls is not None and tls.names:
        return tls.names[0]
    listen = settings.gate.listen[0].host
    if listen not in ("0.0.0.0", "::"):
        return listen
    found = [one for one in map(ip_address, names_here().addresses) if not one.is_loopback]
    return str(next((one for one in found if one.version == 4), found[0] if found else "127.0.0.1"))
