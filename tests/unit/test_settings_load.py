"""Settings are read whole or refused whole, with every problem by file and line."""

import itertools
from pathlib import Path

import msgspec
import pytest

from agent.core.errors import SettingsInvalid
from agent.settings.load import SETTINGS_BYTES_MAX, load, parse
from agent.settings.reference import unit_of
from agent.settings.schema import Settings
from agent.settings.section import Address, Section, is_loopback
from agent.settings.show import to_tables, to_toml

FILE = Path("/etc/nightsafe/nightsafe.toml")

SMALLEST = """\
[venue]
id = "demo"
name = "Demo Bar"
location = "demo-1"

[state]
directory = "/var/lib/nightsafe"     # journal, broker files, keys

[gate]
listen = ["127.0.0.1:1883"]          # plain is refused on anything but loopback

[devices]
open = true                          # development only

[cloud]
url = "http://127.0.0.1:9800"        # https except on loopback
token_file = "token"                 # relative to the file's own folder

[web]
listen = "127.0.0.1:8080"
"""

FURTHER_NAMES = """\
[venue]
id = "demo"
name = "Demo Bar"
location = "demo-1"
contact_email = "manager@venue.example"
timezone = "Europe/London"
trading = { friday = ["11:00-23:00"], saturday = ["11:00-15:00", "18:00-02:00"] }
[state]
directory = "state"
[gate]
listen = ["127.0.0.1:1883", "[::1]:1883", "localhost:1884"]
[cloud]
url = "https://cloud.example/base"
token_file = "secrets/token"
[web]
listen = "0.0.0.0:8080"
pin_file = "/etc/pin"
[orders]
response_timeout_s = 90
devices = ["till-1", "kitchen"]
[policy]
offline_card_payments = "queue"
floor_limit = 2500
card_limit = 5000
device_limit = 20000
venue_limit = 100000
queued_age_max_s = 7200
declines_per_day_max = 3
[loyalty]
realtime = false
[devices]
version_min = "2.4.0"
[devices.till-1]
offline_card_payments = "refuse"
loyalty_realtime = true
services = ["payment.status"]
[alerts]
support_email = "support@vendor.example"
webhook_url = "https://hooks.example/x?key=1"
[alerts.smtp]
host = "mail.example"
port = 465
security = "tls"
username = "nightsafe"
password_file = "smtp-password"
sender = "nightsafe@venue.example"
"""


def problems(text: str) -> tuple[str, ...]:
    """What is wrong with `text`, as "line: key: words"."""
    with pytest.raises(SettingsInvalid) as raised:
        parse(text.encode(), FILE)
    prefix = f"{FILE}:"
    assert all(problem.startswith(prefix) for problem in raised.value.problems)
    return tuple(problem.removeprefix(prefix) for problem in raised.value.problems)


def edited(old: str, new: str, text: str = SMALLEST) -> str:
    """The smallest file with one thing changed."""
    assert text.count(old) == 1
    return text.replace(old, new)


def test_the_smallest_file_of_the_contract_loads() -> None:
    settings = parse(SMALLEST.encode(), FILE)
    assert settings.venue.id == "demo"
    assert settings.state.directory == Path("/var/lib/nightsafe")
    assert settings.gate.listen == (Address("127.0.0.1", 1883),)
    assert settings.devices.open
    assert settings.cloud.token_file == Path("/etc/nightsafe/token")
    assert settings.web.listen == Address("127.0.0.1", 8080)


def test_every_further_name_of_the_contract_is_accepted() -> None:
    settings = parse(FURTHER_NAMES.encode(), FILE)
    assert settings.venue.trading["saturday"] == ("11:00-15:00", "18:00-02:00")
    assert settings.devices.by_device["till-1"].services == ("payment.status",)
    assert settings.alerts.smtp is not None
    assert settings.alerts.smtp.password_file == Path("/etc/nightsafe/smtp-password")
    assert settings.policy.venue_limit == 100_000
    assert settings.gate.listen[1] == Address("::1", 1883)


def test_relative_paths_start_at_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "n.toml").write_text(FURTHER_NAMES)
    monkeypatch.chdir(tmp_path)
    settings = load(Path("box/n.toml"))
    assert settings.state.directory == tmp_path / "box" / "state"
    assert settings.cloud.token_file == tmp_path / "box" / "secrets" / "token"
    assert settings.web.pin_file == Path("/etc/pin")


def test_all_problems_are_told_at_once_with_their_lines() -> None:
    text = SMALLEST
    for old, new in [
        ('id = "demo"', 'id = "Demo"'),
        ('name = "Demo Bar"', 'nmae = "Demo Bar"'),
        ('["127.0.0.1:1883"]', '["0.0.0.0:1883", "nowhere"]'),
        ("http://127.0.0.1:9800", "http://cloud.example"),
        ('"127.0.0.1:8080"', "8080"),
    ]:
        text = edited(old, new, text)
    assert problems(text) == (
        "1: venue.name: is missing",
        "2: venue.id: expected lower-case letters, digits and dashes, at most 63, not a dash first",
        "3: venue.nmae: unknown; did you mean name?",
        '10: gate.listen: "nowhere" is not "host:port"; an IPv6 address stands in brackets, "[::1]:1883"',
        "10: gate.listen: 0.0.0.0:1883 is not loopback, and plain MQTT is served on loopback only; "
        "listen on 127.0.0.1, or add a table [gate.tls]",
        "13: devices.open: true is refused unless every gate address is loopback",
        "16: cloud.url: cloud.example is not loopback; use https",
        '20: web.listen: expected an address, "host:port"',
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[cloud]", "[clod]", "15: clod: unknown; did you mean cloud?"),
        ("open = true", "opne = true", "13: devices.opne: unknown; did you mean open?"),
        ("open = true", "keep_days = 3", "13: devices.keep_days: unknown here; it belongs in [journal]"),
        ("token_file", "token", "17: cloud.token: unknown; did you mean token_file?"),
        ("open = true", 'open = "yes"', "13: devices.open: expected bool, got str"),
        ("open = true", "open = 1", "13: devices.open: expected bool, got int"),
        ("[devices]", "[devices.agent]", '12: devices.agent: "agent" is never the name of a device'),
        ("[devices]", "[devices.Till_1]", '12: devices.Till_1: "Till_1" is no device id'),
        ('url = "http://127.0.0.1:9800"', 'url = "ftp://x"', "16: cloud.url: is no URL like"),
        ('url = "http://127.0.0.1:9800"', 'url = "https://a:b@c"', "16: cloud.url: holds a user name or password"),
        ('url = "http://127.0.0.1:9800"', 'url = "https://c?x=1"', "16: cloud.url: ends with its path"),
        ('"127.0.0.1:8080"', '"127.0.0.1:70000"', '20: web.listen: "127.0.0.1:70000": a port is at most 65535'),
        ('"127.0.0.1:8080"', '"::1:8080"', '20: web.listen: "::1:8080" is not "host:port"'),
        ('["127.0.0.1:1883"]', "[]", "10: gate.listen: expected a list of addresses"),
        ('["127.0.0.1:1883"]', '["[::1]:1", "[::1]:1"]', "10: gate.listen: names an address twice"),
        ('"/var/lib/nightsafe"', '""', "7: state.directory: expected a path, as text"),
        ('location = "demo-1"', 'location = ""', "4: venue.location: expected str of length >= 1"),
        ("[web]", "[drain]\nbatch_records_first = 6000\n[web]", "20: drain.batch_records_first: 6000 is above"),
        ("[web]", "[intake]\ngaps_shown_max = 101\n[web]", "20: intake.gaps_shown_max: expected int <= 100"),
        ("[web]", "[intake]\nrefused_shown_max = 101\n[web]", "20: intake.refused_shown_max: expected int <= 100"),
        ("[web]", "[drain]\nbackoff_max_s = nan\n[web]", "20: drain.backoff_max_s: expected float > 0.0"),
        ("[web]", "[drain]\nbackoff_max_s = inf\n[web]", "20: drain.backoff_max_s: expected float <= 3600.0"),
        ("[web]", '[policy]\noffline_card_payments = "no"\n[web]', "20: policy.offline_card_payments: "),
        ("[web]", '[orders]\ndevices = ["venue"]\n[web]', '20: orders.devices: "venue" is never the name of a'),
        ("[web]", '[alerts]\nsupport_email = "x"\n[web]', '20: alerts.support_email: "x" is no mail address'),
        ("[web]", '[alerts]\nwebhook_url = "http://x"\n[web]', "20: alerts.webhook_url: x is not loopback; use https"),
        ("[web]", "[alerts]\nsmtp = 3\n[web]", "20: alerts.smtp: expected a table, [alerts.smtp]"),
        ("[venue]", '[venue]\ntimezone = "Mars/Base"', '2: venue.timezone: no time zone "Mars/Base"'),
        ("[venue]", '[venue]\ntimezone = "/etc/passwd"', '2: venue.timezone: no time zone "/etc/passwd"'),
        ("[venue]", "[venue]\ntrading.mon = []", '2: venue.trading.mon: "mon" is unknown; did you mean monday?'),
        ("[venue]", '[venue]\ntrading.monday = ["9-17"]', '2: venue.trading.monday: "9-17" is not "HH:MM-HH:MM"'),
    ],
)
def test_one_wrong_key_is_named_with_what_to_do(old: str, new: str, problem: str) -> None:
    assert [told for told in problems(edited(old, new)) if told.startswith(problem)]


def test_a_token_file_is_needed_off_loopback_only() -> None:
    without = SMALLEST.replace('token_file = "token"', "")
    assert parse(without.encode(), FILE).cloud.token_file is None
    assert problems(edited("http://127.0.0.1:9800", "https://cloud.example", without)) == (
        "15: cloud.token_file: is missing; cloud.example asks for a token",
    )


def test_names_reserved_for_devices_may_be_venues() -> None:
    assert parse(edited('id = "demo"', 'id = "nightsafe"').encode(), FILE).venue.id == "nightsafe"


@pytest.mark.parametrize("venue", ["", "-demo", "Demo", "de_mo", "demo\\n", "x" * 64, "dé"])
def test_a_venue_id_is_lower_case_letters_digits_and_dashes(venue: str) -> None:
    assert problems(edited('id = "demo"', f'id = "{venue}"'))


def test_a_mail_password_is_not_sent_unprotected() -> None:
    text = edited('security = "tls"', 'security = "none"', FURTHER_NAMES)
    assert problems(text) == (
        '43: alerts.smtp.security: "none" would send the password unprotected; use "starttls" or "tls"',
    )


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"[venue\n", ":1: not TOML: "),
        (b'[venue]\nid = "a"\nid = "b"\n', ":3: not TOML: Cannot overwrite a value"),
        (b'[venue]\nid = "a', ":2: not TOML: "),
        (b'[venue]\nname = "\xff"\n', ":2: not UTF-8"),
        (b"x = " + b"[" * 100_000, ": nested too deeply"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(raw: bytes, problem: str) -> None:
    with pytest.raises(SettingsInvalid) as raised:
        parse(raw, FILE)
    (told,) = raised.value.problems
    assert told.startswith(f"{FILE}{problem}")


def test_a_file_that_cannot_be_read_is_refused_with_words(tmp_path: Path) -> None:
    (tmp_path / "large.toml").write_bytes(b"#" * (SETTINGS_BYTES_MAX + 1))
    for name, words in {"none.toml": "No such file", ".": "Is a directory", "large.toml": "larger than"}.items():
        with pytest.raises(SettingsInvalid, match="nightsafe config check") as raised:
            load(tmp_path / name)
        assert words in raised.value.problems[0]


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm() -> None:
    raw = b"\xef\xbb\xbf" + edited("open = true", "opne = true").replace("\n", "\r\n").encode()
    with pytest.raises(SettingsInvalid) as raised:
        parse(raw, FILE)
    assert raised.value.problems == (f"{FILE}:13: devices.opne: unknown; did you mean open?",)


@pytest.mark.parametrize("text", [SMALLEST, FURTHER_NAMES])
def test_the_settings_shown_say_the_same_when_read_again(text: str) -> None:
    settings = parse(text.encode(), FILE)
    assert parse(to_toml(settings).encode(), FILE) == settings
    assert to_tables(settings)["gate"]["listen"][0] == "127.0.0.1:1883"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.2", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback_is_only_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def sections() -> list[type[Section]]:
    found: list[type[Section]] = []
    left = Section.__subclasses__()
    while left:
        found.append(left[0])
        left = [*left[1:], *left[0].__subclasses__()]
    return found


def test_every_setting_has_words_and_every_number_a_unit_and_a_bound() -> None:
    for section, field in itertools.chain.from_iterable(
        zip(itertools.repeat(section), msgspec.structs.fields(section)) for section in sections()
    ):
        if section is Settings:
            continue
        kind = msgspec.inspect.type_info(field.type)
        assert isinstance(kind, msgspec.inspect.Metadata), f"{section.__name__}.{field.name}"
        assert isinstance(field.type.__metadata__[0].description, str)
        if isinstance(kind.type, msgspec.inspect.IntType | msgspec.inspect.FloatType):
            assert kind.type.ge is not None or kind.type.gt is not None
            assert unit_of(field.name), f"{section.__name__}.{field.name}"


def test_open_devices_are_refused_while_the_page_with_tls_is_open_to_the_network() -> None:
    assert "devices.open: true is refused while [web] listen_tls" in " ".join(
        problems(edited("[web]", '[web]\nlisten_tls = "0.0.0.0:8443"'))
    )


@pytest.mark.parametrize("name", ["Bär.venue", "a b", "", "https://box:8443", "-box", "box."])
def test_a_name_that_no_certificate_can_have_is_refused(name: str) -> None:
    text = edited("[devices]", f'[gate.tls]\nnames = ["{name}"]\n[devices]')
    assert any("gate.tls.names" in one for one in problems(text))
