"""[settings] Where in a TOML text each key stands, so that a problem can be shown with its line.

Works on text that tomllib has accepted; never judges it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

KeyPath = tuple[str, ...]

_PART: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY: Final = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_TABLE: Final = re.compile(rf"[ \t]*\[\[?[ \t]*({_KEY})[ \t]*\]\]?")
_ASSIGNMENT: Final = re.compile(rf"[ \t]*({_KEY})[ \t]*=")
_TOKEN: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|" + r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'|#[^\n]*|[\[{]|[\]}]|\n""",
    re.DOTALL,
)


def key_lines(text: str) -> Mapping[KeyPath, int]:
    """Line number (from 1) of each table header and each key; keys of inline tables are not listed, their owner is."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in _statements(text):
        if header := _TABLE.match(line):
            table = _parts(header[1])
            _note(lines, table, number)
        elif assignment := _ASSIGNMENT.match(line):
            _note(lines, table + _parts(assignment[1]), number)
    return lines


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of `path`, or of its nearest owner; 1 when none is written down."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _note(lines: dict[KeyPath, int], path: KeyPath, number: int) -> None:
    for end in range(1, len(path) + 1):
        lines.setdefault(path[:end], number)


def _parts(key: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement and the number of its first line: lines inside strings, arrays and tables belong to it."""
    begin, depth = 0, 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
            case "\n" if depth == 0:
                yield text.count("\n", 0, begin) + 1, text[begin : token.start()]
                begin = token.end()
    yield text.count("\n", 0, begin) + 1, text[begin:]
