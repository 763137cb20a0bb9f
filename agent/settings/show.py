"""[settings] The settings that hold, defaults included, as plain tables or as the file that would say them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.settings.schema import Settings
from agent.settings.section import Address, Section

Tables = dict[str, Any]
"""Nested tables of texts, numbers, booleans and lists, as in the settings file."""


def to_tables(section: Section) -> Tables:
    """One struct as the table it stands for; what is not set is left out."""
    tables: Tables = {}
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if name == "by_device":
            tables |= {device: to_tables(terms) for device, terms in value.items()}
        elif value is not None:
            tables[name] = _plain(value)
    return tables


def to_toml(settings: Settings) -> str:
    """The whole file that says what `settings` say."""
    return "\n".join(_lines(to_tables(settings), ())).lstrip() + "\n"


def toml_value(value: Any) -> str:
    """One value as TOML; empty for None."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case int():
            return f"{value:_}"
        case float():
            return f"{value:_}"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case tuple() | list():
            return "[" + ", ".join(toml_value(one) for one in value) + "]"
        case _:
            return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(one)}" for key, one in value.items()) + "}"


def _plain(value: Any) -> Any:
    match value:
        case Section():
            return to_tables(value)
        case Path() | Address():
            return str(value)
        case tuple():
            return [_plain(one) for one in value]
        case Mapping():
            return {key: _plain(one) for key, one in value.items()}
        case _:
            return value


def _lines(tables: Tables, path: tuple[str, ...]) -> Iterator[str]:
    """Values before tables, as TOML wants it."""
    inner = {key: value for key, value in tables.items() if isinstance(value, dict)}
    if path:
        yield ""
        yield f"[{'.'.join(path)}]"
    for key, value in tables.items():
        if key not in inner:
            yield f"{key} = {toml_value(value)}"
    for key, value in inner.items():
        yield from _lines(value, (*path, key))
