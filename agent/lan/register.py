"""[lan: register] → Mosquitto's password file, HTTP door. The paired devices, in one small file written whole.

Holds hashes of secrets and no secret. A copy is written right behind it, so that a damaged file keeps no till of a
venue out, and lets none in that was removed. Where neither can be read nobody is let in, and nothing is overwritten.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent.core.errors import Held, Rejected
from agent.core.events import device_allowed
from agent.runtime.files import write_whole

log = structlog.get_logger()

FILE_NAME: Final = "devices.json"
COPY_NAME: Final = "devices.json.copy"
DAMAGED_NAME: Final = "devices.json.damaged"
DEVICES_MAX: Final = 1_000
LABEL_CHARS_MAX: Final = 100
ITERATIONS: Final = 101
"""PBKDF2 rounds, as Mosquitto has them: few, since the secrets are 256 random bits."""


class Command(msgspec.Struct, frozen=True):
    """What a device was told to do and has not called done yet, by its name in the device contract."""

    id: str
    command: str


class Device(msgspec.Struct, frozen=True):
    """One paired device. `hash` is as in Mosquitto's password file; `paired_at` by the box's clock."""

    id: str
    hash: str
    paired_at: str
    label: str = ""
    payments_held: bool = False
    commands: tuple[Command, ...] = ()


class Content(msgspec.Struct, frozen=True):
    """The file: the devices and the SHA-256 of their JSON."""

    sha256: str
    devices: msgspec.Raw


class Register:
    """The devices by id."""

    def __init__(self, directory: Path) -> None:
        """Read the file, or its copy; `stale` tells that it was the copy, `lost` that neither can be read."""
        self._path, self._copy = directory / FILE_NAME, directory / COPY_NAME
        self._damaged = directory / DAMAGED_NAME
        self.stale = False
        self.lost: Held | None = None
        self._devices: dict[str, Device] = {}
        if not self._path.exists() and not self._copy.exists():
            return
        found = _read(self._path)
        if found is None:
            found = _read(self._copy)
            self.stale = found is not None
        if found is None:
            self.lost = Held(
                "register_damaged",
                f"The list of paired devices, {self._path}, cannot be read, and neither can {COPY_NAME}.",
                "Put one of them back from a backup; or move both away, and pair every device again. Then restart "
                "nightsafe.",
            )
            return
        self._devices = {device.id: device for device in found}
        with suppress(OSError):  # the next change does it otherwise
            self._heal()

    def _heal(self) -> None:
        """File and copy are the same again; a damaged file is kept."""
        if self.stale:
            if self._path.exists():
                self._path.replace(self._damaged)
            write_whole(self._path, self._copy.read_bytes())
        elif not self._copy.exists() or self._copy.read_bytes() != self._path.read_bytes():
            write_whole(self._copy, self._path.read_bytes())

    def check(self) -> None:
        """Raises Held where the list is lost: nobody may be paired or removed then."""
        if self.lost is not None:
            raise self.lost

    def all(self) -> tuple[Device, ...]:
        """Every device, by id."""
        return tuple(self._devices[name] for name in sorted(self._devices))

    def get(self, id: str) -> Device:
        """One of them. Raises Rejected for one that is not paired."""
        found = self._devices.get(id)
        if found is None:
            raise Rejected("device_unknown", f"{id} is not paired.", "See `nightsafe devices list`.")
        return found

    def knows(self, id: str, password: str) -> bool:
        """Whether this is the device's secret."""
        found = self._devices.get(id)
        return found is not None and matches(found.hash, password)

    def has(self, id: str) -> bool:
        """Whether it is paired."""
        return id in self._devices

    def put(self, device: Device) -> None:
        """Add it, or replace what was known of it; durable when this returns. Raises Rejected, Held and OSError."""
        if not device_allowed(device.id):
            raise Rejected(
                "device_id", f'"{device.id}" is no device id.', "Use lower-case letters, digits and dashes, at most 63."
            )
        if device.id not in self._devices and len(self._devices) >= DEVICES_MAX:
            raise Rejected("devices_many", f"{DEVICES_MAX} devices are paired.", "Remove those that are gone.")
        self._write({**self._devices, device.id: device})

    def remove(self, id: str) -> None:
        """It may not connect any more; durable when this returns. Raises Rejected, Held and OSError."""
        self.check()
        self.get(id)
        self._write({name: device for name, device in self._devices.items() if name != id})

    def _write(self, devices: dict[str, Device]) -> None:
        self.check()
        body = msgspec.json.encode(list(devices.values()))
        content = msgspec.json.encode(Content(hashlib.sha256(body).hexdigest(), msgspec.Raw(body)))
        write_whole(self._path, content)
        self._devices = devices
        with suppress(OSError):  # it is written down; the copy follows with the next change or start
            write_whole(self._copy, content)


def hashed(password: str) -> str:
    """A password as Mosquitto keeps it (format 7: PBKDF2 with SHA-512)."""
    salt = secrets.token_bytes(12)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(_digest(password, salt)).decode()}"


def matches(kept: str, password: str) -> bool:
    """Whether `kept` was made of this password."""
    try:
        _, _, rounds, salt, digest = kept.split("$")
        made = _digest(password, base64.b64decode(salt, validate=True), int(rounds))
        return hmac.compare_digest(made, base64.b64decode(digest, validate=True))
    except (ValueError, binascii.Error):
        return False


def _digest(password: str, salt: bytes, rounds: int = ITERATIONS) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)


def _read(path: Path) -> list[Device] | None:
    try:
        content = msgspec.json.decode(path.read_bytes(), type=Content)
        if hashlib.sha256(content.devices).hexdigest() != content.sha256:
            raise ValueError("its seal does not hold")
        return msgspec.json.decode(content.devices, type=list[Device])
    except (OSError, ValueError) as error:
        log.error("register_unreadable", file=str(path), reason=str(error))
        return None
