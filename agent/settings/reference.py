"""[settings] Writes `config/nightsafe.example.toml` and `docs/settings.md` from the schema, so that both stay true.

Run as `python -m agent.settings.reference` in a checkout. Says nothing that the schema does not say.
"""

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from agent.settings.box import DeviceSettings
from agent.settings.schema import Settings
from agent.settings.section import Address, Section, meta_of
from agent.settings.show import toml_value
from agent.settings.venue import WEEKDAYS

EXAMPLES: Final[Mapping[str, str]] = {
    "venue.id": '"demo"',
    "venue.name": '"Demo Bar"',
    "venue.location": '"demo-1"',
    "venue.contact_email": '"manager@venue.example"',
    "venue.trading": '{ friday = ["11:00-23:00"], saturday = ["11:00-15:00", "18:00-02:00"] }',
    "state.directory": '"/var/lib/nightsafe"',
    "gate.listen": '["0.0.0.0:8883"]',
    "gate.tls.also_plain": '["127.0.0.1:1883"]',
    "gate.tls.names": '["box.venue.example"]',
    "cloud.url": '"https://cloud.example"',
    "cloud.token_file": '"token"',
    "web.listen": '"0.0.0.0:8080"',
    "web.listen_tls": '"0.0.0.0:8443"',
    "web.pin_file": '"pin"',
    "orders.devices": '["till-1"]',
    "devices.version_min": '"2.4.0"',
    "notices.version_min": '"1.14.10"',
    "devices.till-1.offline_card_payments": '"refuse"',
    "devices.till-1.loyalty_realtime": "true",
    "devices.till-1.services": '["payment.status", "loyalty.balance"]',
    "alerts.support_email": '"support@vendor.example"',
    "alerts.webhook_url": '"https://hooks.example/nightsafe"',
    "alerts.smtp.host": '"mail.example"',
    "alerts.smtp.sender": '"nightsafe@venue.example"',
    "alerts.smtp.username": '"nightsafe"',
    "alerts.smtp.password_file": '"smtp-password"',
}
"""Values that show how a setting is written, where its default does not."""

WRITTEN: Final = frozenset({"cloud.token_file", "gate.tls.also_plain", "web.listen", "web.listen_tls", "web.pin_file"})
"""Settings that the example sets although they could be left out."""

OPTIONAL: Final = frozenset({"alerts.smtp"})
"""Tables that may be left out although something in them is required."""

RELOADS: Final = {"live": "at once", "restart": "at the next start", "never": "never, for an existing journal"}

UNITS: Final[Mapping[str, str]] = {
    "per_s": "a second",
    "_s": "seconds",
    "_days": "days",
    "_h": "hours",
    "checks": "checks",
    "_limit": "minor units",
    "bytes": "bytes",
    "events": "events",
    "records": "records",
    "messages": "messages",
    "connections": "connections",
    "subscriptions": "topic filters",
    "answers": "receipts",
    "inflight": "events",
    "depth": "levels",
    "shown": "entries",
    "declines": "payments",
    "requests": "requests",
    "products": "products",
    "probes": "probes",
    "handshakes": "handshakes",
    "epochs": "epochs",
    "pairings": "pairings",
    "tries": "tries",
    "sessions": "logins",
    "known": "devices",
    "port": "port number",
}
"""The unit that a name ends or begins with."""


class Line(typing.NamedTuple):
    """One setting as the reader sees it."""

    table: str
    name: str
    kind: str
    default: str
    reload: str
    text: str
    required: bool

    @property
    def key(self) -> str:
        """The whole dotted name."""
        return f"{self.table}.{self.name}"


def tables() -> Iterator[tuple[str, type[Section]]]:
    """Each table of the file in the order in which it is best read."""
    for name, hint in get_type_hints(Settings).items():
        yield name, hint
        if name == "devices":
            yield "devices.till-1", DeviceSettings
        for inner, inner_hint in get_type_hints(hint).items():
            if (section := _section_in(inner_hint)) is not None:
                yield f"{name}.{inner}", section


def lines_of(table: str, section: type[Section]) -> Iterator[Line]:
    """The settings of one table, without the tables in it."""
    hints = get_type_hints(section)
    for field in msgspec.structs.fields(section):
        hint = hints[field.name]
        if field.name == "by_device" or _section_in(hint) is not None:
            continue
        meta = meta_of(section, field.name)
        default = "" if field.required else toml_value(_default(field))
        kind = _kind(hint, meta, field.name)
        reload = RELOADS[(meta.extra or {})["reload"]]
        yield Line(table, field.name, kind, default, reload, meta.description or "", field.required)


def example() -> str:
    """The text of the example file: what must be set is set, everything else stands commented with its default."""
    parts = [
        "# Nightsafe: every setting there is. A name straight after a # is not set: beside it stands the default,",
        "# or an example where there is none. Written by: python -m agent.settings.reference",
    ]
    for table, section in tables():
        lines = list(lines_of(table, section))
        off = "" if any(_is_set(line) for line in lines) else "#"
        parts += ["", f"# {_summary(section)}", f"{off}[{table}]"]
        for line in lines:
            value = EXAMPLES.get(line.key, line.default)
            parts += [f"# {line.text}", f"{'' if _is_set(line) else '#'}{line.name} = {value}"]
    return "\n".join(parts) + "\n"


def page() -> str:
    """The text of the reference page."""
    parts = [
        "# Settings",
        "",
        "One TOML file, `/etc/nightsafe/nightsafe.toml` unless `--config` says otherwise. Relative paths start at the",
        "file's own folder. An unknown key is an error. `nightsafe config check` names every problem with its line.",
        "After an edit the agent reads the file again: a setting takes effect as its row says, and a file that cannot",
        "be used changes nothing. Secrets stand in files of their own, never here.",
        "",
        "Read and checked, but without effect in this build, because what they steer is not here yet:",
        "`venue.trading`.",
        "",
        "Written by `python -m agent.settings.reference`.",
    ]
    for table, section in tables():
        title = table.replace("till-1", "<id>")
        parts += ["", f"## `[{title}]`", "", _summary(section), ""]
        parts += ["| setting | value | default | takes effect | meaning |", "|---|---|---|---|---|"]
        for line in lines_of(table, section):
            default = "**required**" if line.required else f"`{line.default}`" if line.default else "none"
            parts.append(f"| `{line.name}` | {line.kind} | {default} | {line.reload} | {line.text} |")
    return "\n".join(parts) + "\n"


def written_files() -> dict[str, str]:
    """Path in the checkout to the text that it is to hold."""
    return {"config/nightsafe.example.toml": example(), "docs/settings.md": page()}


def unit_of(name: str) -> str:
    """The unit of a number by the name of its setting; empty when the name tells none."""
    for mark, unit in UNITS.items():
        if name.endswith(mark) or (not mark.startswith("_") and mark in name.split("_")):
            return unit
    return ""


def _is_set(line: Line) -> bool:
    return (line.required and line.table not in OPTIONAL) or line.key in WRITTEN


def _summary(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split())


def _section_in(hint: Any) -> type[Section] | None:
    """The table that a hint stands for, `T` or `T | None`."""
    kinds = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


def _kind(hint: Any, meta: msgspec.Meta, name: str) -> str:
    """The kind of value in words, with its bounds and unit."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if get_origin(hint) in (types.UnionType, typing.Union):
        hint = kinds[0]
    if get_origin(hint) is typing.Literal:
        return " or ".join(f'`"{choice}"`' for choice in get_args(hint))
    if hint in (int, float):
        low = f"{meta.ge:_}" if meta.ge is not None else f"above {meta.gt:_}"
        bounds = f"{low} to {meta.le:_}" if meta.le is not None else f"{low} or more"
        return f"{unit_of(name)}, {bounds}"
    words = {bool: "`true` or `false`", str: "text", Path: "path", Address: '"host:port"'}
    if hint in words:
        return words[hint]
    if get_origin(hint) is tuple:
        return "list of addresses" if Address in get_args(hint) else "list of texts"
    return f"table of {WEEKDAYS[0]} … {WEEKDAYS[-1]}"


def main() -> None:
    """Write both files into the checkout around this package."""
    root = Path(__file__).resolve().parents[2]
    for name, text in written_files().items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
