"""What a running box sends is what the schemas for vendors say, topic by topic."""

import json
import ssl
from collections.abc import Callable
from http.client import HTTPConnection, HTTPSConnection
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from agent.faces.asyncapi import TOPICS
from tests.integration import mqtt
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import V5, Device
from tests.repo.tree import ROOT
from tests.sales import counted, event

pytestmark = pytest.mark.needs("mosquitto")


def schema_of(topic: str) -> str | None:
    """The schema that the contract names for a topic."""
    for one in TOPICS:
        pattern, levels = one.address.split("/"), topic.split("/")
        same = (want.startswith("{") or want == has for want, has in zip(pattern, levels, strict=False))
        if len(pattern) == len(levels) and all(same):
            return one.name
    return None


def test_everything_that_a_device_is_sent_keeps_to_its_schema(new_box: Callable[..., Box]) -> None:
    box = new_box(intake={"gap_resend_s": 0.2}).start()
    messages = {one.name: one.message for one in TOPICS}
    validators = {
        name: Draft202012Validator(json.loads((ROOT / "docs/schemas" / f"{message}.json").read_text()))
        for name, message in messages.items()
    }
    own = Draft202012Validator(json.loads((ROOT / "docs/schemas/own-receipt.json").read_text()))
    check = {"check_id": "1009", "total": {"amount": 1250, "currency": "GBP"}}
    heard: dict[str, list[Any]] = {}
    with Device(box.port, "till-1", level=V5) as till:
        till.send(mqtt.subscribe("pos/v1/till-1/#", packet_id=900, level=V5))
        till.send(mqtt.subscribe("pos/v1/venue/#", packet_id=901, level=V5))
        props = mqtt.properties(b"\x08" + mqtt.text("pos/v1/till-1/replies/mine"))
        for at, payload in enumerate((
            counted("e1", 1), counted("e1", 3), event(type="pos.check.opened", data=check), b"no JSON",
            event(type="pos.payment.captured", data={}), counted("e2", 2),
        ), 1):  # fmt: skip
            till.send(mqtt.publish(till.events, payload, packet_id=at, level=V5, props=props))
        asked = b'{"id":"q1","args":{"customer_id":"c1"}}'
        till.send(mqtt.publish("pos/v1/till-1/requests/loyalty.balance", asked, packet_id=99, level=V5))

        def look() -> bool:
            try:
                got = till.packet(0.2)
            except TimeoutError:
                return False
            if got.kind == mqtt.PUBLISH:
                at = 2 + len(got.topic.encode()) + (2 if got.flags & 6 else 0)
                if got.flags & 6:
                    till.send(mqtt.frame(mqtt.PUBACK, got.body[at - 2 : at]))
                length, at = mqtt.read_varint(got.body, at)
                name = "own" if got.topic.endswith("/mine") else schema_of(got.topic) or got.topic
                heard.setdefault(name, []).append(json.loads(got.body[at + length :]))
            wanted = {
                "receipt",
                "receiptOfAnEpoch",
                "commands",
                "status",
                "notices",
                "capabilities",
                "replies",
                "checks",
                "own",
            }
            whole = wanted <= heard.keys() and len(heard["own"]) >= 6
            return whole and any(one["notices"] for one in heard["notices"])

        until(look, f"a message of each kind; heard: {sorted(heard)}", 20)
    assert heard.keys() <= validators.keys() | {"own"}
    for name, bodies in heard.items():
        for body in bodies:
            found = [error.message for error in (own if name == "own" else validators[name]).iter_errors(body)]
            assert not found, (name, body, found)


def test_the_status_over_http_keeps_to_its_schema(box: Box) -> None:
    document = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
    answer = document["paths"]["/api/v1/status"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    schema = {**answer, "components": document["components"]}
    assert not [error.message for error in Draft202012Validator(schema).iter_errors(box.status())]
    broken = box.status() | {"state": "sideways"}
    assert [error.message for error in Draft202012Validator(schema).iter_errors(broken)]


def test_a_running_box_answers_what_the_openapi_document_says(new_box: Callable[..., Box]) -> None:
    """Each path is there, and each answer is one of those described; as somebody asks who is not logged in."""
    document = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
    box = new_box(web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": {"also_plain": ["127.0.0.1:0"]}}).start()
    here = ssl.create_default_context(cafile=str(box.state / "identity" / "ca.pem"))
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            line = HTTPSConnection("localhost", box.pages["https"], context=here, timeout=10)
            body = None if method == "get" else b"no json"
            line.request(method.upper(), path.replace("{", "").replace("}", ""), body)
            answer = line.getresponse()
            said = operation["responses"].get(str(answer.status))
            assert said is not None, (method, path, answer.status)
            assert answer.headers.get_content_type() in said.get("content", {"text/plain": {}}), (method, path)
            line.close()


def test_the_reference_cloud_answers_what_its_openapi_document_says(cloud: CloudServer) -> None:
    """Each path is there, and each answer to a call without a body is one of those described."""
    document = yaml.safe_load((ROOT / "docs" / "openapi-cloud.yaml").read_text())
    host, _, port = cloud.url.removeprefix("http://").rpartition(":")
    for path, methods in document["paths"].items():
        for method in methods.keys() & {"get", "put", "post"}:
            line = HTTPConnection(host, int(port), timeout=10)
            line.request(method.upper(), path.format(venue="demo", epoch="e", range="1-2", service="x.y"))
            answer = line.getresponse()
            said = methods[method]["responses"].get(str(answer.status))
            assert said is not None, (method, path, answer.status)
            assert answer.headers.get_content_type() in said["content"], (method, path)
            body = b"" if answer.headers.get_content_type() == "text/event-stream" else answer.read()
            if answer.status >= 400:
                assert json.loads(body)["type"].startswith("urn:nightsafe:"), (method, path, body)
            line.close()
