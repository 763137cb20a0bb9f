"""[YAML] Plain values as YAML 1.2 for people. Only writes; every text is quoted, so that none means something else."""

import json
from typing import Any


def to_yaml(value: Any, indent: int = 0) -> str:
    """A block of lines for a mapping or a list that is not empty; one line without an end for anything else."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_key(key)}:{_under(one, indent + 1)}" for key, one in value.items())
    if isinstance(value, list | tuple) and value:
        return "".join(f"{pad}-{_under(one, indent + 1)}" for one in value)
    return json.dumps(value, ensure_ascii=False)


def _under(value: Any, indent: int) -> str:
    if isinstance(value, dict | list | tuple) and value:
        return "\n" + to_yaml(value, indent)
    return f" {to_yaml(value)}\n"


def _key(key: str) -> str:
    return (
        key
        if key.isidentifier() and key.lower() not in ("true", "false", "null", "yes", "no", "on", "off")
        else json.dumps(key)
    )
