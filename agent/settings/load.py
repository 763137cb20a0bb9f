"""[settings] Reads the settings file: all of it or nothing, every problem at once, each with file and line.

Never opens the files whose paths stand in it, and never falls back to a default for a value it does not understand.
"""

import re
import tomllib
import types
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec

from agent.core.errors import SettingsInvalid
from agent.settings.lines import KeyPath, key_lines, line_of
from agent.settings.rules import Problem, Sections, problems_of, value_problems
from agent.settings.schema import Settings
from agent.settings.section import ID_WORDS, Address, Section

SETTINGS_BYTES_MAX: Final = 1_048_576
"""Largest settings file that is read, in bytes."""

_INVALID: Final = object()


def load(file: Path) -> Settings:
    """The settings in `file`. Raises SettingsInvalid with every problem; relative paths start at the file's folder."""
    file = file.absolute()
    try:
        with file.open("rb") as stream:
            raw = stream.read(SETTINGS_BYTES_MAX + 1)
    except OSError as error:
        raise _invalid(file, [f"{file}: {error.strerror or error}"]) from error
    if len(raw) > SETTINGS_BYTES_MAX:
        raise _invalid(file, [f"{file}: larger than {SETTINGS_BYTES_MAX} bytes"])
    return parse(raw, file)


def parse(raw: bytes, file: Path) -> Settings:
    """As `load`, from the file's bytes; `file` gives the names and the folder."""
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        tables = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _invalid(file, [f"{file}:{line}: not UTF-8"]) from error
    except tomllib.TOMLDecodeError as error:
        raise _invalid(file, [_syntax(file, text, str(error))]) from error
    except RecursionError as error:
        raise _invalid(file, [f"{file}: nested too deeply"]) from error
    reading = _Reading(file.parent)
    sections = reading.sections(tables)
    problems = [*reading.problems, *problems_of(sections)]
    if problems:
        raise _invalid(file, _rendered(file, text, problems))
    return Settings(**sections)


def _invalid(file: Path, problems: list[str]) -> SettingsInvalid:
    count = f"{len(problems)} problem" + "s" * (len(problems) != 1)
    hint = f"Mend it, then check it with: nightsafe config check --config {file}"
    return SettingsInvalid("settings_invalid", f"{file} cannot be used: {count}.", hint, tuple(problems))


def _syntax(file: Path, text: str, message: str) -> str:
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    line = place[1] if place and place[1] else text.count("\n") + 1
    return f"{file}:{line}: not TOML: {message[: place.start()] if place else message}"


def _rendered(file: Path, text: str, problems: list[Problem]) -> list[str]:
    lines = key_lines(text)
    placed = sorted((line_of(lines, problem.path), problem) for problem in problems)
    return [f"{file}:{line}: {'.'.join(problem.path)}: {problem.text}" for line, problem in placed]


class _Reading:
    """One pass over the parsed tables; collects problems and never stops at the first."""

    def __init__(self, folder: Path) -> None:
        self.problems: list[Problem] = []
        self._folder = folder

    def sections(self, tables: Mapping[str, Any]) -> Sections:
        """Every table of the file by name; one that cannot be built is missing from the answer."""
        values = self._fields(Settings, tables, ())
        for name, field in _fields_of(Settings).items():
            if name not in tables and not field.required:
                values[name] = field.default_factory()
        return {name: value for name, value in values.items() if value is not _INVALID}

    def _fields(self, section: type[Section], table: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
        """The values that are written down; unknown and missing keys become problems."""
        hints = typing.get_type_hints(section, include_extras=True)
        fields = _fields_of(section)
        rest = "by_device" if "by_device" in fields else None
        values: dict[str, Any] = {}
        for key, raw in table.items():
            if key in fields and key != rest:
                values[key] = self._value(hints[key], raw, (*path, key))
            elif rest and isinstance(raw, dict):
                values.setdefault(rest, {})[key] = self._value(_item_type(hints[rest]), raw, (*path, key))
            else:
                self._tell((*path, key), _unknown((*path, key), [name for name in fields if name != rest]))
        for key, field in fields.items():
            if key not in table and field.required:
                self._tell((*path, key), "is missing" if path else "the table is missing")
                values[key] = _INVALID
        return values

    def _section(self, section: type[Section], raw: Any, path: KeyPath) -> Any:
        if not isinstance(raw, dict):
            return self._tell(path, f"expected a table, [{'.'.join(path)}]")
        values = self._fields(section, raw, path)
        fields = _fields_of(section)
        if any(values[name] is _INVALID and fields[name].required for name in values):
            return _INVALID
        return section(**{name: value for name, value in values.items() if value is not _INVALID})

    def _value(self, hint: Any, raw: Any, path: KeyPath) -> Any:
        """`raw` as `hint` wants it and judged alone, or `_INVALID` once a problem is noted."""
        value = self._typed(hint, raw, path)
        if value is not _INVALID:
            self.problems += value_problems(path, value)
        return value

    def _typed(self, hint: Any, raw: Any, path: KeyPath) -> Any:
        kind = _bare(hint)
        if isinstance(kind, type) and issubclass(kind, Section):
            return self._section(kind, raw, path)
        if kind is Path:
            return self._path(raw, path)
        if kind is Address:
            return self._address(raw, path)
        if kind == tuple[Address, ...]:
            return self._addresses(raw, path, _least(hint))
        try:
            return msgspec.convert(raw, hint, strict=True)
        except msgspec.ValidationError as error:
            return self._tell(path, _words(str(error)))

    def _path(self, raw: Any, path: KeyPath) -> Any:
        if not isinstance(raw, str) or not raw or "\0" in raw:
            return self._tell(path, "expected a path, as text")
        return self._folder / raw

    def _address(self, raw: Any, path: KeyPath) -> Any:
        if not isinstance(raw, str):
            return self._tell(path, 'expected an address, "host:port"')
        try:
            return Address.parse(raw)
        except ValueError as error:
            return self._tell(path, str(error))

    def _addresses(self, raw: Any, path: KeyPath, least: int) -> Any:
        if not isinstance(raw, list) or len(raw) < least:
            return self._tell(path, 'expected a list of addresses, ["host:port"]')
        addresses = [self._address(one, path) for one in raw]
        sound = tuple(address for address in addresses if address is not _INVALID)
        return sound if sound or not raw else _INVALID

    def _tell(self, path: KeyPath, text: str) -> Any:
        self.problems.append(Problem(path, text))
        return _INVALID


def _fields_of(section: type[Section]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(section)}


def _bare(hint: Any) -> Any:
    """The type without its bounds and without `| None`."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    return hint


def _least(hint: Any) -> int:
    """How many entries a list must have."""
    return max(
        (one.min_length or 0 for one in getattr(hint, "__metadata__", ()) if isinstance(one, msgspec.Meta)), default=0
    )


def _item_type(hint: Any) -> Any:
    """What a mapping setting holds."""
    return get_args(_bare(hint))[1]


def _unknown(path: KeyPath, names: list[str]) -> str:
    near = get_close_matches(path[-1], names, n=1, cutoff=0.5)
    if near:
        return f"unknown; did you mean {near[0]}?"
    homes = [home for home, section in _tables().items() if path[-1] in _fields_of(section)]
    if len(path) == 2 and homes:
        return f"unknown here; it belongs in [{homes[0]}]"
    return f"unknown; known here: {', '.join(sorted(names))}"


def _tables() -> dict[str, type[Section]]:
    return {name: _bare(hint) for name, hint in typing.get_type_hints(Settings).items()}


def _words(message: str) -> str:
    """msgspec's words with our way of naming a place and a pattern."""
    if "matching regex" in message:
        return f"expected {ID_WORDS}"
    message = re.sub(r" - at `\$\[(\d+)\]`$", lambda place: f" (item {int(place[1]) + 1})", message)
    message = re.sub(r" - at `\$(?:\[\.\.\.\])+(?:\[\d+\])*`$", "", message)
    return (message[0].lower() + message[1:]).replace("`", "")
