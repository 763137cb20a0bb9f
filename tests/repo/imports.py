"""The import rules as a checker: reads syntax trees, runs nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

EDGES = frozenset({"lan", "journal", "cloud", "web", "mail"})
STAGES = frozenset({"ingest", "drain", "uplink", "orders", "services", "alerts", "status", "upkeep", "payments"})
OUTSIDE = frozenset({"receiver", "tills", "bench", "conform"})
"""Programs of their own, which see the core and the wire format at most."""
BASE = frozenset({"runtime", "core"})

MAY_IMPORT = {
    "core": frozenset[str](),
    "runtime": frozenset({"core"}),
    "settings": BASE,
    **{edge: BASE for edge in EDGES},
    **{stage: BASE | {"settings"} for stage in STAGES},
    **{program: frozenset({"core", "cloud.wire"}) for program in OUTSIDE},
    "conform": frozenset({"core", "tills.children"}),
    "faces": EDGES | BASE,
    "app": EDGES | STAGES | BASE | {"settings"},
    "cli": EDGES | STAGES | BASE | OUTSIDE | {"settings", "app"},
    "__main__": frozenset({"cli"}),
    "": frozenset[str](),
}
"""Room to the rooms (or single modules) of ours that it may import; its own is always allowed."""

NOT_IN_CORE = frozenset({"asyncio", "sqlite3", "socket", "time", "random", "logging", "os"})
CHANCE_OR_CLOCK = frozenset({"now", "utcnow", "today", "uuid1", "uuid4", "urandom"})

HOMES = {
    "aiosmtplib": ("mail/smtp.py",),
    "aiomqtt": ("lan/session.py",),
    "aiosqlite": ("journal/database.py",),
    "aiohttp": ("cloud/", "web/", "receiver/"),
    "aiohttp_jinja2": ("web/", "receiver/"),
    "cryptography": ("lan/identity.py",),
    "ifaddr": ("lan/identity.py",),
    "jinja2": ("web/", "receiver/"),
    "segno": ("cli/", "web/"),
    "paho": ("tills/", "lan/session.py"),
    "zeroconf": ("lan/discovery.py",),
    "systemd": ("runtime/systemd.py",),
    "typer": ("cli/", "tills/", "bench/"),
    "watchfiles": ("settings/watch.py",),
}
"""Third-party library to the only files or folders of ours that may import it."""


class Violation(NamedTuple):
    """One import, or one call in core, that breaks a rule."""

    place: str
    what: str


def violations(package: Path) -> list[Violation]:
    """Everything under `package` (the folder `agent`) that breaks a rule."""
    found: list[Violation] = []
    for file in sorted(package.rglob("*.py")):
        relative = file.relative_to(package)
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        for line, name in _imported(tree, relative):
            place = f"{relative}:{line}"
            found += [Violation(place, broken) for broken in _broken(relative, name)]
        if relative.parts[0] == "core":
            found += [Violation(f"{relative}:{line}", f"core calls {name}()") for line, name in _impure(tree)]
    return found


def _imported(tree: ast.AST, relative: Path) -> Iterator[tuple[int, str]]:
    """Each imported name with its line, relative ones resolved; `from a import b` counts as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = ("agent", *relative.parent.parts)
                base = ".".join([*folder[: len(folder) - node.level + 1], *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _broken(relative: Path, name: str) -> Iterator[str]:
    room = relative.parts[0] if len(relative.parts) > 1 else relative.stem.removeprefix("__init__")
    top, *rest = name.split(".")
    if top != "agent":
        if room == "core" and top in NOT_IN_CORE:
            yield f"core imports {top}"
        if top in HOMES and not str(relative).startswith(HOMES[top]):
            yield f"{top} is imported outside its home"
        return
    target = rest[0] if rest else ""
    if target in (room, "__version__", ""):
        return
    allowed = MAY_IMPORT[room]
    if target not in allowed and ".".join(rest[:2]) not in allowed:
        yield f"{room} imports {'.'.join(rest)}"


def _impure(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in CHANCE_OR_CLOCK:
                yield node.lineno, name
