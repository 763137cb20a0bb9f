"""status → [routes] → guard → people and machines. What is served, path by path, each from one snapshot.

The uplink is part of neither liveness nor readiness. Never decides what to say: the sentence and verdict come ready.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

import msgspec
from aiohttp import web

from agent.core.conditions import ending
from agent.core.health import Check, health, verdict
from agent.core.presence import presence_words
from agent.core.sentence import count, duration, incomplete
from agent.core.status import Snapshot, to_json
from agent.web.acts import Acts, Post
from agent.web.devices_pages import DevicesPages
from agent.web.guard import Terms, guard
from agent.web.metrics import CONTENT_TYPE as METRICS_TYPE
from agent.web.metrics import Metrics
from agent.web.orders import OrdersFace
from agent.web.paper import STYLE_HASH, Paper, set_up
from agent.web.payments import PaymentsFace
from agent.web.stream import PATH as STREAM_PATH
from agent.web.stream import Stream
from agent.web.uplink_page import PAGE as UPLINK_PAGE
from agent.web.uplink_page import Changes
from agent.web.uplink_page import make_page as make_uplink_page

HEALTH_TYPE: Final = "application/health+json"
REFRESH_S: Final = 5
"""How often an open page asks again, in seconds."""
WORDS: Final = {"online": "Online", "degraded": "Trouble with the cloud", "offline": "Offline"}
MOODS: Final = {"pass": "good", "warn": "warn", "fail": "bad"}


Get = Callable[[], bytes]
"""Makes the JSON of a document."""


class Source(Protocol):
    """Whoever knows how the box is."""

    def snapshot(self) -> Snapshot: ...
    def live(self) -> tuple[Check, ...]: ...
    def ready(self) -> tuple[Check, ...]: ...


def make_app(
    source: Source,
    terms: Terms,
    acts: Acts | None = None,
    posts: Mapping[str, Post] | None = None,
    people: DevicesPages | None = None,
    payments: PaymentsFace | None = None,
    gets: Mapping[str, Get] | None = None,
    changes: Changes = tuple,
    orders: OrdersFace | None = None,
) -> web.Application:
    """The application for one listener; `acts` only for one that may act, `posts` only for one that devices reach,
    `people` only for one that browsers reach; `payments` and `orders` are for who may act, or who is logged in there.
    `gets` are further JSON documents without payloads, by path, `changes` those of the uplink."""
    app = web.Application(middlewares=[guard(terms, STYLE_HASH)])
    set_up(app)
    metrics = Metrics(source.snapshot)
    stream = Stream(source)
    app.on_shutdown.append(stream.stop)
    app.add_routes(
        [
            web.get("/", partial(_page, source)),
            web.get(UPLINK_PAGE, make_uplink_page(source, changes)),
            web.get("/livez", partial(_checks, source.live)),
            web.get("/readyz", partial(_checks, source.ready)),
            web.get("/health", partial(_health, source)),
            web.get("/metrics", partial(_metrics, metrics)),
            web.get("/api/v1/status", partial(_status, source)),
            web.get(STREAM_PATH, stream.answer, allow_head=False),
        ]
    )
    if terms.acts and acts is not None:
        app.add_routes(acts.routes())
    for path, get in (gets or {}).items():
        app.add_routes([web.get(path, partial(_json, get))])
    for path, post in (posts or {}).items():
        app.add_routes([web.post(path, post)])
    if people is not None:
        app.add_routes(people.routes())
    if payments is not None and terms.acts:
        app.add_routes(payments.acting())
    elif payments is not None and people is not None:
        app.add_routes(payments.looking(people))
    if orders is not None and terms.acts:
        app.add_routes(orders.acting())
    elif orders is not None and people is not None:
        app.add_routes(orders.with_pin(people))
    return app


async def _json(get: Get, request: web.Request) -> web.StreamResponse:
    return web.Response(body=get(), content_type="application/json")


async def _page(source: Source, request: web.Request) -> web.StreamResponse:
    snapshot = source.snapshot()
    paper = Paper(request, snapshot)
    return paper.show(
        "index.html",
        refresh_s=REFRESH_S,
        status=snapshot.status,
        mood=MOODS[verdict(snapshot, source.ready())],
        words=WORDS,
        count=count,
        duration=duration,
        incomplete=incomplete,
        ending=ending,
        presence=lambda one: presence_words(one, paper.now_ms),
    )


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
