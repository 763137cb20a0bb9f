"""[settings: what a setting is] → venue, box, uplink → schema. A table, its bounds and words, and an address.

Each setting says when a change takes effect: live, restart or never. Knows no single setting.
"""

import re
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal, get_type_hints

import msgspec

Reload = Literal["live", "restart", "never"]
"""When a changed value takes effect: at once, at the next start, or never for an existing journal."""


ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}\Z"
"""What a venue or a device may be called."""

ID_WORDS = "lower-case letters, digits and dashes, at most 63, not a dash first"

RESERVED_NAMES = frozenset({"agent", "venue", "nightsafe"})
"""No device is ever called one of these."""

PORT_MAX = 65_535
"""The highest TCP port."""


class Address(msgspec.Struct, frozen=True):
    """A host (name or literal, IPv6 without brackets) and a TCP port; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """From "host:port" or "[ipv6]:port"; raises ValueError with words."""
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not bare or (":" in bare) != (bare is not host) or not re.fullmatch(r"[0-9]{1,5}", port):
            raise ValueError(f'"{text}" is not "host:port"; an IPv6 address stands in brackets, "[::1]:1883"')
        if int(port) > PORT_MAX:
            raise ValueError(f'"{text}": a port is at most {PORT_MAX}')
        if not re.fullmatch(r"[A-Za-z0-9.:%_-]+", bare):
            raise ValueError(f'"{text}": "{bare}" is no host name or address')
        return cls(bare, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a host name or literal stands for this machine alone; names other than localhost do not."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


class Section(msgspec.Struct, frozen=True):
    """A table of the settings file."""


def _meta(reload: Reload, text: str, bounds: dict[str, Any]) -> msgspec.Meta:
    return msgspec.Meta(description=text, extra={"reload": reload}, **bounds)


def live(text: str, **bounds: Any) -> msgspec.Meta:
    """A setting that takes effect as soon as the file is saved."""
    return _meta("live", text, bounds)


def restart(text: str, **bounds: Any) -> msgspec.Meta:
    """A setting that takes effect at the next start."""
    return _meta("restart", text, bounds)


def never(text: str, **bounds: Any) -> msgspec.Meta:
    """A setting that an existing journal is bound to."""
    return _meta("never", text, bounds)


def meta_of(section: type[Section], name: str) -> msgspec.Meta:
    """The words and bounds of one setting; a table within a table says nothing itself and is live."""
    hint = get_type_hints(section, include_extras=True)[name]
    found = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    return found[0] if found else live("")


def reload_of(section: type[Section], name: str) -> Reload:
    """When a change of one setting takes effect."""
    reload: Reload = (meta_of(section, name).extra or {})["reload"]
    return reload
