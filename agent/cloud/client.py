"""journal → drain → [cloud client] → cloud. HTTPS as the cloud contract has it, every answer bounded.

Only an answer with the expected media type and body counts; redirects are not followed. Maps what aiohttp raises to our
errors. Never decides what happens next, and never sends a token to anything but the cloud's own address.
"""

import asyncio
import email.utils
import ssl
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

import aiohttp
import msgspec
import structlog

from agent.cloud import wire
from agent.cloud.lookup import Lookup
from agent.cloud.probe import outcome_of, words_of
from agent.core.answers import BatchAnswer, CloudRefused, Refusal, RejectedRecord, StreamState
from agent.core.errors import Transient
from agent.core.lineage import Stream

log = structlog.get_logger()
T = TypeVar("T")

GZIP_LEVEL: Final = 1
"""Speed before size: level 1 already makes a fifth of JSON."""


JSON_HEADERS: Final = {"Content-Type": wire.JSON_TYPE}

PLAIN_STATUSES: Final = frozenset({401, 413, 429, 500, 502, 503, 504})
"""What a server or a proxy before the cloud says of itself, so that it counts without a problem body."""


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def connect_timeout_s(self) -> float: ...
    @property
    def request_timeout_s(self) -> float: ...
    @property
    def answer_bytes_max(self) -> int: ...


class Stored(Protocol):
    """A record of the journal."""

    @property
    def sequence(self) -> int: ...
    @property
    def recordedtime(self) -> str: ...
    @property
    def clock(self) -> str: ...
    @property
    def boot(self) -> str: ...
    @property
    def uptime_ms(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def event_id(self) -> str: ...
    @property
    def event(self) -> bytes: ...
    @property
    def prevhash(self) -> bytes: ...
    @property
    def rechash(self) -> bytes: ...


class Batch(NamedTuple):
    """A batch as it travels: sequences `first` to `last`, the body encoded."""

    first: int
    last: int
    prevhash: bytes
    body: bytes
    gzipped: bool
    digest: str


class Client:
    """The agent's side of the cloud contract, for one venue and one process start."""

    def __init__(
        self,
        url: str,
        venue: str,
        instance: str,
        token_file: Path | None,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._venue_url = f"{url.rstrip('/')}/v1/venues/{venue}"
        self._base = f"{self._venue_url}/streams"
        self._venue = venue
        self._instance = instance
        self._token_file = token_file
        self._limits = limits
        self._tls = tls
        self._token = ""
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Read the token and make the session; connects to nothing yet."""
        self.read_token()
        timeout = aiohttp.ClientTimeout(
            total=self._limits.request_timeout_s, sock_connect=self._limits.connect_timeout_s
        )
        connector = aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls, resolver=Lookup(), limit=2)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, trust_env=False
        )
        # aiohttp sends a PUT again by itself when a kept connection breaks; a cut upload asks first what the cloud has.
        self._session._retry_connection = False

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def read_token(self) -> None:
        """Read the token file again. One that cannot be read, or holds nothing, leaves the old token."""
        if self._token_file is None:
            return
        try:
            token = "".join(char for char in self._token_file.read_text("ascii").strip() if char.isprintable())
            if not token:
                raise ValueError("it is empty")
        except (OSError, ValueError) as error:
            hint = "Put the cloud's token there (`[cloud] token_file`)."
            reason = type(error).__name__ if isinstance(error, OSError | UnicodeDecodeError) else str(error)
            log.warning("token_unreadable", file=str(self._token_file), reason=reason, hint=hint)
            return
        self._token = token

    async def stream(self, epoch: str) -> StreamState:
        """The stream as the cloud has it. Raises CloudRefused (404 when it has none) and Transient."""
        return _state(await self._ask("GET", f"/{epoch}", wire.StreamAnswer))

    async def open_stream(self, stream: Stream) -> StreamState:
        """Open the stream, bound to this process: the last caller wins."""
        parent = stream.parent
        body = {
            "epoch": stream.epoch,
            "parent": parent and {"epoch": parent.epoch, "sequence": parent.sequence, "rechash": parent.rechash.hex()},
            "instance": self._instance,
            "reason": stream.reason,
        }
        return _state(await self._ask("POST", "", wire.StreamAnswer, msgspec.json.encode(body), JSON_HEADERS))

    async def hash_at(self, epoch: str, sequence: int) -> bytes | None:
        """The rechash that the cloud has at `sequence`; None where it has no record there."""
        try:
            answer = await self._ask("GET", f"/{epoch}/hash?at={sequence}", wire.HashAnswer)
        except CloudRefused as refused:
            if refused.refusal.kind == "urn:nightsafe:no-record":
                return None
            raise
        return bytes.fromhex(answer.rechash)

    async def put_hole(
        self, epoch: str, first: int, last: int, prevhash: bytes, rechash: bytes, reason: str
    ) -> StreamState:
        """Declare records that this box no longer has. Raises CloudRefused and Transient."""
        body = msgspec.json.encode({"reason": reason, "prevhash": prevhash.hex(), "rechash": rechash.hex()})
        headers = {**JSON_HEADERS, wire.INSTANCE_HEADER: self._instance}
        return _state(await self._ask("PUT", f"/{epoch}/holes/{first}-{last}", wire.StreamAnswer, body, headers))

    async def prepare(self, epoch: str, records: Sequence[Stored], *, gzip: bool, base64: bool) -> Batch:
        """Encode a batch, off the loop."""
        return await asyncio.to_thread(self._prepare, epoch, records, gzip, base64)

    def _prepare(self, epoch: str, records: Sequence[Stored], gzip: bool, base64: bool) -> Batch:
        body = wire.encode_batch(
            self._venue,
            epoch,
            [
                wire.Record(
                    record.sequence, record.recordedtime, record.clock, record.boot, record.uptime_ms, record.device,
                    record.event_id, record.event, record.rechash,
                )
                for record in records
            ],
            base64,
        )  # fmt: skip
        if gzip:
            packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
            body = packer.compress(body) + packer.flush()
        first, last = records[0], records[-1]
        return Batch(first.sequence, last.sequence, first.prevhash, body, gzip, wire.content_digest(body))

    def travel_bytes(self, batch: Batch) -> int:
        """What it takes of the line."""
        return len(batch.body)

    async def put(self, epoch: str, batch: Batch) -> BatchAnswer:
        """Send a batch; returns after the cloud's own commit. Raises CloudRefused and Transient."""
        headers = {
            "Content-Type": wire.BATCH_TYPE,
            wire.DIGEST_HEADER: batch.digest,
            wire.INSTANCE_HEADER: self._instance,
            wire.PREVHASH_HEADER: batch.prevhash.hex(),
        }
        if batch.gzipped:
            headers["Content-Encoding"] = "gzip"
        path = f"/{epoch}/records/{batch.first}-{batch.last}"
        answer = await self._ask("PUT", path, wire.BatchAnswer, batch.body, headers)
        rejected = tuple(RejectedRecord(one.sequence, one.type, one.detail) for one in answer.rejected)
        return BatchAnswer(
            answer.next, bytes.fromhex(answer.head), answer.safe, answer.accepted, answer.duplicate, rejected
        )

    async def put_health(self, body: bytes) -> str:
        """A heartbeat (`application/health+json`); returns the cloud's time. Raises CloudRefused and Transient."""
        headers = {"Content-Type": wire.HEALTH_TYPE}
        return (await self._ask("PUT", "/health", wire.TimeAnswer, body, headers, self._venue_url)).time

    @property
    def token(self) -> str:
        """The bearer token as it was last read; empty for none."""
        return self._token

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        base: str | None = None,
    ) -> T:
        assert self._session is not None, "open() first"
        sent: dict[str, str] = {"Accept": "application/json", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            async with self._session.request(
                method, (base or self._base) + path, data=body, headers=sent, allow_redirects=False
            ) as response:
                answer = await self._read(response)
                content_type = response.headers.get("Content-Type")
                if 200 <= response.status < 300:
                    return wire.read_answer(kind, content_type, answer)
                asked_s = retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date"))
                raise CloudRefused(_refusal(response.status, asked_s, content_type, answer))
        except TimeoutError as error:
            raise Transient("timeout", "The cloud did not answer in time.", "It is asked again by itself.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = f"The cloud was not reached: {words_of(error)}."
            raise Transient(outcome_of(error), text, "It is tried again by itself.") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        found = b""
        async for part in response.content.iter_chunked(65_536):
            found += part
            if len(found) > self._limits.answer_bytes_max:
                raise wire.NotAnAnswer(f"The answer is longer than {self._limits.answer_bytes_max} bytes.")
        return found


def _state(answer: wire.StreamAnswer) -> StreamState:
    limits = answer.limits
    return StreamState(
        answer.next,
        bytes.fromhex(answer.head),
        answer.safe,
        answer.state == "open",
        limits.records,
        limits.bytes,
        limits.min_interval_s,
    )


def _refusal(status: int, asked_s: float | None, content_type: str | None, body: bytes) -> Refusal:
    """An error answer; one without a problem body still has its status."""
    try:
        problem = wire.read_problem(content_type, body)
    except wire.NotAnAnswer as error:
        if status not in PLAIN_STATUSES:
            raise
        return Refusal(status, detail=error.text, retry_after_s=asked_s)
    limits = problem.limits
    return Refusal(
        status,
        problem.type if problem.type != "about:blank" else "",
        problem.detail or problem.title,
        problem.next,
        bytes.fromhex(problem.head) if problem.head is not None else None,
        problem.sequence,
        limits.records if limits else None,
        limits.bytes if limits else None,
        asked_s,
        problem.successor,
    )


def retry_after_s(value: str | None, date: str | None) -> float | None:
    """Retry-After (RFC 9110): seconds, or a date; None when there is none that can be read.

    A date is held against the answer's own Date, never against this box's clock, which may be wrong by years.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        until, said = (email.utils.parsedate_to_datetime(one or "").timestamp() for one in (text, date))
        return max(0.0, until - said)
    except (ValueError, OverflowError, TypeError):
        return None
