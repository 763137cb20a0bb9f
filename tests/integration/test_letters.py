"""Letters over a real mail server: taken once, tried again, refused, and told where nobody takes them."""

import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from agent.core.errors import Held, NightsafeError, Rejected, Transient
from agent.core.letters import Letter
from agent.mail.smtp import Smtp, written
from tests.integration.machine import NIGHTSAFE, Box, until
from tests.integration.mqtt import Device
from tests.integration.sink import PASSWORD, USER, Answers, Sink
from tests.sales import counted

SUPPORT = "support@vendor.example"
LETTER = Letter("occasion", "mail", SUPPORT, "Sync stalled: Demo Bar", "All is safe.\n")
HEALTH = b'{"status":"pass","cloud":"test","time":"2026-11-22T10:15:00.131Z"}'


class Server(msgspec.Struct):
    """Settings of the mail server."""

    host: str = "localhost"
    port: int = 0
    security: Any = "none"
    username: str = ""
    password_file: Path | None = None
    sender: str = "nightsafe@venue.example"


class Authority:
    """A certificate authority that the box trusts, and one that it does not."""

    def __init__(self) -> None:
        ours, strange = trustme.CA(), trustme.CA()
        self.trusting = ssl.create_default_context()
        ours.configure_trust(self.trusting)
        self.good, self.bad = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
        ours.issue_cert("localhost").configure_cert(self.good)
        strange.issue_cert("localhost").configure_cert(self.bad)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


def smtp(server: Server | None, authority: Authority) -> Smtp:
    return Smtp("demo", lambda: server, lambda: 1_795_342_500.0, authority.trusting)


async def failure(sender: Smtp) -> NightsafeError:
    with pytest.raises(NightsafeError) as failed:
        await sender.send(LETTER)
    return failed.value


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
async def test_a_letter_arrives_once_with_its_own_id(authority: Authority, password: Path, security: str) -> None:
    login = security != "none"
    with Sink(authority.good, security, login) as sink:
        server = Server(port=sink.port, security=security)
        if login:
            server = msgspec.structs.replace(server, username=USER, password_file=password)
        await smtp(server, authority).send(LETTER)
    (found,) = sink.letters
    assert (found["To"], found["Subject"]) == (SUPPORT, LETTER.subject)
    assert found["Message-ID"] == written(LETTER, server.sender, "demo", 0)["Message-ID"]
    assert found["Message-ID"] != written(LETTER, server.sender, "other", 0)["Message-ID"]
    assert found.get_content().splitlines() == LETTER.text.splitlines()


async def test_what_the_server_answers_decides_whether_it_is_tried_again(
    authority: Authority, password: Path, tmp_path: Path
) -> None:
    with Sink() as sink:
        sender = smtp(Server(port=sink.port), authority)
        sink.answers = ["451 greylisted"]
        assert isinstance(await failure(sender), Transient)
        sink.answers = ["550 no such mailbox"]
        refused = await failure(sender)
        assert isinstance(refused, Rejected)
        assert "550" in refused.text
        sink.cut_at_data = 1
        assert isinstance(await failure(sender), Transient)
        port = sink.port
    assert isinstance(await failure(smtp(Server(port=port), authority)), Transient), "nobody listens"
    assert (await failure(smtp(None, authority))).code == "mail_unset"
    wrong = tmp_path / "wrong"
    wrong.write_text("another password")
    for security in ("starttls", "tls"):
        with Sink(authority.good, security, login=True) as sink:
            server = Server(port=sink.port, security=security, username=USER, password_file=wrong)
            assert (await failure(smtp(server, authority))).code == "mail_login"
            server.password_file = tmp_path / "none"
            assert (await failure(smtp(server, authority))).code == "mail_password"
        with Sink(authority.bad, security) as sink:
            server = Server(port=sink.port, security=security)
            found = await failure(smtp(server, authority))
            assert (found.code, isinstance(found, Held)) == ("mail_certificate", True)
        assert sink.letters == []
    with Sink() as sink:
        assert (await failure(smtp(Server(port=sink.port, security="starttls"), authority))).code == "mail_security"
        assert sink.letters == [], "never in the clear where TLS is set"


@pytest.mark.parametrize(
    ("sender", "recipient", "code"),
    [
        ("553 5.7.1 sender is not yours", "", "mail_sender"),
        ("550 who are you", "", "mail_sender"),
        ("451 4.7.1 later", "", "mail_later"),
        ("", "554 5.7.1 Relay access denied", "mail_login"),
        ("", "550 5.1.1 no such mailbox", "mail_refused"),
    ],
)
async def test_a_letter_waits_where_a_setting_is_at_fault_and_ends_where_its_address_is(
    authority: Authority, sender: str, recipient: str, code: str
) -> None:
    """A person mends the setting, and the letter that was written in need goes out after all."""
    with Sink() as sink:
        sink.sender_answer, sink.answers = sender, [recipient] if recipient else []
        found = await failure(smtp(Server(port=sink.port), authority))
    assert (found.code, isinstance(found, Rejected)) == (code, code == "mail_refused")


async def test_whoever_has_logged_in_and_is_forbidden_all_the_same_has_the_wrong_address(
    authority: Authority, password: Path
) -> None:
    with Sink(authority.good, "tls", login=True) as sink:
        sink.answers = ["550 5.7.1 no mail from outside"]
        server = Server(port=sink.port, security="tls", username=USER, password_file=password)
        assert (await failure(smtp(server, authority))).code == "mail_refused"


def test_a_line_break_in_what_people_have_named_makes_no_header() -> None:
    made = written(
        Letter("k", "mail", "a@b.example\nBcc: c@d.example", "Bar\r\nX-Evil: 1", "text"), "n@v.example", "demo", 0
    )
    assert "X-Evil" not in made
    assert "Bcc" not in made
    assert made["Subject"] == "Bar X-Evil: 1"


# Over the running agent -----------------------------------------------------------------------------------------------


@pytest.fixture
def stuck() -> Iterator[Answers]:
    """A cloud whose health is good and whose uploads all fail."""

    def answer(method: str, path: str) -> tuple[int, str, bytes]:
        return (200, "application/json", HEALTH) if path == "/v1/health" else (500, "text/plain", b"Oops")

    made = Answers(answer)
    yield made
    made.close()


@pytest.fixture
def hooks() -> Iterator[Answers]:
    made = Answers(lambda method, path: (200, "text/plain", b""))
    yield made
    made.close()


def alerting(new_box: Callable[..., Box], cloud_url: str, sink_port: int, hook: str = "", **alerts: Any) -> Box:
    terms = {"support_email": SUPPORT, "webhook_url": hook, "sync_stalled_s": 4} | alerts
    return new_box(
        cloud_url,
        alerts=terms,
        uplink={"probe_interval_s": 1},
        drain={"backoff_max_s": 1},
        **{"alerts.smtp": {"host": "127.0.0.1", "port": sink_port, "security": "none", "sender": "box@venue.example"}},
    )


def sell(box: Box, *sequences: int, device: str = "till-1") -> None:
    with Device(box.port, device) as till:
        for sequence in sequences:
            till.tell(counted("e1", sequence))


def condition(box: Box, name: str) -> Any:
    return next((one for one in box.status()["conditions"] if one["id"] == name), None)


@pytest.mark.needs("mosquitto")
def test_A2_8_A2_9_a_stuck_sync_on_a_good_link_is_told_to_support_once_also_over_a_kill(
    new_box: Callable[..., Box], stuck: Answers, hooks: Answers
) -> None:
    """The health is good and every upload fails: the packet goes to the address and to the webhook, ready to read."""
    with Sink() as sink:
        box = alerting(new_box, stuck.url, sink.port, f"{hooks.url}/alerts").start()
        sell(box, 1, 2, 3)
        sell(box, 1, device="till-2")
        until(lambda: sink.letters and hooks.posted, "the packet has gone out", 30)
        sent = "select count(*) from letters where state = 'sent'"
        until(lambda: box.rows(sent) == [(2,)], "both are noted as sent: a kill before that sends them once more", 20)
        told = condition(box, "sync_stalled")
        assert (told["severity"], told["attention"], told["lasting"]) == ("critical", True, True)
        box.kill()
        box.start()
        sell(box, 4)
        until(lambda: "event=uplink_online" in box.text or box.status()["state"] != "offline", "it probes", 20)
        until(lambda: box.rows("select count(*) from letters where state = 'sent'") == [(2,)], "both are done", 20)
        threshold = box.status()["uptime_s"] + 7
        until(lambda: box.status()["uptime_s"] >= threshold, "long enough for another one", 20)
        assert condition(box, "sync_stalled") is not None
    (letter,) = sink.letters
    ((path, facts, key),) = hooks.posted
    assert letter["Subject"] == "Sync stalled: Demo Bar (demo-1)"
    assert path == "/alerts"
    assert key
    assert (facts["location_id"], facts["location_name"]) == ("demo-1", "Demo Bar")
    assert (facts["first_sequence"], facts["last_sequence"], facts["pending"]) == (
        "1",
        str(facts["pending"]),
        facts["pending"],
    )
    assert facts["device_ids"] == ["till-1", "till-2"]
    assert "cloud_500" in facts["last_cloud_error"]
    assert facts["from"] < facts["to"]
    text = letter.get_content()
    assert "till-1, till-2" in text
    assert json.loads(text[text.index("{") :]) == facts | {"to": facts["to"]}


@pytest.mark.needs("mosquitto")
def test_A2_9_a_letter_that_nobody_takes_yet_survives_a_kill_and_is_sent_once(
    new_box: Callable[..., Box], stuck: Answers
) -> None:
    with Sink() as sink:
        port = sink.port
    box = alerting(new_box, stuck.url, port, letter_days=1).start()
    sell(box, 1)
    until(lambda: box.rows("select tries from letters")[:1] > [(0,)], "it was tried in vain", 30)
    box.kill()
    with Sink(port=port) as sink:
        box.start()
        until(lambda: sink.letters, "it is sent", 30)
        until(lambda: box.rows("select state from letters") == [("sent",)], "it is done", 10)
    assert len(sink.letters) == 1


@pytest.mark.needs("mosquitto")
def test_a_letter_that_is_refused_is_told_and_not_tried_again(new_box: Callable[..., Box], stuck: Answers) -> None:
    with Sink() as sink:
        sink.answers = ["550 no such mailbox"] * 9
        box = alerting(new_box, stuck.url, sink.port).start()
        sell(box, 1)
        until(lambda: box.rows("select state from letters") == [("refused",)], "it is refused", 30)
        told = next(one for one in box.status()["conditions"] if one["id"].startswith("letter_not_sent:"))
    assert SUPPORT in told["text"]
    assert "550" in told["text"]
    assert len(sink.answers) == 8


@pytest.mark.needs("mosquitto")
def test_A5_1_A5_2_A5_3_a_long_time_without_sync_is_told_with_its_cause_and_selling_goes_on(
    new_box: Callable[..., Box],
) -> None:
    """With hours as short as settings allow here, over a restart: the age goes on counting."""
    hours = {"sync_overdue_h": 8 / 3600, "sync_overdue_second_h": 20 / 3600, "sync_overdue_third_h": 1.0}
    with Sink() as sink:
        box = alerting(new_box, "http://127.0.0.1:9", sink.port, **hours).start()
        assert condition(box, "unsynced") is None
        told = until(lambda: condition(box, "unsynced"), "the first level", 20)
        assert "cloud refuses connections" in told["text"]
        assert told["severity"] == "warning"
        sell(box, 1)
        box.restart()
        graver = until(lambda: _grave(box), "the second level", 20)
        assert "disk" in graver["text"]
        sell(box, 2)
        assert len(box.stored("till-1")) == 2
        until(lambda: len(sink.letters) >= 2, "a letter for each level", 20)
        assert box.stop() == 0
    assert {str(letter["To"]) for letter in sink.letters} == {SUPPORT}


def _grave(box: Box) -> Any:
    found = condition(box, "unsynced")
    return found if found is not None and found["severity"] == "critical" else None


def alerts_test(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*NIGHTSAFE, "alerts", "test", "--config", str(config), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def alerted(new_box: Callable[..., Box], sink_port: int, hook: str, **alerts: Any) -> Path:
    box = alerting(new_box, "http://127.0.0.1:9", sink_port, hook, **alerts)
    box.write_config()
    return box.config


def test_A2_9_a_test_letter_goes_to_everybody_and_says_what_the_servers_answered(
    new_box: Callable[..., Box], hooks: Answers
) -> None:
    """Without a running agent, each test an occasion of its own; a webhook's secret path is not shown."""
    with Sink() as sink:
        config = alerted(new_box, sink.port, f"{hooks.url}/secret-path")
        shown = alerts_test(config)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.splitlines() == [
            f"{SUPPORT}: taken (taken)",
            "the webhook at 127.0.0.1: taken (status 200)",
        ]
        told = json.loads(alerts_test(config, "--json").stdout)["letters"]
        assert [(one["channel"], one["taken"]) for one in told] == [("mail", True), ("webhook", True)]
        first, second = sink.letters
        assert first["Subject"] == "Test letter: Demo Bar (demo-1)"
        assert "Nothing is wrong" in first.get_content()
        assert first["Message-ID"] != second["Message-ID"]
        assert [facts["kind"] for _, facts, _ in hooks.posted] == ["test", "test"]


def test_A2_9_a_test_letter_that_is_not_taken_says_why_and_what_to_do(new_box: Callable[..., Box]) -> None:
    refusing = Answers(lambda method, path: (503, "text/plain", b""))
    try:
        with Sink() as sink:
            sink.answers = ["550 no such mailbox"]
            shown = alerts_test(alerted(new_box, sink.port, refusing.url))
    finally:
        refusing.close()
    assert shown.returncode == 1
    mail, hook = shown.stdout.splitlines()
    assert mail == f"{SUPPORT}: NOT taken. The mail server says 550: no such mailbox. Look at the address."
    assert hook == "the webhook at 127.0.0.1: NOT taken. The webhook answers 503. Try it again later."


@pytest.mark.parametrize(
    ("alerts", "words"),
    [({}, "Nobody gets letters from this box."), ({"support_email": SUPPORT}, "No mail server is set.")],
)
def test_a_test_letter_says_what_is_not_set(new_box: Callable[..., Box], alerts: dict[str, str], words: str) -> None:
    box = new_box("http://127.0.0.1:9", alerts=alerts)
    box.write_config()
    shown = alerts_test(box.config)
    assert shown.returncode == 1
    assert words in shown.stdout + shown.stderr
    assert "[alerts" in shown.stdout + shown.stderr
