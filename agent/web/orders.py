"""people → [web: orders] → desk. The venue's orders as JSON, and what people do about them, for who gave the venue PIN.

On the Unix socket the operating system has let people in; on every other listener each request needs a session of the
PIN, and each act that session's own token besides. Never decides what may be done to an order.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Protocol

import msgspec
import structlog
from aiohttp import web

from agent.core.errors import NightsafeError, Rejected
from agent.core.order_shown import OrderShown, OrdersShown
from agent.core.orders import Override, Said
from agent.web.acts import Post
from agent.web.body import Unreadable, address_of, read
from agent.web.devices_pages import DevicesPages
from agent.web.guard import problem

log = structlog.get_logger()

ORDERS: Final = "/api/v1/orders"
ONE: Final = ORDERS + "/{order_id:[^/]+}"
ACTS: Final[dict[str, Said]] = {
    "accept": "accepted",
    "ready": "ready",
    "provided": "provided",
    "reject": "rejected",
}
"""The last word of an address, and what it says of the order."""
TOKEN_HEADER: Final = "X-CSRF-Token"
BODY_BYTES_MAX: Final = 4_096
STALL_S_MAX: Final = 5.0
MALFORMED: Final = frozenset({"order_id", "actor_missing"})
"""Refusals of what was asked, and not of what the order allows."""


class Act(msgspec.Struct):
    """Who says it. To reject all the same what was provided, a second person agrees and a reason is given."""

    actor: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    second_actor: Annotated[str, msgspec.Meta(max_length=100)] = ""
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class Desk(Protocol):
    """Who knows of orders. Raises NightsafeError with words."""

    async def all(self, find: str = "") -> OrdersShown: ...
    async def one(self, order_id: str) -> OrderShown | None: ...
    async def act(self, order_id: str, said: Said, actor: str, override: Override | None = None) -> OrderShown: ...


class OrdersFace:
    """What is told of orders, what may be done, and by whom."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def acting(self) -> list[web.RouteDef]:
        """For the Unix socket."""
        return self._routes(lambda post, acts: post)

    def with_pin(self, people: DevicesPages) -> list[web.RouteDef]:
        """For listeners that browsers reach: only with a session."""

        def guarded(post: Post, acts: bool) -> Post:
            async def answer(request: web.Request) -> web.StreamResponse:
                session = await people.login.session_of(request)
                if session is None:
                    detail = "Log in with the venue PIN at /login first."
                    return problem(request, 401, "Unauthorized", detail, kind="pin-required")
                given = request.headers.get(TOKEN_HEADER, "")
                if acts and not hmac.compare_digest(given.encode(), session.form_token.encode()):
                    detail = f"Send the token of this session's forms as {TOKEN_HEADER}."
                    return problem(request, 403, "Forbidden", detail, kind="token-required")
                return await post(request)

            return answer

        return self._routes(guarded)

    def _routes(self, guarded: Callable[[Post, bool], Post]) -> list[web.RouteDef]:
        return [
            web.get(ORDERS, guarded(_told(self._all), False)),
            web.get(ONE, guarded(_told(self._one), False)),
            web.post(f"{ONE}/{{act:{'|'.join(ACTS)}}}", guarded(_told(self._act), True)),
        ]

    async def _all(self, request: web.Request) -> Any:
        return await self._desk.all(request.query.get("find", "").strip())

    async def _one(self, request: web.Request) -> Any:
        return await self._desk.one(request.match_info["order_id"])

    async def _act(self, request: web.Request) -> Any:
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType
        said = msgspec.json.decode(await read(request, BODY_BYTES_MAX, STALL_S_MAX), type=Act)
        act, order_id = request.match_info["act"], request.match_info["order_id"]
        override = Override(said.second_actor, said.reason) if said.second_actor or said.reason else None
        address = address_of(request)
        try:
            done = await self._desk.act(order_id, ACTS[act], said.actor, override)
        except NightsafeError as error:
            log.warning("order_act", act=act, address=address, outcome=error.code)
            raise
        log.info("order_act", act=act, order=order_id, address=address, outcome="done")
        return done


def _told(tell: Callable[[web.Request], Awaitable[Any]]) -> Post:
    """What `tell` knows as JSON, or words why not."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            told = await tell(request)
        except Unreadable as error:
            return problem(request, error.status, "Unreadable", str(error))
        except msgspec.DecodeError as error:
            return problem(request, 400, "Bad Request", str(error))
        except Rejected as error:
            kind = error.code.replace("_", "-")
            status, title = (400, "Bad Request") if error.code in MALFORMED else (409, "Conflict")
            return problem(request, status, title, str(error), kind=kind)
        except NightsafeError as error:
            return problem(request, 503, "Service Unavailable", str(error))
        if told is None:
            return problem(request, 404, "Not Found", "This box does not know the order.", kind="unknown-order")
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")

    return answer
