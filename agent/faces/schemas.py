"""[JSON Schemas] One file for each message, 2020-12, each whole in itself: `docs/schemas/`.

The event's is put together here: which type asks for which data is a table at run time, and so it is one here.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from agent.core.events import (
    EPOCH_PATTERN,
    FAMILIES,
    NAME_CHARS_MAX,
    SHAPES,
    SOURCE_CHARS_MAX,
    TEXT_SEQUENCE_PATTERN,
)
from agent.core.status import VenueStatus
from agent.faces import messages

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
URN: Final = "urn:nightsafe:schema:"
EVENT_TITLE: Final = "Event of a device"


MESSAGES: Final[Mapping[str, tuple[str, Any]]] = {
    "receipt": ("Receipt", messages.Receipt),
    "own-receipt": ("Receipt of one event", messages.OwnReceipt),
    "state": ("State of a device", messages.State),
    "command": ("Command", messages.Command),
    "request": ("Real-time request", messages.Request),
    "reply": ("Reply to a real-time request", messages.Reply),
    "order": ("Order offer", messages.Order),
    "venue-status": ("Status of the venue", VenueStatus),
    "capabilities": ("Capabilities", dict[str, messages.Capability]),
    "notices": ("Notices", messages.Notices),
    "open-check": ("Open check", messages.OpenCheck),
}
"""Title and type of each message but the event, by the name of its file without the ending."""


def schemas() -> Mapping[str, dict[str, Any]]:
    """Every schema by the name of its file, without its ending."""
    made = {"event": _whole("event", EVENT_TITLE, *event("#/$defs/{name}"))}
    for name, (title, shape) in MESSAGES.items():
        (schema,), parts = components([shape], "#/$defs/{name}")
        if set(schema) == {"$ref"}:
            schema = parts.pop(schema["$ref"].rpartition("/")[2])
        made[name] = _whole(name, title, schema, parts)
    return made


def components(shapes: Any, ref_template: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schemas of types, and of the types that they refer to; words in one line, and JSON Schema's own words only
    (`discriminator` is OpenAPI's)."""
    found, parts = msgspec.json.schema_components(shapes, ref_template=ref_template)
    return [_plain(one) for one in found], {name: _plain(one) for name, one in parts.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key != "discriminator"}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return " ".join(value.split()) if isinstance(value, str) and "\n" in value else value


def _whole(name: str, title: str, schema: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key != "title"}
    return {"$schema": DIALECT, "$id": URN + name, "title": title, **rest} | ({"$defs": parts} if parts else {})


def event(ref_template: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One CloudEvent as it is judged, and the schemas that it refers to."""
    shapes, parts = components(SHAPES, ref_template)
    rules = [
        _rule({"enum": [f"pos.{name}" for name in names]}, shape)
        for shape, names in zip(shapes, SHAPES.values(), strict=True)
    ]
    families = "|".join(family.replace(".", r"\.") for family in FAMILIES)
    rules.append(_rule({"pattern": f"^({families})"}, {"type": "object"}))
    name = {"type": "string", "minLength": 1, "maxLength": NAME_CHARS_MAX}
    text = {"type": ["string", "null"]}
    counted = {"properties": {"epoch": {"type": "string"}}, "required": ["epoch"]}
    made = {
        "description": "One CloudEvent as the box judges it. Not said here: no duplicate keys at any depth, no card "
        "number anywhere, sizes and depth within the box's settings.",
        "type": "object",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {**name, "description": "Unique per device, for ever."},
            "source": {"type": "string", "minLength": 1, "maxLength": SOURCE_CHARS_MAX},
            "type": {**name, "not": {"pattern": r"^nightsafe\."}, "description": "nightsafe.* are the box's own."},
            "time": {**text, "description": "The device's own clock, kept as it is; nothing is ordered by it."},
            "epoch": {**text, "pattern": f"^{EPOCH_PATTERN}$"},
            "sequence": {
                **text,
                "pattern": TEXT_SEQUENCE_PATTERN,
                "maxLength": 20,
                "description": "1, 2, 3 … of the epoch, without holes; zero-padded to 20 digits, or unpadded.",
            },
            "subject": text,
            "datacontenttype": {},
            "data": {},
            "data_base64": {"contentEncoding": "base64"},
        },
        "allOf": [
            {
                "if": counted,
                "then": {"properties": {"sequence": {"type": "string"}}, "required": ["sequence"]},
                "else": {"properties": {"sequence": {"type": "null"}}},
            },
            {"not": {"required": ["data", "data_base64"]}},
            *rules,
        ],
    }
    return made, parts


def _rule(types: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Events of these types have such data."""
    return {
        "if": {"properties": {"type": {"type": "string", **types}}, "required": ["type"]},
        "then": {"properties": {"data": data}, "required": ["data"]},
    }
