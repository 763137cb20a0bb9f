#!/usr/bin/env python3
"""A till that keeps the rules of docs/vendors.md, to be read and copied. Needs Python 3.11 and paho-mqtt 2, no more.

    sample_till.py pair --host 192.168.1.20 --code 48317720 --device till-1     the secret goes to till-1/box.json
    sample_till.py sell --device till-1 --count 100                             at a box it was paired with
    sample_till.py sell --device till-1 --plain 127.0.0.1:1883                  at a box on your own desk

Every rule stands at the line that keeps it. A real till draws screens and asks people; this one makes up its sales.
"""

import argparse
import hashlib
import http.client
import json
import os
import queue
import socket
import sqlite3
import ssl
import threading
import time
import uuid
from pathlib import Path

import paho.mqtt.client as mqtt

WINDOW = 20  # events under way at once; the box says how many it takes (Receive Maximum, 64)


class Outbox:
    """All that the box has not confirmed, on this device's own disk. Nothing is sent that does not stand here first."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = full")  # a sale that the guest saw must survive a power cut here, too
        self.db.execute(
            "create table if not exists events (epoch text, sequence integer, body blob, state text default 'waiting',"
            " primary key (epoch, sequence)) without rowid"
        )
        self.db.execute("create table if not exists facts (name text primary key, value text) without rowid")
        self.epoch = self.fact("epoch") or self.begin_epoch()

    def fact(self, name: str) -> str | None:
        row = self.db.execute("select value from facts where name = ?", (name,)).fetchone()
        return row[0] if row else None

    def note(self, name: str, value: str) -> None:
        self.db.execute("insert or replace into facts values (?, ?)", (name, value))

    def begin_epoch(self) -> str:
        """A new history of the counter: after a reinstall, or when what the box asks for is gone. Never go back."""
        self.epoch = str(uuid.uuid4())
        self.note("epoch", self.epoch)
        return self.epoch

    @property
    def last(self) -> int:
        """The highest sequence that was given out in this epoch."""
        return int(self.fact(f"last/{self.epoch}") or 0)

    def add(self, device: str, kind: str, data: dict) -> int:
        """Write one event down, with the next sequence: 1, 2, 3 … without holes. One transaction for both."""
        sequence = self.last + 1
        event = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),  # never used twice, not even for another attempt at the same sale
            "source": f"/devices/{device}",
            "type": kind,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),  # for people; nothing is ordered by it
            "epoch": self.epoch,
            "sequence": f"{sequence:020}",
            "data": data,
        }
        with self.db:
            self.db.execute("begin immediate")
            self.db.execute(
                "insert into events (epoch, sequence, body) values (?, ?, ?)",
                (self.epoch, sequence, json.dumps(event).encode()),  # these bytes are sent, now and at every repeat
            )
            self.note(f"last/{self.epoch}", str(sequence))
        return sequence

    def waiting(self, count: int) -> list[tuple[str, int, bytes]]:
        """What is to be sent next, the oldest first; an older epoch before this one."""
        query = "select epoch, sequence, body from events where state = 'waiting' order by epoch = ?, sequence limit ?"
        return self.db.execute(query, (self.epoch, count)).fetchall()

    def pending(self) -> int:
        """How many events the box has not acknowledged."""
        return self.db.execute("select count(*) from events where state = 'waiting'").fetchone()[0]

    def mark(self, epoch: str, sequence: int, state: str) -> None:
        self.db.execute("update events set state = ? where epoch = ? and sequence = ?", (state, epoch, sequence))

    def again(self, epoch: str, first: int, last: int) -> bool:
        """Have these sent once more; False where one of them is gone."""
        query = "update events set state = 'waiting' where epoch = ? and sequence between ? and ?"
        return self.db.execute(query, (epoch, first, last)).rowcount == last - first + 1

    def forget(self, epoch: str, uploaded: int) -> None:
        """The cloud has these: the box never asks for them again."""
        self.db.execute("delete from events where epoch = ? and sequence <= ? and state = 'stored'", (epoch, uploaded))


class Till:
    """One connection to the box, for ever. Selling never waits for it."""

    def __init__(self, device: str, folder: Path, box: dict) -> None:
        self.device, self.prefix = device, f"pos/v1/{device}/"
        self.outbox = Outbox(folder / "outbox.db")
        self.lock = threading.Lock()  # for the outbox
        self.jobs: queue.SimpleQueue = queue.SimpleQueue()  # paho's thread only hands over; one thread does it all
        self.under_way: dict[int, tuple[str, int]] = {}  # packet id → epoch and sequence
        self.applied: list[str] = json.loads(self.outbox.fact("applied") or "[]")
        self.payments_held = self.outbox.fact("payments_held") == "yes"
        self.client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, device, protocol=mqtt.MQTTv5)
        if "ca_pem" in box:
            client.username_pw_set(box["username"], box["password"])
            client.tls_set_context(ssl.create_default_context(cadata=box["ca_pem"]))  # the venue's authority, no other
        else:
            client.username_pw_set(device)
        client.max_inflight_messages_set(WINDOW)
        client.reconnect_delay_set(1, 60)  # come again, more slowly each time: twenty tills may come at once
        client.will_set(self.prefix + "state", json.dumps({"state": "offline"}), qos=1, retain=True)
        client.on_connect = lambda _c, _d, _f, reason, _p: self.jobs.put((self._connected, reason))
        client.on_publish = lambda _c, _d, mid, reason, _p: self.jobs.put((self._acknowledged, mid, reason))
        client.on_message = lambda _c, _d, message: self.jobs.put((self._told, message))
        threading.Thread(target=self._work, daemon=True).start()
        client.connect_async(box["host"], box["port"], keepalive=30)
        client.loop_start()

    def sell(self, kind: str, data: dict) -> int:
        """Written down first; then, if the box is there, sent. This is all that a guest ever waits for."""
        with self.lock:
            sequence = self.outbox.add(self.device, kind, data)
        self.jobs.put((self._send,))
        return sequence

    def pending(self) -> int:
        """How many events the box has not acknowledged."""
        with self.lock:
            return self.outbox.pending()

    def close(self) -> None:
        done = threading.Event()
        self.jobs.put((lambda: (self._say("offline").wait_for_publish(5), done.set()),))
        done.wait(6)
        self.client.disconnect()
        self.client.loop_stop()

    def _work(self) -> None:
        while True:
            do, *arguments = self.jobs.get()
            with self.lock:
                do(*arguments)

    def _send(self) -> None:
        """Fill the window, in order. What is under way is not sent twice on one connection."""
        under_way = set(self.under_way.values())
        for epoch, sequence, body in self.outbox.waiting(WINDOW):
            if len(self.under_way) >= WINDOW or not self.client.is_connected():
                return
            if (epoch, sequence) not in under_way:
                sent = self.client.publish(self.prefix + "events", body, qos=1)
                self.under_way[sent.mid] = (epoch, sequence)

    def _connected(self, reason) -> None:
        if reason.is_failure:
            return
        topics = [self.prefix + name for name in ("receipt", "receipt/+", "commands", "replies")]
        self.client.subscribe([(topic, 1) for topic in (*topics, "pos/v1/venue/#")])
        self._say("ready")
        self._send()  # paho itself repeats what was under way; the rest of the outbox follows

    def _acknowledged(self, packet_id, reason) -> None:
        found = self.under_way.pop(packet_id, None)
        if found is None:
            return  # of another message than an event
        # A PUBACK without an error: it is on the box's disk. With one: the box has set it aside for people to look at,
        # and sending it again changes nothing. No PUBACK at all: it stays in the outbox.
        self.outbox.mark(*found, "refused" if reason.is_failure else "stored")
        self._send()

    def _told(self, message) -> None:
        if not message.payload:
            return
        name, body = message.topic, json.loads(message.payload)
        if name.startswith(self.prefix + "receipt") and body["epoch"]:
            for one in body["refused"]:  # in MQTT 3.1.1 this is the only word about a refusal
                if one["sequence"]:
                    self.outbox.mark(body["epoch"], int(one["sequence"]), "refused")
            self.outbox.forget(body["epoch"], int(body["uploaded"]))
        elif name == self.prefix + "commands" and body["id"] not in self.applied:
            self._do(body)

    def _do(self, command: dict) -> None:
        """Do it, note that it is done, say so: in this order, so that a power cut in between repeats it."""
        if command["command"] == "resend":
            args = command["args"]
            if not self.outbox.again(args["epoch"], int(args["from"]), int(args["to"])):
                self.outbox.begin_epoch()  # what the box lacks is gone: say so by a new history, never by silence
            self._send()
        elif command["command"] in ("hold_payments", "release_payments"):
            self.payments_held = command["command"] == "hold_payments"
            self.outbox.note("payments_held", "yes" if self.payments_held else "no")
        elif command["command"] == "identify":
            print("\a*** this is", self.device, "***", flush=True)
        self.applied = [*self.applied, command["id"]][-100:]
        self.outbox.note("applied", json.dumps(self.applied))
        self._say("ready")

    def _say(self, state: str) -> mqtt.MQTTMessageInfo:
        body = {
            "state": state, "app": "sample", "version": "1.0", "epoch": self.outbox.epoch,
            "last": str(self.outbox.last), "pending": self.outbox.pending(), "applied": self.applied,
        }  # fmt: skip
        return self.client.publish(self.prefix + "state", json.dumps(body), qos=1, retain=True)


def authority_of(host: str, port: int) -> bytes:
    """The certificate (DER) of the authority that this server calls its own. Nobody vouches for it yet."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), timeout=10) as plain, blind.wrap_socket(plain) as line:
        if hasattr(line, "get_unverified_chain"):  # Python 3.13
            return line.get_unverified_chain()[-1]
        return ssl.PEM_cert_to_DER_cert(line._sslobj.get_unverified_chain()[-1].public_bytes())


def pair(host: str, port: int, code: str, device: str) -> dict:
    """Ask the box for this device's secret. A person compares the digits on this screen with those on the box."""
    authority = authority_of(host, port)
    digits = hashlib.sha256(authority).hexdigest()[:20].upper()
    print("Compare with the box:", " ".join(digits[at : at + 4] for at in range(0, 20, 4)), flush=True)
    # The code goes only to a server that this very authority has signed for: else somebody in between could show the
    # box's certificate, let the person compare it, and keep the secret.
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(authority))
    while True:
        line = http.client.HTTPSConnection(host, port, timeout=60, context=context)
        line.request("POST", "/api/v1/pair", json.dumps({"code": code, "name": device}))
        answer = line.getresponse()
        body = json.loads(answer.read())
        if answer.status == 201:
            return body
        if answer.status != 202:  # 202: nobody has compared yet
            raise SystemExit(f"{answer.status}: {body.get('detail') or body['title']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A till that keeps the rules.")
    parser.add_argument("what", choices=["pair", "sell"])
    parser.add_argument("--device", default="till-1")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8443, help="of the box's page with TLS")
    parser.add_argument("--code", help="the eight digits that the box shows")
    parser.add_argument("--plain", metavar="HOST:PORT", help="a box in development, without pairing")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two sales")
    given = parser.parse_args()
    folder = Path(given.device)
    folder.mkdir(mode=0o700, exist_ok=True)
    if given.what == "pair":
        box = pair(given.host, given.port, given.code, given.device)
        with open(os.open(folder / "box.json", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            json.dump(box, file)  # the secret is told once: keep it, for this device's own eyes
        print("paired: MQTT at", box["host"], box["port"])
        return
    if given.plain:
        host, _, port = given.plain.rpartition(":")
        box = {"host": host, "port": int(port)}
    else:
        box = json.loads((folder / "box.json").read_text())
    till = Till(given.device, folder, box)
    for _ in range(given.count):
        payment = {"payment_id": str(uuid.uuid4()), "amount": {"amount": 1250, "currency": "GBP"}, "tender": "cash"}
        print("sold", till.sell("pos.payment.captured", payment), flush=True)
        time.sleep(given.every)
    while till.pending():
        time.sleep(0.1)
    print("all on the box", flush=True)
    till.close()


if __name__ == "__main__":
    main()
