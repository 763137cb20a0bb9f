"""[OpenAPI] The local HTTP face as one OpenAPI 3.1 document: `docs/openapi.yaml`. What is served today, no more."""

from typing import Any, Final, Literal

import msgspec

from agent.core.facts import UplinkChange
from agent.core.order_shown import OrderShown, OrdersShown
from agent.core.payment_answers import BusinessDay, PaymentStatus, Suspects
from agent.core.status import Details, VenueStatus
from agent.faces.messages import Refused
from agent.faces.parts import REF
from agent.faces.parts import answer as _answer
from agent.faces.parts import body as _body
from agent.faces.parts import json as _json
from agent.faces.parts import parameter as _parameter
from agent.faces.parts import problems as _problems
from agent.faces.parts import ref as _ref
from agent.faces.parts import text as _text
from agent.faces.schemas import components, event
from agent.lan.desk import Paired
from agent.web.login import COOKIE_TLS
from agent.web.orders import ACTS, TOKEN_HEADER, Act
from agent.web.pair import Asked

SEARCHES: Final = (
    ("suspect", "duplicate; given alone."),
    ("check", "A check's id."),
    ("last4", "The card's last four digits; with amount, and at or from and to."),
    ("amount", "Minor units."),
    ("currency", "Three letters, where there are several."),
    ("at", "About when, RFC 3339."),
    ("within_s", "How far from that, in seconds; 1800 without it."),
    ("from", "RFC 3339."),
    ("to", "RFC 3339."),
    ("device", "A device; with the sequence of its event."),
    ("sequence", "The device's own counter."),
    ("epoch", "Of that counter; any without it."),
)
"""How payments are looked for."""


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


class UplinkHistory(msgspec.Struct):
    """Raw changes, before they are smoothed for people."""

    changes: list[UplinkChange]


TYPES: Final = (
    Asked,
    Paired,
    Waiting,
    Taken,
    Problem,
    Health,
    VenueStatus,
    Details,
    UplinkHistory,
    PaymentStatus,
    Suspects,
    BusinessDay,
    OrdersShown,
    OrderShown,
    Act,
)
ACT_WORDS: Final = {
    "accept": "Somebody makes it.",
    "ready": "It is ready.",
    "provided": "The guest has had it; also for an order that this box has never received.",
    "reject": "The guest will not get it and is refunded. 409 urn:nightsafe:already-provided where that must not be: a"
    " second actor and a reason override it.",
}


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
            " authority) and answers 403 without. A Host that is no name of this box gets 421, another method 405, and"
            " what fails 500, all as application/problem+json. What people do on the box itself goes through the"
            " command line.",
        },
        "servers": [{"url": "https://{host}:8443", "variables": {"host": {"default": "nightsafe.local"}}}],
        "paths": {
            "/livez": _get("The loop and the writer turn.", _text("ok"), "503"),
            "/readyz": _get("A record can be stored now. The uplink is no part of it.", _text("ok"), "503"),
            "/health": _get("Health for monitors.", _json("Health", "application/health+json"), "503"),
            "/metrics": _guarded("Prometheus text.", _text("nightsafe_*")),
            "/": _get("The page for venue staff.", {"text/html": {"schema": {"type": "string"}}}),
            "/api/v1/status": _guarded(
                "How the venue stands, with devices, conditions, disk and versions.",
                {"application/json": {"schema": {"allOf": [_ref("VenueStatus"), _ref("Details")]}}},
            ),
            "/api/v1/uplink/history": _guarded(
                "How the uplink was, each change with its cause; the latest, oldest first.", _json("UplinkHistory")
            ),
            "/api/v1/events/stream": _guarded(
                "The venue's status as server-sent events named status: at once, and at each change. A stream ends"
                " after 45 s and is opened again by whoever follows it.",
                {"text/event-stream": {"schema": {"type": "string"}}},
                "503",
            ),
            "/api/v1/payments/{payment_id}": _with_pin(
                "What became of a payment, and whether the guest may be charged again.",
                {"application/json": {"schema": _ref("PaymentStatus")}},
                _parameter("payment_id", "path", "The payment's id, as the till has it."),
            ),
            "/api/v1/payments": _with_pin(
                "What became of payments that are found by what people remember; or, with suspect=duplicate alone, the"
                " payments that look as if they were taken twice, and refunds of payments that are not settled.",
                {"application/json": {"schema": {"oneOf": [_ref("PaymentStatus"), _ref("Suspects")]}}},
                *(_parameter(name, "query", text) for name, text in SEARCHES),
            ),
            "/api/v1/business-days/{date}": _with_pin(
                "Whether a business day is complete, what it took in, and why it is not safe to close.",
                {"application/json": {"schema": _ref("BusinessDay")}},
                _parameter("date", "path", "A date, as 2026-11-22."),
            ),
            "/api/v1/orders": _with_pin(
                "The latest orders, the latest first.",
                {"application/json": {"schema": _ref("OrdersShown")}},
                _parameter("find", "query", "An order's number, or a part of the guest's name."),
            ),
            "/api/v1/orders/{order_id}": _with_pin(
                "One order, with its true state.",
                {"application/json": {"schema": _ref("OrderShown")}},
                _parameter("order_id", "path", "The order's number."),
                others=("404",),
            ),
            **{f"/api/v1/orders/{{order_id}}/{act}": _order_act(ACT_WORDS[act]) for act in ACTS},
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
            "securitySchemes": {
                "device": {"type": "http", "scheme": "basic"},
                "pin": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE_TLS,
                    "description": "The session that the venue PIN opens at /login.",
                },
            },
            "schemas": schemas,
        },
    }


def _guarded(text: str, content: dict[str, Any], *others: str) -> dict[str, Any]:
    """A GET that names devices or causes: to other machines over TLS only."""
    found = _get(text, content, *others)
    found["get"]["responses"] |= _problems("403")
    return found


def _order_act(text: str) -> dict[str, Any]:
    """What a person says of an order."""
    token = {"name": TOKEN_HEADER, "in": "header", "required": True, "schema": {"type": "string"}}
    return {
        "post": {
            "summary": text,
            "security": [{"pin": []}],
            "parameters": [
                _parameter("order_id", "path", "The order's number."),
                token | {"description": "The token that the forms of this session have."},
            ],
            "requestBody": _body(_ref("Act")),
            "responses": {
                "200": _answer("Done, durably: the order as it is now.", _json("OrderShown")),
                **_problems("400", "401", "403", "409", "413", "415", "503"),
            },
        }
    }


def _with_pin(
    text: str, content: dict[str, Any], *parameters: dict[str, Any], others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A GET that needs a session of the venue PIN."""
    answers = {"200": _answer("As this box knows it now.", content), **_problems("400", "401", "403", "503", *others)}
    return {"get": {"summary": text, "security": [{"pin": []}], "parameters": list(parameters), "responses": answers}}


def _get(text: str, content: dict[str, Any], *others: str) -> dict[str, Any]:
    answers = {"200": _answer(text, content), **{status: {"description": "It is not so."} for status in others}}
    return {"get": {"summary": text, "responses": answers}}
