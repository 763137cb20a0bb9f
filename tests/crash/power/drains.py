"""disk, witness, ledger → [a whole box on what a cut left] → export. The venue goes on after the power is back.

The agent is a process of its own on the rebuilt disk, the cloud is the reference cloud with what it had at the time of
the cut, and the devices send again what they were not told. Then the export must hold all that was ever sent, once.
"""

import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from random import Random

import msgspec

from agent.journal.database import FILE_NAME
from agent.journal.inspect import verify
from agent.receiver.ledger.sqlite_file import position_of
from tests.crash.judge import chained
from tests.crash.power.disk import Disk
from tests.crash.power.examine import Finding, lay_out
from tests.crash.power.witness import Key, Sent, Witness
from tests.crash.venue import quick_box, quick_cloud
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import V5, Device

BURST = 16
DRAIN_MAX_S = 30.0
ONLY_STREAM = 1


class _Refused(msgspec.Struct):
    device: str
    id: str | None


class _Event(msgspec.Struct):
    id: str
    type: str
    data: msgspec.Raw = msgspec.Raw(b"")


class _Line(msgspec.Struct):
    device: str
    data: msgspec.Raw


_line, _event = msgspec.json.Decoder(_Line).decode, msgspec.json.Decoder(_Event).decode
_refused = msgspec.json.Decoder(_Refused).decode


def drained(disk: Disk, witness: Witness, ledger: Path, chance: Random) -> Finding:
    """Go on after a cut now, and compare the export with what devices sent; `start_s` is from start to ready."""
    with _venue() as (box, cloud):
        lay_out(disk.after_cut(), box.state)
        had = chance.randint(_cursor(box.state), witness.uploaded)
        _as_it_was(ledger, cloud.directory / "ledger.sqlite", had)
        cloud.start()
        box.settings["cloud"]["url"] = cloud.url
        began_s = time.perf_counter()
        box.start()
        finding = Finding(start_s=time.perf_counter() - began_s)
        for device, sents in groupby(sorted(witness.untold, key=lambda sent: sent.device), lambda sent: sent.device):
            _send_again(box.port, device, list(sents))
        until(box.uploaded, "the cloud has everything", DRAIN_MAX_S)
        assert box.stop() == 0, box.text[-3000:]
        finding.faults += verify(box.state).faults
        _compare(cloud.export(), witness, finding)
    return finding


@contextmanager
def _venue() -> Iterator[tuple[Box, CloudServer]]:
    cloud = quick_cloud()
    box = quick_box()
    try:
        box.state.mkdir(mode=0o700)
        yield box, cloud
    finally:
        box.close()
        cloud.close()


def _cursor(state: Path) -> int:
    """Of a disk that nobody may touch before the agent does: a copy is looked at. 0 where there is no journal yet."""
    with tempfile.TemporaryDirectory(prefix="ns-look-") as name:
        for path in state.glob(f"{FILE_NAME}*"):
            shutil.copy(path, name)
        try:
            return verify(Path(name)).cursor
        except Exception:  # whatever is wrong with it, the agent has to say
            return 0


def _as_it_was(ledger: Path, target: Path, had: int) -> None:
    """The ledger when it had `had` records: it only ever grows at its end."""
    shutil.copy(ledger, target)
    connection = sqlite3.connect(target)
    with connection:
        behind = position_of(ONLY_STREAM, had)
        for table in ("records", "rejections", "holes"):
            connection.execute(f"delete from {table} where position > ?", (behind,))
        if had:
            (head,) = connection.execute("select rechash from records where position = ?", (behind,)).fetchone()
            connection.execute("update streams set next = ?, head = ?", (had + 1, head))
        else:
            connection.execute("delete from streams")
    connection.close()


def _send_again(port: int, name: str, sents: list[Sent]) -> None:
    """In their order, as a device does that was not told."""
    device = Device(port, name, level=V5)
    with device:
        for at in range(0, len(sents), BURST):
            burst = sents[at : at + BURST]
            device.send(*(device.frame(sent.body) for sent in burst))
            for sent, told in zip(burst, device.packets(len(burst)), strict=True):
                assert (told.reason >= 0x80) == sent.bad, f"{name} sent {sent.id} again: {told}"


def _compare(exported: list[bytes], witness: Witness, finding: Finding) -> None:
    chained(exported)
    finding.records = len(exported)
    events: Counter[Key] = Counter()
    refused: Counter[Key] = Counter()
    for text in exported:
        line = _line(text)
        event = _event(line.data)
        if line.device != "agent":
            key = Key(line.device, event.id)
            events[key] += 1
            finding.phantom += key not in witness.sent
            finding.changed += key in witness.sent and bytes(line.data) != witness.sent[key].body
        elif event.type == "nightsafe.event.refused":
            told = _refused(event.data)
            refused[Key(told.device, told.id or "")] += 1
    for key, sent in witness.sent.items():
        found = (refused if sent.bad else events)[key]
        finding.lost += found == 0
        finding.doubled += found > 1
