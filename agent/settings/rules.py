"""[settings] What the settings mean together: the rules that a type cannot say.

Pure judgements over what `load` has built; a table that could not be built is simply not judged. Never opens a file.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent.core.policy import OVERRIDES
from agent.core.presence import version_order
from agent.settings.box import DeviceSettings, DevicesSettings, GateSettings, WebSettings
from agent.settings.lines import KeyPath
from agent.settings.section import ID_PATTERN, ID_WORDS, RESERVED_NAMES, Address, is_loopback
from agent.settings.uplink import CloudSettings
from agent.settings.venue import SERVICES, WEEKDAYS, AlertsSettings, SmtpSettings

Sections = dict[str, Any]
"""The tables of one file by name, as structs; without those that could not be built."""

EMAIL: Final = re.compile(r"[^@\s\"<>,;\x00-\x1f]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
HOST_NAME: Final = re.compile(
    r"(?=.{1,250}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
TRADING_HOURS: Final = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d-(?:(?:[01]\d|2[0-3]):[0-5]\d|24:00)")


class Problem(NamedTuple):
    """What is wrong with one key."""

    path: KeyPath
    text: str


def value_problems(path: KeyPath, value: Any) -> Iterator[Problem]:
    """What is wrong with one value of the right type, whatever stands beside it."""
    if len(path) == 2 and path[0] == "devices" and isinstance(value, DeviceSettings):
        yield from _device_id(path, path[1])
    elif len(path) == 3 and path[0] == "devices" and path[2] == "services":
        yield from _services(path, value)
    elif judge := _JUDGES.get(path):
        yield from judge(path, value)


def problems_of(sections: Sections) -> Iterator[Problem]:
    """Every rule that the file breaks by what its keys say together."""
    gate: GateSettings | None = sections.get("gate")
    devices: DevicesSettings | None = sections.get("devices")
    cloud: CloudSettings | None = sections.get("cloud")
    alerts: AlertsSettings | None = sections.get("alerts")
    if gate and gate.tls is None:
        yield from _plain(("gate", "listen"), gate.listen, "listen on 127.0.0.1, or add a table [gate.tls]")
    if gate and gate.tls is not None:
        yield from _plain(("gate", "tls", "also_plain"), gate.tls.also_plain, "listen on 127.0.0.1")
    if gate:
        fixed = [one for one in (*gate.listen, *(gate.tls.also_plain if gate.tls else ())) if one.port]
        if len(set(fixed)) < len(fixed):
            yield Problem(("gate", "listen"), "names an address twice")
    if devices and devices.open and gate and not all(address.is_loopback for address in gate.listen):
        yield Problem(("devices", "open"), "true is refused unless every gate address is loopback")
    web: WebSettings | None = sections.get("web")
    if devices and devices.open and web and web.listen_tls and not web.listen_tls.is_loopback:
        text = f"true is refused while [web] listen_tls is {web.listen_tls}: any device could store events there"
        yield Problem(("devices", "open"), text)
    if cloud and cloud.token_file is None and (host := _host(cloud.url)) and not is_loopback(host):
        yield Problem(("cloud", "token_file"), f"is missing; {host} asks for a token")
    if alerts and alerts.smtp:
        yield from _smtp(alerts.smtp)
    yield from _ordered(sections)


def _timezone(path: KeyPath, name: str) -> Iterator[Problem]:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        text = f'no time zone "{name}" on this machine; give one like "Europe/London" (package tzdata)'
        yield Problem(path, text)


def _trading(path: KeyPath, trading: Mapping[str, tuple[str, ...]]) -> Iterator[Problem]:
    for day, hours in trading.items():
        if day not in WEEKDAYS:
            yield Problem((*path, day), _unknown_word(day, WEEKDAYS))
        for span in hours:
            if not TRADING_HOURS.fullmatch(span):
                yield Problem((*path, day), f'"{span}" is not "HH:MM-HH:MM"')


def _plain(path: KeyPath, listen: tuple[Address, ...], remedy: str) -> Iterator[Problem]:
    for address in listen:
        if not address.is_loopback:
            yield Problem(path, f"{address} is not loopback, and plain MQTT is served on loopback only; {remedy}")


def _services(path: KeyPath, services: tuple[str, ...]) -> Iterator[Problem]:
    for service in services:
        if service not in SERVICES:
            yield Problem(path, _unknown_word(service, SERVICES))


def _names(path: KeyPath, names: tuple[str, ...]) -> Iterator[Problem]:
    for name in names:
        try:
            ip_address(name)
        except ValueError:
            if not HOST_NAME.fullmatch(name):
                yield Problem(path, f'"{name}" is no host name or address; write it as "box.venue.example"')


def _overrides(path: KeyPath, limits: tuple[str, ...]) -> Iterator[Problem]:
    for limit in limits:
        if limit not in OVERRIDES:
            yield Problem(path, _unknown_word(limit, OVERRIDES))


def _version(path: KeyPath, version: str) -> Iterator[Problem]:
    if version and version_order(version) is None:
        yield Problem(path, f'"{version}" is no version; give one like "1.14.10"')


def _device_ids(path: KeyPath, devices: tuple[str, ...]) -> Iterator[Problem]:
    for device in devices:
        yield from _device_id(path, device)


def _device_id(path: KeyPath, device: str) -> Iterator[Problem]:
    if device in RESERVED_NAMES:
        yield Problem(path, f'"{device}" is never the name of a device; choose another')
    elif not re.fullmatch(ID_PATTERN, device):
        yield Problem(path, f'"{device}" is no device id: {ID_WORDS}')


def _smtp(smtp: SmtpSettings) -> Iterator[Problem]:
    if smtp.username and smtp.password_file is None:
        yield Problem(("alerts", "smtp", "password_file"), "is missing; a username needs a password")
    if smtp.username and smtp.security == "none" and not is_loopback(smtp.host):
        text = '"none" would send the password unprotected; use "starttls" or "tls"'
        yield Problem(("alerts", "smtp", "security"), text)


def _ordered(sections: Sections) -> Iterator[Problem]:
    """First or lower bounds that lie above their own ceiling."""
    pairs: Mapping[str, tuple[tuple[str, str], ...]] = {
        "drain": (("batch_records_first", "batch_records_max"), ("backoff_first_s", "backoff_max_s")),
        "broker": (("restart_delay_s", "restart_delay_max_s"),),
        "journal": (
            ("commit_events_max", "queue_events_max"),
            ("checkpoint_bytes", "reserve_bytes"),
            ("reserve_bytes", "refuse_free_bytes"),
            ("refuse_free_bytes", "shed_free_bytes"),
            ("reopen_first_s", "reopen_max_s"),
        ),
        "intake": (("gap_resend_s", "gap_attention_s"),),
        "alerts": (("sync_overdue_h", "sync_overdue_second_h"), ("sync_overdue_second_h", "sync_overdue_third_h")),
    }
    for name, bounds in pairs.items():
        for low, high in bounds:
            section = sections.get(name)
            if section and getattr(section, low) > getattr(section, high):
                text = f"{getattr(section, low)} is above {high}, {getattr(section, high)}"
                yield Problem((name, low), text)


def _email(path: KeyPath, text: str) -> Iterator[Problem]:
    """A mail address; empty means nobody, where the setting may be left out."""
    optional = path != ("alerts", "smtp", "sender")
    if not EMAIL.fullmatch(text) and not (optional and not text):
        yield Problem(path, f'"{text}" is no mail address')


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _url(path: KeyPath, url: str) -> Iterator[Problem]:
    """https anywhere, http on loopback; no credentials in it; empty only for a webhook that is not wanted."""
    if not url and path[0] == "alerts":
        return
    try:
        parts = urlsplit(url)
        port_wrong = parts.port == 0
    except ValueError:
        yield Problem(path, f'"{url}" is no URL')
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or port_wrong or re.search(r"[\s\x00-\x1f]", url):
        yield Problem(path, 'is no URL like "https://host"')
    elif parts.username is not None or parts.password is not None:
        yield Problem(path, "holds a user name or password; secrets stand in files, never in values")
    elif parts.scheme == "http" and not is_loopback(parts.hostname):
        yield Problem(path, f"{parts.hostname} is not loopback; use https")
    elif path[0] == "cloud" and (parts.query or parts.fragment):
        yield Problem(path, "ends with its path; remove the query or fragment")


def _unknown_word(word: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    return f'"{word}" is unknown; ' + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


_JUDGES: Final[Mapping[KeyPath, Callable[[KeyPath, Any], Iterator[Problem]]]] = {
    ("venue", "contact_email"): _email,
    ("venue", "timezone"): _timezone,
    ("venue", "trading"): _trading,
    ("cloud", "url"): _url,
    ("gate", "tls", "names"): _names,
    ("services", "used"): _services,
    ("policy", "override"): _overrides,
    ("orders", "devices"): _device_ids,
    ("devices", "version_min"): _version,
    ("notices", "version_min"): _version,
    ("alerts", "support_email"): _email,
    ("alerts", "webhook_url"): _url,
    ("alerts", "smtp", "sender"): _email,
}
