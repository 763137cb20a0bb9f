"""Whom conform lets in over a network: `over_tls.py HOST PORT CA PASSWORD`. Then the vendors' sample till sells."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.integration import mqtt
from tests.repo.tree import ROOT


def main() -> None:
    host, port, authority, password = sys.argv[1:]
    ways = ["mosquitto_pub", "-h", host, "-p", port, "--cafile", authority, "-u", "till-1", "-t", "x", "-m", "x", "-P"]
    for said, level in (("3.1.1", "311"), ("5.0", "5")):
        got = subprocess.run([*ways, "wrong", "-V", level], capture_output=True, text=True, timeout=10, check=False)
        print(f"wrong password in {said}: {got.stderr.strip()}", flush=True)
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        plain.sendall(mqtt.connect("till-1", username="till-1", password=password.encode()))
        print(f"plain: {'nothing' if not plain.recv(1) else 'an answer'}", flush=True)
    box = {"username": "till-1", "password": password, "host": host, "port": int(port)}
    Path("till-1").mkdir(exist_ok=True)
    Path("till-1/box.json").write_text(json.dumps({**box, "ca_pem": Path(authority).read_text()}))
    sample = str(ROOT / "docs" / "vendors" / "sample_till.py")
    os.execv(sys.executable, [sys.executable, sample, "sell", "--count", "100000", "--every", "0.05"])


if __name__ == "__main__":
    main()
