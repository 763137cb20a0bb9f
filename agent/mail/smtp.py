"""outbox → [smtp] → mail server. Sends one letter, and says whether it is taken, refused, or worth another try.

Certificates are always checked. The password is read from its file for each connection, and never logged. Whoever gets
no answer after the last line cannot know: the letter is sent again then, with the same Message-ID.
"""

import re
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Final, Literal, Protocol

import aiosmtplib

from agent.core.errors import Held, Rejected, Transient
from agent.core.letters import Letter, message_id

TIMEOUT_S: Final = 30.0
"""Time for one letter, connection and all, in seconds."""
LOGIN_CODES: Final = (530, 534, 535, 538)
"""Answers about the login, not about the letter."""
FORBIDDEN: Final = re.compile(r"5\.7\.[0-9]")


class Server(Protocol):
    """Settings of the same names ([alerts.smtp])."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def security(self) -> Literal["none", "starttls", "tls"]: ...
    @property
    def username(self) -> str: ...
    @property
    def password_file(self) -> Path | None: ...
    @property
    def sender(self) -> str: ...


class Smtp:
    """The mail server of the settings. `tls` overrides the system's trust store."""

    def __init__(
        self,
        venue: str,
        server: Callable[[], Server | None],
        wall_s: Callable[[], float],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._venue = venue
        self._server = server
        self._wall_s = wall_s
        self._tls = tls

    async def send(self, letter: Letter) -> str:
        """Returns when the server has taken it: with its words.

        Raises Transient where a later try may succeed, Held where a person must act first, Rejected where this letter
        never will be taken.
        """
        server = self._server()
        if server is None:
            raise Held("mail_unset", "No mail server is set.", "Write a table [alerts.smtp] into the settings.")
        password = _password(server)
        message = written(letter, server.sender, self._venue, self._wall_s())
        try:
            _, answer = await aiosmtplib.send(
                message,
                hostname=server.host,
                port=server.port,
                username=server.username or None,
                password=password,
                use_tls=server.security == "tls",
                start_tls=server.security == "starttls",
                tls_context=self._tls or ssl.create_default_context(),
                timeout=TIMEOUT_S,
                local_hostname="nightsafe",
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _refused(server, error.recipients[0].code, error.recipients[0].message) from error
        except aiosmtplib.SMTPSenderRefused as error:
            raise _sender_refused(error) from error
        except (aiosmtplib.SMTPConnectResponseError, aiosmtplib.SMTPHeloError) as error:
            said = _said(error.code, error.message).replace("says", "turns this box away with", 1)
            raise Transient("mail_later", said, "It is tried again by itself.") from error
        except aiosmtplib.SMTPResponseException as error:
            raise _refused(server, error.code, error.message) from error
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise _failed(server, error) from error
        return _line(answer)[:200]


def _failed(server: Server, error: Exception) -> Transient | Held:
    """What went wrong before the server had anything to say about the letter."""
    if type(error) in (aiosmtplib.SMTPNotSupported, aiosmtplib.SMTPException):
        hint = "Look at security and username in [alerts.smtp]."
        return Held("mail_security", f"The mail server does not offer what is set: {error}.", hint)
    if isinstance(error.__cause__, ssl.SSLCertVerificationError) or isinstance(error, ssl.SSLError):
        hint = "Look at host in [alerts.smtp]; the server's certificate must be valid for it."
        return Held("mail_certificate", "The mail server's certificate is not trusted.", hint)
    text = f"The mail server {server.host}:{server.port} was not reached: {type(error).__name__}."
    return Transient("mail_away", text, "It is tried again by itself.")


def written(letter: Letter, sender: str, venue: str, wall_s: float) -> EmailMessage:
    """The letter as a message; a line break in a header is impossible."""
    message = EmailMessage()
    message["From"] = _line(sender)
    message["To"] = _line(letter.to)
    message["Subject"] = _line(letter.subject)
    message["Date"] = formatdate(wall_s, localtime=False)
    message["Message-ID"] = message_id(venue, letter.key)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text)
    if letter.html:
        message.add_alternative(letter.html, subtype="html")
    return message


def _line(text: str) -> str:
    return " ".join(text.split())


def _password(server: Server) -> str | None:
    if not server.username or server.password_file is None:
        return None
    try:
        return server.password_file.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        text = f"The mail password in {server.password_file} cannot be read."
        raise Held("mail_password", text, "Put it there, readable for the service's user only.") from error


def _refused(server: Server, code: int, words: str) -> Transient | Rejected | Held:
    """A server's answer; its words go to people, without line breaks and bounded.

    A server that forbids this (5.7.x of RFC 3463) to somebody who has not logged in wants a login, not another address.
    """
    said = _said(code, words)
    if code in LOGIN_CODES or (500 <= code < 600 and not server.username and FORBIDDEN.match(words)):
        return Held("mail_login", said, "Look at security, username and password_file in [alerts.smtp].")
    if 500 <= code < 600:
        return Rejected("mail_refused", said, "Look at the address.")
    return Transient("mail_later", said, "It is tried again by itself.")


def _sender_refused(error: aiosmtplib.SMTPSenderRefused) -> Transient | Held:
    """The letter is good: its sender is a setting."""
    said = _said(error.code, error.message)
    if error.code in LOGIN_CODES:
        return Held("mail_login", said, "Look at security, username and password_file in [alerts.smtp].")
    if 500 <= error.code < 600:
        return Held("mail_sender", said, "Look at sender and username in [alerts.smtp].")
    return Transient("mail_later", said, "It is tried again by itself.")


def _said(code: int, words: str) -> str:
    return f"The mail server says {code}: {_line(words)[:200].rstrip('. ')}."
