"""[lan: identity] → gate, page. Who this box is to its devices: the venue's own authority, and a certificate by it.

Devices trust the authority (its fingerprint is what a person compares), so it lives for decades and is never made anew
where one was. The certificate is short-lived: renewed by time, and when the box's names or addresses change. Private
keys never leave the folder `identity`; nothing here knows a device.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import ifaddr
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.core.clock import PLAUSIBLE_FROM_MS
from agent.core.errors import Held
from agent.runtime.files import private_directory, write_whole

log = structlog.get_logger()

DIRECTORY: Final = "identity"
"""Folder in the state directory."""
AUTHORITY_KEY, AUTHORITY, SERVER = "ca.key", "ca.pem", "server.pem"
BEGINNING: Final = datetime.fromtimestamp(PLAUSIBLE_FROM_MS / 1000, UTC)
"""From when the authority is valid, and a certificate that was made by a clock nobody had set: no device's clock that
is right lies before it."""
AUTHORITY_LIFE: Final = timedelta(days=30 * 365)
EARLY: Final = timedelta(days=2)
"""So much before it is made a certificate is valid: a device's clock may be behind."""
RENEW_SHARE: Final = 2 / 3
"""Of its life, after which a certificate is renewed."""
LOOK_INTERVAL_S: Final = 10.0
"""How often names, addresses and time are looked at, in seconds."""
ELSEWHERE: Final = ("192.0.2.1", 9)
"""An address that is nobody's (RFC 5737)."""
ADDRESSES_MAX: Final = 64
"""Addresses in a certificate."""


class Clock(Protocol):
    """The box's wall clock, and whether anybody has set it."""

    def wall_ms(self) -> int: ...
    def synced(self) -> bool: ...


class Names(NamedTuple):
    """What devices may call this box by: host names and addresses, each sorted."""

    hosts: tuple[str, ...]
    addresses: tuple[str, ...]


class Identity:
    """The stage that keeps the certificate fresh. `context` serves TLS 1.2 and later; new connections see a renewal.

    `fingerprint` is SHA-256 of the authority's certificate (DER) in 64 hex digits.
    """

    name = "identity"

    def __init__(
        self, directory: Path, venue: str, life_days: int, clock: Clock, names: Callable[[], Names] | None = None
    ) -> None:
        """Make or read the authority, and a certificate that holds. Raises Held, or StateUnusable."""
        self._directory = directory / DIRECTORY
        self._venue = venue
        self._life = timedelta(days=life_days)
        self._clock = clock
        self._names = names or names_here
        private_directory(self._directory)
        self._key, self._authority = self._open_authority()
        self.fingerprint = self._authority.fingerprint(hashes.SHA256()).hex()
        self.ca_pem = self._authority.public_bytes(serialization.Encoding.PEM).decode()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.options |= ssl.OP_NO_RENEGOTIATION
        self._certificate = self._read_certificate()
        if self._certificate is None or self._due(self._certificate) is not None:
            why = "none that holds" if self._certificate is None else str(self._due(self._certificate))
            self._certificate = self._renew(why)
        self.context.load_cert_chain(self._directory / SERVER)
        self._hosts = frozenset(_names_of(self._certificate).hosts)

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Renew the certificate whenever it is due, until `stop`."""
        ready()
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await stop.wait()
            self.look()

    def look(self) -> bool:
        """Renew the certificate if it is due, and say whether it was. A disk that refuses is tried again later."""
        why = self._due(self._certificate) if self._certificate is not None else "none that holds"
        if why is None:
            return False
        try:
            made = self._renew(why)
            self.context.load_cert_chain(self._directory / SERVER)
        except OSError as error:
            log.warning("certificate_not_renewed", reason=str(error), why=why)
            return False
        self._certificate = made
        self._hosts = frozenset(_names_of(made).hosts)
        return True

    @property
    def hosts(self) -> frozenset[str]:
        """The names that this box is called by, as the certificate has them."""
        return self._hosts

    @property
    def expires(self) -> datetime:
        """When the certificate ends, unless it is renewed before."""
        assert self._certificate is not None
        return self._certificate.not_valid_after_utc

    # The authority ----------------------------------------------------------------------------------------------------

    def _open_authority(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key_path, path = self._directory / AUTHORITY_KEY, self._directory / AUTHORITY
        hint = (
            f"Put {path} and {key_path} back from a backup. Without one, move the folder {self._directory} away: a new "
            "authority is made at the next start, and every device has to be paired again."
        )
        if not key_path.exists() and path.exists():
            raise Held("identity_incomplete", f"{key_path} is missing, the key of the venue's authority.", hint)
        try:
            key = _read_key(key_path) if key_path.exists() else self._new_key(key_path)
            if not path.exists():  # new, or the start that made the key ended before this
                write_whole(path, self._new_authority(key).public_bytes(serialization.Encoding.PEM))
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except (ValueError, TypeError) as error:
            raise Held(
                "identity_damaged", f"The venue's authority in {self._directory} cannot be read.", hint
            ) from error
        except OSError as error:
            text = f"The venue's authority in {self._directory} cannot be read or made: {error.strerror or error}."
            raise Held("identity_unusable", text, "Free room on the disk, or give the folder to Nightsafe.") from error
        if found.public_key() != key.public_key():
            raise Held("identity_damaged", f"{path} and {key_path} do not belong together.", hint)
        return key, found

    @staticmethod
    def _new_key(path: Path) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP256R1())
        write_whole(path, _key_pem(key))
        return key

    def _new_authority(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Nightsafe"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Nightsafe {self._venue}"[:64]),
            ]
        )
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        log.info("authority_made", venue=self._venue)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(BEGINNING)
            .not_valid_after(BEGINNING + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )

    # The certificate --------------------------------------------------------------------------------------------------

    def _read_certificate(self) -> x509.Certificate | None:
        """The certificate on the disk; None where it is none of this authority's, or its key is not there."""
        try:
            content = (self._directory / SERVER).read_bytes()
            found = x509.load_pem_x509_certificate(content)
            found.verify_directly_issued_by(self._authority)
            key = serialization.load_pem_private_key(content, None)
        except (OSError, ValueError, TypeError, InvalidSignature):
            return None
        return found if key.public_key() == found.public_key() else None

    def _due(self, certificate: x509.Certificate) -> str | None:
        """Why it has to be renewed now, or None."""
        now = self._now()
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        made = begins + EARLY if begins != BEGINNING else ends - self._life  # made while nobody vouched for the clock
        if _names_of(certificate) != self._names():
            return "names or addresses have changed"
        if begins == BEGINNING and self._clock.synced():
            return "the clock is set now"
        if now < begins:
            return "it is not valid yet"
        return "two thirds of its life are over" if now >= made + (ends - made) * RENEW_SHARE else None

    def _now(self) -> datetime:
        return max(BEGINNING, datetime.fromtimestamp(self._clock.wall_ms() // 1000, UTC))

    def _renew(self, why: str) -> x509.Certificate:
        """A new one on the disk; it counts once it is loaded."""
        now, names = self._now(), self._names()
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.DNSName(host) for host in names.hosts]
        alternatives += [x509.IPAddress(ip_address(address)) for address in names.addresses]
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Nightsafe box of {self._venue}"[:64])]))
            .issuer_name(self._authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(BEGINNING, now - EARLY) if self._clock.synced() else BEGINNING)
            .not_valid_after(min(now + self._life, self._authority.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = made.public_bytes(serialization.Encoding.PEM)
        write_whole(self._directory / SERVER, _key_pem(key) + pem + self.ca_pem.encode())
        until, called = made.not_valid_after_utc.date().isoformat(), ",".join((*names.hosts, *names.addresses))
        log.info("certificate_made", why=why, until=until, names=called)
        return made


def names_here(further: Iterable[str] = ()) -> Names:
    """What this machine is called right now, by itself and by `further` host names or addresses."""
    host = socket.gethostname().lower()
    hosts, addresses = {"localhost", "nightsafe.local"}, {"127.0.0.1", "::1"}
    if _is_host(host):
        hosts |= {host, f"{host.partition('.')[0]}.local"}
    for adapter in ifaddr.get_adapters():
        for one in adapter.ips:
            address = ip_address(one.ip if isinstance(one.ip, str) else one.ip[0])
            if not address.is_link_local:
                addresses.add(str(address))
    for name in further:
        try:
            addresses.add(str(ip_address(name.partition("%")[0])))
        except ValueError:
            if _is_host(name):
                hosts.add(name.lower())
    return Names(tuple(sorted(hosts)), tuple(sorted(addresses)[:ADDRESSES_MAX]))


def source_address() -> str | None:
    """This machine's IPv4 address on the network that leads to all others; None without a way out. Sends nothing: a
    UDP socket that is connected only has its source address chosen."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _is_host(name: str) -> bool:
    return name.isascii() and 0 < len(name) <= 250 and name.replace("-", "").replace(".", "").isalnum()


def _names_of(certificate: x509.Certificate) -> Names:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Names((), ())
    hosts, addresses = found.get_values_for_type(x509.DNSName), found.get_values_for_type(x509.IPAddress)
    return Names(tuple(sorted(hosts)), tuple(sorted(map(str, addresses))))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    found = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise TypeError("no key of this kind")
    return found
