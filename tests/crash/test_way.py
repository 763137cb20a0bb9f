"""The name of the cloud leads nowhere, or to somebody else: nothing goes up, people read why, and it goes on by itself.

The upload itself, through the system's own resolver and trust store, to a cloud behind TLS.
"""

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.crash.judge import Disk, chained
from tests.crash.names import Certificate, Door, Lookup, NameServer, in_its_own_namespace
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import Device
from tests.sales import counted

SOLD = 20
ADDRESS_KEPT_S = 10.0
"""A running upload uses an address that it has found for so long."""
LOOKUPS: tuple[Lookup, ...] = ("unknown", "fails", "silent")
WRONG: tuple[Certificate, ...] = ("unknown authority", "other name", "expired", "not yet valid")


class Way:
    """box → name → door → cloud, and tills that sell at the box."""

    def __init__(self, box: Box, cloud: CloudServer, names: NameServer, door: Door) -> None:
        self.box = box
        self.cloud = cloud
        self.names = names
        self.door = door
        self.disk = Disk(box)
        self._tills = count(1)

    def sell(self) -> None:
        """Events of a new till, each acknowledged."""
        with Device(self.box.port, f"till-{next(self._tills)}") as device:
            for number in range(1, SOLD + 1):
                device.tell(counted("e1", number))

    @property
    def status(self) -> Any:
        return self.box.status()

    @property
    def cursor(self) -> int:
        return int(self.status["journal"]["cursor"])

    def is_waiting(self, cause: str, sentence: str, codes: set[str], within_s: float = 10.0) -> None:
        """People read why, the drain waits and says it, and two tries later nothing has moved."""
        cursor = self.cursor
        until(lambda: (self.status["state"], self.status["cause"]) == ("offline", cause), f"offline: {cause}", within_s)
        assert sentence in self.status["sentence"]
        assert "Keep selling" in self.status["sentence"]
        until(lambda: self.status["sync"]["state"] == "waiting", "the drain waits", within_s)
        assert self.status["drain"]["error_code"] in codes
        tries = self.tries
        until(lambda: self.tries >= tries + 2, "it is tried again", within_s)
        assert self.cursor == cursor
        assert self.status["sync"]["pending"] >= SOLD

    @property
    def tries(self) -> int:
        return self.box.text.count("event=drain_failed")

    def settle(self) -> None:
        """It goes on by itself, and the cloud has the journal."""
        until(self.box.uploaded, "the cloud has everything", 20)
        until(lambda: self.status["state"] == "online", "people read that all is well")
        self.disk.look()
        assert chained(self.cloud.export()) == self.disk.seals


@pytest.fixture
def way(new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer], tmp_path: Path) -> Iterator[Way]:
    """Everything but the box is started."""
    cloud = new_cloud().start()
    names = NameServer()
    door = Door(("127.0.0.1", cloud.port), tmp_path)
    box = new_box(
        door.url,
        cloud={"token_file": "token", "request_timeout_s": 1.5, "connect_timeout_s": 1.5},
        drain={"backoff_first_s": 0.2, "backoff_max_s": 0.5},
        logs={"level": "debug"},
        uplink={"probe_interval_s": 1, "probe_timeout_s": 1.5, "offline_debounce_s": 0.5},
    )
    (box.directory / "token").write_text("secret\n")
    box.command = in_its_own_namespace(box.command, tmp_path)
    box.environment["SSL_CERT_FILE"] = str(door.authority_file)
    yield Way(box, cloud, names, door)
    box.close()
    door.close()
    names.close()


@pytest.mark.parametrize("does", LOOKUPS)
def test_A1_2_an_upload_whose_name_leads_nowhere_waits_and_goes_on_when_it_does(way: Way, does: Lookup) -> None:
    """From the first start on, as after a power cut in which the router comes back last."""
    way.names.does = does
    way.box.start()
    way.sell()
    codes = {"timeout"} if does == "silent" else {"lookup_failed"}
    way.is_waiting("dns", "the name of the cloud cannot be looked up", codes, 20)
    assert way.names.asked_count
    assert not way.door.dialled
    way.sell()
    way.names.does = "answers"
    way.settle()


def test_A1_2_an_upload_whose_name_is_lost_while_it_runs_waits_and_goes_on_when_it_is_back(way: Way) -> None:
    way.box.start()
    way.sell()
    way.settle()
    way.names.does = "unknown"
    time.sleep(ADDRESS_KEPT_S)
    way.door.cut()
    way.sell()
    way.is_waiting("dns", "the name of the cloud cannot be looked up", {"lookup_failed"}, 20)
    way.names.does = "answers"
    way.settle()


def test_A1_2_nothing_is_said_to_a_cloud_that_cannot_prove_itself_and_it_goes_on_when_it_can(way: Way) -> None:
    """Neither the token nor a byte of any record: the handshake ends before."""
    way.box.start()
    way.sell()
    way.settle()
    assert way.door.heard_bytes["good"]
    for wrong in WRONG:
        way.door.show(wrong)
        way.sell()
        way.is_waiting("tls", "no secure connection to the cloud can be made", {"tls_failed"})
        assert way.door.dialled[wrong] >= 2
        assert wrong not in way.door.heard_bytes, f"{wrong}: something was said"
        way.door.show("good")
        way.settle()
    assert "Traceback" not in way.box.text
