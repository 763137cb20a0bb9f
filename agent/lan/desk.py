"""people, devices → [pairing desk] → register, Mosquitto, gate. Lets devices in and sends them away.

What it does is durable before anybody is told. A secret is made when it is handed out, told once, and kept by nobody.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec
import structlog

from agent.core import cards
from agent.core.errors import Held, Rejected
from agent.core.events import device_allowed
from agent.core.facts import PresenceFacts
from agent.core.instants import to_text
from agent.core.pairing import DIGITS, OPEN, Pairing, Pairings, State, Terms, Verdict, fingerprint_shown, to_facts, uri
from agent.lan.register import LABEL_CHARS_MAX, Command, Device, Register, hashed

log = structlog.get_logger()

TOKEN_BYTES: Final = 16
PASSWORD_BYTES: Final = 32
HOLD: Final = "hold_payments"
RELEASE: Final = "release_payments"
IDENTIFY: Final = "identify"
WRONG: Final = "This code is wrong, spent or too old."


class Broker(Protocol):
    """Who asks for passwords."""

    async def admit(self) -> None:
        """What the register says holds from now on."""
        ...


class Gate(Protocol):
    """Where devices are connected."""

    def cut(self, device: str, text: str) -> int: ...
    def devices(self) -> frozenset[str]: ...


class Presence(Protocol):
    """What is known of how devices are."""

    def facts(self) -> Mapping[str, PresenceFacts]: ...
    def forget(self, device: str) -> None: ...


class Clock(Protocol):
    """Wall time for people, boottime for how long a pairing is open."""

    def wall_ms(self) -> int: ...
    def boottime_s(self) -> float: ...


class Address(Protocol):
    """Where devices find this box. `pairing_port` is that of the page with TLS."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def pairing_port(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def ca_pem(self) -> str: ...


class Paired(msgspec.Struct, frozen=True):
    """All that a device needs to connect, told once."""

    device: str
    username: str
    password: str
    host: str
    port: int
    ca_pem: str
    prefix: str


class Desk:
    """The venue's devices: pair, list, rename, hold, remove."""

    def __init__(
        self,
        register: Register,
        broker: Broker,
        gate: Gate,
        clock: Clock,
        address: Callable[[], Address | None],
        terms: Terms,
        new_id: Callable[[], str],
        presence: Presence,
    ) -> None:
        self._register = register
        self._broker = broker
        self._gate = gate
        self._clock = clock
        self._address = address
        self._new_id = new_id
        self._presence = presence
        self._given: Callable[[str], None] = lambda device: None
        self._stored: Callable[[], Mapping[str, str | None]] = dict
        self._pairings = Pairings(terms)
        self._turn = asyncio.Lock()
        self._decided = asyncio.Event()

    def know_stored(self, last: Callable[[], Mapping[str, str | None]]) -> None:
        """`last` tells when the latest event of each device was stored: who comes by HTTP has no connection to see."""
        self._stored = last

    def on_given(self, call: Callable[[str], None]) -> None:
        """Call `call` with each device that a person has given something to do."""
        self._given = call

    # Pairing ----------------------------------------------------------------------------------------------------------

    async def begin(self, device: str, label: str, replace: bool) -> dict[str, Any]:
        """Open a pairing; returns what people and the QR code need. Raises Rejected, Held without TLS."""
        self._where()
        if not device_allowed(device):
            text = f'"{device}" is no device id.'
            raise Rejected("device_id", text, "Use lower-case letters, digits and dashes, at most 63.")
        self._register.check()
        if self._register.has(device) and not replace:
            raise Rejected(
                "device_there", f"{device} is paired already.", "Give --replace to let another one take over."
            )
        code = "".join(secrets.choice("0123456789") for _ in range(DIGITS))
        token = secrets.token_urlsafe(TOKEN_BYTES)
        now_s = self._clock.boottime_s()
        self._check_words(device, label)
        pairing = self._pairings.begin(device, label[:LABEL_CHARS_MAX], replace, code, token, now_s)
        log.info("pairing_begun", device=device, replaces=replace)
        return self._shown(pairing)

    def shown(self, device: str) -> dict[str, Any]:
        """How far a pairing is; while it is open also what people and the QR code need. Raises as `state` and `begin`
        do."""
        now_s = self._clock.boottime_s()
        return self._shown(self._pairings.find(device, now_s))

    def _shown(self, pairing: Pairing) -> dict[str, Any]:
        facts = {**to_facts(pairing, self._clock.boottime_s()), "tries_left": self._pairings.tries_left}
        if pairing.state not in OPEN:
            return facts
        address = self._where()
        return {
            **facts,
            "code": pairing.code,
            "uri": uri(address.host, address.pairing_port, address.fingerprint, pairing.token, pairing.device),
            "host": address.host,
            "pairing_port": address.pairing_port,
            "port": address.port,
            "fingerprint": address.fingerprint,
            "fingerprint_shown": fingerprint_shown(address.fingerprint),
        }

    def state(self, device: str) -> dict[str, Any]:
        """How far a pairing is. Raises Rejected where there is none."""
        now_s = self._clock.boottime_s()
        return {**to_facts(self._pairings.find(device, now_s), now_s), "tries_left": self._pairings.tries_left}

    def decide(self, device: str, good: bool) -> None:
        """A person has compared fingerprints. Raises Rejected where no device has asked."""
        self._pairings.decide(device, good, self._clock.boottime_s())
        self._decided.set()
        self._decided = asyncio.Event()
        log.info("pairing_confirmed" if good else "pairing_declined", device=device)

    async def pair(
        self, code: str, name: str, peer: str, wait_s: float, there: Callable[[], bool] = lambda: True
    ) -> Paired | None:
        """What a device gets for its code; None while a person has not decided within `wait_s`. Raises Rejected: with
        the code "name_differs" nothing was spent, and with "locked_out" this caller is not heard for a while.

        A code is spent when its secret is written down. A caller that is not `there` any more is given none; what a
        person has decided stands, and the same code from the same address gets the secret."""
        tries_left = self._pairings.tries_left
        verdict, pairing = self._pairings.offer(code, name, peer, self._clock.boottime_s())
        if verdict is Verdict.NAME_DIFFERS:
            raise Rejected("name_differs", "This code is for a device of another name.", "Ask for its name.")
        if verdict is Verdict.LOCKED_OUT:
            raise Rejected("locked_out", "Too many wrong codes came from this address.", "Wait, or restart nightsafe.")
        if verdict is Verdict.WRONG or pairing is None:
            counted = self._pairings.tries_left < tries_left
            (log.warning if counted else log.debug)("pairing_refused", peer=peer, tries_left=self._pairings.tries_left)
            raise Rejected("code", WRONG, "Begin again on the box.")
        if verdict is Verdict.WAIT and not await self._is_decided(pairing, wait_s):
            return None
        return await self._release(pairing, peer, there)

    async def _is_decided(self, pairing: Pairing, wait_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while pairing.state is State.ASKED:
                    await self._decided.wait()
        return pairing.state is not State.ASKED

    async def _release(self, pairing: Pairing, peer: str, there: Callable[[], bool]) -> Paired | None:
        address, device = self._where(), pairing.device
        async with self._turn:
            if not there():
                return None
            if pairing.state not in OPEN:
                raise Rejected("code", WRONG, "Begin again on the box.")
            before = self._register.get(device) if self._register.has(device) else None
            password, paired_at = secrets.token_urlsafe(PASSWORD_BYTES), to_text(self._clock.wall_ms())
            label = pairing.label or (before.label if before is not None else "")
            held = before is not None and before.payments_held
            told = (Command(self._new_id(), HOLD),) if held else ()
            made = Device(device, hashed(password), paired_at, label, held, told)
            await self._write(lambda: self._register.put(made))
            pairing.state = State.PAIRED
            await self._admit_without(device, "another device has taken over this name")
        log.info("device_paired", device=device, replaces=pairing.replace, peer=peer)
        prefix = f"pos/v1/{device}/"
        return Paired(device, device, password, address.host, address.port, address.ca_pem, prefix)

    # Devices ----------------------------------------------------------------------------------------------------------

    def all(self) -> list[dict[str, Any]]:
        """Every paired device, and what is known of how it is; no secret."""
        connected, seen, stored = self._gate.devices(), self._presence.facts(), self._stored()

        def last_seen(device: str) -> str | None:
            here = seen[device].last_seen_at if device in seen else None
            return max((at for at in (here, stored.get(device)) if at is not None), default=None)

        return [
            {
                "device": one.id,
                "label": one.label,
                "paired_at": one.paired_at,
                "connected": one.id in connected,
                "payments_held": one.payments_held,
                "commands": [command.command for command in one.commands],
                "state": seen[one.id].state if one.id in seen else "unknown",
                "last_seen_at": last_seen(one.id),
                "app": seen[one.id].app if one.id in seen else None,
                "version": seen[one.id].version if one.id in seen else None,
            }
            for one in self._register.all()
        ]

    async def remove(self, device: str) -> None:
        """It may not connect any more, from this moment on, and nothing that was begun for it lets one in."""
        async with self._turn:
            self._pairings.end(device)
            await self._write(lambda: self._register.remove(device))
            self._presence.forget(device)
            ended = await self._admit_without(device, "this device was removed from the venue")
        log.info("device_removed", device=device, connections_ended=ended)

    async def change(self, device: str, *, label: str | None = None, payments_held: bool | None = None) -> None:
        """Another label, or payments held or released; the device is told until it says that it has done so."""
        async with self._turn:
            found = self._register.get(device)
            self._check_words(device, label or "")
            label = found.label if label is None else label[:LABEL_CHARS_MAX]
            changed = msgspec.structs.replace(found, label=label)
            if payments_held is not None and payments_held != found.payments_held:
                told = self._told(found, HOLD if payments_held else RELEASE, instead_of=(HOLD, RELEASE))
                changed = msgspec.structs.replace(told, label=label, payments_held=payments_held)
            await self._write(lambda: self._register.put(changed))
        if changed.commands != found.commands:
            log.info("payments_held" if changed.payments_held else "payments_released", device=device)
            self._given(device)

    async def identify(self, device: str) -> None:
        """Have a device show people which one it is."""
        async with self._turn:
            changed = self._told(self._register.get(device), IDENTIFY, instead_of=(IDENTIFY,))
            await self._write(lambda: self._register.put(changed))
        self._given(device)

    def _told(self, device: Device, command: str, instead_of: tuple[str, ...]) -> Device:
        left = tuple(one for one in device.commands if one.command not in instead_of)
        return msgspec.structs.replace(device, commands=(*left, Command(self._new_id(), command)))

    def commands(self, device: str) -> tuple[Command, ...]:
        """What a device was told and has not called done, the oldest first."""
        return self._register.get(device).commands if self._register.has(device) else ()

    async def applied(self, device: str, ids: frozenset[str]) -> None:
        """The device calls these done; durable when this returns. Raises Rejected where it cannot be written down."""
        async with self._turn:
            if not self._register.has(device):
                return
            found = self._register.get(device)
            left = tuple(one for one in found.commands if one.id not in ids)
            changed = msgspec.structs.replace(found, commands=left)
            await self._write(lambda: self._register.put(changed))
        for one in found.commands:
            if one.id in ids:
                log.info("command_applied", device=device, command=one.command, id=one.id)

    async def _admit_without(self, device: str, text: str) -> int:
        """What the register says holds, and who is connected with an older secret goes: now, to hear why, and once
        more, if it came back before the broker knew. Raises Rejected where the broker cannot be told."""
        ended = self._gate.cut(device, text)
        try:
            await self._broker.admit()
        except OSError as error:
            text = f"It is written down, but Mosquitto goes by its old list: {error.strerror or error}."
            hint = "Restart nightsafe; if the disk is full, free room on it before."
            raise Rejected("broker_untold", text, hint) from error
        return ended + self._gate.cut(device, text)

    @staticmethod
    async def _write(change: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(change)
        except OSError as error:
            hint = "Free room on the disk, then repeat."
            raise Rejected(
                "register_unwritable", f"It cannot be written down: {error.strerror or error}.", hint
            ) from error

    @staticmethod
    def _check_words(device: str, label: str) -> None:
        if not (cards.text_clean(device) and cards.text_clean(label)):
            raise Rejected("card_number", "That looks like a card number, and it would be written down.", "Change it.")

    def _where(self) -> Address:
        address = self._address()
        if address is None:
            raise Held(
                "pairing_no_tls",
                "Devices are paired over TLS, and this box has none.",
                "Add a table [gate.tls] and [web] listen_tls, then restart nightsafe.",
            )
        return address
