"""[OpenAPI] The cloud's face for boxes as one OpenAPI 3.1 document: `docs/openapi-cloud.yaml`.

For whoever builds such a cloud. What no schema can say (a prefix is committed, what a box does with each answer), the
reference cloud shows (`agent/receiver`); this is what it serves today, no more.
"""

from typing import Any, Final, Literal

import msgspec

from agent.cloud import wire
from agent.faces.parts import REF, answer, body, json, parameter, problems, ref
from agent.faces.schemas import components, event


class Heartbeat(msgspec.Struct):
    """application/health+json; what stands in it is the box's."""

    status: Literal["pass", "warn", "fail"]


class RealtimeRequest(msgspec.Struct):
    """A device's request, passed on."""

    id: str
    device: str
    args: dict[str, Any]


class RealtimeReply(msgspec.Struct):
    """What becomes of it; the box gives the same reply to every repeat."""

    status: Literal["ok", "declined", "error"]
    result: dict[str, Any] | None = None
    reason: str | None = None


TYPES: Final = (
    wire.OpenStream,
    wire.StreamAnswer,
    wire.HashAnswer,
    wire.BatchAnswer,
    wire.HoleBody,
    wire.HealthAnswer,
    wire.TimeAnswer,
    wire.Problem,
    Heartbeat,
    RealtimeRequest,
    RealtimeReply,
)
VENUE: Final = "/v1/venues/{venue}"
STREAM: Final = VENUE + "/streams/{epoch}"


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    _, parts = components(TYPES, REF)
    event_schema, event_parts = event(REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nightsafe cloud",
            "version": "1",
            "description": "What a box asks of its cloud. Every call but GET /v1/health needs the venue's token (401"
            " without a good one, 403 with another venue's). Every error is application/problem+json; a success counts"
            " only with its media type and body. Redirects are not followed.",
        },
        "servers": [{"url": "https://{host}", "variables": {"host": {"default": "cloud.example"}}}],
        "security": [{"token": []}],
        "paths": {path: {"parameters": _named(path), **calls} for path, calls in _paths().items()},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Record": _record(), "Event": event_schema, **event_parts, **parts},
        },
    }


def _paths() -> dict[str, Any]:
    return {
        "/v1/health": {
            "get": {
                "summary": "That the cloud is there; no token is needed.",
                "security": [],
                "responses": {"200": answer("It is.", json("HealthAnswer"))},
            }
        },
        VENUE + "/streams": {
            "post": _call(
                "Open a stream, or bind it to the caller: the last caller wins.",
                {"201": answer("New.", json("StreamAnswer")), "200": answer("It was there.", json("StreamAnswer"))},
                "400", "409", "410", "413", "415",
                request=body(ref("OpenStream")),
            )
        },
        STREAM: {"get": _call("Where the box goes on.", {"200": answer("Here.", json("StreamAnswer"))}, "404")},
        STREAM + "/hash": {
            "get": _call(
                "One rechash, for the search of the last common record.",
                {"200": answer("It is known.", json("HashAnswer"))},
                "400", "404",
                more=[parameter("at", "query", "The sequence.") | {"required": True}],
            )
        },
        STREAM + "/records/{range}": {
            "put": _call(
                "A batch of records. The cloud commits a prefix of it, and answers after its own commit.",
                {"200": answer("What became of it.", json("BatchAnswer"))},
                "400", "404", "409", "410", "413", "415", "429", "503",
                more=[*_range(), _header(wire.PREVHASH_HEADER, "The rechash before the first record, in hex.")],
                request={
                    "required": True,
                    "description": "Encoded by gzip or not at all; Content-Digest (RFC 9530) is over what travels.",
                    "content": {wire.BATCH_TYPE: {"schema": {"type": "array", "items": ref("Record")}}},
                },
            )
        },
        STREAM + "/holes/{range}": {
            "put": _call(
                "Records that the box no longer has: kept as a visible hole.",
                {"200": answer("The stream behind it.", json("StreamAnswer"))},
                "400", "404", "409", "410", "413", "415",
                more=_range(),
                request=body(ref("HoleBody")),
            )
        },
        VENUE + "/health": {
            "put": _call(
                "A heartbeat.",
                {"200": answer("Heard.", json("TimeAnswer"))},
                "400", "413", "415",
                request={"required": True, "content": json("Heartbeat", wire.HEALTH_TYPE)},
            )
        },
        VENUE + "/commands": {
            "get": _call(
                "The venue's commands as server-sent events; id is {log}-{number}. Without a cursor, or with an unknown"
                " one, reset comes first.",
                {"200": answer("For as long as it holds.", {wire.EVENTS_TYPE: {"schema": {"type": "string"}}})},
                "503",
                more=[_header("Last-Event-ID", "The cursor behind what the box has kept.", required=False)],
            )
        },
        VENUE + "/requests/{service}": {
            "post": _call(
                "A device's request in real time.",
                {"200": answer("What becomes of it.", json("RealtimeReply"))},
                "400", "404", "409", "413", "415", "429", "503",
                more=[parameter("service", "path", "As loyalty.balance.")],
                request=body(ref("RealtimeRequest")),
            )
        },
    }  # fmt: skip


def _named(path: str) -> list[dict[str, Any]]:
    """The parameters that all calls of a path have."""
    words = {"venue": "As [venue] id.", "epoch": "A UUIDv7, lower case."}
    return [parameter(name, "path", text) for name, text in words.items() if f"{{{name}}}" in path]


def _record() -> dict[str, Any]:
    """One element of a batch; the device's event stands in it byte for byte, as `data` or as `data_base64`."""
    carried = ("data", "data_base64")
    plain = [(one.name, one.type) for one in msgspec.structs.fields(wire.WireRecord) if one.name not in carried]
    _, parts = components([msgspec.defstruct("Record", plain)], REF)
    found: dict[str, Any] = parts["Record"]
    found["properties"] |= {"data": ref("Event"), "data_base64": {"type": "string", "format": "byte"}}
    return found | {"oneOf": [{"required": [name]} for name in carried]}


def _call(
    words: str,
    good: dict[str, Any],
    *others: str,
    more: list[dict[str, Any]] | None = None,
    request: dict[str, Any] | None = None,
) -> dict[str, Any]:
    made: dict[str, Any] = {"summary": words, "parameters": more or []}
    if request is not None:
        made["requestBody"] = request
    return made | {"responses": {**good, **problems("401", "403", *others)}}


def _range() -> list[dict[str, Any]]:
    return [
        parameter("range", "path", "first-last, unpadded."),
        _header(wire.INSTANCE_HEADER, "Names one start of the box's process."),
    ]


def _header(name: str, words: str, *, required: bool = True) -> dict[str, Any]:
    return parameter(name, "header", words) | {"required": required}
