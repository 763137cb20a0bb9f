"""status → [routes] → guard → people and machines. What is served, path by path, each from one snapshot.

The uplink is part of neither liveness nor readiness. Never decides what to say: the sentence and verdict come ready.
"""

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeVar
from zoneinfo import ZoneInfo

import aiohttp_jinja2
import jinja2
import msgspec
from aiohttp import web

from agent.core.conditions import ending
from agent.core.errors import NightsafeError
from agent.core.health import Check, health, verdict
from agent.core.instants import local_time, to_ms
from agent.core.presence import presence_words
from agent.core.sentence import count, duration, incomplete
from agent.core.status import Snapshot, to_json
from agent.web.guard import Terms, guard, problem
from agent.web.metrics import CONTENT_TYPE as METRICS_TYPE
from agent.web.metrics import Metrics

HEALTH_TYPE: Final = "application/health+json"
PAGES: Final = Path(__file__).parent / "pages"
REFRESH_S: Final = 5
"""How often an open page asks again, in seconds."""
WORDS: Final = {"online": "Online", "degraded": "Trouble with the cloud", "offline": "Offline"}
MOODS: Final = {"pass": "good", "warn": "warn", "fail": "bad"}


class Source(Protocol):
    """Whoever knows how the box is."""

    def snapshot(self) -> Snapshot: ...
    def live(self) -> tuple[Check, ...]: ...
    def ready(self) -> tuple[Check, ...]: ...


class Quarantine(Protocol):
    """What a person decides about a refused event. Raises NightsafeError with words."""

    async def dismiss(self, number: int, actor: str, note: str) -> None: ...
    async def resubmit(self, number: int, actor: str, note: str) -> None: ...


class Acts(NamedTuple):
    """What may be done through the Unix socket; `adopt` takes who decides, and why, `acknowledge` the name of what has
    happened before that."""

    quarantine: Quarantine
    adopt: Callable[[str, str], Awaitable[None]]
    acknowledge: Callable[[str, str, str], Awaitable[None]]
    desk: "Desk | None" = None


class Desk(Protocol):
    """Who may connect. Raises NightsafeError with words."""

    async def begin(self, device: str, label: str, replace: bool) -> dict[str, Any]: ...
    def state(self, device: str) -> dict[str, Any]: ...
    def decide(self, device: str, good: bool) -> None: ...
    def all(self) -> list[dict[str, Any]]: ...
    async def remove(self, device: str) -> None: ...
    async def identify(self, device: str) -> None: ...
    async def change(self, device: str, *, label: str | None = None, payments_held: bool | None = None) -> None: ...


class Beginning(msgspec.Struct):
    """A pairing that a person wants."""

    label: str = ""
    replace: bool = False


class Change(msgspec.Struct):
    """What is to be different about a device."""

    label: str | None = None
    payments_held: bool | None = None


class Decision(msgspec.Struct):
    """Who decides, and why."""

    actor: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class Acknowledgement(Decision):
    """Which attention it ends."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


D = TypeVar("D", bound=Decision)


Post = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    source: Source, terms: Terms, acts: Acts | None = None, posts: Mapping[str, Post] | None = None
) -> web.Application:
    """The application for one listener; `acts` only for one that may act, `posts` only for one that devices reach."""
    app = web.Application(middlewares=[guard(terms, _style_hash())])
    aiohttp_jinja2.setup(
        app, loader=jinja2.FileSystemLoader(PAGES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    metrics = Metrics(source.snapshot)
    app.add_routes(
        [
            web.get("/", partial(_page, source)),
            web.get("/livez", partial(_checks, source.live)),
            web.get("/readyz", partial(_checks, source.ready)),
            web.get("/health", partial(_health, source)),
            web.get("/metrics", partial(_metrics, metrics)),
            web.get("/api/v1/status", partial(_status, source)),
        ]
    )
    if terms.acts and acts is not None:
        base = "/api/v1/quarantine/{number:[1-9][0-9]{0,11}}"
        app.add_routes(
            [
                web.post(base + "/dismiss", partial(_decide, _numbered(acts.quarantine.dismiss))),
                web.post(base + "/resubmit", partial(_decide, _numbered(acts.quarantine.resubmit))),
                web.post("/api/v1/queue/adopt", partial(_decide, lambda request: acts.adopt)),
                web.post("/api/v1/attention/ack", partial(_acknowledge, acts.acknowledge)),
            ]
        )
        if acts.desk is not None:
            app.add_routes(_desk_routes(acts.desk))
    for path, post in (posts or {}).items():
        app.add_routes([web.post(path, post)])
    return app


def _desk_routes(desk: Desk) -> list[web.RouteDef]:
    base = "/api/v1/devices/{device}"

    async def begin(device: str, body: bytes) -> Any:
        wanted = msgspec.json.decode(body, type=Beginning)
        return await desk.begin(device, wanted.label, wanted.replace)

    async def state(device: str, body: bytes) -> Any:
        return desk.state(device)

    async def confirm(device: str, body: bytes) -> None:
        desk.decide(device, True)

    async def decline(device: str, body: bytes) -> None:
        desk.decide(device, False)

    async def remove(device: str, body: bytes) -> None:
        await desk.remove(device)

    async def change(device: str, body: bytes) -> None:
        wanted = msgspec.json.decode(body, type=Change)
        await desk.change(device, label=wanted.label, payments_held=wanted.payments_held)

    async def identify(device: str, body: bytes) -> None:
        await desk.identify(device)

    async def every(device: str, body: bytes) -> Any:
        return desk.all()

    def on(call: Callable[[str, bytes], Awaitable[Any]]) -> Post:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                told = await call(request.match_info.get("device", ""), await request.read())
            except msgspec.DecodeError as error:
                return problem(request, 400, "Bad Request", str(error))
            except NightsafeError as error:
                return problem(request, 409, "Conflict", str(error))
            if told is None:
                return web.Response(status=204)
            return web.Response(body=msgspec.json.encode(told), content_type="application/json")

        return answer

    return [
        web.get("/api/v1/devices", on(every)),
        web.get(base + "/pairing", on(state)),
        web.post(base + "/pairing", on(begin)),
        web.post(base + "/pairing/confirm", on(confirm)),
        web.post(base + "/pairing/decline", on(decline)),
        web.post(base + "/remove", on(remove)),
        web.post(base + "/change", on(change)),
        web.post(base + "/identify", on(identify)),
    ]


Act = Callable[[str, str], Awaitable[None]]


def _numbered(act: Callable[[int, str, str], Awaitable[None]]) -> Callable[[web.Request], Act]:
    """`act` on the entry that the address names."""
    return lambda request: partial(act, int(request.match_info["number"]))


async def _decide(act_of: Callable[[web.Request], Act], request: web.Request) -> web.StreamResponse:
    return await _act(request, Decision, lambda said: act_of(request)(said.actor, said.reason))


async def _acknowledge(
    acknowledge: Callable[[str, str, str], Awaitable[None]], request: web.Request
) -> web.StreamResponse:
    return await _act(request, Acknowledgement, lambda said: acknowledge(said.id, said.actor, said.reason))


async def _act(request: web.Request, kind: type[D], act: Callable[[D], Awaitable[None]]) -> web.StreamResponse:
    """Do what the body says, or answer with words why not."""
    try:
        await act(msgspec.json.decode(await request.read(), type=kind))
    except msgspec.DecodeError as error:
        return problem(request, 400, "Bad Request", str(error))
    except NightsafeError as error:
        return problem(request, 409, "Conflict", str(error))
    return web.Response(status=204)


async def _page(source: Source, request: web.Request) -> web.StreamResponse:
    snapshot = source.snapshot()
    zone, now_ms = ZoneInfo(snapshot.details.timezone), to_ms(snapshot.status.time)

    def local(at: str) -> str:
        return local_time(at, zone, now_ms)

    context: dict[str, Any] = {
        "status": snapshot.status,
        "details": snapshot.details,
        "mood": MOODS[verdict(snapshot, source.ready())],
        "words": WORDS,
        "refresh_s": REFRESH_S,
        "local": local,
        "count": count,
        "duration": duration,
        "incomplete": incomplete,
        "ending": ending,
        "presence": lambda one: presence_words(one, now_ms),
    }
    return aiohttp_jinja2.render_template("index.html", request, context)


async def _checks(ask: Callable[[], tuple[Check, ...]], request: web.Request) -> web.StreamResponse:
    checks = ask()
    passed = all(check.ok for check in checks)
    lines = [_line(check) for check in checks] if "verbose" in request.query else []
    lines.append("ok" if passed else "failed")
    return web.Response(status=200 if passed else 503, text="\n".join(lines) + "\n")


def _line(check: Check) -> str:
    if check.ok:
        return f"[+]{check.name} ok"
    return f"[-]{check.name} failed: {check.text}"


async def _health(source: Source, request: web.Request) -> web.StreamResponse:
    body = health(source.snapshot(), source.ready())
    status = 503 if body["status"] == "fail" else 200
    return web.Response(status=status, body=msgspec.json.encode(body), content_type=HEALTH_TYPE)


async def _metrics(metrics: Metrics, request: web.Request) -> web.StreamResponse:
    return web.Response(body=metrics.text(), headers={"Content-Type": METRICS_TYPE})


async def _status(source: Source, request: web.Request) -> web.StreamResponse:
    return web.Response(body=to_json(source.snapshot()), content_type="application/json")


def _style_hash() -> str:
    """The page's only style as the content security policy names it."""
    page = (PAGES / "index.html").read_text(encoding="utf-8")
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    return f"'sha256-{b64encode(sha256(style[1].encode()).digest()).decode()}'"
