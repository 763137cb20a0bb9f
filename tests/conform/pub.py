"""mosquitto_pub as a device: one process for each sale, run again until it says that it was acknowledged."""

import json
import subprocess
import sys
import time
import uuid

ENDED_MAX_S = 4.0


def main() -> None:
    last, epoch = 0, str(uuid.uuid4())
    while True:
        last += 1
        event = {
            "specversion": "1.0", "id": str(uuid.uuid4()), "source": "/devices/till-1", "type": "pos.payment.captured",
            "epoch": epoch, "sequence": f"{last:020}",
            "data": {"payment_id": str(uuid.uuid4()), "amount": {"amount": 1, "currency": "GBP"}, "tender": "cash"},
        }  # fmt: skip
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", sys.argv[1], "-u", "till-1", "-i", "till-1", "-q", "1"]
        command += ["-V", "mqttv5", "-t", "pos/v1/till-1/events", "-m", json.dumps(event)]
        # 0: acknowledged; 153: acknowledged with 0x99, which is final. Anything else: the same bytes again.
        while run(command) not in (0, 153):
            time.sleep(1)


def run(command: list[str]) -> int:
    """Its exit status; one that hangs for ever, as some do whose connection is reset, counts as failed."""
    try:
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL, timeout=ENDED_MAX_S).returncode
    except subprocess.TimeoutExpired:
        return -1


if __name__ == "__main__":
    main()
