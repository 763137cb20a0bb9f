"""A till in a few lines that keeps every rule, or breaks one: `python -m tests.conform.till HOST PORT FAULT`.

Sells twenty times a second, asks for something in real time now and then, and lives until it is killed.
"""

import json
import socket
import sys
import time
import uuid
from typing import Any

from tests.integration import mqtt
from tests.integration.mqtt import V5, Gone, Packet, Wire

SELL_S = 0.05
ASK_S = 0.5
PAUSE_S = 0.6
WINDOW = 4


class Till:
    """`fault` names the rule that it breaks; empty: none."""

    def __init__(self, host: str, port: int, fault: str) -> None:
        assert host == "127.0.0.1"
        self.port, self.fault, self.qos = port, fault, 2 if "QoS 2" in fault else 1
        self.epoch, self.last = "e1", 0
        self.outbox: list[dict[str, Any]] = []
        self.kept: dict[int, dict[str, Any]] = {}
        self.under_way: dict[int, dict[str, Any]] = {}
        self.applied: list[str] = []
        self.packet_id = 0
        self.waits_for_reply = False
        self.status_time = ""
        self.refused: list[dict[str, Any]] = []

    def run(self) -> None:
        while True:
            try:
                with Wire(self.port) as wire:
                    self.serve(wire)
            except (OSError, Gone, TimeoutError):
                pass
            if self.fault == "forgets":
                self.outbox.clear()
            if self.fault == "new ids":
                self.outbox = [one | {"id": str(uuid.uuid4())} for one in self.outbox]
            if self.fault == "newest first":
                self.outbox.sort(key=lambda one: one["sequence"], reverse=True)
            if self.fault == "changes what it repeats":
                self.outbox = [one | {"time": "2026-11-23T00:00:00Z"} for one in self.outbox]
            self.outbox[:0] = self.refused
            self.under_way.clear()
            if self.fault != "hammers":
                time.sleep(PAUSE_S)

    def serve(self, wire: Wire) -> None:
        wire.send(mqtt.connect("till-1", username="till-1", level=V5))
        assert wire.packet(5).body[1] == 0
        for at, topic in enumerate(("commands", "replies", "receipt"), 60_000):
            if topic != "commands" or self.fault != "hears no commands":
                wire.send(mqtt.subscribe(f"pos/v1/till-1/{topic}", packet_id=at, level=V5))
        wire.send(mqtt.subscribe("pos/v1/venue/status", packet_id=60_009, level=V5))
        self.say(wire)
        sold_s = asked_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            if now_s - sold_s >= SELL_S and not self.waits_for_reply:
                sold_s = now_s
                self.sell()
            if now_s - asked_s >= ASK_S:
                asked_s = now_s
                body = json.dumps({"id": str(uuid.uuid4()), "args": {}}).encode()
                wire.send(mqtt.publish("pos/v1/till-1/requests/loyalty.balance", body, packet_id=61_000, level=V5))
                self.waits_for_reply = self.fault == "waits for the cloud"
            self.send(wire)
            try:
                self.take(wire, wire.packet(0.02))
            except TimeoutError:
                continue

    def sell(self) -> None:
        self.last += 2 if self.fault == "leaves holes" and self.last else 1
        data = {"payment_id": str(uuid.uuid4()), "amount": {"amount": 1250, "currency": "GBP"}, "tender": "cash"}
        if self.fault == "says card numbers":
            data["note"] = "4111 1111 1111 1111"
        sequence = 1 if self.fault == "counts nothing" else self.last
        event = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": "/devices/till-1",
            "type": "pos.payment.captured",
            "epoch": self.epoch,
            "sequence": f"{sequence:020}",
            "data": data,
        }
        if self.fault == "counts not at all":
            del event["epoch"], event["sequence"]
        self.outbox.append(event)
        self.kept[sequence] = event

    def send(self, wire: Wire) -> None:
        under_way = [one["id"] for one in self.under_way.values()]
        for event in self.outbox[:WINDOW]:
            if len(self.under_way) < WINDOW and event["id"] not in under_way:
                self.packet_id = self.packet_id % 50_000 + 1
                self.under_way[self.packet_id] = event
                body = json.dumps(event).encode()
                wire.send(mqtt.publish("pos/v1/till-1/events", body, packet_id=self.packet_id, level=V5, qos=self.qos))

    def take(self, wire: Wire, got: Packet) -> None:
        if got.kind in (mqtt.PUBACK, mqtt.PUBREC) and got.packet_id in self.under_way:
            event = self.under_way.pop(got.packet_id)
            if got.kind == mqtt.PUBREC and got.reason < 0x80 and self.fault != "QoS 2 without a release":
                wire.send(mqtt.frame(mqtt.PUBREL, got.body[:2], 2))
            if self.fault == "repeats for ever" or (got.reason >= 0x80 and self.fault == "repeats what is refused"):
                return
            if got.reason >= 0x80 and self.fault == "repeats what is refused on each connection":
                self.refused.append(event)
            if event in self.outbox:
                self.outbox.remove(event)
        elif got.kind == mqtt.DISCONNECT and self.fault == "drops what was not taken":
            self.outbox.clear()
            self.kept.clear()
        elif got.kind == mqtt.PUBLISH:
            at = 2 + len(got.topic.encode())
            if got.flags & 6:
                wire.send(mqtt.frame(mqtt.PUBACK, got.body[at : at + 2]))
                at += 2
            length, at = mqtt.read_varint(got.body, at)
            self.told(wire, got.topic, json.loads(got.body[at + length :]))

    def told(self, wire: Wire, topic: str, body: dict[str, Any]) -> None:
        if topic.endswith("/commands") and body["command"] == "resend":
            if self.fault != "resends nothing":
                numbers = range(int(body["args"]["from"]), int(body["args"]["to"]) + 1)
                self.outbox[:0] = [self.kept[number] for number in numbers if number in self.kept]
            if self.fault != "confirms nothing":
                self.applied.append(body["id"])
            self.say(wire)
        elif topic == "pos/v1/venue/status":
            before, self.status_time = self.status_time, body["time"]
            if self.fault == "dies of the clock" and before and body["time"][:4] != before[:4]:
                time.sleep(3_600)
            if self.fault == "trusts the clock" and before and body["time"][:4] != before[:4]:
                self.epoch, self.last = str(uuid.uuid4()), 0

    def say(self, wire: Wire) -> None:
        state = {"state": "ready", "applied": self.applied}
        wire.send(mqtt.publish("pos/v1/till-1/state", json.dumps(state).encode(), packet_id=60_100, level=V5))


if __name__ == "__main__":
    socket.setdefaulttimeout(5)
    Till(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "").run()
