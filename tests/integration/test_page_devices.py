"""The devices on the page, over the running agent: paired by a person there and a stock till, and sent away."""

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from queue import SimpleQueue
from typing import Any

import pytest

from tests.integration.machine import WAIT_MAX_S, Box, until
from tests.integration.person import Person, page_box, write_pin
from tests.integration.test_pairing import Till, begin, nightsafe, pair, token_of

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """One for all of these tests, each of which takes device names of its own."""
    with page_box() as box:
        yield box


@pytest.fixture(scope="module")
def person(box: Box) -> Person:
    person = Person(box)
    assert person.log_in().status == 303
    return person


def code_on(page: str) -> str:
    shown = re.search(r'id="code"><span>(\d{4})</span><span>(\d{4})</span>', page)
    assert shown, page
    return shown[1] + shown[2]


def compared_on(page: str) -> str:
    shown = re.search(r'id="compare">(.*?)</p>', page)
    assert shown, page
    return re.sub("<.*?>", " ", shown[1]).replace(" ", "")


def asking(box: Box, code: str, name: str = "") -> SimpleQueue[tuple[int, Any]]:
    """A device that has typed the digits and waits for the answer."""
    answers: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    threading.Thread(target=lambda: answers.put(pair(box, code, name)), daemon=True).start()
    return answers


def listed(box: Box) -> dict[str, Any]:
    """The paired devices by name, as the terminal has them."""
    return {one["device"]: one for one in json.loads(nightsafe(box, "devices", "list", "--json").stdout)}


def test_a_till_is_paired_by_the_digits_on_the_page_once_a_person_has_compared(
    box: Box, person: Person, name: str
) -> None:
    began = person.press("/add-device", "/add-device", device=name, label="Bar left")
    assert (began.status, began.where) == (303, f"/devices/{name}/pairing")
    page = person.look(began.where)
    assert '<meta http-equiv="refresh"' in page.text
    assert 595 <= float(re.findall(r'data-left-s="([\d.]+)">(?:9:5\d|10:00)<', page.text)[0]) <= 600
    assert re.search(r"wrong codes left: [1-5]", page.text)
    answers = asking(box, code_on(page.text), name)
    until(lambda: 'id="compare"' in person.look(began.where).text, "it has asked")
    page = person.look(began.where)
    assert answers.empty(), "nothing is told before"
    assert name not in listed(box)
    compared = compared_on(page.text)
    assert person.press(began.where, f"/devices/{name}/pairing/decide", nth=0).where == began.where
    status, told = answers.get(timeout=WAIT_MAX_S)
    assert status == 201
    assert compared == sha256(ssl.PEM_cert_to_DER_cert(told["ca_pem"])).hexdigest()[:20].upper()
    done = person.look(began.where).text
    assert f"{name} is paired." in done
    assert "refresh" not in done
    till = Till(box, told)
    assert till.answer == 0
    till.sell(1)
    assert len(box.stored(name)) == 1
    page_text = person.look("/devices").text
    assert "Bar left" in page_text
    assert "Connected" in page_text
    till.close()
    for page_now in (done, page_text, person.look(f"/devices/{name}").text):
        assert told["password"] not in page_now
    assert told["password"] not in box.text
    assert page.form(f"/devices/{name}/pairing/decide")["code"] not in box.text


def test_a_person_who_sees_other_digits_lets_nobody_in(box: Box, person: Person, name: str) -> None:
    where = person.press("/add-device", "/add-device", device=name).where
    answers = asking(box, code_on(person.look(where).text))
    until(lambda: "They differ" in person.look(where).text, "it has asked")
    refused = person.look(where).form(f"/devices/{name}/pairing/decide", 1)
    assert refused["same"] == "no"
    assert person.send(f"/devices/{name}/pairing/decide", refused).status == 303
    assert answers.get(timeout=WAIT_MAX_S)[0] == 403
    assert "the device was not let in" in person.look(where).text
    assert name not in listed(box)


def test_what_a_person_compared_must_be_what_is_asked_now(box: Box, person: Person, name: str) -> None:
    where = person.press("/add-device", "/add-device", device=name).where
    asking(box, code_on(person.look(where).text))
    until(lambda: "They are the same" in person.look(where).text, "it has asked")
    old = person.look(where).form(f"/devices/{name}/pairing/decide")
    assert person.press("/add-device", "/add-device", device=name).status == 303, "begun anew by somebody"
    second = asking(box, code_on(person.look(where).text))
    until(lambda: "They are the same" in person.look(where).text, "another one has asked")
    assert person.send(f"/devices/{name}/pairing/decide", old).status == 409
    fresh = person.look(where).form(f"/devices/{name}/pairing/decide")
    for change in ({"peer": "10.0.0.9"}, {"code": ""}, {"same": ""}, {"same": "maybe"}):
        assert person.send(f"/devices/{name}/pairing/decide", fresh | change).status == 409
    assert second.empty()
    assert person.send(f"/devices/{name}/pairing/decide", fresh).status == 303
    assert second.get(timeout=WAIT_MAX_S)[0] == 201


def test_the_qr_code_on_the_page_holds_what_the_terminal_gives_and_a_till_that_reads_it_is_in(
    box: Box, person: Person, name: str
) -> None:
    facts = begin(box, name)
    page = person.look(f"/devices/{name}/pairing").text
    drawn = re.search(r"<svg.*?</svg>", page, re.DOTALL)
    assert drawn
    assert drawn[0].count("<path") == 2
    assert "style=" not in drawn[0]
    assert decoded(drawn[0]) == facts["uri"]
    assert code_on(page) == facts["code"]
    status, _ = pair(box, token_of(facts), name)
    assert status == 201
    spent = person.look(f"/devices/{name}/pairing").text
    assert f"{name} is paired." in spent
    assert "<svg" not in spent


def decoded(svg: str) -> str:
    """What a QR reader makes of the picture, drawn from its path as a browser does."""
    zxingcpp = pytest.importorskip("zxingcpp", reason="zxing-cpp reads the QR code; scripts/setup --dev installs it")
    modules = int(re.findall(r'viewBox="0 0 (\d+)', svg)[0])
    steps = re.findall(r'stroke="#000" d="([^"]*)"', svg)[0]
    scale = 8
    ink = [bytearray(b"\xff" * modules * scale) for _ in range(modules * scale)]
    x = y = 0.0
    for kind, first, second in re.findall(r"([Mmh])(-?[\d.]+)(?: ?(-?[\d.]+))?", steps):
        a, b = float(first), float(second or 0)
        if kind == "M":
            x, y = a, b
        elif kind == "m":
            x, y = x + a, y + b
        else:
            for row in range(int(y) * scale, int(y) * scale + scale):
                ink[row][int(x) * scale : int(x + a) * scale] = bytes(int(a) * scale)
            x += a
    rows = memoryview(b"".join(ink)).cast("B", (modules * scale, modules * scale))
    (found,) = zxingcpp.read_barcodes(rows)
    return str(found.text)


def test_a_device_is_renamed_held_released_and_removed_and_each_act_is_in_the_log(
    box: Box, person: Person, name: str
) -> None:
    since = len(box.text)
    told = pair(box, token_of(begin(box, name)), name)[1]
    one = f"/devices/{name}"
    assert person.press(one, f"{one}/rename", label="Bar <right>").where == one
    assert "Bar &lt;right&gt;" in person.look("/devices").text
    assert person.press(one, f"{one}/hold").where == one
    assert "Payments held, not confirmed by it yet" in person.look("/devices").text
    assert (listed(box)[name]["label"], listed(box)[name]["payments_held"]) == ("Bar <right>", True)
    assert person.press(one, f"{one}/release").where == one
    assert not listed(box)[name]["payments_held"]
    assert person.press(one, f"{one}/identify").where == one
    assert "identify" in listed(box)[name]["commands"]

    till = Till(box, told)
    assert till.answer == 0
    form = person.look(f"{one}/remove").form(f"{one}/remove")
    assert "sure" not in form
    assert person.send(f"{one}/remove", form).status == 409, "not without a second thought"
    assert name in listed(box)
    assert person.send(f"{one}/remove", form | {"sure": "yes"}).where == "/devices"
    assert till.gone.wait(5)
    assert name not in listed(box)
    assert person.look(one).status == 404
    assert person.send(f"{one}/hold", form).status == 409
    done = re.findall(r"event=page_act act=(\w+) who=page address=127\.0\.0\.1 outcome=(\w+)", box.text[since:])
    assert done == [
        ("rename", "done"),
        ("hold_payments", "done"),
        ("release_payments", "done"),
        ("identify", "done"),
        ("remove", "not_sure"),
        ("remove", "done"),
        ("hold_payments", "device_unknown"),
    ]


def test_a_replacement_takes_over_and_a_name_that_is_taken_is_explained(box: Box, person: Person, name: str) -> None:
    old = Till(box, pair(box, token_of(begin(box, name)), name)[1])
    refused = person.press("/add-device", "/add-device", device=name, label="<b>")
    assert refused.status == 409
    assert "Tick the box below" in refused.text
    assert 'value="&lt;b&gt;"' in refused.text, "what was typed is still there"
    where = person.press(f"/devices/{name}", "/add-device").where
    assert where == f"/devices/{name}/pairing"
    answers = asking(box, code_on(person.look(where).text), name)
    until(lambda: "They are the same" in person.look(where).text, "it has asked")
    assert not old.gone.is_set(), "the old one works until then"
    person.press(where, f"/devices/{name}/pairing/decide")
    status, told = answers.get(timeout=WAIT_MAX_S)
    assert status == 201
    assert old.gone.wait(5)
    assert Till(box, told).answer == 0


@pytest.mark.parametrize("name", ["Till_1", "agent", "", "a/b", "x" * 64, "4111111111111111", "<script>"])
def test_a_name_that_is_none_is_explained_and_never_written_down(box: Box, person: Person, name: str) -> None:
    before = box.text.count("act=add")
    refused = person.press("/add-device", "/add-device", device=name)
    assert refused.status == 409
    assert 'class="error"' in refused.text
    assert "<script>" not in refused.text
    assert box.text.count("act=add") == before + 1, "the attempt is in the log"
    assert name == "" or name == "agent" or name not in box.text


def test_a_pairing_whose_codes_were_guessed_at_is_over_and_its_page_says_so(
    box: Box, person: Person, name: str
) -> None:
    where = person.press("/add-device", "/add-device", device=name).where
    code = code_on(person.look(where).text)
    wrong = "00000000" if code != "00000000" else "11111111"

    def left() -> int:
        return int(re.findall(r"wrong codes left: (\d)", person.look(where).text)[0])

    before = left()
    assert pair(box, wrong)[0] == 403
    assert left() == before - 1
    for _ in range(before - 1):
        pair(box, wrong)
    ended = person.look(where).text
    assert "too many wrong codes" in ended
    assert code not in re.sub("<input[^>]*>", "", ended)


def test_without_tls_on_the_gate_the_page_says_what_is_missing(new_box: Callable[..., Box]) -> None:
    box = new_box(devices={"open": False}, web={"pin_file": "pin"})
    write_pin(box)
    person = Person(box.start(), "http")
    assert person.log_in().status == 303
    refused = person.press("/add-device", "/add-device", device="till-1")
    assert refused.status == 409
    assert "[gate.tls]" in refused.text


def test_people_who_are_not_logged_in_see_the_list_and_no_code(box: Box, person: Person, name: str) -> None:
    pair(box, token_of(begin(box, name, "--label", "Bar left")), name)
    begin(box, f"{name}-b")
    stranger = Person(box)
    page = stranger.look("/devices").text
    assert "Bar left" in page
    assert "<form" not in page
    for path in (f"/devices/{name}", f"/devices/{name}/remove", f"/devices/{name}-b/pairing", "/add-device"):
        seen = stranger.look(path)
        assert (seen.status, seen.where, seen.text) == (303, "/login", "")
