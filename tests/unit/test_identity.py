"""Who the box is to its devices: an authority that stays, and a certificate that is renewed."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from agent.core.errors import Held
from agent.lan.identity import AUTHORITY, AUTHORITY_KEY, BEGINNING, DIRECTORY, SERVER, Identity, Names, names_here

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
LIFE = 397
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name."""


class Clock:
    def __init__(self) -> None:
        self.now = NOW
        self.set = True

    def wall_ms(self) -> int:
        return int(self.now.timestamp() * 1000)

    def synced(self) -> bool:
        return self.set


class Place:
    """A box's state directory, its clock and its names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = directory / DIRECTORY
        self.clock = Clock()
        self.names = Names(("box.local", "localhost"), ("10.0.0.5", "127.0.0.1"))

    def open(self) -> Identity:
        return Identity(self.directory, "demo", LIFE, self.clock, lambda: self.names)

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.files / SERVER).read_bytes())

    def authority(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.files / AUTHORITY).read_bytes())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def shake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """A handshake in memory; raises what the client or the server raises."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server, server_hostname=name)
    answerer = server.wrap_bio(to_server, to_client, server_side=True)
    done = {caller: False, answerer: False}
    for _ in range(10):
        for side in done:
            if not done[side]:
                try:
                    side.do_handshake()
                    done[side] = True
                except ssl.SSLWantReadError:
                    pass
    assert all(done.values())
    return caller


def trusting(identity: Identity) -> ssl.SSLContext:
    """A device's side; dates are compared by the tests themselves, whose clock stands still."""
    made = ssl.create_default_context(cadata=identity.ca_pem)
    made.verify_flags |= NO_CHECK_TIME
    return made


def test_a_device_that_trusts_the_authority_accepts_every_name_and_address_and_no_other(place: Place) -> None:
    identity = place.open()
    for name in ("box.local", "localhost", "10.0.0.5", "127.0.0.1"):
        assert shake(trusting(identity), identity.context, name).version() in ("TLSv1.2", "TLSv1.3")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(trusting(identity), identity.context, "10.0.0.6")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(ssl.create_default_context(), identity.context, "localhost")


def test_nothing_older_than_tls_1_2_is_spoken(place: Place) -> None:
    client = trusting(identity := place.open())
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake(client, identity.context, "localhost").version() == "TLSv1.2"
    assert identity.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_the_authority_goes_with_the_certificate_so_that_a_device_can_show_its_fingerprint(place: Place) -> None:
    identity = place.open()
    chain = x509.load_pem_x509_certificates((place.files / SERVER).read_bytes())
    assert chain[1] == place.authority()
    assert chain[1].fingerprint(hashes.SHA256()).hex() == identity.fingerprint


def test_the_authority_lives_for_decades_and_stays_the_same_over_restarts(place: Place) -> None:
    fingerprint, certificate = place.open().fingerprint, place.certificate()
    authority = place.authority()
    assert authority.not_valid_before_utc == BEGINNING
    assert authority.not_valid_after_utc - NOW > timedelta(days=29 * 365)
    assert place.open().fingerprint == fingerprint
    assert place.certificate() == certificate


def test_keys_are_readable_by_the_box_alone(place: Place) -> None:
    place.open()
    assert {path.name: path.stat().st_mode & 0o777 for path in place.files.iterdir()} == {
        AUTHORITY: 0o600, AUTHORITY_KEY: 0o600, SERVER: 0o600,
    }  # fmt: skip
    assert place.files.stat().st_mode & 0o777 == 0o700


def test_a_certificate_is_renewed_after_two_thirds_of_its_life_by_the_same_authority(place: Place) -> None:
    identity = place.open()
    first, fingerprint = place.certificate(), identity.fingerprint
    place.clock.now = NOW + timedelta(days=LIFE) * 2 / 3 - timedelta(minutes=1)
    assert not identity.look()
    place.clock.now += timedelta(minutes=2)
    assert identity.look()
    assert not identity.look()
    second = place.certificate()
    assert second.serial_number != first.serial_number
    assert second.not_valid_after_utc == identity.expires == place.clock.now.replace(microsecond=0) + timedelta(LIFE)
    assert identity.fingerprint == fingerprint
    assert shake(trusting(identity), identity.context, "localhost").getpeercert(True) == second.public_bytes(
        serialization.Encoding.DER
    )


@pytest.mark.parametrize("names", [Names(("box.local",), ("10.0.0.9",)), Names(("till.local",), ("10.0.0.5",))])
def test_a_certificate_is_renewed_when_names_or_addresses_change(place: Place, names: Names) -> None:
    identity = place.open()
    place.names = names
    assert identity.look()
    shake(trusting(identity), identity.context, names.addresses[0])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(trusting(identity), identity.context, "127.0.0.1")


@pytest.mark.parametrize("believed", [datetime(1970, 1, 1, tzinfo=UTC), NOW + timedelta(days=365)])
def test_a_certificate_made_by_a_wrong_clock_is_valid_for_devices_whose_clock_is_right(
    place: Place, believed: datetime
) -> None:
    place.clock.now, place.clock.set = believed, False
    identity = place.open()
    made = place.certificate()
    assert made.not_valid_before_utc <= NOW < made.not_valid_after_utc
    place.clock.now, place.clock.set = NOW, True
    assert identity.look(), "it is made anew when the clock is set"
    assert NOW - timedelta(days=3) < place.certificate().not_valid_before_utc < NOW
    assert place.certificate().not_valid_after_utc == NOW + timedelta(days=LIFE)


def test_a_certificate_of_a_clock_that_turns_out_to_be_ahead_is_made_anew(place: Place) -> None:
    place.clock.now = NOW + timedelta(days=200)
    identity = place.open()
    place.clock.now = NOW
    assert identity.look()
    assert place.certificate().not_valid_before_utc < NOW


@pytest.mark.parametrize("years", [0, 2, 5])
def test_a_clock_that_nobody_sets_has_a_certificate_renewed_in_its_time_and_not_at_every_look(
    place: Place, years: int
) -> None:
    place.clock.now, place.clock.set = NOW + timedelta(days=365 * years), False
    identity = place.open()
    assert not any(identity.look() for _ in range(3))
    place.clock.now += timedelta(days=LIFE * 2 // 3 + 1)
    assert identity.look()
    assert not identity.look()


def test_a_renewed_certificate_that_could_not_be_loaded_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = place.open()
    place.names = Names(("box.local",), ("10.0.0.9",))
    with monkeypatch.context() as broken:
        broken.setattr(identity, "context", None)
        with pytest.raises(AttributeError):
            identity.look()
    assert identity.look()
    shake(trusting(identity), identity.context, "10.0.0.9")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize("harm", [Path.unlink, cut, lambda path: path.write_bytes(b"")])
def test_a_lost_certificate_is_made_anew(place: Place, harm: Callable[[Path], object]) -> None:
    fingerprint = place.open().fingerprint
    harm(place.files / SERVER)
    identity = place.open()
    assert identity.fingerprint == fingerprint
    shake(trusting(identity), identity.context, "localhost")


@pytest.mark.parametrize("name", [AUTHORITY, AUTHORITY_KEY])
def test_a_damaged_authority_is_named_and_never_made_anew(place: Place, name: str) -> None:
    place.open()
    before = (place.files / AUTHORITY).read_bytes()
    cut(place.files / name)
    with pytest.raises(Held) as held:
        place.open()
    assert held.value.code == "identity_damaged"
    assert "backup" in held.value.hint
    assert name == AUTHORITY or (place.files / AUTHORITY).read_bytes() == before


def test_an_authority_without_its_key_or_with_a_foreign_one_is_named(place: Place, tmp_path: Path) -> None:
    place.open()
    other = Place(tmp_path / "other")
    other.directory.mkdir()
    other.open()
    (place.files / AUTHORITY_KEY).write_bytes((other.files / AUTHORITY_KEY).read_bytes())
    with pytest.raises(Held, match="belong together"):
        place.open()
    (place.files / AUTHORITY_KEY).unlink()
    with pytest.raises(Held, match="is missing"):
        place.open()


def test_a_start_that_ended_between_key_and_authority_is_finished_by_the_next(place: Place) -> None:
    place.open()
    key = (place.files / AUTHORITY_KEY).read_bytes()
    (place.files / AUTHORITY).unlink()
    place.open()
    assert (place.files / AUTHORITY_KEY).read_bytes() == key
    assert place.authority().not_valid_before_utc == BEGINNING


def test_the_names_that_the_page_answers_to_follow_the_machines(place: Place) -> None:
    identity = place.open()
    assert identity.hosts == {"box.local", "localhost"}
    place.names = Names(("bar.local", "localhost"), ("10.0.0.5", "127.0.0.1"))
    assert identity.look()
    assert identity.hosts == {"bar.local", "localhost"}


def test_a_disk_that_refuses_keeps_the_old_certificate_and_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = place.open()
    before = place.certificate()
    place.clock.now = NOW + timedelta(days=LIFE - 1)

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("agent.lan.identity.write_whole", refuse)
        assert not identity.look()
        assert place.certificate() == before
    assert identity.look()


def test_a_machine_knows_its_own_names_and_addresses() -> None:
    names = names_here(("Box.Venue.example", "192.0.2.77", "fe80::7%eth0", "no host", "bücher"))
    assert {"localhost", "nightsafe.local", "box.venue.example"} <= set(names.hosts)
    assert {"127.0.0.1", "::1", "192.0.2.77", "fe80::7"} <= set(names.addresses)
    assert not {"no host", "bücher"} & set(names.hosts)
