"""desk → [requests] → cloud. One request in real time, on connections of its own: it never waits behind an upload.

Says whether the request may have reached the cloud where no answer came. Only the exact media type and body count,
redirects are not followed.
"""

import asyncio
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import msgspec

from agent.cloud import wire
from agent.cloud.lookup import Lookup
from agent.cloud.probe import read_whole, words_of
from agent.core.errors import Transient
from agent.core.nesting import shallow

CONNECTIONS_MAX: Final = 8
IDLE_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 65_536


NOT_DONE: Final = frozenset({401, 403, 404, 429})
"""With these, and a problem of its own as the body, the cloud says that it has not even begun."""


class Unsent(Transient):
    """The request did not leave this box, or the cloud has turned it away at the door."""


class Answer(msgspec.Struct):
    """The cloud's answer."""

    status: str
    result: dict[str, Any] = {}
    reason: str | None = None


class Counter:
    """The cloud's counter, for one venue. `token` gives the present bearer token."""

    def __init__(self, url: str, venue: str, token: Callable[[], str], tls: ssl.SSLContext | None = None) -> None:
        self._url = f"{url.rstrip('/')}/v1/venues/{venue}/requests"
        self._token = token
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, service: str, id: str, device: str, args: dict[str, Any], deadline_s: float) -> Answer:
        """The answer. Raises Unsent where the request surely did not go out, Transient where nobody knows."""
        going = SimpleNamespace(sent=False)
        body = msgspec.json.encode({"id": id, "device": device, "args": args})
        headers = {"Content-Type": wire.JSON_TYPE, "Accept": wire.JSON_TYPE, "User-Agent": "nightsafe"}
        if self._token():
            headers["Authorization"] = f"Bearer {self._token()}"
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._open().post(
                    f"{self._url}/{service}",
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=going,
                ) as answer,
            ):
                content = await read_whole(answer.content, ANSWER_BYTES_MAX)
                if answer.status in NOT_DONE and content is not None:
                    wire.read_problem(answer.headers.get("Content-Type"), content)
                    raise Unsent("unsent", f"The cloud refuses this box's requests with {answer.status}.")
                if answer.status != 200:
                    raise wire.NotAnAnswer(f"The cloud answered {answer.status}.")
                if content is None:
                    raise wire.NotAnAnswer(f"The cloud's answer is longer than {ANSWER_BYTES_MAX} bytes.")
                if not shallow(content):
                    raise wire.NotAnAnswer("The cloud's answer is no JSON, or nested too deeply.")
                return wire.read_answer(Answer, answer.headers.get("Content-Type"), content)
        except TimeoutError as error:
            raise _failed(going.sent, f"The cloud did not answer within {deadline_s:g} s.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failed(going.sent, f"The cloud's counter failed: {words_of(error)}.") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=True if self._tls is None else self._tls,
                resolver=Lookup(),
                limit=CONNECTIONS_MAX,
                keepalive_timeout=IDLE_S,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[_sending()],
            )
            self._session._retry_connection = False  # a request that may have gone out is not sent again unasked
        return self._session


def _sending() -> aiohttp.TraceConfig:
    """Notes that the request begins to go out."""

    async def begin(session: object, context: SimpleNamespace, params: object) -> None:
        context.trace_request_ctx.sent = True

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(begin)
    return trace


def _failed(sent: bool, text: str) -> Transient:
    return Transient("outcome_unknown", text) if sent else Unsent("unsent", text)
