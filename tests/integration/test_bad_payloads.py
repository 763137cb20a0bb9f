"""Every bad payload of the unit tests through the running agent: each gets its own reason, and nothing else happens."""

from collections.abc import Callable

from tests.integration.machine import Box
from tests.integration.mqtt import V4, V5, Device
from tests.sales import counted, event
from tests.unit.test_events import BYTES_MAX, CARDS, CARDS_MALFORMED, CARDS_SCHEMA, DEPTH_MAX, MALFORMED, SCHEMA

BAD = {
    "malformed": [*MALFORMED.values(), *CARDS_MALFORMED.values()],
    "schema": [*SCHEMA.values(), *CARDS_SCHEMA.values()],
    "card_number": list(CARDS.values()),
    "too_large": [event(type="x", data="x" * BYTES_MAX), b"x" * (4 * BYTES_MAX)],
}
HOSTILE = [
    "'; drop table records; --",
    "\n\r\t",
    "\x1b[2J",
    "\u202egnp",
    "../../etc/passwd",
    "%s%n",
    "\ufeff",
    "$(id)",
    "é" * 50,
]


def test_each_bad_payload_has_its_reason_and_a_good_one_is_stored_behind_it(new_box: Callable[..., Box]) -> None:
    box = new_box(gate={"event_bytes_max": BYTES_MAX, "event_depth_max": DEPTH_MAX}).start()
    said = [(payload, reason) for reason, payloads in BAD.items() for payload in payloads]
    with Device(box.port, "till-5", level=V5) as device, Device(box.port, "till-4", level=V4) as plain:
        for payload, reason in said:
            got = device.tell(payload)
            assert got.reason == 0x99
            assert (got.reason_string or "").startswith(f"{reason}: "), (payload[:200], got.reason_string)
            assert len(plain.tell(payload).body) == 2
        good = counted("e1", 1)
        assert len(device.tell(good).body) == 2
    assert box.stored("till-5") == [good]
    assert box.stored("till-4") == []
    rows = box.rows("select reason, count(*) from quarantine group by reason")
    assert dict(rows) == {reason: 2 * len(set(payloads)) for reason, payloads in BAD.items()}
    assert len(box.own_records("nightsafe.event.refused")) == sum(count for _, count in rows)
    assert box.stop() == 0
    assert "Traceback" not in box.text


def test_hostile_text_is_data_everywhere(box: Box) -> None:
    """Nothing that a device says acts: not in the journal, not in the log, not in what is shown."""
    payloads = [event(id=f"hostile-{at}", type="x", subject=text, data={text: text}) for at, text in enumerate(HOSTILE)]
    epochs = [counted(text, 1, id=f"epoch-{at}") for at, text in enumerate(HOSTILE)]
    with Device(box.port, "hostile", level=V5) as device:
        assert [device.tell(payload).reason for payload in payloads] == [0] * len(HOSTILE)
        assert [device.tell(payload).reason for payload in epochs] == [0x99] * len(HOSTILE)
    assert box.stored("hostile") == payloads
    assert not set(box.text) & {"\x1b", "\u202e", "\ufeff"}
    assert box.device("hostile")["events"] == len(payloads)
    assert "stage_crashed" not in box.text
