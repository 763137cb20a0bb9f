"""No card number ever reaches the disk: no journal, quarantine, broker's file, log or cloud has one."""

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.integration import mqtt
from tests.integration.machine import Box, CloudServer, until
from tests.integration.mqtt import V4, V5, Device, Wire
from tests.sales import counted, event, payment

# Published test numbers, with every digit that a search could look for.
PLANTED = ["4111111111111111", "5555555555554444", "378282246310005", "4222222222222", "6011000990139424"]
VERIFICATION = "739"


def disguises(number: str) -> Iterable[bytes]:
    """Events that carry the number, one for each way in which it may hide."""
    spaced, dotted = " ".join(number), f"{number[:4]}.{number[4:8]}.{number[8:12]}.{number[12:]}"
    escaped = "".join(f"\\u{ord(digit):04x}" for digit in number)
    plain = event(type="x", data=None)[:-1]
    for text in (
        number,
        spaced,
        "-".join(number),
        dotted,
        f"exp 12/27 {number} 123",
        f"%B{number}^DOE^2512",
        f"PAN{number}",
    ):
        yield event(type="x", data=text)
        yield event(data=payment(card={"token": text}))
        yield event(id=text)
        yield event(type="x", data={text: 1})
        yield counted("e", 1, type="x", subject=text)
        yield event(type="x", data=text)[:-1]
        yield event(specversion=text)
        yield b"not JSON " + text.encode()
        yield b"\xff" + text.encode()
        yield event(type="x", data=[text] + ["x" * 300] * 300)
        yield event(type="x", data=[" " * 4090, text])
        yield event(type="x", data=None, data_base64=base64.b64encode(text.encode()).decode())
        yield event(type="x", data=json.dumps({"pan": text}))
    yield plain + b',"data":"' + escaped.encode() + b'"}'
    yield plain + b',"data":"' + escaped.encode()
    yield plain + b',"data":%b}' % number.encode()
    yield plain + b',"data":%b.0}' % number.encode()
    yield plain + b',"data":%b.%be%d}' % (number[:4].encode(), number[4:].encode(), len(number) - 4)
    yield plain + b',"a":"%b","a":"%b"}' % (number.encode(), number.encode())
    yield plain + b',"%b":1,"%b":2}' % (number.encode(), number.encode())
    yield event(epoch=number, sequence="1")
    yield event(epoch="e", sequence=number)
    yield b'{"data_base64":"%b"' % base64.b64encode(number.encode())
    yield event(type="x", data=None).decode().replace('"x"', f'"{number}"').encode("utf-16")
    yield event(data=payment(cvv=VERIFICATION, note=number))


def remains(directory: Path, words: list[bytes]) -> list[str]:
    """Files below the directory that hold one of the words, as it is or with separators put in."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            bare = content.translate(None, b" .-\x00")
            found += [f"{path.name}: {word!r}" for word in words if word in content or word in bare]
    return found


def spellings(number: str) -> list[bytes]:
    """What to look for: the number, and how JSON and base64 would hide it."""
    escaped = "".join(f"\\u{ord(digit):04x}" for digit in number).encode()
    return [number.encode(), escaped, escaped.replace(b"\\", b"\\\\"), base64.b64encode(number.encode())]


def test_A1_3_no_planted_card_number_is_anywhere_in_the_state(
    new_box: Callable[..., Box], new_cloud: Callable[[], CloudServer]
) -> None:
    cloud = new_cloud().start()
    box = new_box(cloud.url, logs={"level": "debug"}).start()
    payloads = [payload for number in PLANTED for payload in disguises(number)]
    for level in (V4, V5):
        with Device(box.port, f"till-{level}", level=level) as device:
            for at in range(0, len(payloads), 50):
                frames = [device.frame(payload) for payload in payloads[at : at + 50]]
                device.send(*frames)
                reasons = [one.reason for one in device.packets(len(frames))]
                assert set(reasons) == ({0} if level == V4 else {0x99})
    for payload in payloads[:: len(payloads) // 20]:  # in a will, in pieces, without an answer, under another name
        if len(payload) > 65_535:
            continue
        with Wire(box.port) as wire:
            wire.send(mqtt.connect("till-w", username="till-w", will=("pos/v1/till-w/events", payload)))
            assert wire.packet().kind == mqtt.CONNACK
            frame = mqtt.publish("pos/v1/till-w/events", payload, qos=0) + mqtt.publish("pos/v1/till-x/events", payload)
            wire.send(frame[: len(frame) // 3])
            wire.send(frame[len(frame) // 3 :])
            assert wire.rest() == []
    with Device(box.port, "till-5", level=V5) as device:
        assert device.tell(event()).reason == 0
    until(box.uploaded, "the cloud has what was told of it")
    words = [word for number in PLANTED for word in spellings(number)]
    assert remains(box.directory, words) == []
    box.kill()
    assert remains(box.directory, words) == []
    box.start()
    assert box.stop() == 0
    assert remains(box.directory, words) == []
    assert remains(cloud.directory, words) == []
    assert f'"{VERIFICATION}"'.encode() not in box.journal.read_bytes()
    reasons = dict(box.rows("select reason, count(*) from quarantine group by reason"))
    assert reasons.keys() == {"card_number", "malformed", "schema"}
    assert box.rows("select count(*) from quarantine where payload is not null") == [(0,)]
    assert len(box.stored("till-5")) == 1


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x 4111 1111-1111.1111 y")
    (tmp_path / "b").write_bytes("4111111111111111".encode("utf-16-le"))
    (tmp_path / "c").write_text(json.dumps({"x": "".join(f"\\u{ord(digit):04x}" for digit in "4111111111111111")}))
    (tmp_path / "d").write_text("no such thing")
    assert {one[0] for one in remains(tmp_path, spellings("4111111111111111"))} == {"a", "b", "c"}
