"""A mail server of the test's own (aiosmtpd), and a web server that says what it is told to; each on a free port."""

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "nightsafe", "a mail password"


class Sink:
    """Takes letters; `answers` are what it says to the next recipients instead of taking them."""

    def __init__(
        self, tls: ssl.SSLContext | None = None, security: str = "none", login: bool = False, port: int = 0
    ) -> None:
        self.letters: list[EmailMessage] = []
        self.answers: list[str] = []
        self.sender_answer = ""
        """What it says to any sender instead of taking it."""
        self.cut_at_data = 0
        self.port = port
        self._tls = tls if security == "tls" else None
        self._options: dict[str, Any] = {}
        if security == "starttls":
            self._options |= {"tls_context": tls, "require_starttls": True}
        if login:
            required = security == "starttls"
            self._options |= {"authenticator": self.judge, "auth_required": True, "auth_require_tls": required}
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server

    def _made(self) -> SMTP:
        return SMTP(self, loop=self._loop, hostname="localhost", **self._options)

    def judge(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        good = LoginPassword(USER.encode(), PASSWORD.encode())
        return AuthResult(success=data == good, handled=False)

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.sender_answer:
            return self.sender_answer
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.answers:
            return self.answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        letter = message_from_bytes(content, policy=default)
        assert isinstance(letter, EmailMessage)
        self.letters.append(letter)
        if self.cut_at_data:
            self.cut_at_data -= 1
            assert server.transport is not None
            server.transport.abort()
        return "250 taken"

    def __enter__(self) -> "Sink":
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        listening = self._loop.create_server(self._made, "127.0.0.1", self.port, ssl=self._tls)
        self._server = asyncio.run_coroutine_threadsafe(self._listen(listening), self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _listen(self, listening: Awaitable[asyncio.Server]) -> asyncio.Server:
        return await listening

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)


class Answers:
    """A web server whose answers a function gives: method and path to status, content type and body."""

    def __init__(self, answer: Callable[[str, str], tuple[int, str, bytes]], port: int = 0) -> None:
        self.posted: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.command == "POST" and self.headers["Content-Type"] == "application/json":
                    outer.posted.append((self.path, json.loads(body), self.headers["Idempotency-Key"]))
                status, kind, content = answer(self.command, self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = respond

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
