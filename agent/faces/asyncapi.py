"""[AsyncAPI] The device contract over MQTT as one AsyncAPI 3 document: `docs/asyncapi.yaml`.

Written from the box's side: it *receives* what devices publish, and *sends* what they subscribe to.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from agent.core.events import DEVICE_PATTERN
from agent.faces.schemas import EVENT_TITLE, MESSAGES, components, event

REF: Final = "#/components/schemas/{name}"


class Topic(NamedTuple):
    """One topic of the contract. `way` is what the box does; `message` names the schema."""

    name: str
    address: str
    way: Literal["receive", "send"]
    message: str
    retained: bool
    text: str


TOPICS: Final = (
    Topic(
        "events",
        "pos/v1/{device}/events",
        "receive",
        "event",
        False,
        "What happened on the device. QoS 1 (or 2): a successful PUBACK (PUBREC) means that it is on disk, and that the"
        " device may be switched off. QoS 0 is taken without a promise. In MQTT 5 a refused event has 0x99 and a reason"
        " string, one at another device's topic 0x87; a connection that can store nothing right now ends with 0x97 and"
        " without a PUBACK: keep the event and send it again. MQTT 3.1.1 has no reasons: read the receipt. A Response"
        " Topic at or below the device's `replies`, with Correlation Data, gets the event's own receipt.",
    ),
    Topic("state", "pos/v1/{device}/state", "receive", "state", True, "How the device is; set it as the will, too."),
    Topic(
        "requests",
        "pos/v1/{device}/requests/{service}",
        "receive",
        "request",
        False,
        "A real-time request to a service.",
    ),
    Topic(
        "receipt",
        "pos/v1/{device}/receipt",
        "send",
        "receipt",
        True,
        "What is durable of the device's newest epoch; a few times a second at most.",
    ),
    Topic(
        "receiptOfAnEpoch",
        "pos/v1/{device}/receipt/{epoch}",
        "send",
        "receipt",
        True,
        "The same of an older epoch.",
    ),
    Topic(
        "commands",
        "pos/v1/{device}/commands",
        "send",
        "command",
        False,
        "What the device is to do. The same id comes again after each `ready` until `applied` names it.",
    ),
    Topic(
        "replies",
        "pos/v1/{device}/replies",
        "send",
        "reply",
        False,
        "The answer to a real-time request.",
    ),
    Topic(
        "orders",
        "pos/v1/{device}/orders",
        "send",
        "order",
        False,
        "One order for the venue, to devices whose state is `ready`; when something of it has changed, and again after"
        " each `ready`. The same id is the same order: show what came last. Answer by `pos.order.*` events.",
    ),
    Topic("status", "pos/v1/venue/status", "send", "venue-status", True, "How the venue stands, for every device."),
    Topic(
        "capabilities",
        "pos/v1/venue/capabilities",
        "send",
        "capabilities",
        True,
        "Which real-time services can be asked now.",
    ),
    Topic("notices", "pos/v1/venue/notices", "send", "notices", True, "What staff should read."),
    Topic(
        "checks",
        "pos/v1/venue/checks/{checkId}",
        "send",
        "open-check",
        True,
        "The last word about an open check, whoever said it; cleared when it ends. Characters other than letters,"
        " digits and `._-~:` are percent-encoded.",
    ),
)

PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "device": {
        "description": f"The device's id, which is its user name: {DEVICE_PATTERN}; not agent, venue, nightsafe."
    },
    "service": {
        "description": "A real-time service.",
        "enum": [
            "loyalty.balance", "loyalty.redeem", "gift_card.balance", "gift_card.sell", "gift_card.redeem",
            "on_account.charge", "on_account.pay", "availability.lookup", "card.authorize", "payment.status",
            "notices.mute",
        ],
    },
    "epoch": {"description": "One unbroken history of the device's counter."},
    "checkId": {"description": "The check's id, percent-encoded."},
}  # fmt: skip


def document() -> dict[str, Any]:
    """The AsyncAPI document."""
    found, parts = components([shape for _, shape in MESSAGES.values()], REF)
    event_schema, event_parts = event(REF)
    schemas = {"event": event_schema, **dict(zip(MESSAGES, found, strict=True)), **event_parts, **parts}
    titles = {"event": EVENT_TITLE, **{name: title for name, (title, _) in MESSAGES.items()}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Nightsafe device contract",
            "version": "1",
            "description": "What tills, handhelds and kiosks speak with the box of their venue. The rules are in"
            " vendors.md; operations are the box's: it receives what devices publish.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "venue": {
                "host": "{host}:{port}",
                "protocol": "secure-mqtt",
                "protocolVersion": "3.1.1 or 5.0",
                "description": "TLS 1.2 or later by the venue's own authority. Host, port, authority, user name and"
                " password are told at pairing.",
                "variables": {"host": {"description": "As told at pairing."}, "port": {"default": "8883"}},
                "security": [{"$ref": "#/components/securitySchemes/paired"}],
            },
            "desk": {
                "host": "127.0.0.1:1883",
                "protocol": "mqtt",
                "description": "Plain, on the developer's own machine only.",
            },
        },
        "channels": {one.name: _channel(one) for one in TOPICS},
        "operations": {one.name: _operation(one) for one in TOPICS},
        "components": {
            "securitySchemes": {
                "paired": {"type": "userPassword", "description": "The device's id, and the secret told at pairing."}
            },
            "messages": {
                name: {
                    "title": title,
                    "contentType": "application/cloudevents+json" if name == "event" else "application/json",
                    "payload": {"$ref": REF.format(name=name)},
                }
                for name, title in titles.items()
            },
            "schemas": schemas,
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    names = [part[1:-1] for part in topic.address.split("/") if part.startswith("{")]
    made: dict[str, Any] = {
        "address": topic.address,
        "messages": {topic.message: {"$ref": f"#/components/messages/{topic.message}"}},
        "description": topic.text,
    }
    return made | ({"parameters": {name: PARAMETERS[name] for name in names}} if names else {})


def _operation(topic: Topic) -> dict[str, Any]:
    made: dict[str, Any] = {
        "action": topic.way,
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{topic.message}"}],
        "bindings": {"mqtt": {"qos": 1, "retain": topic.retained, "bindingVersion": "0.2.0"}},
    }
    return made
