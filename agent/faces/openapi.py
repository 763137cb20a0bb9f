"""[OpenAPI] The local HTTP face as one OpenAPI 3.1 document: `docs/openapi.yaml`. What is served today, no more."""

from typing import Any, Final, Literal

import msgspec

from agent.core.status import Details, VenueStatus
from agent.faces.messages import Refused
from agent.faces.schemas import components, event
from agent.lan.desk import Paired
from agent.web.pair import Asked

REF: Final = "#/components/schemas/{name}"


class Waiting(msgspec.Struct):
    """A person has not compared the digits yet: ask again with the same body."""

    status: Literal["waiting"]
    fingerprint_shown: str


class Taken(msgspec.Struct):
    """What became of each event: ids that are stored (also those that were stored before), and the refused ones."""

    stored: list[str]
    refused: list[Refused]


class Problem(msgspec.Struct):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str | msgspec.UnsetType = msgspec.UNSET


class Health(msgspec.Struct):
    """application/health+json. Offline is a warning."""

    status: Literal["pass", "warn", "fail"]
    checks: dict[str, Any] = {}


TYPES: Final = (Asked, Paired, Waiting, Taken, Problem, Health, VenueStatus, Details)


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    _, parts = components(TYPES, REF)
    event_schema, event_parts = event(REF)
    schemas = {"Event": event_schema, **event_parts, **parts}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nightsafe local HTTP",
            "version": "1",
            "description": "What the box answers in the venue. Off loopback, /api needs TLS (8443, by the venue's own"
            " authority). What people do on the box itself goes through the command line.",
        },
        "servers": [{"url": "https://{host}:8443", "variables": {"host": {"default": "nightsafe.local"}}}],
        "paths": {
            "/livez": _get("The loop and the writer turn.", _text("ok"), "503"),
            "/readyz": _get("A record can be stored now. The uplink is no part of it.", _text("ok"), "503"),
            "/health": _get("Health for monitors.", _json("Health", "application/health+json"), "503"),
            "/metrics": _get("Prometheus text.", _text("nightsafe_*")),
            "/": _get("The page for venue staff.", {"text/html": {"schema": {"type": "string"}}}),
            "/api/v1/status": _get(
                "How the venue stands, with devices, conditions, disk and versions.",
                {"application/json": {"schema": {"allOf": [_ref("VenueStatus"), _ref("Details")]}}},
            ),
            "/api/v1/pair": {
                "post": {
                    "summary": "A device is let in by its code.",
                    "requestBody": _body(_ref("Asked")),
                    "responses": {
                        "201": _answer("Let in.", _json("Paired")),
                        "202": _answer("Wait for a person.", _json("Waiting")),
                        **_problems("400", "403", "409", "413", "429", "503"),
                    },
                }
            },
            "/api/v1/devices/{device}/events": {
                "post": {
                    "summary": "The door for devices without MQTT: one event, or a batch.",
                    "security": [{"device": []}],
                    "parameters": [{"name": "device", "in": "path", "required": True, "schema": {"type": "string"}}],
                    "requestBody": _body({"oneOf": [_ref("Event"), {"type": "array", "items": _ref("Event")}]}),
                    "responses": {
                        "200": _answer("Answered after the commit.", _json("Taken")),
                        **_problems("400", "401", "403", "413", "415", "429", "503"),
                    },
                }
            },
        },
        "components": {
            "securitySchemes": {"device": {"type": "http", "scheme": "basic"}},
            "schemas": schemas,
        },
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": REF.format(name=name)}


def _json(name: str, media: str = "application/json") -> dict[str, Any]:
    return {media: {"schema": _ref(name)}}


def _text(example: str) -> dict[str, Any]:
    return {"text/plain": {"schema": {"type": "string"}, "example": example}}


def _answer(text: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": content}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _problems(*statuses: str) -> dict[str, Any]:
    return {status: _answer("Why not.", _json("Problem", "application/problem+json")) for status in statuses}


def _get(text: str, content: dict[str, Any], *others: str) -> dict[str, Any]:
    answers = {"200": _answer(text, content), **{status: {"description": "It is not so."} for status in others}}
    return {"get": {"summary": text, "responses": answers}}
