"""box → drain → cloud ──HTTPS──► [server] → ledger. The journal's half of the cloud contract, over HTTP.

Checks a request from the outside in: who speaks, the address, the stream, the headers, the body, the chain. Answers a
records PUT only after the ledger's commit. Never changes a byte of an event, and holds a bounded amount of bodies.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import msgspec
import structlog
from aiohttp import web

from agent import __version__
from agent.cloud import wire
from agent.core.errors import NightsafeError, Transient
from agent.core.events import DEVICE_PATTERN
from agent.core.instants import to_text
from agent.receiver import batch, bodies
from agent.receiver.desk.calls import COMMAND_BYTES_MAX, REQUEST_BYTES_MAX, Asked, Desk, Sent
from agent.receiver.ledger import Appended, Declared, Hole, Ledger, NoStream, Opened, Opening, Parent, Stream
from agent.receiver.ledger.rules import admit
from agent.receiver.problems import Refused, of_outcome, refused, response, too_large
from agent.receiver.tokens import Tokens

log = structlog.get_logger()

DEFAULT_LIMITS: Final = wire.Limits(records=5000, bytes=8 * 1024 * 1024, min_interval_s=0)
SMALL_BODY_BYTES_MAX: Final = 16 * 1024
"""Bodies of POST streams and PUT holes."""
HEALTH_BODY_BYTES_MAX: Final = 256 * 1024
"""A heartbeat."""
HELD_BYTES_MAX: Final = 256 * 1024 * 1024
"""All bodies that are being read or judged at once; beyond it a box is asked to come back."""
BATCHES_MAX: Final = 8
"""Batches that stand decoded in memory at once; more wait."""
RETRY_AFTER_S: Final = 2
"""When to come back after a 503, in seconds."""
LINGER_MAX_S: Final = 2.0
"""How long the rest of a body is read after its refusal, so that the sender sees the answer, in seconds."""
STOP_MAX_S: Final = 5.0
"""How long requests under way may take when the server stops, in seconds."""

_RANGE = re.compile(r"([1-9][0-9]{0,11})-([1-9][0-9]{0,11})", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)

T = TypeVar("T")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """The routes over one ledger. Without `tokens` anyone may speak: for loopback only."""

    def __init__(
        self, ledger: Ledger, tokens: Tokens | None, limits: wire.Limits = DEFAULT_LIMITS, desk: Desk | None = None
    ) -> None:
        self._desk = desk
        self._ledger = ledger
        self._tokens = tokens
        self._limits = limits
        self._encoded_bytes_max = limits.bytes + limits.bytes // 1000 + 1024  # gzip of what does not shrink
        self._held_bytes = 0
        self._judging = asyncio.Semaphore(BATCHES_MAX)

    def app(self) -> web.Application:
        """The application to run; bodies must reach it undecoded (`auto_decompress=False`)."""
        app = web.Application(middlewares=[_problems])
        venue = f"/v1/venues/{{venue:{DEVICE_PATTERN}}}"
        stream = f"{venue}/streams/{{epoch}}"
        app.router.add_get("/v1/health", self.health, allow_head=False)
        app.router.add_post(f"{venue}/streams", self._for_token(self.open_stream))
        app.router.add_get(stream, self._for_token(self.stream), allow_head=False)
        app.router.add_get(f"{stream}/hash", self._for_token(self.hash_at), allow_head=False)
        app.router.add_put(f"{stream}/records/{{range}}", self._for_token(self.put_records))
        app.router.add_put(f"{stream}/holes/{{range}}", self._for_token(self.put_hole))
        app.router.add_put(f"{venue}/health", self._for_token(self.put_health))
        if self._desk is not None:
            app.on_shutdown.append(self._desk.end)
            app.router.add_get(f"{venue}/commands", self._for_token(self._desk.stream), allow_head=False)
            app.router.add_post(f"{venue}/commands", self._for_token(self.post_command))
            app.router.add_get(f"{venue}/orders", self._for_token(self.get_orders), allow_head=False)
            app.router.add_post(f"{venue}/requests/{{service}}", self._for_token(self.post_request))
        return app

    def _for_token(self, answer: Answer) -> Answer:
        """`answer`, for callers whose token is good."""

        async def checked(request: web.Request) -> web.StreamResponse:
            verdict = "ok" if self._tokens is None else self._tokens.judge(_token(request), request.match_info["venue"])
            if verdict == "unauthorized":
                detail = "Send Authorization: Bearer with a token of this cloud."
                raise refused("unauthorized", detail, {"WWW-Authenticate": "Bearer"})
            if verdict == "forbidden":
                raise refused("forbidden", "Use the token of this venue.")
            return await answer(request)

        return checked

    # Calls

    async def health(self, _: web.Request) -> web.Response:
        """That the cloud is there, for a probe."""
        return _json(wire.HealthAnswer("pass", f"nightsafe-reference/{__version__}", _now()))

    async def open_stream(self, request: web.Request) -> web.Response:
        """Open a stream, or bind it to the caller."""
        body = await self._small(request, wire.OpenStream)
        venue, said = request.match_info["venue"], body.parent
        parent = None if said is None else Parent(said.epoch, said.sequence, bytes.fromhex(said.rechash))
        opening = Opening(venue, body.epoch, parent, body.instance, body.reason, _now())
        outcome = await self._ledger.open(opening)
        if not isinstance(outcome, Opened):
            raise of_outcome(outcome)
        log.info("stream_opened", venue=venue, epoch=body.epoch, reason=body.reason, created=outcome.created)
        return _json(self._facts(outcome.stream), status=201 if outcome.created else 200)

    async def stream(self, request: web.Request) -> web.Response:
        """Where the box goes on."""
        stream = await self._ledger.stream(request.match_info["venue"], request.match_info["epoch"])
        if stream is None:
            raise of_outcome(NoStream())
        return _json(self._facts(stream))

    async def hash_at(self, request: web.Request) -> web.Response:
        """One rechash, for the search of the last common record."""
        text = request.query.get("at", "")
        if not (text.isascii() and text.isdigit() and len(text) <= 12):
            raise refused("malformed", "Name the sequence: hash?at=N.")
        venue, epoch, sequence = request.match_info["venue"], request.match_info["epoch"], int(text)
        stream = await self._ledger.stream(venue, epoch)
        if stream is None:
            raise of_outcome(NoStream())
        known = await self._ledger.hash_at(venue, epoch, sequence)
        if known is None:
            detail = f"{sequence} lies inside a hole or beyond {stream.next - 1}: ask for another one."
            raise refused("no-record", detail, next=stream.next, head=stream.head.hex())
        return _json(wire.HashAnswer(sequence, known.hex()))

    async def put_records(self, request: web.Request) -> web.Response:
        """A batch. Malformed: nothing is taken. A broken rechash: what stands before it is taken."""
        instance, first, last = await self._admitted(request)
        if wire.media_type(request.headers.get("Content-Type")) != wire.BATCH_TYPE:
            raise refused("unsupported-media-type", f"Send {wire.BATCH_TYPE}.")
        coding = _coding(request)
        if last - first + 1 > self._limits.records:
            raise too_large(self._limits)
        prevhash = request.headers.get(wire.PREVHASH_HEADER, "")
        if _HASH.fullmatch(prevhash) is None:
            raise refused("malformed", f"{wire.PREVHASH_HEADER} is not 64 lower-case hex digits.")
        address = batch.Address(
            request.match_info["venue"], request.match_info["epoch"], first, last, bytes.fromhex(prevhash)
        )
        digest = ", ".join(request.headers.getall(wire.DIGEST_HEADER, ()))
        try:
            async with self._body(request, self._encoded_bytes_max) as body, self._judging:
                judged = await asyncio.to_thread(self._judge, body, digest, coding, address)
                if isinstance(judged, batch.Malformed):
                    raise refused("malformed", judged.detail, {"Want-Content-Digest": "sha-256=10"})
                return await self._append(address, instance, judged)
        except bodies.TooLong as error:
            raise too_large(self._limits) from error

    async def put_hole(self, request: web.Request) -> web.Response:
        """Records that the box no longer has; answered with the stream as it stands then."""
        instance, first, last = await self._admitted(request)
        body = await self._small(request, wire.HoleBody)
        prevhash, rechash = bytes.fromhex(body.prevhash), bytes.fromhex(body.rechash)
        hole = Hole(first, last, prevhash, rechash, body.reason, _now())
        venue, epoch = request.match_info["venue"], request.match_info["epoch"]
        outcome = await self._ledger.declare_hole(venue, epoch, instance, hole)
        if not isinstance(outcome, Declared):
            raise of_outcome(outcome)
        log.warning("hole_declared", venue=venue, epoch=epoch, first=first, last=last)
        return _json(self._facts(outcome.stream))

    async def put_health(self, request: web.Request) -> web.Response:
        """A heartbeat; the last one is kept."""
        if wire.media_type(request.headers.get("Content-Type")) != wire.HEALTH_TYPE:
            raise refused("unsupported-media-type", f"Send {wire.HEALTH_TYPE}.")
        body = await self._plain(request, HEALTH_BODY_BYTES_MAX)
        _read(dict, body)
        now = _now()
        await self._ledger.keep_health(request.match_info["venue"], now, body)
        return _json(wire.TimeAnswer(now))

    async def post_command(self, request: web.Request) -> web.Response:
        """An operator's command for the venue."""
        assert self._desk is not None
        body = _read(Sent, await self._plain(request, COMMAND_BYTES_MAX))
        return _json(await self._desk.send(request.match_info["venue"], body), status=201)

    async def get_orders(self, request: web.Request) -> web.Response:
        """The venue's orders, for the operator."""
        assert self._desk is not None
        return _json(await self._desk.orders(request.match_info["venue"]))

    async def post_request(self, request: web.Request) -> web.Response:
        """A request in real time."""
        assert self._desk is not None
        body = _read(Asked, await self._plain(request, REQUEST_BYTES_MAX))
        return _json(await self._desk.ask(request.match_info["venue"], request.match_info["service"], body))

    # Their parts

    async def _admitted(self, request: web.Request) -> tuple[str, int, int]:
        """The instance and the sequences of a PUT that the stream would look at."""
        match = _RANGE.fullmatch(request.match_info["range"])
        if match is None or int(match[1]) > int(match[2]):
            raise refused("malformed", "The address ends in first-last: unpadded, first not above last.")
        instance = request.headers.get(wire.INSTANCE_HEADER, "")
        if not instance:
            raise refused("malformed", f"Name the process start in {wire.INSTANCE_HEADER}.")
        first, last = int(match[1]), int(match[2])
        stream = await self._ledger.stream(request.match_info["venue"], request.match_info["epoch"])
        refusal = admit(stream, instance, first)
        if refusal is not None:
            raise of_outcome(refusal)
        return instance, first, last

    def _judge(self, body: bytes, digest: str, coding: str, address: batch.Address) -> batch.Judged | batch.Malformed:
        """In a thread: the digest over what travelled, then the encoding, then the records."""
        wrong = wire.digest_fault(digest, body)
        if wrong is not None:
            return batch.Malformed(wrong)
        if coding == "gzip":
            try:
                body = bodies.gunzip(body, self._limits.bytes)
            except ValueError as error:
                return batch.Malformed(str(error))
        if len(body) > self._limits.bytes:
            raise bodies.TooLong
        return batch.judge(body, address)

    async def _append(self, address: batch.Address, instance: str, judged: batch.Judged) -> web.Response:
        venue, epoch, first, _, prevhash = address
        outcome = await self._ledger.append(venue, epoch, instance, first, prevhash, judged.rows)
        if not isinstance(outcome, Appended):
            raise of_outcome(outcome)
        stream = outcome.stream
        if self._desk is not None and outcome.accepted:
            self._desk.appended(venue, epoch)
        if outcome.rejected:
            log.warning("records_rejected", venue=venue, epoch=epoch, count=len(outcome.rejected))
        if judged.broken is not None:
            detail = "Its rechash is not that of its content; what stood before it was taken."
            raise refused("conflict", detail, sequence=judged.broken, next=stream.next, head=stream.head.hex())
        rejected = [wire.RejectedRecord(sequence, *why) for sequence, why in outcome.rejected]
        answer = wire.BatchAnswer(
            stream.next, stream.head.hex(), stream.safe, outcome.accepted, outcome.duplicate, rejected
        )
        return _json(answer)

    async def _small(self, request: web.Request, kind: type[T]) -> T:
        """A JSON body of this kind."""
        if wire.media_type(request.headers.get("Content-Type")) != wire.JSON_TYPE:
            raise refused("unsupported-media-type", f"Send {wire.JSON_TYPE}.")
        return _read(kind, await self._plain(request, SMALL_BODY_BYTES_MAX))

    async def _plain(self, request: web.Request, bytes_max: int) -> bytes:
        """A body that is not encoded; its digest is checked where there is one."""
        if _coding(request) != "identity":
            raise refused("unsupported-media-type", "Send this body without an encoding.", {"Accept-Encoding": ""})
        try:
            async with self._body(request, bytes_max) as body:
                digest = ", ".join(request.headers.getall(wire.DIGEST_HEADER, ()))
        except bodies.TooLong as error:
            raise refused("too-large", f"Send at most {bytes_max} bytes here.") from error
        wrong = wire.digest_fault(digest, body) if digest else None
        if wrong is not None:
            raise refused("malformed", wrong)
        return body

    @asynccontextmanager
    async def _body(self, request: web.Request, bytes_max: int) -> AsyncIterator[bytes]:
        """The body as it travelled, counted while the caller works with it."""
        with self._room(request.content_length if request.content_length is not None else bytes_max):
            try:
                body = await bodies.read(request, bytes_max)
            except bodies.CutShort as error:
                raise refused("malformed", "The body is cut short: send it again.") from error
            yield body

    @contextmanager
    def _room(self, size_bytes: int) -> Iterator[None]:
        if self._held_bytes + size_bytes > HELD_BYTES_MAX:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            raise refused("unavailable", "Too much is being sent at once: come back later.", headers)
        self._held_bytes += size_bytes
        try:
            yield
        finally:
            self._held_bytes -= size_bytes

    def _facts(self, stream: Stream) -> wire.StreamAnswer:
        return wire.StreamAnswer(
            stream.epoch, stream.next, stream.head.hex(), stream.safe, self._limits, stream.state, _now()
        )


@asynccontextmanager
async def serving(receiver: Receiver, host: str, port: int) -> AsyncIterator[str]:
    """Serve while the context lasts; yields the base URL with the real port. Raises Transient if it cannot listen."""
    runner = web.AppRunner(
        receiver.app(),
        access_log=None,
        auto_decompress=False,
        shutdown_timeout=STOP_MAX_S,
        lingering_time=LINGER_MAX_S,
        keepalive_timeout=75,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            text = f"Cannot listen on {host} port {port}: {error.strerror or error}."
            raise Transient("cannot_listen", text, "Stop what listens there, or name another port.") from error
        bound = runner.addresses[0]
        name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        yield f"http://{name}:{bound[1]}"
    finally:
        await runner.cleanup()


@web.middleware
async def _problems(request: web.Request, handler: Answer) -> web.StreamResponse:
    """Every answer that is not a success is a problem."""
    try:
        return await handler(request)
    except Refused as error:
        return response(error)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return response(refused("method-not-allowed", f"Use {allowed}.", {"Allow": allowed}))
    except web.HTTPNotFound:
        return response(refused("not-found", "This cloud has no such call; look at the path and the venue's name."))
    except Transient as error:
        log.warning("request_failed", code=error.code, error=error.text)
        return response(refused("unavailable", "Try again later.", {"Retry-After": str(RETRY_AFTER_S)}))
    except NightsafeError as error:
        log.error("request_failed", code=error.code, error=error.text, hint=error.hint)
        return response(refused("internal", "The cloud's operator has to act; its log says how."))
    except Exception:
        log.exception("request_crashed", method=request.method)
        return response(refused("internal", "Try again later."))


def _json(body: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(status=status, body=wire.encode(body), content_type=wire.JSON_TYPE)


def _read(kind: type[T], body: bytes) -> T:
    try:
        return wire.decode(kind, body)
    except ValueError as error:
        raise refused("malformed", str(error)[: batch.DETAIL_CHARS_MAX]) from error


def _token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _coding(request: web.Request) -> str:
    """`gzip` or `identity`; anything else is refused."""
    named = ",".join(request.headers.getall("Content-Encoding", ())).strip().lower()
    if named in ("", "identity"):
        return "identity"
    if named in ("gzip", "x-gzip"):
        return "gzip"
    raise refused("unsupported-media-type", "Send gzip, or no encoding.", {"Accept-Encoding": "gzip"})


def _now() -> str:
    return to_text(time.time_ns() // 1_000_000)
