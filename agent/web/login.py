"""people → [web: login] → pages that act. The venue PIN against a session: a cookie, and a token for each form.

Judges neither how often a PIN may be tried nor what a session may do. Never keeps or logs a PIN or a token.
"""

import asyncio
import hmac
import math
import os
import re
import secrets
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from agent.core.errors import Held, Rejected
from agent.core.pin_tries import PinTries
from agent.core.sessions import Session, Sessions
from agent.web.body import address_of

log = structlog.get_logger()

COOKIE_TLS: Final = "__Host-nightsafe"
COOKIE_PLAIN: Final = "nightsafe"
TOKEN_BYTES: Final = 32
PIN: Final = re.compile(rb"[0-9]{6,12}")
PIN_FILE_BYTES_MAX: Final = 64
PAGE: Final = "page"
"""Who has acted, in the log."""
HOW: Final = (
    "On the box, as root: install -m 0600 -o nightsafe /dev/stdin /etc/nightsafe/pin, type 6 to 12 digits, Enter and "
    'Ctrl-D. Then write pin_file = "pin" below [web] in nightsafe.toml, and restart nightsafe.'
)


class Login:
    """Who may act on the page. `now_s` is boottime; `locked_out` hears from where somebody keeps trying."""

    def __init__(
        self,
        pin_file: Path | None,
        tries: PinTries,
        sessions: Sessions,
        now_s: Callable[[], float],
        locked_out: Callable[[str], None],
    ) -> None:
        self._pin_file = pin_file
        self._now_s = now_s
        self._locked_out = locked_out
        self._tries = tries
        self._sessions = sessions
        self._key = secrets.token_bytes(TOKEN_BYTES)
        self._known = b""
        """The PIN that the open sessions were opened by, as a digest that nobody else can make."""

    async def usable(self) -> str:
        """Empty, or why nobody can log in, and what to do."""
        try:
            await self._pin()
        except Held as held:
            return str(held)
        return ""

    async def enter(self, request: web.Request, given: str) -> tuple[str, Session]:
        """A session and its token for a PIN. Raises Held without a PIN, Rejected with "pin_wrong" or "pin_wait"."""
        pin = await self._pin()
        address, now_s = address_of(request), self._now_s()
        left_s = self._tries.left_s(address, now_s)
        if left_s > 0:
            log.debug("page_login", who=PAGE, address=address, outcome="locked_out")
            raise _wait(left_s)
        if not hmac.compare_digest(given.encode("utf-8", "replace"), pin):
            if self._tries.refused(address, now_s):
                log.warning("page_login", who=PAGE, address=address, outcome="wrong_pin", locked_out=True)
                self._locked_out(address)
            else:
                log.warning("page_login", who=PAGE, address=address, outcome="wrong_pin")
            raise Rejected("pin_wrong", "That is not the PIN.", "Try again.")
        self._tries.let_in(address, now_s)
        self.leave(request)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        session = self._sessions.open(token, secrets.token_urlsafe(TOKEN_BYTES), now_s)
        log.info("page_login", who=PAGE, address=address, outcome="logged_in", sessions=len(self._sessions))
        return token, session

    async def session_of(self, request: web.Request) -> Session | None:
        """The caller's session, None for one who is not logged in."""
        token = request.cookies.get(_cookie(request))
        if token is None:
            return None
        try:
            await self._pin()
        except Held:
            return None
        return self._sessions.find(token, self._now_s())

    def leave(self, request: web.Request) -> None:
        """The caller's session ends, where there is one."""
        token = request.cookies.get(_cookie(request))
        if token is not None:
            self._sessions.end(token)

    async def _pin(self) -> bytes:
        """The PIN as it stands in its file now; with another one every session ends. Raises Held."""
        try:
            pin = await asyncio.to_thread(read_pin, self._pin_file)
        except Held:
            self._renew(b"")
            raise
        self._renew(hmac.digest(self._key, pin, sha256))
        return pin

    def _renew(self, known: bytes) -> None:
        if hmac.compare_digest(known, self._known):
            return
        self._known = known
        ended = self._sessions.end_all()
        if ended:
            log.warning("page_sessions_ended", reason="the PIN has changed", sessions=ended)


def read_pin(path: Path | None) -> bytes:
    """The digits in the PIN file, which nobody but its owner may read. Raises Held, with what to do."""
    if path is None:
        raise Held("pin_none", "This box has no PIN yet, so nobody can change anything here.", HOW)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            content = os.read(descriptor, PIN_FILE_BYTES_MAX + 1) if stat.S_ISREG(found.st_mode) else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        text = f"The file with the PIN cannot be read ({error.strerror}), so nobody can change anything here."
        raise Held("pin_unreadable", text, HOW) from error
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = "Others may read the file with the PIN, so it is worth nothing."
        raise Held("pin_open", text, "Choose a new PIN, and give its file the mode 0600 (chmod 600).")
    digits = content.strip()
    if not PIN.fullmatch(digits):
        raise Held("pin_form", "The file with the PIN does not hold 6 to 12 digits.", HOW)
    return digits


def remember(request: web.Request, answer: web.StreamResponse, token: str) -> None:
    """Give the caller the session: to no script, with no request that another page begins, over TLS where there is."""
    answer.set_cookie(_cookie(request), token, path="/", httponly=True, samesite="Strict", secure=request.secure)


def forget(request: web.Request, answer: web.StreamResponse) -> None:
    """Have the caller's browser drop it."""
    answer.del_cookie(_cookie(request), path="/", httponly=True, samesite="Strict", secure=request.secure)


def _cookie(request: web.Request) -> str:
    """The browser sends the first name over TLS only, and only to the very host that set it."""
    return COOKIE_TLS if request.secure else COOKIE_PLAIN


def _wait(left_s: float) -> Rejected:
    minutes = math.ceil(left_s / 60)
    when = f"{minutes} minutes" if minutes < 120 else f"{math.ceil(minutes / 60)} hours"
    when = "a minute" if minutes == 1 else when
    return Rejected("pin_wait", "Too many wrong PINs were given.", f"Try again in {when}, or use the box's terminal.")
