"""cloud → [downlink] → inbox. The stream of commands: server-sent events over one connection of its own.

Only the exact media type counts, redirects are not followed, and lines and events are bounded: one that is longer is
skipped, and told with its cursor. A stream that is silent for longer than the contract allows is dead. Never moves a
cursor: it says what came, with the cursor behind it.
"""

import asyncio
import codecs
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, NamedTuple

import aiohttp

from agent.cloud import wire
from agent.cloud.client import retry_after_s
from agent.cloud.lookup import Lookup
from agent.cloud.probe import outcome_of, words_of
from agent.core.errors import Transient

SILENCE_S_MAX: Final = 45.0
"""A stream that is silent for so long is dead, in seconds: the cloud writes at least every 15."""
EVENT_CHARS_MAX: Final = 1024 * 1024
"""Longest event that is kept, in characters."""
NAME_CHARS_MAX: Final = 200
GATHER_S: Final = 0.2
"""Pause behind what has come: what comes meanwhile is handed on together, and costs one sync of the disk. A cloud that
tells the fate of every payment would else have the box sync as often as all its tills do."""
CURSOR_CHARS_MAX: Final = 200


class Message(NamedTuple):
    """One event of the stream, and the cursor behind it; `whole` is False where it was too long and was skipped."""

    event: str
    data: str
    cursor: str
    whole: bool = True


class Refused(NamedTuple):
    """The cloud answered without a stream; `wait_s` is what it asks for."""

    status: int
    wait_s: float | None


class Parser:
    """Server-sent events out of bytes, however they are cut (WHATWG HTML, 9.2.6); `cursor` is where they go on."""

    def __init__(self, cursor: str = "") -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        self._first = True
        self._was_cr = False
        self._skips_line = False
        """The line that comes in now is too long: its rest is skipped."""
        self._event = ""
        self._data: list[str] = []
        self._size = 0
        self._id = cursor

    def feed(self, data: bytes) -> Iterator[Message]:
        """The events that end in these bytes."""
        text = self._decode(data)
        if self._first and text:
            self._first = False
            text = text.removeprefix("\ufeff")
        if self._was_cr and text:
            text = text.removeprefix("\n")
            self._was_cr = False
        if text.endswith("\r"):
            self._was_cr = True
        lines = (self._rest + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop()
        for line in lines:
            if self._skips_line:
                self._skips_line = False
            elif line:
                self._take(line)
            else:
                message, self._event, self._data, self._size = self._message(), "", [], 0
                if message is not None:
                    yield message
        if self._skips_line or len(self._rest) > EVENT_CHARS_MAX:
            self._skips_line = True
            self._add(self._rest)
            self._rest = ""

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._add(value)
        elif name == "event":
            self._event = value[:NAME_CHARS_MAX]
        elif name == "id" and "\0" not in value:
            self._id = value[:CURSOR_CHARS_MAX]

    def _add(self, data: str) -> None:
        """Keep a line of data, or, where it is too much, nothing of the event but that."""
        self._size = min(self._size + len(data) + 1, EVENT_CHARS_MAX + 1)
        self._data.append(data)
        if self._size > EVENT_CHARS_MAX:
            self._data = [""]

    def _message(self) -> Message | None:
        if not self._data:
            return None
        whole = self._size <= EVENT_CHARS_MAX
        return Message(self._event or "message", "\n".join(self._data) if whole else "", self._id, whole)


class Downlink:
    """The venue's stream. `token` gives the present bearer token; `silence_s` is when it counts as dead."""

    def __init__(
        self,
        url: str,
        venue: str,
        token: Callable[[], str],
        silence_s: float = SILENCE_S_MAX,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = f"{url.rstrip('/')}/v1/venues/{venue}/commands"
        self._token = token
        self._silence_s = silence_s
        self._tls = tls

    async def listen(self, cursor: str, take: Callable[[list[Message]], Awaitable[None]]) -> Refused | None:
        """Hand on what comes behind `cursor`, as much as has come at once; nothing is a sign of life.

        Returns where the cloud ends it, or has no stream. Raises Transient where the way or the answer fails, and what
        `take` raises.
        """
        headers = {"Accept": wire.EVENTS_TYPE, "Cache-Control": "no-store", "User-Agent": "nightsafe"}
        if cursor:
            headers["Last-Event-ID"] = cursor
        if self._token():
            headers["Authorization"] = f"Bearer {self._token()}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self._silence_s)
        connector = aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls, resolver=Lookup(), limit=1)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
                session.get(self._url, headers=headers, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    return Refused(answer.status, retry_after_s(answer.headers.get("Retry-After"), None))
                if wire.media_type(answer.headers.get("Content-Type")) != wire.EVENTS_TYPE:
                    raise wire.NotAnAnswer("It is no stream of events.")
                parser = Parser(cursor)
                async for chunk in answer.content.iter_any():
                    await take(list(parser.feed(chunk)))
                    await asyncio.sleep(GATHER_S)
                return None
        except TimeoutError as error:
            raise Transient("downlink_silent", "The cloud's stream of commands is silent.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Transient(outcome_of(error), f"The stream of commands failed: {words_of(error)}.") from error
