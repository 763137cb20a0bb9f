"""Who may act on the page: the venue PIN, sessions, and what other pages cannot make a browser do."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.machine import Box, until
from tests.integration.person import PIN, Person, write_pin
from tests.integration.test_web import own_address
from tests.tools import needs

pytestmark = pytest.mark.needs("mosquitto")

Make = Callable[..., Box]


def paged(new_box: Make, **web: Any) -> Box:
    page = {"listen_tls": "127.0.0.1:0", "pin_file": "pin"} | web
    box = new_box(devices={"open": False}, web=page, **{"gate.tls": {}})
    write_pin(box)
    return box


@pytest.fixture(scope="module")
def shared() -> Iterator[Box]:
    """A box that several tests share: none gives a wrong PIN, and each begins without a pairing."""
    needs("mosquitto")
    box = paged(lambda **settings: Box(settings=settings))
    try:
        yield box.start()
        assert PIN not in box.text, "a PIN is in the log"
        assert "Traceback" not in box.text
    finally:
        box.close()


@pytest.fixture
def box(shared: Box) -> Box:
    return shared


@pytest.fixture
def own(new_box: Make) -> Box:
    return paged(new_box).start()


def test_the_pin_opens_a_session_in_a_cookie_that_no_script_and_no_other_page_can_use(box: Box) -> None:
    person = Person(box)
    assert "Log in to add" in person.look("/devices").text
    assert person.look("/add-device").where == "/login"
    inside = person.log_in()
    assert (inside.status, inside.where) == (303, "/devices")
    cookie = inside.headers["Set-Cookie"]
    token = cookie.partition(";")[0].partition("=")[2]
    assert cookie.startswith("__Host-nightsafe=")
    assert {part.strip() for part in cookie.split(";")[1:]} == {"HttpOnly", "Path=/", "SameSite=Strict", "Secure"}
    assert len(token) == 43, "256 random bits"
    assert person.look("/add-device").status == 200
    assert token not in box.text
    assert "event=page_login who=page address=127.0.0.1 outcome=logged_in" in box.text


def test_on_loopback_without_tls_the_cookie_is_as_closed_but_for_secure(box: Box) -> None:
    cookie = Person(box, "http").log_in().headers["Set-Cookie"]
    assert {part.strip() for part in cookie.split(";")[1:]} == {"HttpOnly", "Path=/", "SameSite=Strict"}


def test_each_login_has_tokens_of_its_own_and_logging_out_ends_only_its_own(box: Box) -> None:
    one, other = Person(box), Person(box)
    assert [one.log_in().status, other.log_in().status] == [303, 303]
    assert one.cookies != other.cookies
    taken = dict(one.cookies)
    assert one.look("/devices").form("/logout") != other.look("/devices").form("/logout")
    assert one.press("/devices", "/logout").where == "/devices"
    assert one.cookies == {}
    one.cookies = taken
    assert one.look("/add-device").where == "/login", "the token itself is worth nothing any more"
    assert other.look("/add-device").status == 200


def test_a_session_with_a_made_up_token_is_none(box: Box) -> None:
    person = Person(box)
    person.cookies = {"__Host-nightsafe": "x" * 43}
    assert person.look("/add-device").where == "/login"


def test_without_a_pin_the_page_acts_for_nobody_and_says_how_to_set_one(new_box: Make) -> None:
    box = new_box(devices={"open": False}, web={"listen_tls": "127.0.0.1:0"}, **{"gate.tls": {}}).start()
    person = Person(box)
    for path in ("/devices", "/login"):
        assert "pin_file" in person.look(path).text
    refused = person.log_in("")
    assert refused.status == 403
    assert "pin_file" in refused.text
    assert person.cookies == {}
    assert person.send("/add-device", {"device": "till-1", "token": ""}).where == "/login"


@pytest.mark.parametrize(
    ("pin", "mode", "words"),
    [
        (PIN, 0o640, "chmod 600"),
        (PIN, 0o604, "chmod 600"),
        ("12345", 0o600, "6 to 12 digits"),
        ("1234567890123", 0o600, "6 to 12 digits"),
        ("12345a", 0o600, "6 to 12 digits"),
        ("", 0o600, "6 to 12 digits"),
        ("1" * 1000, 0o600, "6 to 12 digits"),
    ],
)
def test_a_pin_file_that_is_not_as_it_must_be_lets_nobody_in(box: Box, pin: str, mode: int, words: str) -> None:
    write_pin(box, pin, mode)
    person = Person(box)
    refused = person.log_in(pin)
    assert refused.status == 403
    assert words in refused.text
    assert person.cookies == {}
    write_pin(box)
    assert person.log_in().status == 303, "and it is read again by itself"


def test_a_new_pin_ends_every_session_and_so_does_a_restart(own: Box) -> None:
    person = Person(own)
    person.log_in()
    write_pin(own, "28401932")
    assert person.look("/add-device").where == "/login"
    assert person.log_in().status == 403
    assert person.log_in("28401932").status == 303
    assert "28401932" not in own.text
    ports = dict(own.pages)
    own.settings["web"]["listen_tls"] = f"127.0.0.1:{ports['https']}"
    own.restart()
    assert person.look("/add-device").where == "/login"


def test_a_session_ends_when_nobody_uses_it_and_after_its_longest_life(new_box: Make) -> None:
    box = paged(new_box, session_idle_s=1, session_s=2.5).start()
    idle, busy = Person(box), Person(box)
    idle.log_in()
    began_s = time.monotonic()
    busy.log_in()
    while time.monotonic() - began_s < 1.8:
        assert busy.look("/add-device").status == 200, "it is used"
        time.sleep(0.1)
    assert idle.look("/add-device").where == "/login"
    until(lambda: busy.look("/add-device").status == 303, "however much it is used")
    assert time.monotonic() - began_s >= 2.4


def test_of_too_many_sessions_the_one_unused_for_the_longest_ends(new_box: Make) -> None:
    box = paged(new_box, sessions_max=2).start()
    people = [Person(box) for _ in range(3)]
    assert [people[0].log_in().status, people[1].log_in().status] == [303, 303]
    assert people[0].look("/add-device").status == 200
    people[2].log_in()
    assert [one.look("/add-device").status for one in people] == [200, 303, 200]


def test_wrong_pins_lock_an_address_out_even_for_the_right_one_and_people_are_told(own: Box) -> None:
    person = Person(own)
    answers = [person.log_in(f"00000{n}").status for n in range(5)]
    assert answers == [403] * 5
    locked = person.log_in()
    assert locked.status == 429
    assert "Try again in 10 minutes" in locked.text
    assert person.cookies == {}
    until(lambda: any(one["id"] == "pin_locked_out" for one in own.status()["conditions"]), "people are told")
    assert own.text.count("outcome=wrong_pin") == 5
    assert "00000" not in "".join(line for line in own.text.splitlines() if "page_login" in line)


def test_who_was_logged_in_before_the_guessing_began_works_on(own: Box) -> None:
    person = Person(own)
    person.log_in()
    guesser = Person(own)
    for n in range(6):
        guesser.log_in(f"00000{n}")
    assert guesser.log_in().status == 429
    assert person.look("/add-device").status == 200


# What other pages cannot do -------------------------------------------------------------------------------------------

FOREIGN = [
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": None},
    {"Origin": "null", "Sec-Fetch-Site": None},
    {"Origin": None, "Sec-Fetch-Site": "same-site"},
    {"Origin": None, "Sec-Fetch-Site": "none"},
    {"Origin": None, "Sec-Fetch-Site": None},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_what_another_page_sends_is_not_taken_even_with_cookie_and_token(
    box: Box, name: str, headers: dict[str, str | None]
) -> None:
    person = Person(box)
    person.log_in()
    form = person.look("/add-device").form("/add-device") | {"device": name}
    assert person.ask("POST", "/add-device", form, **headers).status == 403
    assert person.ask("POST", "/login", {"pin": PIN}, **headers).status == 403
    assert person.look(f"/devices/{name}/pairing").status == 409, "nothing was begun"


def test_another_page_cannot_have_a_browser_guess_at_pairing_codes_either(box: Box, name: str) -> None:
    person = Person(box)
    person.log_in()
    page = person.press("/add-device", "/add-device", device=name).where
    before = re.findall(r"wrong codes left: \d", person.look(page).text)
    for headers in FOREIGN[:-1]:
        assert person.ask("POST", "/api/v1/pair", {"code": "00000000"}, **headers).status == 403
    assert re.findall(r"wrong codes left: \d", person.look(page).text) == before


def test_the_other_port_of_the_same_box_is_another_page(box: Box, name: str) -> None:
    person = Person(box)
    person.log_in()
    form = person.look("/add-device").form("/add-device") | {"device": name}
    plain = f"http://127.0.0.1:{box.web_port}"
    assert person.send("/add-device", form, Origin=plain, Sec_Fetch_Site=None).status == 403


@pytest.mark.parametrize("token", [None, "", "x" * 43, "é" * 43])
def test_a_form_without_the_sessions_own_token_does_nothing(box: Box, name: str, token: str | None) -> None:
    person = Person(box)
    person.log_in()
    form = {"device": name} | ({} if token is None else {"token": token})
    assert person.send("/add-device", form).status == 403
    assert person.look(f"/devices/{name}/pairing").status == 409
    assert "outcome=form_token" in box.text


def test_another_sessions_token_is_not_taken(box: Box, name: str) -> None:
    one, other = Person(box), Person(box)
    assert [one.log_in().status, other.log_in().status] == [303, 303]
    form = one.look("/add-device").form("/add-device") | {"device": name}
    assert other.send("/add-device", form).status == 403


def test_a_foreign_host_name_is_refused_before_anything(box: Box) -> None:
    person, before = Person(box), box.text.count("page_login")
    assert person.send("/login", {"pin": PIN}, Host="evil.example", Origin="https://evil.example").status == 421
    assert box.text.count("page_login") == before
    assert person.log_in().status == 303
    assert box.text.count("page_login") == before + 1


def test_looking_changes_nothing_and_forms_come_only_as_forms(box: Box, name: str) -> None:
    person = Person(box)
    person.log_in()
    form = person.look("/add-device").form("/add-device") | {"device": name}
    asked = f"/add-device?device={name}&label=&token={form['token']}"
    assert person.look(asked).status == 200
    assert person.look(f"/devices/{name}/pairing").status == 409
    for path in ("/logout", f"/devices/{name}/hold", f"/devices/{name}/pairing/decide"):
        assert person.look(path).status == 405
    assert person.send("/add-device", form, Content_Type="text/plain").status == 415
    assert person.send("/add-device", form | {"more": "x" * 5_000}).status == 400
    assert person.ask("PUT", "/add-device", form).status == 405
    assert person.send("/add-device", form, X_HTTP_Method_Override="GET").status == 303, "a POST is a POST"
    assert person.look(f"/devices/{name}/pairing").status == 200


@pytest.mark.parametrize("path", ["/login", "/devices", "/add-device", "/devices/till-1/pairing", "/devices/till-9"])
def test_no_page_can_be_put_into_a_frame_and_forms_go_only_to_this_box(box: Box, path: str) -> None:
    person = Person(box)
    person.log_in()
    person.press("/add-device", "/add-device", device="till-1")
    seen = person.look(path)
    policy = seen.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy
    assert "unsafe" not in policy
    assert seen.headers["X-Frame-Options"] == "DENY"
    assert seen.headers["Cache-Control"] == "no-store"
    assert ("script-src" in policy) == (path == "/devices/till-1/pairing")


def test_from_another_machine_without_tls_the_page_says_where_to_go_and_takes_no_pin(new_box: Make) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]
    box = paged(new_box, listen=f"0.0.0.0:{port}", listen_tls="0.0.0.0:0").start()
    person = Person(box, "http", address)
    for path in ("/devices", "/login", "/add-device", "/devices/till-1/pairing"):
        seen = person.look(path)
        assert seen.status == 403
        assert f"https://{address}:{box.pages['https']}/devices" in seen.text
    assert person.log_in().status == 403
    assert person.cookies == {}
    assert "page_login" not in box.text
    assert Person(box, "https", address).log_in().status == 303
